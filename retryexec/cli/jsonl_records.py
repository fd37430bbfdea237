"""INPUT in JSON Lines: one JSON object per line."""

from retryexec.cli.options import UsageError
from retryexec.cli.records import Reader, RecordType
from retryexec.cli.source import Source

_BINARY = (
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet (.xlsx, .ods): save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls): save it as CSV"),
    (b"SQLite format 3\0", "an SQLite database: export a table as CSV"),
    (b"PAR1", "a Parquet file: convert it to CSV or JSON Lines"),
    (b"BZh", "compressed with bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it, or pack it with gzip"),
)


def jsonl_records(source: Source, kind: RecordType) -> Reader:
    """Give the records in *source*; blank lines are skipped.

    Raises:
        UsageError: the first line shows that INPUT is something else.
        OSError: INPUT cannot be read.
    """
    end = 0
    first = True
    for number, line in enumerate(source.lines(), start=1):
        end += len(line)
        if not line.strip():
            continue
        if first:
            first = False
            check_text(source.name, line)
            _check_first(source.name, line, kind)
        yield kind.from_json(number, end, line)


def check_text(name: str, line: bytes) -> None:
    """Raise UsageError if *line*, the first one of INPUT, shows that it is not text at all."""
    for start, what in _BINARY:
        if line.startswith(start):
            msg = f"{name} is {what}"
            raise UsageError(msg)
    if line[:4].count(b"\0") >= 2:
        # Text of ASCII characters in UTF-16 has a zero in every second byte.
        order = "be" if line.startswith(b"\0") else "le"
        width = 32 if line[:4].count(b"\0") == 3 else 16
        encoding = f"utf-{width}-{order}"
        msg = f"{name} looks like {encoding} without a byte order mark: --encoding {encoding}"
        raise UsageError(msg)


def _check_first(name: str, line: bytes, kind: RecordType) -> None:
    """Raise UsageError if INPUT is JSON, but not one object a line, or if it is CSV."""
    text = line.strip()
    remedy = "expected JSON Lines, one object per line"
    if text in {b"[", b"[]"} or (text.startswith(b"[") and text[1:].lstrip().startswith(b"{")):
        msg = f"{name} is a JSON array: {remedy} ({_jq(name, '.[]')})"
        raise UsageError(msg)
    if text == b"{":
        msg = f"{name} is JSON over several lines: {remedy} ({_jq(name, '.')})"
        raise UsageError(msg)
    if text.startswith((b"{", b"[")):
        return
    header = text.decode("utf-8", "replace")
    for delimiter in ",;\t|":
        names = {cell.strip().strip('"') for cell in header.split(delimiter)}
        if (names <= kind.names and set(kind.required) <= names) or len(names & kind.names) > 1:
            msg = f"{name} looks like CSV with a header: {remedy}; --format csv reads it"
            raise UsageError(msg)


def _jq(name: str, path: str) -> str:
    return f"jq -c '{path}' {name} > records.jsonl makes it so"
