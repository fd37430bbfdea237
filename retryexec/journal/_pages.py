"""Records in the bytes of a damaged SQLite file, found without SQLite.

SQLite reads a table from its root, so a damaged page hides all those that it leads to. Here each
page that holds rows is read by itself, in its latest version, be that in the file or in its log.
Where nothing looks like a page, as after bytes that were inserted or have gone, pages and single
records are looked for at every place. Pages that SQLite has freed are left alone: their rows have
ended.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from retryexec.journal._log import Frame
from retryexec.journal._records import (
    Leaf,
    Record,
    Shape,
    parse_leaf,
    parse_record,
    row_number_before,
)

_MAGIC = b"SQLite format 3\0"
_USUAL_PAGE = 4096  # bytes
_OTHERS = frozenset({2, 5, 10})  # pages that lead to others, and those of indexes
_HEADER = struct.Struct(">BHHHB")  # kind, first free block, cells, where they begin, stray bytes
# It takes one byte only: what looks like a page may be the end of the page before the one sought.
_LEAF_SHAPE = re.compile(rb"\x0d(?=[\0-\x10].[\0-\x08].)", re.DOTALL)
_FEW, _SMALL = 50, 150  # rows that tell little about the others, and bytes of a small one
_MOST_PAGES = 2**22  # a higher number is a flipped bit
_MOST_TIMES = 64  # as many pages as are there; more is one, too


class Version(NamedTuple):
    """A page as it was written.

    Attributes:
        transaction: of the log; 0 for the file.
        content: its bytes.
        sound: tells whether they are as they were written, as far as anybody knows.
    """

    transaction: int
    content: bytes
    sound: Callable[[], bool] = lambda: True


class Found(NamedTuple):
    """Rows in the order of their numbers, and the most that may be lost; None if unknown."""

    rows: list[tuple[Any, ...]]
    lost: int | None


class Pages:
    """The pages of a file and of its log.

    Args:
        content: the file.
        frames: the pages in its log, the oldest first.
        missing: how many more there were in the log.
        pages: how many there were in all, if that is known.
    """

    def __init__(
        self, content: bytes, frames: Sequence[Frame], missing: int = 0, pages: int = 0
    ) -> None:
        self._content = content
        self.size = size = _page_size(content)
        self._missing = missing
        self._versions: dict[int, list[Version]] = {}
        for number in range(1, -(-len(content) // size) + 1):
            page = content[(number - 1) * size : number * size]
            self._versions[number] = [Version(0, page)]
        for frame in frames:
            version = Version(frame.transaction, frame.content, frame.is_sound)
            self._versions.setdefault(frame.page, []).insert(0, version)
        self.count = max(self._expected(frames), pages if self._is_likely(pages) else 0)
        # How far the pages after some place are from where they were, if bytes have come or gone.
        self._shift = len(content) - self._said(content) * size if self._said(content) else 0
        self._free = self._free_pages()
        self._overflow: set[int] = set()  # pages that continue a long row

    # ---- which pages there are

    def _expected(self, frames: Sequence[Frame]) -> int:
        """Return how many pages there were, as far as that can be found out."""
        counts = [n for frame in frames if (n := frame.pages) and self._is_likely(n)][-1:]
        known = max(filter(self._is_likely, self._versions), default=0)
        said = self._said(self._latest(1))
        # The pages that lead to others tell, too: of all, if the root of the records is one.
        named = max((n for number in self._versions for n in self._children(number)), default=0)
        if not counts and (not said or self._children(2)):
            counts = [min(named, _MOST_PAGES) if self._is_likely(named) else 0]
        else:
            counts.append(said)
        return max([known, *counts])

    def _children(self, number: int) -> list[int]:
        """Return the pages that page *number* leads to, if it looks like one that does."""
        page = self._latest(number)
        if page[:1] != b"\x05" or not self._is_of_another_kind(page):
            return []
        (count,) = struct.unpack_from(">H", page, 3)
        cells = struct.unpack_from(f">{count}H", page, 12)
        children = [int.from_bytes(page[at : at + 4]) for at in (8, *cells)]
        return children if all(1 < child <= _MOST_PAGES for child in children) else []

    def _said(self, first: bytes) -> int:
        """Return how many pages the *first* one says there are; 0 if it does not say."""
        count = int.from_bytes(first[28:32]) if first.startswith(_MAGIC) else 0
        return count if self._is_likely(count) else 0

    def _is_likely(self, count: int) -> bool:
        return count <= _MOST_TIMES * (len(self._versions) + _MOST_TIMES)

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
            lists = {
                number: named
                for number in self._versions
                if (named := self._named_free(self._latest(number))) is not None
                # All zeros is damage, and where pages are out of place few zeros tell nothing.
                if named or (not self._shift and any(self._latest(number)[8:64]))
            }
        free = set(lists)
        for number, named in lists.items():
            versions = self._versions.get(number)
            at = versions[0].transaction if versions else 0
            free.update(n for n in named if not self._in_log(n, after=at))
        return free

    def _free_lists(self) -> dict[int, tuple[int, ...]] | None:
        """Return the lists that the header leads to; None if they are not what it says."""
        header = self._latest(1)
        if not header.startswith(_MAGIC):
            return None
        number, count = struct.unpack_from(">2I", header, 32)
        lists: dict[int, tuple[int, ...]] = {}
        while number:
            found = [(page, self._named_free(page)) for page in self._places(number)]
            page, named = next((one for one in found if one[1] is not None), (b"", None))
            if named is None or number in lists or number < 2:
                return None
            lists[number] = named
            number = int.from_bytes(page[:4])
        return lists if sum(map(len, lists.values())) + len(lists) == count else None

    def _named_free(self, page: bytes) -> tuple[int, ...] | None:
        """Return the pages that *page* says are free; None if it is not a list of them."""
        if len(page) < self.size:
            return None
        after, count = struct.unpack_from(">2I", page)
        if after > self.count or count > self.size // 4 - 2:
            return None
        named = struct.unpack_from(f">{count}I", page, 8)
        whole = len({*named}) == count and all(2 <= n <= self.count for n in named)
        return named if whole else None

    def _is_free(self, number: int) -> bool:
        """Return whether what stands in the place of page *number* is free, for all one knows."""
        moved, stray = divmod(self._shift, self.size)
        return number in self._free and (bool(stray) or number - moved in self._free)

    def _places(self, number: int) -> Iterator[bytes]:
        """Yield what may be page *number*, from where it was and from where it may be now."""
        yield self._latest(number)
        at = (number - 1) * self.size + self._shift
        if at > 0:
            yield self._content[at : at + self.size]

    def _fetch(self, number: int) -> Iterator[bytes]:
        """Yield what may continue a row; it begins with the number of the next page, or 0."""
        for page in self._places(number):
            if len(page) == self.size and int.from_bytes(page[:4]) <= self.count:
                self._overflow.add(number)
                yield page

    # ---- rows

    def rows(self, shape: Shape) -> Found:
        """Return the rows that look like *shape*, each once."""
        found = _Rows(shape)
        doubtful: list[int] = []
        for number in sorted(self._versions):
            if number == 1 or self._is_free(number):
                continue
            page = self._latest(number)
            leaf = self._leaf(page, shape)
            found.add(self._corrected(number, leaf, shape))
            if not leaf.whole and not self._is_of_another_kind(page):
                doubtful.append(number)
        gone = self.count - len({*self._versions} | self._free | self._overflow)
        # What is missing of the log may have held what is new in each page.
        found.lose(0, max(0, gone, min(self._missing, self.count)) * self.size, 0)
        if self._shift < 0:
            # Bytes that have gone took with them what the rows before and after them had there.
            found.lose(2, 0, 0)
        for numbers in self._runs([n for n in doubtful if n not in self._overflow]):
            self._search(numbers, shape, found)
        told = self._latest(1).startswith(_MAGIC)  # else not even how many pages there were
        return found.result() if found.count or told else Found([], None)

    def _leaf(self, page: bytes, shape: Shape) -> Leaf:
        return parse_leaf(page, shape, self._fetch, self.size)

    def _corrected(self, number: int, leaf: Leaf, shape: Shape) -> Leaf:
        """Return *leaf* with what never changes of a row as it was in the version before it.

        A damaged page of a log may hold texts that are other ones, and still are texts.
        """
        versions = self._versions.get(number, ())
        if len(versions) < 2 or versions[0].sound():
            return leaf
        before = self._leaf(versions[1].content, shape).rows
        by_number = dict(before)
        numbers = {values[shape.at]: row for row, values in before}
        rows = []
        for row, values in leaf.rows:
            right = numbers.get(values[shape.at], row)
            known = by_number.get(right, values)
            rows.append((right, values if shape.is_same_job(values, known) else known))
        return leaf._replace(rows=rows)

    def _is_of_another_kind(self, page: bytes) -> bool:
        if len(page) < self.size:
            return False
        kind, free, cells, start, _ = _HEADER.unpack_from(page)
        room = self.size - 12 if kind in {2, 5} else self.size - 8
        return kind in _OTHERS and max(free, start) <= self.size and cells * 2 <= room

    def _runs(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield pages that are damaged: as runs in the file, and one by one in the log."""
        run: list[int] = []
        for number in numbers:
            if self._in_log(number):
                yield [number]
                continue
            # If bytes have come or gone, what follows is nowhere as it was.
            if run and number > run[-1] + 1 and not self._shift:
                yield run
                run = []
            run.append(number)
        if run:
            yield list(range(run[0], run[-1] + 1)) if self._shift else run

    def _in_log(self, number: int, after: int = 0) -> bool:
        """Return whether the log has page *number*, as of a transaction *after* that one."""
        versions = self._versions.get(number)
        return versions is not None and versions[0].transaction > after

    def _search(self, numbers: list[int], shape: Shape, found: "_Rows") -> None:
        """Look for rows in pages that are damaged, and count those that there may have been."""
        bad = unknown = 0  # rows, and bytes
        for number in numbers:
            page = self._latest(number)
            leaf = self._leaf(page, shape)
            if leaf.whole or self._is_of_another_kind(page):
                continue
            if number in self._free and not self._shift:
                continue
            if leaf.bad is not None:
                bad += leaf.bad
            elif number > shape.roots or (number == 2 and not found.leaves):
                unknown += self.size
        overflow = len(self._overflow)
        explained, singles = 0, found.count
        if self._in_log(numbers[0]):
            for version in self._versions[numbers[0]]:
                leaf = self._leaf(version.content, shape)
                found.add(leaf)
                if leaf.whole:
                    break
                explained += self._carve(version.content, None, shape, found)
        else:
            start, end = (numbers[0] - 1) * self.size, numbers[-1] * self.size
            end = len(self._content) if self._shift and len(numbers) > 1 else end
            explained += self._carve(self._content[start:end], start, shape, found)
        explained += (len(self._overflow) - overflow) * self.size
        if unknown:
            found.lose(bad, max(0, unknown - explained), 0)
        else:
            found.lose(bad, 0, found.count - singles)

    def _carve(self, content: bytes, place: int | None, shape: Shape, found: "_Rows") -> int:
        """Look for pages, and then for single records, anywhere; return how many bytes they take.

        Args:
            place: where in the file that is; None in the log.
        """
        done = explained = 0
        for match in _LEAF_SHAPE.finditer(content):
            at = match.start()
            if at < done:
                continue
            leaf = self._leaf(content[at : at + self.size], shape)
            if not (leaf.whole and leaf.rows):
                continue
            explained += self._carve_records(content, done, at, place, shape, found) + self.size
            done = at + self.size
            if not self._is_old(place, at):
                found.add(leaf)
        return explained + self._carve_records(content, done, len(content), place, shape, found)

    def _is_old(self, place: int | None, at: int) -> bool:
        """Return whether what is found there is of a page that is free, or newer in the log."""
        if place is None:
            return False
        number = (place + at - self._shift) // self.size + 1
        return number in self._free or self._in_log(number)

    def _carve_records(  # noqa: PLR0917  private
        self, content: bytes, start: int, end: int, place: int | None, shape: Shape, found: "_Rows"
    ) -> int:
        done, explained = start, 0
        for match in shape.pattern.finditer(content, start, end):
            at = match.start()
            if at < done:
                continue
            record = parse_record(content, at, shape, self._fetch, self.size)
            if record is not None:
                done = at + record.stored
                explained += record.stored
                if not self._is_old(place, at):
                    found.add_single(row_number_before(content, at, record.size), record)
        return explained


