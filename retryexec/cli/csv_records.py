"""INPUT in CSV with a header: the columns are the fields."""

import csv
import re
from collections.abc import Callable, Iterator
from itertools import chain

from retryexec._typing import override
from retryexec.cli.options import UsageError
from retryexec.cli.records import NOT_UTF8, BadRecord, BlankRow, Item, Reader, RecordType
from retryexec.cli.source import Source, check_text

_NAMES = {"\t": "tabs", ";": "';'", "|": "'|'", ",": "','", " ": "spaces"}
_LINE = re.compile(rb"[^\r\n]*(?:\r*\n|\r)|[^\r\n]+")


def csv_records(
    source: Source,
    kind: RecordType,
    *,
    delimiter: str | None,
    note: Callable[[str], None] | None,
    tabs: bool = False,
) -> Reader:
    """Read the header, and return an iterator over the records below it.

    Args:
        source: where to read.
        kind: what the records become.
        delimiter: what separates the cells; None to guess by the header.
        note: is told what was guessed; None if nobody wants to know.
        tabs: whether tabs are the likely guess.

    Raises:
        UsageError: the header cannot be right.
        OSError: INPUT cannot be read.
    """
    # A cell may be as long as memory allows. The limit is the module's, for all readers.
    csv.field_size_limit(2**31 - 1)
    lines = _Lines(source)
    first = lines.skip_blank()
    check_text(source.name, first.encode("utf-8", "surrogateescape"))
    if len(first.strip()) == 5 and first.lower().startswith("sep="):  # Excel's own way to say it
        delimiter = delimiter or first.strip()[4]
        first = lines.skip_blank()
    if delimiter is None:
        delimiter = _guess(first, kind, "\t,;|" if tabs else ",;\t|")
        if delimiter != "," and note is not None:
            note(
                f"{source.name}: note: its columns are taken to be separated by "
                f"{_NAMES[delimiter]} (--delimiter says otherwise)"
            )
    lines.push_back(first)
    rows = _rows(lines, delimiter)
    try:
        header = next((row for row in rows if row), [])
    except csv.Error as error:
        msg = f"the header of INPUT, in its line {lines.number}, is not CSV: {error}"
        raise UsageError(msg) from error
    columns = [name.strip() for name in header]
    while columns and not columns[-1]:  # as spreadsheets leave them
        columns.pop()
    if header:
        _check_header(columns, kind)
    return _records(lines, delimiter, columns, kind)


def _guess(header: str, kind: RecordType, likely: str) -> str:
    """Return the delimiter of *likely* with which most of *header*'s names are those of fields."""

    def matches(delimiter: str) -> int:
        return len(
            {cell.strip().strip('"').strip() for cell in header.split(delimiter)} & kind.names
        )

    return max(likely, key=matches)  # the first one of equals


def _check_header(columns: list[str], kind: RecordType) -> None:
    if _undecodable(columns):
        msg = "the header of INPUT is not UTF-8 text: --encoding names another, as cp1252"
        raise UsageError(msg)
    twice = {name for name in columns if name and columns.count(name) > 1}
    if twice:
        msg = f"the header of INPUT has column {min(twice)!r} twice"
        raise UsageError(msg)
    for name in kind.required:
        if name not in columns:
            msg = (
                f"the header of INPUT does not have a column {name!r}, which {kind.cls.__name__} "
                f"requires (its columns: {', '.join(map(repr, columns))}; --delimiter says what "
                "separates them)"
            )
            raise UsageError(msg)
    unknown = tuple(name for name in columns if name and name not in kind.names)
    if unknown and kind.forbid_unknown:
        msg = f"the header of INPUT: {kind.unknown_reason(unknown)}"
        raise UsageError(msg)


def _records(lines: "_Lines", delimiter: str, columns: list[str], kind: RecordType) -> Reader:
    rows = _rows(lines, delimiter)
    while True:
        lines.begin_record()
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield _after_error(lines, delimiter, str(error))
            rows = _rows(lines, delimiter)
            continue
        if row is None:
            return
        if row:  # a blank line does not have any cells
            yield _item(lines, row, columns, kind)


