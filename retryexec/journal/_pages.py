"""Records in the bytes of a damaged SQLite file, found without SQLite.

SQLite reads a table from its root, so a damaged page hides all those that it leads to. Here each
page that holds rows is read by itself, in its latest version, be that in the file or in its log.
Where nothing looks like a page, as after bytes that were inserted or have gone, pages and single
records are looked for at every place. Pages that SQLite has freed are left alone: their rows have
ended.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from retryexec.journal._log import Frame
from retryexec.journal._records import Fetch, Record, Shape, parse_cell, parse_record, row_number_before

_MAGIC = b"SQLite format 3\0"
_USUAL_PAGE = 4096  # bytes
_LEAF = 13  # the first byte of a page that holds rows
_OTHERS = frozenset({2, 5, 10})  # pages that lead to others, and those of indexes
_HEADER = struct.Struct(">BHHHB")  # kind, first free block, cells, where they begin, stray bytes
_LEAF_SHAPE = re.compile(rb"\x0d[\0-\x10].[\0-\x08].", re.DOTALL)
_MOST_PAGES = 2**22  # a higher number is a flipped bit


class Version(NamedTuple):
    """A page as it was written: by which transaction of the log (0 for the file), and its bytes."""

    transaction: int
    content: bytes


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


class Found(NamedTuple):
    """Rows, in the order of their numbers, and at most how many are lost; None if nobody knows."""

    rows: list[tuple[Any, ...]]
    lost: int | None


class Pages:
    """The pages of a file and of its log.

    Args:
        content: the file.
        frames: the pages in its log, the oldest first.
        missing: how many more there were in the log.
    """

    def __init__(self, content: bytes, frames: Sequence[Frame], missing: int = 0) -> None:
        self._content = content
        self.size = size = _page_size(content)
        self._missing = missing
        self._versions: dict[int, list[Version]] = {}
        for number in range(1, -(-len(content) // size) + 1):
            page = content[(number - 1) * size : number * size]
            self._versions[number] = [Version(0, page)]
        for frame in frames:
            version = Version(frame.transaction, frame.content)
            self._versions.setdefault(frame.page, []).insert(0, version)
        self.count = self._expected(frames)
        self._free = self._free_pages()
        # How far the pages after a place are from where they were, if bytes have come or gone.
        self._shift = 0 if frames else len(content) - self.count * size
        self._overflow: set[int] = set()  # pages that continue a long row

    # ---- which pages there are

    def _expected(self, frames: Sequence[Frame]) -> int:
        """Return how many pages there were, as far as anything tells."""
        counts = [frame.pages for frame in frames if frame.pages][-1:]
        first = self._latest(1)
        if not counts and first.startswith(_MAGIC):
            counts = [int.from_bytes(first[28:32])]
        known = max(self._versions, default=0)
        return max([known, *(count for count in counts if count <= _MOST_PAGES)])

    def _latest(self, number: int) -> bytes:
        versions = self._versions.get(number)
        return versions[0].content if versions else b""

    def _free_pages(self) -> set[int]:
        """Return the pages that hold nothing any more.

        The header of the file leads to the lists of them; if it does not, they are known by their
        shape. A page that was written after the list that it is in is in use again.
        """
        lists = self._free_lists()
        if lists is None:
            lists = {n: named for n in self._versions if (named := self._named_free(n))}
        free = set(lists)
        for number, named in lists.items():
            at = self._versions[number][0].transaction
            free.update(n for n in named if n in self._versions and self._versions[n][0][0] <= at)
        return free

    def _free_lists(self) -> dict[int, tuple[int, ...]] | None:
        """Return the lists that the header leads to; None if they are not what it says."""
        header = self._latest(1)
        if not header.startswith(_MAGIC):
            return None
        number, count = struct.unpack_from(">2I", header, 32)
        lists: dict[int, tuple[int, ...]] = {}
        while number:
            named = self._named_free(number)
            if named is None or number in lists:
                return None
            lists[number] = named
            number = int.from_bytes(self._latest(number)[:4])
        return lists if sum(map(len, lists.values())) + len(lists) == count else None

    def _named_free(self, number: int) -> tuple[int, ...] | None:
        """Return the pages that page *number* says are free; None if it is not a list of them."""
        page = self._latest(number)
        if number < 2 or len(page) < self.size:
            return None
        after, count = struct.unpack_from(">2I", page)
        if after > self.count or count > self.size // 4 - 2:
            return None
        named = struct.unpack_from(f">{count}I", page, 8)
        whole = len({*named}) == count and all(2 <= n <= self.count for n in named)
        return named if whole else None

    def _fetch(self, shift: int) -> Fetch:
        """Return what reads the pages that continue a row, moved by *shift* bytes."""

        def fetch(number: int) -> bytes:
            if not 2 <= number <= self.count:
                return b""
            self._overflow.add(number)
            if not shift:
                return self._latest(number)
            place = (number - 1) * self.size + shift
            return self._content[place : place + self.size] if place > 0 else b""

        return fetch

    # ---- rows

    def rows(self, shape: Shape) -> Found:
        """Return the rows that look like *shape*, each once."""
        found = _Rows(shape)
        doubtful: list[int] = []
        fetch = self._fetch(0)
        for number in range(2, self.count + 1):
            if number in self._free:
                continue
            page = self._latest(number)
            if page[:1] != b"\x0d":
                if not self._is_of_another_kind(page):
                    doubtful.append(number)
                continue
            leaf = parse_leaf(page, shape, fetch, self.size)
            found.add(leaf)
            if not leaf.whole:
                doubtful.append(number)
        found.lose(0, self._missing * self.size, 0)
        for numbers in self._regions([n for n in doubtful if n not in self._overflow]):
            self._search(numbers, shape, found)
        return found.result()

    def _is_of_another_kind(self, page: bytes) -> bool:
        if len(page) < self.size:
            return False
        kind, free, cells, start, _ = _HEADER.unpack_from(page)
        room = self.size - 12 if kind in {2, 5} else self.size - 8
        return kind in _OTHERS and max(free, start) <= self.size and cells * 2 <= room

    def _regions(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield runs of pages: one may begin in one of them and end in the next."""
        run: list[int] = []
        for number in numbers:
            joins = run and number == run[-1] + 1 and not (self._in_log(number, run[-1]))
            if run and not joins:
                yield run
                run = []
            run.append(number)
        if run:
            yield run

    def _in_log(self, *numbers: int) -> bool:
        return any(
            number not in self._versions or self._versions[number][0].transaction
            for number in numbers
        )

    def _search(self, numbers: list[int], shape: Shape, found: "_Rows") -> None:
        """Look for rows in pages that are damaged, and count those that there may have been."""
        fetch, before = self._fetch(0), found.count
        bad = unknown = 0  # rows, and bytes
        for number in numbers:
            known = parse_leaf(self._latest(number), shape, fetch, self.size).bad
            if known is not None:
                bad += known
            elif number > shape.roots or (number == 2 and not found.leaves):
                unknown += self.size
        if self._in_log(*numbers):
            for _, content in self._versions.get(numbers[0], ()):
                leaf = parse_leaf(content, shape, fetch, self.size)
                found.add(leaf)
                if leaf.whole:
                    break
                self._carve(content, 0, shape, found)
        else:
            start, end = (numbers[0] - 1) * self.size, numbers[-1] * self.size
            self._carve(self._content[start:end], start, shape, found)
        found.lose(bad, unknown, found.count - before)

    def _carve(self, content: bytes, place: int, shape: Shape, found: "_Rows") -> None:
        """Look for pages, and then for single records, at any place of *content*."""
        done = 0
        for match in _LEAF_SHAPE.finditer(content):
            at = match.start()
            if at < done:
                continue
            for shift in {0, self._shift}:
                leaf = parse_leaf(
                    content[at : at + self.size], shape, self._fetch(shift), self.size
                )
                if leaf.whole and leaf.rows:
                    break
            else:
                continue
            self._carve_records(content[done:at], shape, found)
            done = at + self.size
            number, odd = divmod(place + at - self._shift, self.size)
            if odd or number + 1 not in self._free:
                found.add(leaf)
        self._carve_records(content[done:], shape, found)

    def _carve_records(self, content: bytes, shape: Shape, found: "_Rows") -> None:
        done = 0
        for match in shape.pattern.finditer(content):
            at = match.start()
            if at < done:
                continue
            for shift in {0, self._shift}:
                record = parse_record(content, at, shape, self._fetch(shift), self.size)
                if record is not None:
                    found.add_single(row_number_before(content, at, record.size), record)
                    done = at + record.stored
                    break


