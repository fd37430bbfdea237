"""JSON Lines: INPUT of one object per line, and the failures file, which is INPUT again."""

import threading
from pathlib import Path

import msgspec

from retryexec.cli.options import UsageError
from retryexec.cli.records import RESERVED, FailedRecord, Reader, Record, RecordType
from retryexec.cli.source import Source, check_text


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


class FailuresFile:
    """A file that gets a line as soon as a job has failed, so that a crash loses none.

    Raises:
        UsageError: *path* cannot be written.
    """

    def __init__(self, path: Path, kind: RecordType) -> None:
        self._kind = kind
        try:
            # Unbuffered: a line that the disk does not have room for must not be tried again at
            # close().
            self._file = path.open("wb", buffering=0)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            msg = f"--failures {str(path)!r} cannot be written: {why}"
            raise UsageError(msg) from error
        # Guards _file: one line at a time, and none after close().
        self._lock = threading.Lock()

    def write(self, record: Record, failed: FailedRecord) -> None:
        """Add *record* and why it failed; does nothing once the file is closed.

        Raises:
            OSError: the disk is full, or gone.
        """
        fields, as_text = self._kind.to_json(record)
        story = msgspec.to_builtins(failed)
        if as_text:
            story["text"] = as_text
        # Last: what a person wants to read on this line is the record.
        fields[RESERVED] = msgspec.Raw(msgspec.json.encode(story))
        line = msgspec.json.encode(fields) + b"\n"
        with self._lock:
            # A raw file may take a part of what it is given.
            while line and not self._file.closed:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