def _item(lines: "_Lines", row: list[str], columns: list[str], kind: RecordType) -> Item:
    line, end = lines.record_line, lines.end
    if len(row) > 1 and not any(cell.strip() for cell in row):
        return BlankRow(line, end)
    extra = row[len(columns) :]
    if len(row) < len(columns) or any(extra):
        cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
        return BadRecord(line, end, f"{cells} where the header has {len(columns)}")
    if _undecodable(row):
        return BadRecord(line, end, NOT_UTF8)
    cells_by_name = {name: cell for name, cell in zip(columns, row, strict=False) if name}
    return kind.from_cells(line, end, cells_by_name)


def _after_error(lines: "_Lines", delimiter: str, error: str) -> BadRecord:
    """Read on to where the next record surely begins; return the bad one.

    A stray quote leaves open which of the following lines are still text of a cell. Such text
    must never become a record, so lines are left out until all readings agree that a record ends.
    """
    readings = _Readings(delimiter)
    for text in lines.record:
        readings.read(text)
    seen = lines.number
    for text in lines if readings.may_be_inside else ():
        readings.read(text)
        if not readings.may_be_inside:
            break
    reason = f"not CSV: {error}"
    if lines.number > seen and readings.may_be_inside:
        reason += "; where it ends is not certain, so the rest of INPUT is not run"
    elif lines.number > seen:
        reason += f"; it may go on to line {lines.number}, and what is there is not run"
    return BadRecord(lines.record_line, lines.end, reason)


class _Readings:
    """Whether the end of a line may be inside of quotes, by every reading of a malformed record.

    A quote may open or close wherever it stands; or open only at the beginning of a cell, and
    close only at its end. And a backslash may, or may not, take a quote's meaning away.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._toggled = [False, False]
        self._quoted = [False, False]

    @property
    def may_be_inside(self) -> bool:
        return any(self._toggled) or any(self._quoted)

    def read(self, line: str) -> None:
        for place, text in enumerate((line, line.replace('\\"', ""))):
            self._toggled[place] ^= bool(text.count('"') % 2)
            self._quoted[place] = self._is_quoted_after(text, quoted=self._quoted[place])

    def _is_quoted_after(self, line: str, *, quoted: bool) -> bool:
        text, place = line.rstrip("\r\n"), 0
        while place < len(text):
            if quoted:
                place = text.find('"', place)
                if place < 0:
                    return True
                if text.startswith('""', place):
                    place += 2
                    continue
                place += 1
                quoted = place < len(text) and text[place] != self._delimiter
            else:
                while text.startswith(" ", place) and self._delimiter != " ":
                    place += 1
                quoted = text.startswith('"', place)
                if quoted:
                    place += 1
                    continue
                following = text.find(self._delimiter, place)
                if following < 0:
                    return False
                place = following + 1
        return quoted


class _Lines(Iterator[str]):
    """The lines as text, and those of the record that is being read."""

    def __init__(self, source: Source) -> None:
        self._lines = _divided(source.lines())
        self._pushed: list[str] = []
        self.end = 0  # bytes so far
        self.number = 0  # of the line given last
        self.record: list[str] = []
        self.record_line = 1

    @override
    def __next__(self) -> str:
        if self._pushed:
            text = self._pushed.pop()
        else:
            line = next(self._lines)
            self.end += len(line)
            # A wrong byte makes one record bad rather than the whole file unreadable.
            text = line.decode("utf-8", "surrogateescape")
        self.number += 1
        self.record.append(text)
        return text

    def begin_record(self) -> None:
        self.record = []
        self.record_line = self.number + 1

    def skip_blank(self) -> str:
        """Return the first line that is not blank; an empty one at the end."""
        return next((line for line in self if line.strip()), "")

    def push_back(self, line: str) -> None:
        if line:
            self._pushed.append(line)
            self.number -= 1


def _divided(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Give *lines*, and divide them at carriage returns if the first one has some in it.

    Some spreadsheets on a Mac end lines like that. In other files, a carriage return in the
    middle of a line is none that may begin a record.
    """
    first = next(lines, b"")
    whole = chain([first], lines)
    if b"\r" not in first.rstrip(b"\r\n"):
        yield from whole
        return
    for line in whole:
        yield from _LINE.findall(line)


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=delimiter != " ")


def _undecodable(row: list[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return True
    return False
