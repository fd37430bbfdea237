"""One page of rows, and one record, of SQLite's, read without it: every number is checked."""

import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # that a value takes, by its type
_LEAF = 13  # the first byte of a page that holds rows
_HEADER = struct.Struct(">BHHHB")  # kind, first free block, cells, where they begin, stray bytes
_NULL, _FLOAT, _ONE, _TEXT = 0, 7, 9, 12
_OF_ID = 77  # the type of a text of 32 bytes
_MOST = 2**27  # bytes of a record; more is a damaged number
_ID = re.compile(r"[0-9a-f]{32}")

Fetch = Callable[[int], Iterable[bytes]]
"""Yields what may be the page of that number, if that page continues a row."""


class Shape:
    """What the records of a table look like.

    Args:
        columns: their names.
        roots: the number of the last page that is known to be the root of a table or an index.
        least: how many columns a record has that an older version has written.

    Attributes:
        at: where among the columns the id is; the kind comes after it.
        pattern: finds what may be the beginning of a record.
    """

    def __init__(self, columns: str, roots: int, least: int) -> None:
        names = columns.split(",")
        self.columns = len(names)
        self.least = least
        self.at = names.index("id")
        self.roots = roots
        before = b"\0" * self.at + bytes([_OF_ID])
        self.pattern = re.compile(b"[\x08-\x7f]" + re.escape(before))
        self._numbered = names[0] == "seq"

    def with_number(self, values: tuple[Any, ...], number: int) -> tuple[Any, ...]:
        """Return *values* with the row's number where SQLite leaves it out."""
        return (number, *values[1:]) if self._numbered and values[0] is None else values

    def is_same_job(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        """Return whether two rows agree in what never changes: id, kind, version and data."""
        fixed = slice(self.at, self.at + 4)
        return one[fixed] == other[fixed]

    def was_written(self, values: tuple[Any, ...]) -> bool:
        """Return whether *values* can have been written as a record.

        Where a file ends within a page, or a sector is blank, there are zeros. A row of which the
        id is such says of no job that it was there. All other rows are kept: the reader of rows
        finds those that are not as they must be, and they are parked under their ids.
        """
        name, kind = values[self.at : self.at + 2]
        if isinstance(name, str):
            return "\0" not in name
        if isinstance(name, bytes):
            return b"\0" not in name
        return kind is not None


class Cell(NamedTuple):
    """A row on a page: its number, its values if they are of the shape, and its bytes there."""

    number: int
    values: tuple[Any, ...] | None
    stored: int


class Record(NamedTuple):
    """A record by itself: its values, its bytes, and those of them that are on the page."""

    values: tuple[Any, ...]
    size: int
    stored: int


class Leaf(NamedTuple):
    """What could be read of a page of rows.

    Attributes:
        rows: row numbers, and the values of the columns.
        size: bytes that the rows take.
        bad: how many rows there are that cannot be read; None if that is not known.
        whole: whether nothing is missing.
    """

    rows: list[tuple[int, tuple[Any, ...]]]
    size: int
    bad: int | None
    whole: bool


def parse_cell(page: bytes, at: int, shape: Shape, fetch: Fetch, page_size: int) -> Cell | None:
    """Return the row at *at* of *page*; None if there is not one that can be read whole."""
    try:
        size, place = _varint(page, at)
        number, place = _varint(page, place)
        body, stored = _body(page, place, size, fetch, page_size)
        types, start = _types(body, 0)
        values = _values(body, start, types)
    except (ValueError, IndexError, struct.error):
        return None
    stored = max(4, stored + place - at)
    if len(values) != shape.columns:  # of another table, or of one that others have changed
        name, kind = [*values, None, None][shape.at : shape.at + 2]
        if not (isinstance(name, str) and isinstance(kind, str) and _ID.fullmatch(name)):
            return Cell(number, None, stored)
        values = (*values, *[None] * shape.columns)[: shape.columns]
    return Cell(number, values, stored) if shape.was_written(values) else None


def parse_leaf(page: bytes, shape: Shape, fetch: Fetch, size: int) -> Leaf:
    """Return the rows of *page*, as far as they can be read."""
    nothing = Leaf([], 0, None, False)
    if len(page) < 8 or page[0] != _LEAF:
        return nothing
    _, free, count, start, stray = _HEADER.unpack_from(page)
    if 8 + 2 * count > len(page):
        return nothing
    rows, used, ours, bad = [], 0, 0, 0
    for at in struct.unpack_from(f">{count}H", page, 8):
        cell = parse_cell(page, at, shape, fetch, size) if start <= at < size else None
        if cell is None:
            bad += 1
            continue
        used += cell.stored
        if cell.values is not None:
            ours += cell.stored
            rows.append((cell.number, shape.with_number(cell.values, cell.number)))
    while free:
        if not start <= free <= len(page) - 4:
            return Leaf(rows, ours, bad, False)
        after, block = struct.unpack_from(">2H", page, free)
        used += block
        if after and after <= free:
            return Leaf(rows, ours, bad, False)
        free = after
    whole = not bad and len(page) == size and used + stray == size - start
    return Leaf(rows, ours, bad, whole)


def parse_record(
    content: bytes, at: int, shape: Shape, fetch: Fetch, page_size: int
) -> Record | None:
    """Return the record that begins at *at* of *content*, wherever that is; None if none does."""
    try:
        types, start = _types(content, at)
        if len(types) not in {shape.columns, shape.least}:
            return None
        size = start - at + sum(map(_bytes, types))
        body, stored = _body(content, at, size, fetch, page_size)
        values = (*_values(body, start - at, types), *[None] * (shape.columns - len(types)))
    except (ValueError, IndexError, struct.error):
        return None
    name, kind = values[shape.at : shape.at + 2]
    if not (isinstance(name, str) and isinstance(kind, str) and _ID.fullmatch(name)):
        return None
    return Record(values, size, stored)


def row_number_before(content: bytes, at: int, size: int) -> int | None:
    """Return the number of the row whose record, of *size* bytes, begins at *at*; None if gone."""
    expected = _as_varint(size)
    for length in range(1, 10):
        begin = at - length - len(expected)
        if begin < 0:
            return None
        if content[begin : at - length] == expected:
            number, end = _varint(content, at - length)
            if end == at:
                return number
    return None


def _body(content: bytes, at: int, size: int, fetch: Fetch, page_size: int) -> tuple[bytes, int]:
    """Return the record of *size* bytes at *at*, and how many bytes of it are there."""
    most = page_size - 35
    if not 0 < size <= _MOST:
        raise ValueError
    if size <= most:
        return content[at : at + size], size
    least = (page_size - 12) * 32 // 255 - 23
    here = least + (size - least) % (page_size - 4)
    if here > most:
        here = least
    (number,) = struct.unpack_from(">I", content, at + here)
    return content[at : at + here] + _rest(number, size - here, fetch, page_size), here + 4


def _rest(number: int, size: int, fetch: Fetch, page_size: int) -> bytes:
    """Return the *size* bytes of a row that are on other pages, the first of which is *number*.

    Each begins with the number of the next, and the last one with 0. Where pages have moved there
    are two that may be the next: the right ones are those that lead to the end.
    """
    pages = -(-size // (page_size - 4))
    parts: list[bytes] = []
    ways = [iter(fetch(number))]
    for _ in range(4 * pages + 100):  # damage must not make it look for ever
        page = next(ways[-1], None)
        if page is None:
            ways.pop()
            if not parts:
                break
            parts.pop()
            continue
        after = int.from_bytes(page[:4])
        if (after == 0) == (len(ways) == pages):
            parts.append(page[4:])
            if not after:
                return b"".join(parts)[:size]
            ways.append(iter(fetch(after)))
    raise ValueError


def _types(content: bytes, at: int) -> tuple[list[int], int]:
    """Return the types of the columns of the record at *at*, and where its values begin."""
    size, place = _varint(content, at)
    end, types = at + size, []
    if size > 1000:
        raise ValueError
    while place < end:
        kind, place = _varint(content, place)
        types.append(kind)
    if place != end:
        raise ValueError
    return types, end


def _values(body: bytes, at: int, types: list[int]) -> tuple[Any, ...]:
    values: list[Any] = []
    for kind in types:
        end = at + _bytes(kind)
        if kind >= _TEXT:
            part = body[at:end]
            values.append(str(part, "utf-8", "surrogateescape") if kind & 1 else part)
        elif kind == _NULL:
            values.append(None)
        elif kind < _FLOAT:
            values.append(int.from_bytes(body[at:end], signed=True))
        elif kind == _FLOAT:
            values.append(struct.unpack_from(">d", body, at)[0])
        else:
            values.append(int(kind == _ONE))
        at = end
    if at != len(body):
        raise ValueError
    return tuple(values)


def _bytes(kind: int) -> int:
    return (kind - _TEXT) >> 1 if kind >= _TEXT else _BYTES[kind]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return SQLite's variable-length integer at *at*, and where it ends."""
    byte = content[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for place in range(at + 1, at + 8):
        byte = content[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    value = value << 8 | content[at + 8]
    return value - 2**64 if value >= 2**63 else value, at + 9


def _as_varint(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))
