"""Looking at a journal from outside: what is in it, whose it is, and nothing changed by it.

Made to be safe beside owners at full load. Every look is one short statement in autocommit, on a
connection that cannot write: a log may always be checkpointed, and no lock is held for long.
"""

import fcntl
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from retryexec.journal import _dead
from retryexec.journal._codec import fields_of_json
from retryexec.journal._dead import DeadLetter, plain_id
from retryexec.journal._directory import DEAD
from retryexec.journal._entry import ErrorText
from retryexec.journal._errors import JournalError
from retryexec.journal._file import _SELECT as _SELECT_JOBS
from retryexec.journal._file import (
    BUSY_MS,
    Newer,
    Row,
    check_version,
    errors_of,
    is_corrupt,
)

_PAGE = 500  # rows in one statement
_READONLY = 8  # SQLite's code for what a reader may not do
T = TypeVar("T")


class Owner(NamedTuple):
    """A file of jobs, and whether a process has it.

    Attributes:
        name: what the file is called, without its suffix.
        path: the file.
        alive: whether a process holds its lock; else the next one to look adopts it.
        pid: that process, by its own word; None if the owner is dead or has not told.
    """

    name: str
    path: Path
    alive: bool
    pid: int | None


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    """An accepted job that has not ended, as it is on disk.

    Attributes:
        id: what it is called through all attempts and crashes.
        kind: what its class is registered as.
        version: of its fields.
        fields: what the job holds, as JSON has it.
        state: ``parked`` if no class could be made of it, ``running`` if it was seen at work,
            ``waiting`` for its next attempt, or ``queued``.
        attempts: those that failed.
        crashes: how often a process ended while it ran.
        accepted_at, first_at, due_at: seconds of the wall clock; None for what was not yet.
        delay: seconds that were to be waited for `due_at`.
        parked: why no job can be made of it; None if one can, for all that is known.
        errors: the latest failures, oldest first.
        owner: whose file it is in.
    """

    id: str
    kind: str
    version: int
    fields: Any = field(repr=False)  # which logs must not show
    state: str
    attempts: int
    crashes: int
    accepted_at: float
    first_at: float | None
    due_at: float | None
    delay: float | None
    parked: str | None
    errors: tuple[ErrorText, ...] = field(repr=False)
    owner: Owner


@dataclass(frozen=True, slots=True)
class FileStats:
    """One file of jobs: whose, how many jobs by kind, how many of them parked, its bytes."""

    owner: Owner
    jobs: "Counter[str]"
    parked: int
    oldest_at: float | None
    bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class DirectoryStats:
    """A whole journal: its files of jobs, and the dead letters by kind, with their bytes."""

    files: tuple[FileStats, ...]
    dead: "Counter[str]"
    dead_bytes: int

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended, the parked ones included."""
        return sum(file.jobs.total() for file in self.files)

    @property
    def parked(self) -> int:
        """How many jobs no class could be made of."""
        return sum(file.parked for file in self.files)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest unfinished job was accepted; None if there is none."""
        return min((file.oldest_at for file in self.files if file.oldest_at), default=None)


