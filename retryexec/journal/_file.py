"""One owner's SQLite file: its schema, and the transactions that are made of it.

Each file has one writer. What is in it is what would have to be run if that one died now.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from retryexec.journal._directory import Lock
from retryexec.journal._entry import Entry, ErrorText, Past
from retryexec.journal._errors import JournalError

logger = logging.getLogger("retryexec.journal")

APPLICATION = 0x72747879  # "rtxy"
VERSION = 1
BUSY_MS = 5000

_STRICT = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
SCHEMA = f"""
CREATE TABLE job(
  seq INTEGER PRIMARY KEY,              -- the order in which jobs were accepted
  id TEXT NOT NULL,                     -- a UUID, version 7, the same through all crashes
  kind TEXT NOT NULL,                   -- what Journal(jobs=...) names the class
  ver INTEGER NOT NULL,                 -- the version of its fields
  data TEXT NOT NULL,                   -- the fields, as JSON
  attempts INTEGER NOT NULL DEFAULT 0,  -- those that failed
  crashes INTEGER NOT NULL DEFAULT 0,   -- ends of the process while it ran
  started INTEGER NOT NULL DEFAULT 0,   -- 1: was seen running
  accepted_at REAL NOT NULL,            -- this and what follows in seconds of the wall clock
  first_at REAL,                        -- when the first attempt began
  due_at REAL,                          -- when the next attempt is due
  delay REAL,                           -- how long that was to be waited for
  errors TEXT,                          -- the latest failures, as JSON
  parked TEXT                           -- why no job can be made of it, for now
){_STRICT};
CREATE TABLE meta(
  owner TEXT NOT NULL,
  adoptions INTEGER NOT NULL DEFAULT 0  -- crashes of its owners since it was last empty
){_STRICT};
"""

_INSERT = "INSERT INTO job(seq,id,kind,ver,data,accepted_at) VALUES"
_VALUES = "(?,?,?,?,CAST(? AS TEXT),?)"
# One statement for many rows lets go of the interpreter once, and not once for each row; the
# sizes are few, so that each is compiled once.
_INSERTS = {size: _INSERT + ",".join([_VALUES] * size) for size in (500, 100, 20, 5, 1)}
_INSERT_ALL = (
    "INSERT INTO job VALUES(:seq,:id,:kind,:ver,CAST(:data AS TEXT),:attempts,:crashes,:started,"
    ":accepted_at,:first_at,:due_at,:delay,:errors,:parked)"
)
_UPDATE = "UPDATE job SET attempts=?,first_at=?,due_at=?,delay=?,errors=?,started=0 WHERE seq=?"
_MARK = "UPDATE job SET started=1 WHERE seq=?"
_DELETE = "DELETE FROM job WHERE seq BETWEEN ? AND ?"
_SELECT = (
    "SELECT seq,id,kind,ver,data,attempts,crashes,started,accepted_at,first_at,due_at,delay,"
    "errors,parked FROM job"
)

_SCAN = (
    "SELECT seq,id,kind,ver,data,accepted_at,attempts OR crashes OR started OR "
    "errors IS NOT NULL OR parked IS NOT NULL FROM job ORDER BY seq"
)

# SQLite's codes, of which the module names some only from Python 3.11 on, some never.
FULL = 13
_CORRUPT = 11
_NOTADB = 26

_SOUND = (3, 51, 3)
_told: list[tuple[int, int, int]] = []

# Connections that must not be closed, since closing tidies up by name what may be another's
# file by now, or in a forked child the parent's. They go with the process.
_never_closed: list[sqlite3.Connection] = []


class Gone(Exception):
    """The file is not where it was: what is written to it nobody will find."""


class Newer(JournalError):
    """A later version of the library has written this file."""


class Row(NamedTuple):
    """A record as it is on disk."""

    seq: int
    id: str
    kind: str
    ver: int
    data: str
    attempts: int
    crashes: int
    started: int
    accepted_at: float
    first_at: float | None
    due_at: float | None
    delay: float | None
    errors: str | None
    parked: str | None


class Changes(NamedTuple):
    """What one transaction does."""

    inserts: Sequence[Entry] = ()
    updates: Sequence[Entry] = ()
    marks: Sequence[Entry] = ()
    deletes: Sequence[int] = ()


def connect(path: Path, **options: Any) -> sqlite3.Connection:
    """Open *path*; a function of its own, for tests that bring a connection of theirs."""
    connection: sqlite3.Connection = sqlite3.connect(path, **options)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Make one transaction of the block: all of it, or, if it raises, nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def tell_of_sqlite(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """Tell once of a bug in the log of older SQLites, from which one writer alone is safe.

    At INFO: nearly every Python has such a SQLite, and a warning on the terminal of everybody
    about what does not happen here would only teach people to overlook warnings.
    """
    if version < _SOUND and not _told:
        _told.append(version)
        logger.info(
            "this Python has SQLite %d.%d.%d, which may damage a file that two connections write "
            "to at the same time: a journal does not do that, but do not write to its files with "
            "other tools while it is open (SQLite 3.51.3 has been mended)",
            *version,
        )


def is_corrupt(error: BaseException) -> bool:
    """Return whether *error* means that the file is damaged, rather than out of reach."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.DatabaseError) and (
        code is not None and code & 0xFF in (_CORRUPT, _NOTADB)
    )


