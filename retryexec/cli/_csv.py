"""INPUT in CSV with a header: the columns are the fields."""

import csv
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from retryexec.cli._lines import lines
from retryexec.cli._misuse import Misuse
from retryexec.cli._records import (
    BadRecord,
    Reader,
    Record,
    construct,
    field_names,
    reason,
    required_names,
    unknown_reason,
)


def csv_records(
    read: Callable[[int], bytes], cls: type[Any], *, forbid_unknown: bool = False
) -> Reader:
    """Read the header, and return an iterator over the records below it.

    Cells are text, so they are converted: ``7`` for an int, ``true`` or ``1`` for a bool. An
    empty cell is a value not given: the field's default, else None where its type allows that,
    else empty text.

    Args:
        read: returns at most so many bytes of INPUT, and none at its end.
        cls: the dataclass to make of each record.
        forbid_unknown: whether a column that *cls* does not have is refused.

    Raises:
        Misuse: the header cannot be right for *cls*.
    """
    text = _Text(read)
    rows = csv.reader(text, strict=True)
    try:
        header = next((row for row in rows if row), [])
    except csv.Error as error:
        msg = f"the header of INPUT, in its line {rows.line_num}, is no CSV: {error}"
        raise Misuse(msg) from error
    header = [name.strip() for name in header]
    _check_header(header, cls, forbid_unknown=forbid_unknown)
    return _records(text, rows, _Columns(header, cls))


def _check_header(header: list[str], cls: type[Any], *, forbid_unknown: bool) -> None:
    if not header:  # nothing at all, so no record is wrong
        return
    if _badly_encoded(header):
        msg = "the header of INPUT is not UTF-8 text: save the file as UTF-8"
        raise Misuse(msg)
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        msg = f"the header of INPUT has column {min(twice)!r} twice"
        raise Misuse(msg)
    for name in required_names(cls):
        if name not in header:
            msg = (
                f"the header of INPUT has no column {name!r}, which {cls.__name__} requires "
                f"(its columns, separated by commas: {', '.join(map(repr, header))})"
            )
            raise Misuse(msg)
    unknown = tuple(name for name in header if name not in field_names(cls))
    if unknown and forbid_unknown:
        msg = f"the header of INPUT: {unknown_reason(unknown, cls)}"
        raise Misuse(msg)


def _records(text: "_Text", rows: "_Rows", columns: "_Columns") -> Reader:
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield BadRecord(line, text.end, f"not CSV: {error}")
            continue
        if row is None:
            return
        if row:  # a blank line has no cells at all
            yield columns.record(row, line, text.end)


class _Columns:
    """What the header says about the cells below it."""

    def __init__(self, header: list[str], cls: type[Any]) -> None:
        self._header = header
        self._cls = cls
        self._unknown = tuple(name for name in header if name not in field_names(cls))
        self._optional = field_names(cls) - set(required_names(cls))
        self._nullable = _nullable(cls)

    def record(self, row: list[str], line: int, end: int) -> Record | BadRecord:
        """Return what *row* becomes."""
        if len(row) != len(self._header):
            cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
            return BadRecord(line, end, f"{cells} where the header has {len(self._header)}")
        if _badly_encoded(row):
            return BadRecord(line, end, "not UTF-8 text")
        values = self._values(row)
        try:
            job = msgspec.convert(values, self._cls, strict=False, dec_hook=construct)
        except Exception as error:
            return BadRecord(line, end, reason(error, values))
        # With the types they have now, so that the record can be read back as JSON, strictly.
        typed = {
            name: cell if name in self._unknown else getattr(job, name)
            for name, cell in values.items()
        }
        return Record(line, end, job, msgspec.json.encode(typed, enc_hook=str), self._unknown)

    def _values(self, row: list[str]) -> dict[str, str | None]:
        values: dict[str, str | None] = {}
        for name, cell in zip(self._header, row, strict=True):
            if cell:
                values[name] = cell
            elif name not in self._optional:
                values[name] = None if name in self._nullable else cell
        return values


class _Rows(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __next__(self) -> list[str]: ...
    def __iter__(self) -> Iterator[list[str]]: ...


class _Text(Iterator[str]):
    """The lines as text, and how many bytes they were."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.end = 0
        self._lines = lines(read)

    def __next__(self) -> str:
        line = next(self._lines)
        self.end += len(line)
        # A wrong byte makes one record bad rather than the whole file unreadable.
        return line.decode("utf-8", "surrogateescape")


def _badly_encoded(row: list[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return True
    return False


def _nullable(cls: type[Any]) -> frozenset[str]:
    """Return the fields whose type allows None."""
    hints = typing.get_type_hints(cls)
    return frozenset(
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) in {typing.Union, types.UnionType}
        and types.NoneType in typing.get_args(hint)
    )