class _Rows:
    """Rows by their numbers and ids: a damaged number may be that of another row, too."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._rows: dict[tuple[int, Any], tuple[Any, ...]] = {}
        self._names: set[Any] = set()
        self._sizes: list[int] = []  # bytes that they take
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
            self._sizes += [leaf.size // len(leaf.rows)] * added
            self.leaves += 1

    def add_single(self, number: int | None, record: Record) -> None:
        """Add a record that was found alone, unless its job is known."""
        name = record.values[self._shape.at]
        if name in self._names:
            return
        self._names.add(name)
        number = len(self._rows) if number is None else number
        self._rows[number, name] = self._shape.with_number(record.values, number)
        self._sizes.append(record.stored)

    def lose(self, rows: int, unknown: int, found: int) -> None:
        """Note that *rows*, and *unknown* bytes, cannot be read, but for rows *found* there."""
        self._losses.append((rows, unknown, found))

    def result(self) -> Found:
        ordered = sorted(self._rows.items(), key=lambda item: item[0][0])
        rows = [values for _, values in ordered]
        if not rows and any(unknown for _, unknown, _ in self._losses):
            return Found(rows, None)
        size = sorted(self._sizes)[len(self._sizes) // 50] if rows else 1  # of a small one
        if len(rows) < _FEW:
            size = min(size, _SMALL)
        lost = (max(0, bad + -(-unknown // size) - found) for bad, unknown, found in self._losses)
        return Found(rows, sum(lost))


def _page_size(content: bytes) -> int:
    size = int.from_bytes(content[16:18])
    if content.startswith(_MAGIC) and size in {512, 1024, 2048, 8192, 16384, 32768}:
        return size
    return _USUAL_PAGE
