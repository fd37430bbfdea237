"""One owner's SQLite file: its schema, and the transactions that are made of it.

Each file has one writer. What is in it is what would have to be run if that one died now.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

from retryexec._typing import override
from retryexec.journal._directory import Lock
from retryexec.journal._entry import Entry
from retryexec.journal._errors import Lost
from retryexec.journal._job_table import (
    DELETE,
    INSERT_ALL,
    INSERTS,
    JOBS,
    KEYED_INSERTS,
    MARK,
    SCAN,
    UPDATE,
)
from retryexec.journal._reserve import SMALLEST, Reserve
from retryexec.journal._rows import JOB_COLUMNS, JobRow, errors_json, ranges_of, values_of
from retryexec.journal._sqlite import (
    check_content,
    columns_of,
    is_damaged,
    is_full,
    make_tables,
    never_closed,
    open_database,
    size_of,
    transaction,
    upgrade,
)
from retryexec.journal._store import NOTHING_FOUND, Changes, Findings

_MOST_ADOPTIONS = 1_000_000
_PAGE = 4096  # bytes
_ROW_BYTES = 150  # of a row, beside its JSON

T = TypeVar("T")


class JournalFile:
    """An open file of this process: its own, or one taken over from a dead owner.

    It is a `Lane`. All but the constructor is for one thread, the writer's.
    """

    def __init__(self, lock: Lock, sql: sqlite3.Connection, *, power: bool) -> None:
        self.lock = lock
        self.name = lock.owner
        self.path = lock.database
        self.sql = sql
        self._synchronous = _synchronous(power)
        self._inode = self._stat()
        self._reserve = Reserve(lock.path.with_suffix(".spare"))
        self._new_bytes = 0  # of new rows, about, that may be in the log alone
        self.begin()

    def begin(self) -> None:
        """Hold no entries."""
        self.shared = False  # each owner has a file of its own
        self.live: dict[int, Entry] = {}
        self.parked = 0
        self.suspects: list[Entry] = []
        self.turn: tuple[Entry, int] | None = None
        self.next_row = 1

    # ---- opening and closing

    @classmethod
    def create(cls, lock: Lock, *, power: bool) -> "JournalFile":
        """Make the file that belongs to *lock*."""
        # Before SQLite makes it, which would let the umask decide who may read it.
        os.close(os.open(lock.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        sql = open_database(lock.database, JOBS, new=True, extra=(_synchronous(power),))
        try:
            with transaction(sql):
                make_tables(sql, JOBS)
                sql.execute("INSERT INTO meta(owner) VALUES(?)", (lock.owner,))
            file = cls(lock, sql, power=power)
            file._reserve.make()
        except BaseException:
            sql.close()
            raise
        return file

    @classmethod
    def open(cls, lock: Lock, *, power: bool) -> "JournalFile | None":
        """Open the file of a dead owner; None if it died before there was anything in it.

        Raises:
            Newer: it is not for this version to touch.
            sqlite3.DatabaseError: it is damaged, if `is_damaged` says so.
        """
        sql = open_database(lock.database, JOBS, extra=(_synchronous(power),))
        try:
            if sql.execute("SELECT 1 FROM sqlite_schema").fetchone() is None:
                sql.close()
                return None
            check_content(sql, JOBS)
            if columns_of(sql, JOBS) != JOB_COLUMNS:
                with transaction(sql):
                    upgrade(sql, JOBS)
            return cls(lock, sql, power=power)
        except BaseException:
            sql.close()
            raise

    def leave(self) -> None:
        """Let go of the file: it is removed if nothing is in it, and else is anybody's."""
        self.verify()
        if not self.live and not self.parked:
            self.remove()
            return
        self.mark_clean_exit()
        self.close()

    def close(self) -> None:
        """Let go of the file as it is."""
        self.close_database()
        self.lock.release()

    def remove(self) -> None:
        """Let go of the file, and remove it: nothing is in it."""
        self.close_database()
        self.lock.remove()

    def close_database(self) -> None:
        """Close the file, and keep its lock."""
        with suppress(sqlite3.Error):
            self.sql.close()

    def abandon(self) -> None:
        """Let go of the file without touching it, wherever it is by now."""
        never_closed.append(self.sql)
        self.lock.release()

    # ---- transactions

    def apply(self, changes: Changes) -> int:
        """Do all *changes*, or none; return how many rows to be deleted were not there any more.

        Raises:
            Lost: the file has been moved, removed or damaged.
            sqlite3.Error: none was done, or, if even COMMIT was reached, it is not known.
        """
        if changes.inserts:
            self._keep_reserve()
        if changes.marks and not (changes.inserts or changes.updates or changes.deletes):
            # Marks are about the death of a process, which the system's own memory survives.
            self.sql.execute("PRAGMA synchronous=NORMAL")
            try:
                return self._with_room(lambda: self._apply(changes))
            finally:
                self.sql.execute(f"PRAGMA {self._synchronous}")
        return self._with_room(lambda: self._apply(changes), all_of_it=not changes.inserts)

    def _apply(self, changes: Changes) -> int:
        sql = self.sql
        missing = 0
        with transaction(sql):
            if changes.inserts:
                self._insert(changes.inserts)
            if changes.updates:
                sql.executemany(UPDATE, map(_update, changes.updates))
            if changes.marks:
                sql.executemany(MARK, [(entry.row,) for entry in changes.marks])
            if changes.deletes:
                rows = [row for entry in changes.deletes if (row := entry.row) is not None]
                missing = len({*rows})  # some may have been shown twice
                missing -= sql.executemany(DELETE, ranges_of(rows)).rowcount
            # As late as can be: to a file that was unlinked, SQLite goes on writing happily.
            self.verify_path()
        if changes.inserts and self._new_bytes * 2 > self._reserve.size:
            self._carry_over()
        return missing

    def _with_room(self, write: Callable[[], T], *, all_of_it: bool = True) -> T:
        """Return *write()*, a transaction; if the disk is full, once more after making room.

        Args:
            all_of_it: whether the reserve may be given up for it.

        Raises:
            Lost: the file is damaged.
        """
        try:
            if self.sql.in_transaction:  # left by an error that not even a rollback could mend
                self.sql.execute("ROLLBACK")
            try:
                return write()
            except sqlite3.Error as error:
                if not (is_full(error) and self._make_room(all_of_it=all_of_it)):
                    raise
            return write()
        except sqlite3.Error as error:
            if is_damaged(error):
                msg = f"{self.path} is damaged: {error}"
                raise Lost(msg) from error
            raise

    def _make_room(self, *, all_of_it: bool) -> bool:
        """Give back the space of the log and, if need be, that of the reserve."""
        before = self.log_bytes()
        with suppress(sqlite3.Error):
            self.truncate_log()
        if self.log_bytes() < before:
            return True
        if not (all_of_it and self._reserve.size):
            return False
        self._reserve.release()
        with suppress(sqlite3.Error):
            self.truncate_log()
        return True

    def _keep_reserve(self) -> None:
        """See that there will be room for the ends of new jobs.

        Raises:
            OSError: there will not.
        """
        try:
            self._reserve.make()
        except OSError:
            # What the database has within itself will do.
            (free,) = self.sql.execute("PRAGMA freelist_count").fetchone()
            if free * _PAGE < SMALLEST:
                raise

    def _carry_over(self) -> None:
        """Let the database grow by what is in the log, while there is room for that."""
        self._new_bytes = 0
        with suppress(sqlite3.Error):
            self.sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _insert(self, entries: Sequence[Entry]) -> None:
        if len(entries) == 1 and (entry := entries[0]).key is None:
            self._new_bytes += len(entry.data) + _ROW_BYTES
            row = (entry.row, entry.id, entry.kind, entry.version, entry.data, entry.accepted_at)
            self.sql.execute(INSERTS[1], row)
            return
        self._new_bytes += sum(len(e.data) for e in entries) + _ROW_BYTES * len(entries)
        keyed: list[tuple[Any, ...]] = [
            (e.row, e.id, e.kind, e.version, e.data, e.accepted_at, key.text, key.latest or None)
            for e in entries
            if (key := e.key) is not None
        ]
        rows = [
            (e.row, e.id, e.kind, e.version, e.data, e.accepted_at)
            for e in entries
            if e.key is None
        ]
        self._insert_many(INSERTS, rows)
        self._insert_many(KEYED_INSERTS, keyed)

    def _insert_many(self, inserts: dict[int, str], rows: Sequence[tuple[Any, ...]]) -> None:
        place, rest = 0, len(rows)
        for size, statement in inserts.items():
            while rest >= size:
                flat = tuple(chain.from_iterable(rows[place : place + size]))
                self.sql.execute(statement, flat)
                place += size
                rest -= size

    def insert_rows(self, rows: Iterable[JobRow], sources: Sequence[str] = ()) -> None:
        """Write whole records, of another file or of before, in one transaction.

        Args:
            sources: the owners of files that have no record to run after this.

        Raises:
            Lost, sqlite3.Error: none has been written.
        """
        values = [values_of(row) for row in rows]

        def insert() -> None:
            with transaction(self.sql):
                self.sql.executemany(INSERT_ALL, values)
                self.sql.executemany("INSERT INTO meta(owner) VALUES(?)", [(o,) for o in sources])
                self.verify_path()

        self._with_room(insert, all_of_it=False)

    def holds(self, entry: Entry) -> bool:
        """Return whether *entry* is on disk."""
        found = self.sql.execute("SELECT id FROM job WHERE seq=?", (entry.row,)).fetchone()
        return found is not None and found[0] == entry.id

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows as they are, in the order the jobs were accepted."""
        return self.sql.execute(SCAN)

    def present(self, ids: AbstractSet[str]) -> set[str]:
        """Return those of *ids* that are in this file."""
        return {id_ for (id_,) in self.sql.execute("SELECT id FROM job") if id_ in ids}

    def taken_over(self, found: Findings = NOTHING_FOUND) -> None:
        """Write down what a takeover has found, in one transaction."""
        self._with_room(lambda: self._taken_over(found))

    def _taken_over(self, found: Findings) -> None:
        sql = self.sql
        with transaction(sql):
            sql.executemany(
                "UPDATE job SET crashes=crashes+1 WHERE seq=?", [(row,) for row in found.blamed]
            )
            sql.execute("UPDATE job SET started=0 WHERE started<>0")
            sql.executemany("UPDATE job SET parked=? WHERE seq=?", found.parked)
            sql.executemany(DELETE, [(row, row) for row in found.gone])
            if found.adoptions is not None:
                sql.execute("UPDATE meta SET adoptions=?", (found.adoptions,))
            self.verify_path()

    def park(self, parked: Sequence[tuple[str | None, int]]) -> None:
        """Write down why rows are *parked*."""
        with transaction(self.sql):
            self.sql.executemany("UPDATE job SET parked=? WHERE seq=?", parked)

    def remove_rows(self, rows: Sequence[int]) -> None:
        """Remove *rows* for good."""
        with transaction(self.sql):
            self.sql.executemany(DELETE, [(row, row) for row in rows])

    def adoptions(self) -> int:
        """Return how many owners have crashed with it in a row; -1 if the last one did not."""
        found = self.sql.execute("SELECT adoptions FROM meta").fetchone()
        count = found[0] if found else 0
        return min(max(-1, count), _MOST_ADOPTIONS) if isinstance(count, int) else 0

    def mark_clean_exit(self) -> None:
        """Write down that this owner has not crashed: it leaves on its own."""

        def mark() -> None:
            with transaction(self.sql):
                self.sql.execute("UPDATE meta SET adoptions=-1")
                self.sql.execute("UPDATE job SET started=0 WHERE started<>0")

        self._with_room(mark)
        self._reserve.release()

    # ---- looking after it

    def verify(self) -> None:
        """Make sure that the file, and its lock, are where others look for them.

        Raises:
            Lost: they are not.
        """
        self.verify_path()
        if not self.lock.holds() and not self.lock.regain():
            msg = f"{self.lock.path} has been replaced by another lock"
            raise Lost(msg)

    def verify_path(self) -> None:
        """Make sure that the file is where others look for it.

        Raises:
            Lost: it is not.
        """
        if self._stat() != self._inode:
            msg = f"{self.path} has been replaced by another file"
            raise Lost(msg)

    def _stat(self) -> tuple[int, int]:
        try:
            stat = os.stat(self.path)  # noqa: PTH116  for every batch
        except OSError as error:
            msg = f"{self.path} has gone: {error}"
            raise Lost(msg) from error
        return stat.st_dev, stat.st_ino

    def is_in_place(self) -> bool:
        """Return whether `verify` would have nothing to do or to say."""
        try:
            self.verify_path()
        except Lost:
            return False
        return self.lock.holds()

    def truncate_log(self) -> None:
        """Give back the disk space of the log; nothing is lost if a reader is in the way."""
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def log_bytes(self) -> int:
        """Return the size of the log."""
        return size_of(f"{self.path}-wal")

    @override
    def __repr__(self) -> str:
        return f"<JournalFile {self.path.name}: {len(self.live)} live, {self.parked} parked>"


def _synchronous(power: bool) -> str:
    # FULL syncs the log at each commit; NORMAL leaves that to the system, and to its power.
    return "synchronous=FULL" if power else "synchronous=NORMAL"


def _update(entry: Entry) -> tuple[Any, ...]:
    failures = entry.failures
    assert failures is not None  # else there would be nothing to update
    attempts, first_at, due_at, delay, errors = failures
    return attempts, first_at, due_at, delay, errors_json(errors), entry.row