class Inspector:
    """Reads the journal in *directory*, without being a part of it.

    Args:
        directory: as `Journal` has it.
        wall_clock: the time of day, in seconds.

    Attributes:
        unreadable: files that could not be read so far, and why: a damaged one, or one that a
            newer library has written. What the methods return is without those.

    Raises:
        JournalError: there is no such directory, or it cannot be looked into.
    """

    def __init__(
        self,
        directory: "str | os.PathLike[str]",
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(directory).absolute()
        self.unreadable: dict[Path, str] = {}
        self._wall = wall_clock
        if not self.path.is_dir():
            msg = (
                f"there is no directory {str(directory)!r}: name the one that "
                "Journal(...) was given"
            )
            raise JournalError(msg)
        self.names()

    def names(self) -> list[str]:
        """Return the names of all files there are."""
        try:
            return sorted(os.listdir(self.path))  # noqa: PTH208  names, as text
        except OSError as error:
            msg = f"{self.path} cannot be looked into: {error.strerror}"
            raise JournalError(msg) from error

    def owners(self) -> list[Owner]:
        """Return the owners of files of jobs, the dead and the living."""
        owners = []
        for name in self.names():
            stem, dot, suffix = name.partition(".")
            if dot and suffix == "db" and len(stem) == 32:
                alive, pid = holder(self.path / f"{stem}.lock")
                owners.append(Owner(stem, self.path / name, alive, pid))
        return owners

    # ---- jobs

    def jobs(self, kind: str | None = None, *, limit: int | None = None) -> Iterator[UnfinishedJob]:
        """Yield the unfinished jobs, the longest accepted first.

        Args:
            kind: only those of this kind.
            limit: at most so many.
        """
        size = _PAGE if limit is None else min(_PAGE, limit)
        of_files = [self._jobs_of(owner, kind, size) for owner in self.owners()]
        return islice(merge(*of_files, key=lambda job: job.accepted_at), limit)

    def _jobs_of(self, owner: Owner, kind: str | None, size: int) -> Iterator[UnfinishedJob]:
        where, values = ("", ()) if kind is None else ("AND kind=? ", (kind,))
        query = f"{_SELECT_JOBS} WHERE seq>? AND seq<=? {where}ORDER BY seq LIMIT ?"

        def page(sql: sqlite3.Connection, after: int, to: int) -> list[Any]:
            return sql.execute(query, (after, to, *values, size)).fetchall()

        # A loaded owner adds faster than anybody reads: what comes later is not looked at.
        last = self._ask(owner, lambda sql: sql.execute("SELECT max(seq) FROM job").fetchone()[0])
        after = 0
        while last is not None:
            rows = self._ask(owner, lambda sql, after=after, to=last: page(sql, after, to)) or []  # type: ignore[misc]
            for values_of_row in rows:
                yield self._job(Row._make(values_of_row), owner)
            if len(rows) < size:
                return
            after = rows[-1][0]

    def _job(self, row: Row, owner: Owner) -> UnfinishedJob:
        if row.parked is not None:
            state = "parked"
        elif row.started and owner.alive:
            state = "running"
        elif row.due_at is not None and row.due_at > self._wall():
            state = "waiting"
        else:
            state = "queued"
        return UnfinishedJob(
            row.id,
            row.kind,
            row.ver,
            _fields(row.data),
            state,
            row.attempts,
            row.crashes,
            row.accepted_at,
            row.first_at,
            row.due_at,
            row.delay,
            row.parked,
            errors_of(row.errors),
            owner,
        )

    # ---- dead letters

    def letters(self, kind: str | None = None, *, limit: int | None = None) -> Iterator[DeadLetter]:
        """Yield the dead letters, the latest first.

        Args:
            kind: only those of this kind.
            limit: at most so many.
        """
        where, of_kind = ("", ()) if kind is None else ("AND kind=? ", (kind,))
        query = (
            f"{_dead._SELECT} WHERE (died_at,id)<(?,?) {where}ORDER BY died_at DESC,id DESC LIMIT ?"
        )
        before: tuple[float, str] = (float("inf"), "")
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            values = (*before, *of_kind, size)
            rows = self._ask_dead(lambda sql, v=values: sql.execute(query, v).fetchall()) or []  # type: ignore[misc]
            yield from map(_dead._letter, rows)
            if len(rows) < size:
                return
            before = (rows[-1][8], rows[-1][0])
            left = None if left is None else left - size

    # ---- one of either

    def find(self, job_id: str, /) -> "list[UnfinishedJob | DeadLetter]":
        """Return what is known of *job_id*; empty if nothing is, or nothing any more.

        In the moment between two files a job is in both of them.
        """
        name = plain_id(job_id)
        found: list[UnfinishedJob | DeadLetter] = []
        for owner in self.owners():
            query = f"{_SELECT_JOBS} WHERE id=?"
            rows = self._ask(owner, lambda sql, q=query: sql.execute(q, (name,)).fetchall())  # type: ignore[misc]
            found += [self._job(Row._make(row), owner) for row in rows or ()]
        query = f"{_dead._SELECT} WHERE id=?"
        rows = self._ask_dead(lambda sql: sql.execute(query, (name,)).fetchall())
        return [*found, *map(_dead._letter, rows or ())]

    # ---- counts

    def stats(self) -> DirectoryStats:
        """Return counts and sizes."""
        dead = self._ask_dead(
            lambda sql: sql.execute("SELECT kind,count(*) FROM dead GROUP BY kind").fetchall()
        )
        return DirectoryStats(
            tuple(self._file_stats(owner) for owner in self.owners()),
            Counter(dict(dead or ())),
            size_of(self.path / DEAD),
        )

    def _file_stats(self, owner: Owner) -> FileStats:
        query = "SELECT kind,count(*),count(parked),min(accepted_at) FROM job GROUP BY kind"
        rows = self._ask(owner, lambda sql: sql.execute(query).fetchall()) or []
        return FileStats(
            owner,
            Counter({kind: count for kind, count, _, _ in rows}),
            sum(parked for _, _, parked, _ in rows),
            min((oldest for *_, oldest in rows), default=None),
            size_of(owner.path),
            size_of(Path(f"{owner.path}-wal")),
        )

    # ---- looking

    def _ask(self, owner: Owner, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what *ask* reads in the file of *owner*; None if it has gone or cannot be read."""

        def asked(sql: sqlite3.Connection) -> T | None:
            check_version(sql, owner.path)
            blank = sql.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None
            return None if blank else ask(sql)

        return self._guarded(owner.path, asked)

    def _ask_dead(self, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what *ask* reads of the dead letters; None if there are none, or no reading."""

        def asked(sql: sqlite3.Connection) -> T | None:
            return ask(sql) if check_dead_version(sql, path) else None

        path = self.path / DEAD
        return self._guarded(path, asked)

    def _guarded(self, path: Path, ask: Callable[[sqlite3.Connection], T | None]) -> T | None:
        try:
            with reading(path) as sql:
                return ask(sql)
        except Newer as error:
            self.unreadable[path] = str(error)
        except sqlite3.Error as error:
            if path.exists():  # else its owner is done with it
                self.unreadable[path] = why_unreadable(path, error)
        return None


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Open *path* for looking only.

    A connection in ``mode=ro`` checkpoints nothing, neither by itself nor at its end.
    """
    try:
        with closing(_read_only(path)) as sql:
            try:
                sql.execute("PRAGMA user_version")
            except sqlite3.OperationalError as error:
                if _code(error) != _READONLY:
                    raise
            else:
                yield sql
                return
        # Somebody died in the middle of a transaction, and whoever opens the file next takes it
        # back; a reader may not, and so opens it like the others.
        with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000)) as sql:
            yield sql
    finally:
        _tidy_after(path)


def _read_only(path: Path) -> sqlite3.Connection:
    sql = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_MS / 1000
    )
    try:
        sql.execute("PRAGMA trusted_schema=OFF")
    except BaseException:
        sql.close()
        raise
    return sql


def _tidy_after(path: Path) -> None:
    """Remove what SQLite has made for a file that was removed while it was being opened.

    Even a reader makes an empty log, and the memory that goes with it. A log that holds anything
    is somebody's.
    """
    if path.exists():
        return
    wal = Path(f"{path}-wal")
    with suppress(OSError):
        if not wal.exists() or wal.stat().st_size == 0:
            wal.unlink(missing_ok=True)
            Path(f"{path}-shm").unlink(missing_ok=True)


def check_dead_version(sql: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file of dead letters holds anything yet.

    Raises:
        Newer: it is not for this version to read.
    """
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    if version > _dead._VERSION:
        msg = f"{path} is of version {version}, and this library knows up to {_dead._VERSION}"
        raise Newer(msg)
    return bool(version)


def holder(lock: Path) -> tuple[bool, int | None]:
    """Return whether a process holds *lock*, and which one, by its own word.

    Raises:
        JournalError: that cannot be found out.
    """
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    except OSError as error:
        msg = f"{lock} cannot be opened: {error.strerror}"
        raise JournalError(msg) from error
    try:
        # Shared, and let go of at once: a living owner does not notice.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.read(fd, 200).decode(errors="replace").split()
        return True, int(words[0]) if words and words[0].isdigit() else None
    else:
        return False, None
    finally:
        os.close(fd)


def why_unreadable(path: Path, error: sqlite3.Error) -> str:
    """Return why *path* cannot be read, and the way out."""
    if is_corrupt(error):
        return (
            f"{path} is damaged ({error}): the next process to open the journal saves what can "
            "be read of it, and sets the file aside"
        )
    return f"{path} cannot be read: {error}"


def size_of(path: Path) -> int:
    """Return the bytes of *path*; 0 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _fields(data: str) -> Any:
    try:
        return fields_of_json(data)
    except msgspec.DecodeError:
        return data