def is_full(error: BaseException) -> bool:
    """Return whether *error* means that the disk is."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == FULL


class JournalFile:
    """An open file of this process: its own, or one adopted from a dead owner.

    All but the constructor is for one thread, the writer's.

    Attributes:
        live: the entries that are on disk, by their row.
        parked: rows kept for somebody who can decode them.
    """

    def __init__(self, lock: Lock, connection: sqlite3.Connection) -> None:
        self.lock = lock
        self.path = lock.database
        self.live: dict[int, Entry] = {}
        self.parked = 0
        # Entries to be run one at a time, each marked on disk before; and the one that is.
        self.suspects: list[Entry] = []
        self.in_hand: Entry | None = None
        self.next_row = 1
        self._sql = connection
        stat = self.path.stat()
        self._inode = (stat.st_dev, stat.st_ino)

    # ---- opening and closing

    @classmethod
    def create(cls, lock: Lock, *, power: bool) -> "JournalFile":
        """Make the file that belongs to *lock*."""
        # Before SQLite makes it, which would let the umask decide who may read it.
        os.close(os.open(lock.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = _open(lock.database, power=power)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";\n")[:-1]:
                connection.execute(statement)
            connection.execute("INSERT INTO meta(owner) VALUES(?)", (lock.owner,))
            connection.execute(f"PRAGMA application_id={APPLICATION}")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
            return cls(lock, connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(cls, lock: Lock, *, power: bool) -> "JournalFile":
        """Open the file of a dead owner.

        Raises:
            Newer: it is not for this version to touch.
            sqlite3.DatabaseError: it is damaged, if `is_corrupt` says so.
        """
        connection = _open(lock.database, power=power, versioned=True)
        try:
            words = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
            if words != ["ok"]:
                error = sqlite3.DatabaseError("; ".join(words))
                error.sqlite_errorcode = _CORRUPT
                raise error
            return cls(lock, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Let go of the file; what is in it is anybody's."""
        with suppress(sqlite3.Error):
            self._sql.close()
        self.lock.release()

    def remove(self) -> None:
        """Let go of the file, and remove it: nothing is in it."""
        with suppress(sqlite3.Error):
            self._sql.close()
        self.lock.remove()

    def abandon(self) -> None:
        """Let go of the file without touching it, wherever it is by now."""
        _never_closed.append(self._sql)
        self.lock.release()

    # ---- transactions

    def apply(self, changes: Changes) -> int:
        """Do all *changes*, or none.

        Returns:
            how many of the rows to be deleted were not there any more.

        Raises:
            Gone: the file has been moved or removed.
            sqlite3.Error: none was done, or, if even COMMIT was reached, it is not known.
        """
        sql = self._sql
        if sql.in_transaction:  # left by an error that not even a rollback could mend
            sql.execute("ROLLBACK")
        with transaction(sql):
            if changes.inserts:
                self._insert(changes.inserts)
            if changes.updates:
                sql.executemany(_UPDATE, map(_update, changes.updates))
            if changes.marks:
                sql.executemany(_MARK, [(entry._row,) for entry in changes.marks])
            missing = 0
            if changes.deletes:
                missing = len({*changes.deletes})  # some may have been shown twice
                missing -= sql.executemany(_DELETE, _runs(changes.deletes)).rowcount
            # As late as can be: to a file that was unlinked, SQLite goes on writing happily.
            self.check_place()
        return missing

    def _insert(self, entries: Sequence[Entry]) -> None:
        place, rest = 0, len(entries)
        if rest == 1:
            entry = entries[0]
            row = (entry._row, entry.id, entry.kind, entry._version, entry._data, entry.accepted_at)
            self._sql.execute(_INSERTS[1], row)
            return
        rows = [(e._row, e.id, e.kind, e._version, e._data, e.accepted_at) for e in entries]
        for size, statement in _INSERTS.items():
            while rest >= size:
                flat = tuple(chain.from_iterable(rows[place : place + size]))
                self._sql.execute(statement, flat)
                place += size
                rest -= size

    def insert_rows(self, rows: Iterable[Row]) -> None:
        """Write whole records, of another file or of before, in one transaction."""
        sql = self._sql
        with transaction(sql):
            sql.executemany(_INSERT_ALL, [row._asdict() for row in rows])
            self.check_place()

    def check_place(self) -> None:
        """Make sure that the file, and its lock, are where others look for them.

        Raises:
            Gone: they are not.
        """
        try:
            stat = os.stat(self.path)  # noqa: PTH116  for every batch
        except OSError as error:
            msg = f"{self.path} has gone: {error}"
            raise Gone(msg) from error
        if (stat.st_dev, stat.st_ino) != self._inode:
            msg = f"{self.path} has been replaced by another file"
            raise Gone(msg)

    def holds(self, entry: Entry) -> bool:
        """Return whether *entry* is on disk."""
        found = self._sql.execute("SELECT id FROM job WHERE seq=?", (entry._row,)).fetchone()
        return found is not None and found[0] == entry.id

    def scan(self) -> Iterator[tuple[Any, ...]]:
        """Yield what there is of a job, in the order they were accepted.

        Returns:
            row, id, kind, version, JSON, when accepted, and whether `row` has more to tell.
        """
        return self._sql.execute(_SCAN)

    def row(self, seq: int) -> Row:
        """Return the whole of a record."""
        return Row._make(self._sql.execute(f"{_SELECT} WHERE seq=?", (seq,)).fetchone())

    def present(self, ids: AbstractSet[str]) -> set[str]:
        """Return those of *ids* that are in this file."""
        return {id_ for (id_,) in self._sql.execute("SELECT id FROM job") if id_ in ids}

    def adopted(
        self,
        *,
        blamed: Sequence[int],
        marked: bool,
        parked: Sequence[tuple[str | None, int]],
        gone: Sequence[int],
        counts: bool,
    ) -> None:
        """Write down what an adoption has found, in one transaction.

        Args:
            blamed: rows of jobs that may have ended the process.
            marked: whether any row bears a mark, to be cleared now.
            parked: a reason, or None, and the row.
            gone: rows that have their end elsewhere.
            counts: whether this counts as an owner's crash.
        """
        sql = self._sql
        with transaction(sql):
            sql.executemany(
                "UPDATE job SET crashes=crashes+1 WHERE seq=?", [(row,) for row in blamed]
            )
            if marked:
                sql.execute("UPDATE job SET started=0 WHERE started=1")
            sql.executemany("UPDATE job SET parked=? WHERE seq=?", parked)
            sql.executemany(_DELETE, [(row, row) for row in gone])
            if counts:
                sql.execute("UPDATE meta SET adoptions=adoptions+1")
            self.check_place()

    def is_blank(self) -> bool:
        """Return whether not even the schema is there."""
        return self._sql.execute("SELECT 1 FROM sqlite_schema").fetchone() is None

    def adoptions(self) -> int:
        """Return how many owners crashed with it since it was last left in peace."""
        found = self._sql.execute("SELECT adoptions FROM meta").fetchone()
        return 0 if found is None else int(found[0])

    def calm(self) -> None:
        """Write down that this owner has not crashed: it leaves on its own."""
        self._sql.execute("UPDATE meta SET adoptions=-1")
        self._sql.execute("UPDATE job SET started=0 WHERE started=1")

    def tidy(self) -> None:
        """Give back the disk space of the log; nothing is lost if a reader is in the way."""
        self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def wal_bytes(self) -> int:
        """Return the size of the log."""
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except OSError:
            return 0

    def __repr__(self) -> str:
        return f"<JournalFile {self.path.name}: {len(self.live)} live, {self.parked} parked>"


