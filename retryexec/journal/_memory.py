"""A journal that is gone with its process: for tests, and to show the contract without a disk.

It is the journal, on SQLite databases in memory in the place of files.
"""

import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from retryexec._typing import override
from retryexec._validate import callable_or_none, whole_number
from retryexec.journal._codec import Codec
from retryexec.journal._file import JournalFile
from retryexec.journal._job_table import JOBS
from retryexec.journal._journal import Journal
from retryexec.journal._letter_file import LETTERS, LetterFile
from retryexec.journal._open import Place
from retryexec.journal._reserve import Reserve
from retryexec.journal._sqlite import make_tables, open_database, transaction
from retryexec.journal._store import Lane, Taken
from retryexec.journal._takeover import NOBODY, findings, revive, sort

_MEMORY = ":memory:"
T = TypeVar("T")


class MemoryJournal(Journal):
    """A journal in memory, with the methods of `Journal`.

    What was left unfinished is handed over when it is opened again.

    Args:
        jobs, max_bytes, wall_clock: as `Journal` has them.
    """

    def __init__(
        self,
        *,
        jobs: Mapping[str, type],
        max_bytes: int = 1024 * 1024,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        codec = Codec(jobs, max_bytes=whole_number("max_bytes", max_bytes, least=1))
        callable_or_none("wall_clock", wall_clock)
        place = Place(MemoryStore(codec, wall_clock), _MEMORY, Path(_MEMORY), wall_clock)
        self._set_up(place, codec, True, 3600.0, None)


class MemoryStore:
    """Lanes and dead letters that are databases in memory."""

    def __init__(self, codec: Codec, wall: Callable[[], float]) -> None:
        self._codec = codec
        self._wall = wall
        self._left: list[MemoryLane] = []  # by the journal that was open before
        self.letters = MemoryLetters()

    def serve(self, wake: Callable[[], object], lost: Callable[[], object]) -> None:
        """Do nothing: who looks at times finds all there is, and no lock is lost by itself."""

    def close(self) -> None:
        """Do nothing: there is nothing to be closed."""

    def new_lane(self) -> "MemoryLane":
        """Make a lane."""
        sql = open_database(_MEMORY, JOBS, new=True)
        with transaction(sql):
            make_tables(sql, JOBS)
        return MemoryLane(sql, self._left)

    def take(self, seen: set[str], left: AbstractSet[str]) -> Taken | None:  # noqa: ARG002  Store's
        """Take over a lane that was left."""
        while self._left:
            lane = self._left.pop(0)
            found = revive(lane, lane.rows(), self._codec, self._wall())
            lane.taken_over(findings(found, NOBODY, None))
            if lane.live:
                return sort(lane, NOBODY, 1)
        return None

    def set_aside(self, lane: Lane, error: Exception) -> None:
        """Do nothing: no other process sees it."""

    def is_rerun_pending(self, owner: str) -> bool:  # noqa: ARG002  Store's
        """Return False: a rerun is never cut off."""
        return False

    def is_unavailable(self, error: Exception) -> bool:  # noqa: ARG002  Store's
        """Return False: there is no disk."""
        return False

    def is_full(self, error: Exception) -> bool:  # noqa: ARG002  Store's
        """Return False: there is no disk."""
        return False

    def forget_after_fork(self) -> None:
        """In a forked child: begin with nothing."""
        self._left = []
        self.letters = MemoryLetters()


class MemoryLane(JournalFile):
    """A database in memory, which stays when it is left."""

    def __init__(self, sql: sqlite3.Connection, left: "list[MemoryLane]") -> None:
        self.name = uuid4().hex
        self.path = Path(_MEMORY)
        self.sql = sql
        # There is no file that could be left: the database is there as long as its lane is.
        weakref.finalize(self, sql.close)
        self._synchronous = "synchronous=NORMAL"
        self._reserve = NoReserve(self.path)
        self._new_bytes = 0
        self._left = left
        self.begin()

    @override
    def leave(self) -> None:
        """Keep it for the next opening, unless nothing is in it."""
        if self.live or self.parked:
            self.begin()
            self._left.append(self)

    @override
    def abandon(self) -> None:
        """Forget it."""

    @override
    def verify(self) -> None:
        """Do nothing: nobody else can have touched it."""

    @override
    def verify_path(self) -> None:
        """Do nothing: nobody else can have touched it."""

    @override
    def is_in_place(self) -> bool:
        """Return True."""
        return True

    @override
    def log_bytes(self) -> int:
        """Return 0: it has none."""
        return 0


class NoReserve(Reserve):
    """There is no disk that could be full."""

    @override
    def make(self) -> None:
        """Take nothing."""


class MemoryLetters(LetterFile):
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.path = Path(_MEMORY)
        self.io = threading.RLock()
        self._keys: set[str] | None = set()
        self._keys_version: tuple[int, ...] | None = ()
        self._sql = open_database(_MEMORY, LETTERS, new=True)
        weakref.finalize(self, self._sql.close)
        with transaction(self._sql):
            make_tables(self._sql, LETTERS)

    @override
    def __bool__(self) -> bool:
        return True

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Make one transaction."""
        with self.io, transaction(self._sql):
            yield self._sql

    @override
    def _version(self) -> tuple[int, ...]:
        return (self._sql.total_changes, 0)

    @override
    def read(self, ask: Callable[[sqlite3.Connection], T], default: T) -> T:  # noqa: ARG002  LetterStore's
        """Return what *ask* reads."""
        with self.io:
            return ask(self._sql)