class _Rows:
    """Rows by their numbers and ids: a damaged number may be that of another row, too."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._rows: dict[tuple[int, Any], tuple[Any, ...]] = {}
        self._names: set[Any] = set()
        self._size = 0  # bytes that they take
        self._losses: list[tuple[int, int, int]] = []
        self.leaves = 0  # pages that they were found in

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, leaf: Leaf) -> None:
        added = 0
        for number, values in leaf.rows:
            key = number, values[self._shape.at]
            if key not in self._rows:
                self._rows[key] = values
                self._names.add(key[1])
                added += 1
        if added:
            self._size += leaf.size * added // len(leaf.rows)
            self.leaves += 1

    def add_single(self, number: int | None, record: Record) -> None:
        """Add a record that was found alone, unless its job is known."""
        name = record.values[self._shape.at]
        if name in self._names:
            return
        self._names.add(name)
        number = len(self._rows) if number is None else number
        self._rows[number, name] = self._shape.with_number(record.values, number)
        self._size += record.stored

    def lose(self, rows: int, unknown: int, found: int) -> None:
        """Note that *rows*, and *unknown* bytes, cannot be read, but for rows *found* there."""
        self._losses.append((rows, unknown, found))

    def result(self) -> Found:
        ordered = sorted(self._rows.items(), key=lambda item: item[0][0])
        rows = [values for _, values in ordered]
        if not self._size and any(unknown for _, unknown, _ in self._losses):
            return Found(rows, None)
        lost = 0
        for bad, unknown, found in self._losses:
            lost += max(0, bad + -(-unknown * len(rows) // max(1, self._size)) - found)
        return Found(rows, lost)


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


def _page_size(content: bytes) -> int:
    size = int.from_bytes(content[16:18])
    if content.startswith(_MAGIC) and size in {512, 1024, 2048, 8192, 16384, 32768}:
        return size
    return _USUAL_PAGE