def _open(path: Path, *, power: bool, versioned: bool = False) -> sqlite3.Connection:
    connection = connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000
    )
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        if versioned:
            # Before anything that could write to a file of the future.
            check_version(connection, path)
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL syncs the log at each commit; NORMAL leaves that to the system, and to its power.
        connection.execute(f"PRAGMA synchronous={'FULL' if power else 'NORMAL'}")
        connection.execute("PRAGMA fullfsync=1")  # elsewhere than on macOS, nothing
        connection.execute("PRAGMA checkpoint_fullfsync=1")
        connection.execute("PRAGMA wal_autocheckpoint=1000")
        connection.execute("PRAGMA journal_size_limit=67108864")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA mmap_size=0")
    except BaseException:
        connection.close()
        raise
    return connection


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the file is of a version known here.

    Raises:
        Newer: it is not.
        sqlite3.DatabaseError: it is no journal at all.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        msg = f"{path} is of version {version}, and this library knows up to {VERSION}"
        raise Newer(msg)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION:
        error = sqlite3.DatabaseError(f"{path} is no journal")
        error.sqlite_errorcode = _NOTADB
        raise error


def _update(entry: Entry) -> tuple[Any, ...]:
    past = entry._past
    assert past is not None  # else there would be nothing to update
    return (
        past.attempts,
        past.first_at,
        past.due_at,
        past.delay,
        errors_json(past.errors),
        entry._row,
    )


