"""Looking at a journal from outside: what is in it, whose it is, and nothing changed by it.

Made to be safe beside owners at full load. Every look is one short statement in autocommit, on a
connection that cannot write: a log may always be checkpointed, and no lock is held for long.
"""

import fcntl
import os
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from retryexec._typing import override
from retryexec.journal._choice import is_prefix, plain_id
from retryexec.journal._copies import Copies
from retryexec.journal._directory import DEAD, OWNER
from retryexec.journal._errors import JournalError, Newer
from retryexec.journal._job_table import JOBS
from retryexec.journal._keys import key_or_text
from retryexec.journal._letter_file import LETTERS
from retryexec.journal._letters import DeadLetter, letter_of
from retryexec.journal._rows import (
    ErrorText,
    JobRow,
    fields_of,
    printable,
    read_job,
    read_letter,
    shown_errors,
)
from retryexec.journal._sqlite import Format, check_version, is_damaged_file, select, size_of

_PAGE = 500  # rows in one statement
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
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


class UnfinishedJob(msgspec.Struct, frozen=True):
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
        key: None if it has none.
    """

    id: str
    kind: str
    version: int
    fields: Any
    state: str
    attempts: int
    crashes: int
    accepted_at: float
    first_at: float | None
    due_at: float | None
    delay: float | None
    parked: str | None
    errors: tuple[ErrorText, ...]
    owner: Owner
    key: Any = None

    @override
    def __repr__(self) -> str:
        # Without the fields and errors, which logs must not show.
        return (
            f"UnfinishedJob(id={self.id!r}, kind={self.kind!r}, state={self.state!r}, "
            f"attempts={self.attempts}, crashes={self.crashes}, parked={self.parked!r})"
        )


class FileStats(msgspec.Struct, frozen=True):
    """One file of jobs: whose, how many jobs by kind, how many of them parked, its bytes."""

    owner: Owner
    jobs: "Counter[str]"
    parked: int
    oldest_at: float | None
    bytes: int
    wal_bytes: int


class DirectoryStats(msgspec.Struct, frozen=True):
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
        copies: of files that are not to be touched.

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
        self.copies = Copies()
        self._wall = wall_clock
        if not self.path.is_dir():
            msg = (
                f"there is no directory {str(directory)!r}: name the one that "
                "Journal(...) was given"
            )
            raise JournalError(msg)
        self.names()

    on_server = False

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path)

    def close(self) -> None:
        """Release what it holds; here, nothing."""

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
            if dot and suffix == "db" and OWNER.fullmatch(stem):
                try:
                    alive, pid = holder(self.path / f"{stem}.lock")
                except JournalError as error:
                    self.unreadable[self.path / f"{stem}.lock"] = str(error)
                    alive, pid = False, None
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
        rest = f"WHERE seq>=? AND seq<=? {where}ORDER BY seq LIMIT ?"

        def page(sql: sqlite3.Connection, after: int, to: int) -> list[Any]:
            return sql.execute(select(sql, JOBS, rest), (after, to, *values, size)).fetchall()

        # A loaded owner adds faster than anybody reads: what comes later is not looked at.
        last = self._ask(owner, lambda sql: sql.execute("SELECT max(seq) FROM job").fetchone()[0])
        start = _LOWEST
        while isinstance(last, int) and start <= _HIGHEST:
            rows = self._ask(owner, lambda sql, start=start, to=last: page(sql, start, to)) or []  # type: ignore[misc]
            for columns in rows:
                yield self._job(columns, owner)
            if len(rows) < size:
                return
            start = rows[-1][0] + 1

    def _job(self, columns: Any, owner: Owner) -> UnfinishedJob:
        row, wrong = read_job(columns)
        return UnfinishedJob(
            row.id,
            row.kind,
            row.ver,
            fields_of(row.data),
            self._state(row, owner, wrong),
            row.attempts,
            row.crashes,
            row.accepted_at,
            row.first_at,
            row.due_at,
            row.delay,
            row.parked if wrong is None else wrong,
            shown_errors(row.errors),
            owner,
            key_or_text(row.key),
        )

    def _state(self, row: JobRow, owner: Owner, wrong: str | None) -> str:
        if row.parked is not None or wrong is not None:
            return "parked"
        if row.started and owner.alive:
            return "running"
        if row.due_at is not None and row.due_at > self._wall():
            return "waiting"
        return "queued"

    # ---- dead letters

    def letters(self, kind: str | None = None, *, limit: int | None = None) -> Iterator[DeadLetter]:
        """Yield the dead letters, the latest first.

        Args:
            kind: only those of this kind.
            limit: at most so many.
        """
        where, of_kind = ("", ()) if kind is None else ("AND kind=? ", (kind,))
        rest = f"WHERE (died_at,id)<(?,?) {where}ORDER BY died_at DESC,id DESC LIMIT ?"
        before: tuple[float, str] = (float("inf"), "")
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            values = (*before, *of_kind, size)
            rows = self._ask_dead(lambda sql, v=values: _all(sql, LETTERS, rest, v)) or []  # type: ignore[misc]
            yield from (letter_of(read_letter(row)) for row in rows)
            if len(rows) < size:
                return
            before = (rows[-1][8], rows[-1][0])
            left = None if left is None else left - size

    # ---- one of either

    def find(self, job_id: str, /) -> "list[UnfinishedJob | DeadLetter]":
        """Return what is known of *job_id*, an id or its first digits; empty if nothing is.

        In the moment between two files a job is in both of them.
        """
        name = plain_id(job_id)
        # One that is damaged may have any id.
        where, values = "id IN (?,?)", (name, job_id)
        if is_prefix(name):
            where, values = "id GLOB ? OR id=?", (f"{name}*", job_id)
        found: list[UnfinishedJob | DeadLetter] = []
        for owner in self.owners():
            rows = self._ask(owner, lambda sql: _all(sql, JOBS, f"WHERE {where}", values))
            found += [self._job(row, owner) for row in rows or ()]
        letters = self._ask_dead(lambda sql: _all(sql, LETTERS, f"WHERE {where}", values))
        return [*found, *(letter_of(read_letter(row)) for row in letters or ())]

    # ---- counts

    def stats(self) -> DirectoryStats:
        """Return counts and sizes."""
        dead = self._ask_dead(
            lambda sql: sql.execute("SELECT kind,count(*) FROM dead GROUP BY kind").fetchall()
        )
        return DirectoryStats(
            tuple(self._file_stats(owner) for owner in self.owners()),
            Counter({_text(kind): count for kind, count in dead or ()}),
            size_of(self.path / DEAD),
        )

    def _file_stats(self, owner: Owner) -> FileStats:
        query = "SELECT kind,count(*),count(parked),min(accepted_at) FROM job GROUP BY kind"
        rows = self._ask(owner, lambda sql: sql.execute(query).fetchall()) or []
        times = [oldest for *_, oldest in rows if isinstance(oldest, (int, float))]
        return FileStats(
            owner,
            Counter({_text(kind): count for kind, count, _, _ in rows}),
            sum(parked for _, _, parked, _ in rows),
            min(times, default=None),
            size_of(owner.path),
            size_of(f"{owner.path}-wal"),
        )

    # ---- looking

    def _ask(self, owner: Owner, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what *ask* reads in the file of *owner*; None if it has gone or cannot be read."""
        return self._guarded(owner.path, JOBS, ask)

    def _ask_dead(self, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what *ask* reads of the dead letters; None if there are none, or no reading."""
        path = self.path / DEAD
        return self._guarded(path, LETTERS, ask) if os.path.lexists(path) else None

    def _guarded(
        self, path: Path, form: Format, ask: Callable[[sqlite3.Connection], T]
    ) -> T | None:
        try:
            with self.copies.reading(path) as sql:
                return ask(sql) if check_version(sql, path, form) else None
        except Newer as error:
            self.unreadable[path] = str(error)
        except sqlite3.Error as error:
            if os.path.lexists(path):  # else its owner is done with it
                self.unreadable[path] = why_unreadable(path, error)
        return None


def _all(sql: sqlite3.Connection, form: Format, rest: str, values: tuple[Any, ...]) -> list[Any]:
    return sql.execute(select(sql, form, rest), values).fetchall()


def holder(lock: Path) -> tuple[bool, int | None]:
    """Return whether a process holds *lock*, and which one, as it has written there.

    Raises:
        JournalError: that cannot be found out.
    """
    try:
        if not stat.S_ISREG(lock.lstat().st_mode):
            msg = f"{lock} is not a plain file: nobody can hold it"
            raise JournalError(msg)
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
    if is_damaged_file(path, error):
        return (
            f"{path} is damaged ({error}): the next process to open the journal saves what can "
            "be read of it, and sets the file aside"
        )
    return f"{path} cannot be read: {error}"


def _text(kind: object) -> str:
    return printable("" if kind is None else kind)
