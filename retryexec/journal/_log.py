"""SQLite's log (``-wal``), read without SQLite.

A log is a header and frames: a page each, with a checksum over all that is before it. At the first
frame that is damaged SQLite takes the log to end, as it has to after a power cut in the middle of
a write. So one flipped bit takes the transactions after it away, too, without a word; only the
frames that are still there tell of them. Here all of them are read.

The memory that SQLite shares (``-shm``) tells how many frames were complete when the process died,
as long as neither the machine nor SQLite has been at the file since.
"""

import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from retryexec.journal._sqlite import is_plain, size_of

_HEADER = struct.Struct(">8I")  # magic, format, page size, number, two salts, two checksums
_FRAME_HEADER = 24  # bytes: page, pages after a commit or 0, two salts, two checksums
_MAGIC, _PAGE = 0x377F0682, 4096
_SLOT = _FRAME_HEADER + _PAGE
_MOST_PAGES = 2**22
_SHARED_HEADER = 48  # bytes, twice; then how many frames are in the file already


class Frame(NamedTuple):
    """A page in a log.

    Attributes:
        page: its number.
        pages: of the file, if a transaction ends here; else 0.
        transaction: the number of that one.
        content: the page, as far as it is there.
        header: what stands before it in the log.
        before: the checksums of what is before that.
        order: of the bytes of the machine that wrote it.
    """

    page: int
    pages: int
    transaction: int
    content: bytes
    header: bytes
    before: bytes
    order: str

    def is_sound(self) -> bool:
        """Return whether the page is as it was written, if what is before it is."""
        if len(self.content) < _PAGE:
            return False
        start = struct.unpack(">2I", self.before)
        sums = _checksums(self.header[:8] + self.content, self.order, start)
        return sums == struct.unpack_from(">2I", self.header, 16)


class Log:
    """What a dead process has left of a log, as it was before SQLite looked at it.

    Attributes:
        content: the file.
        complete: how many frames the shared memory says there were.
        carried: how many of those it says are in the database file.
        pages: how many it says there are in that file with all of them.
    """

    def __init__(self, database: Path) -> None:
        path = Path(f"{database}-wal")
        self.content = path.read_bytes() if is_plain(path) and size_of(path) else b""
        self._first = _first_page(database)
        shared = shared_frames(database)
        if is_whole(self.content) and self.content[16:24] != shared.salts:
            shared = _NOTHING  # it is about another log
        self.complete, self.carried, self.pages, _ = shared

    @cached_property
    def frames(self) -> list[Frame]:
        """All frames of complete transactions, wherever they are."""
        return list(self._frames())

    def _frames(self) -> Iterator[Frame]:
        content, salts = self.content, _salts(self.content)
        places: list[int] = []
        at = content.find(salts, _HEADER.size) if salts else -1
        while at >= 0:
            place = at - 8
            page, pages = struct.unpack_from(">2I", content, place)
            if place >= _HEADER.size and 0 < page <= _MOST_PAGES and pages <= _MOST_PAGES:
                places.append(place)
            at = content.find(salts, at + 8)
        ends = [n for n, at in enumerate(places) if content[at + 4 : at + 8] != bytes(4)]
        last = max([ends[-1] + 1 if ends else 0, self.complete])
        transaction, before, order = 1, content[24:32], _order(content)
        for place, after in zip(places[:last], [*places[1:], len(content)], strict=False):
            page, pages = struct.unpack_from(">2I", content, place)
            start = place + _FRAME_HEADER
            part = content[start : min(start + _PAGE, after)]
            header = content[place:start]
            yield Frame(page, pages, transaction, part, header, before, order)
            before = header[16:]
            transaction += bool(pages)

    def left_out(self, *, same_boot: bool) -> int:
        """Return how many transactions are there that SQLite does not read, and should.

        Args:
            same_boot: whether the machine has run on since they were written.
        """
        if not self.frames:
            return 0
        valid, whole = self.valid(), is_whole(self.content)
        beyond = [frame for frame in self.frames[valid:] if frame.pages]
        # A single one may be what was left when its process died, or the power, while it wrote it.
        torn = bool(beyond) and len(beyond[0].content) < _PAGE
        complete = same_boot and not torn and (self.complete > valid or not whole)
        return len(beyond) if len(beyond) > 1 or complete else 0

    def valid(self) -> int:
        """Return how many frames SQLite reads: up to the first one that is damaged.

        It is asked about a copy, since it forgets then what it knew of the log.
        """
        with tempfile.TemporaryDirectory(prefix="retryexec-") as name:
            copy = Path(name) / "copy.db"
            copy.write_bytes(self._first)
            Path(f"{copy}-wal").write_bytes(self.content)
            with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as sql:
                with suppress(sqlite3.Error):
                    sql.execute("SELECT 1 FROM sqlite_schema").fetchone()
                shared = shared_frames(copy)
                return shared.complete if shared.salts == self.content[16:24] else 0
        return 0

    def missing(self) -> int:
        """Return how many frames are missing, besides those that are elsewhere."""
        found = sum(len(frame.content) == _PAGE for frame in self.frames)
        salts = _salts(self.content)
        last = self.content.rfind(salts) if salts else 0
        there = max(0, (last - 8 - _HEADER.size) // _SLOT + 1)
        return max(0, there - found, self.complete - max(found, self.carried))


def _first_page(database: Path) -> bytes:
    if not (is_plain(database) and database.exists()):
        return b""
    with database.open("rb") as file:
        return file.read(_PAGE)


class Shared(NamedTuple):
    """What the shared memory says of a log."""

    complete: int
    carried: int
    pages: int
    salts: bytes


_NOTHING = Shared(0, 0, 0, b"")


def shared_frames(database: Path) -> Shared:
    """Return what the shared memory says of the log of *database*."""
    path = Path(f"{database}-shm")
    memory = b""
    with suppress(OSError):
        if is_plain(path):
            with path.open("rb") as file:
                memory = file.read(2 * _SHARED_HEADER + 4)
    first, second = memory[:_SHARED_HEADER], memory[_SHARED_HEADER : 2 * _SHARED_HEADER]
    if len(memory) < 2 * _SHARED_HEADER + 4 or first != second or not first[12]:
        return _NOTHING
    complete, pages = struct.unpack_from("=2I", memory, 16)
    (carried,) = struct.unpack_from("=I", memory, 2 * _SHARED_HEADER)
    return Shared(complete, min(carried, complete), pages, first[32:40])


def is_whole(log: bytes) -> bool:
    """Return whether the header of *log* is as it was written."""
    header = log[: _HEADER.size]
    if len(header) < _HEADER.size or int.from_bytes(header[:4]) | 1 != _MAGIC | 1:
        return False
    return _checksums(header[:24], _order(log)) == struct.unpack_from(">2I", header, 24)


def _salts(log: bytes) -> bytes:
    """Return what the frames of *log* have in common, as opposed to older ones after them."""
    if is_whole(log):
        return log[16:24]
    places = range(_HEADER.size + 8, min(len(log), 20 * _SLOT) - 8, _SLOT)
    common = Counter(log[place : place + 8] for place in places)
    common.pop(bytes(8), None)
    return common.most_common(1)[0][0] if common else b""


def _order(log: bytes) -> str:
    return ">" if log[3:4] == b"\x83" else "<"


def _checksums(data: bytes, order: str, start: tuple[int, ...] = (0, 0)) -> tuple[int, int]:
    """Return SQLite's checksums of *data*, which follow those of what is before it."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    one, two = start
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