def row_of(entry: Entry, seq: int) -> Row:
    """Return *entry* as a record of row *seq*."""
    past = entry._past
    return Row(
        seq=seq,
        id=entry.id,
        kind=entry.kind,
        ver=entry._version,
        data=text_of(entry),
        attempts=entry.attempts if past is None else past.attempts,
        crashes=entry.crashes,
        started=int(entry._marked),
        accepted_at=entry.accepted_at,
        first_at=None if past is None else past.first_at,
        due_at=None if past is None else past.due_at,
        delay=None if past is None else past.delay,
        errors=None if past is None else errors_json(past.errors),
        parked=None,
    )


def text_of(entry: Entry) -> str:
    """Return the JSON of *entry*'s job."""
    data = entry._data
    return data if isinstance(data, str) else data.decode()


def past_of(row: Row) -> Past | None:
    """Return what a record says of failed attempts."""
    if row.attempts == 0 and row.errors is None:
        return None
    return Past(
        row.attempts,
        row.first_at,
        row.accepted_at if row.due_at is None else row.due_at,
        row.delay or 0.0,
        errors_of(row.errors),
    )


def errors_json(errors: Sequence[ErrorText]) -> str | None:
    """Return *errors* as JSON."""
    return msgspec.json.encode([error._asdict() for error in errors]).decode()


def errors_of(text: str | None) -> tuple[ErrorText, ...]:
    """Return the failures that JSON tells of; none if it is damaged."""
    if not text:
        return ()
    try:
        return tuple(ErrorText(**fields) for fields in msgspec.json.decode(text))
    except (msgspec.DecodeError, TypeError):
        return ()


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return *rows* as ranges: what was accepted together mostly ends together."""
    ordered = sorted(rows)
    runs: list[tuple[int, int]] = []
    first = last = ordered[0]
    for row in ordered:
        if row > last + 1:
            runs.append((first, last))
            first = row
        last = row
    runs.append((first, last))
    return runs


def salvage(path: Path) -> list[Row]:
    """Return what can still be read of a damaged file, from both of its ends."""
    found: dict[int, Row] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            connection = connect(path, isolation_level=None, timeout=BUSY_MS / 1000)
            try:
                for values in connection.execute(f"{_SELECT} ORDER BY seq {order}"):
                    row = Row._make(values)
                    if row.seq in found and order == "DESC":
                        break
                    found[row.seq] = row
            finally:
                connection.close()
    return [found[seq] for seq in sorted(found)]


def set_aside(lock: Lock) -> Path:
    """Rename a damaged file, with all that belongs to it, and return its new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = lock.database.with_name(f"{lock.database.name}.corrupt-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            Path(f"{lock.database}{suffix}").rename(f"{aside}{suffix}")
    return aside
