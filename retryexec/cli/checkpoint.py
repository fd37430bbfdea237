"""``run --checkpoint FILE``: which records are done, kept on disk, to go on after a crash.

FILE is an SQLite database with a row for each record that is done, has failed, or was running.
What a worker writes is there before it goes on, so ``kill -9`` loses at most what is in the middle
of an attempt. A write takes some 20 microseconds, since it is handed to the operating system but
not synced to the disk: only a power cut can lose more, namely what came after the last `sync`.
"""

import hashlib
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from retryexec.cli.options import UsageError
from retryexec.cli.output import clean, format_time
from retryexec.cli.records import FailedRecord
from retryexec.cli.source import Source, open_source, unreadable

MOST_DEATHS = 3
"""A record that was running when its process died so often is not run again."""

CRASHES = "crashes"
"""The reason of a record that has failed by that."""

SUPERSEDED = "superseded"
"""The reason of a record that is settled, since a later one of its key has replaced it."""

_APPLICATION = 0x72747863  # "rtxc"
_VERSION = 1
# line: where the record begins in INPUT. state: one of those below. deaths: processes that died
# while it was running. reason, error: why it failed for good.
_SCHEMA = f"""
CREATE TABLE run(target TEXT, format TEXT, size INTEGER, digest TEXT, records INTEGER, name TEXT,
  began_at REAL, complete INTEGER);
CREATE TABLE record(line INTEGER PRIMARY KEY, state INTEGER NOT NULL, deaths INTEGER NOT NULL,
  attempts INTEGER NOT NULL, seconds REAL NOT NULL, reason TEXT, error TEXT);
CREATE INDEX running ON record(state) WHERE state=1;
PRAGMA application_id={_APPLICATION};
PRAGMA user_version={_VERSION}
"""
_WAITING, _RUNNING, _DONE, _FAILED = range(4)
_WRITE = (
    "INSERT INTO record VALUES(?,?,0,?,?,?,?) ON CONFLICT(line) DO UPDATE SET "
    "state=excluded.state, attempts=excluded.attempts, seconds=excluded.seconds, "
    "reason=excluded.reason, error=excluded.error"
)


class RunIdentity(NamedTuple):
    """What has to be the same for a run to go on.

    Attributes:
        target: module and class of its jobs.
        format: of INPUT.
        size, digest: of what INPUT holds.
        records: how many records that are.
        name: of INPUT, for messages; the file may be moved.
    """

    target: str
    format: str
    size: int
    digest: str
    records: int
    name: str

    def difference(self, made_for: "RunIdentity") -> str | None:
        """Return what keeps *made_for* from being the same run; None if nothing does."""
        if self.target != made_for.target:
            return f"for TARGET {made_for.target!r}, and it is {self.target!r} now"
        if self.format != made_for.format:
            return f"for INPUT as {made_for.format}, and it is {self.format} now"
        if self.size != made_for.size:
            return (
                f"for an INPUT ({made_for.name!r}) of {made_for.size:,} bytes, and it has "
                f"{self.size:,} now"
            )
        if self.digest != made_for.digest:
            return f"for an INPUT ({made_for.name!r}) of the same size, but with other contents"
        return None


class Before(NamedTuple):
    """What earlier processes have made of a record.

    Attributes:
        done: whether it has succeeded.
        failed: why it failed for good; None if it did not.
        deaths: how many processes died while it was running.
    """

    done: bool
    failed: FailedRecord | None
    deaths: int


def identify(name: str, *, target: str, form: str, csv: bool, encoding: str | None) -> RunIdentity:
    """Return the identity of a run over the file *name*, which is read once for it.

    Raises:
        UsageError: it cannot be read, or is not a file that can be read again.
    """
    remedy = "which is needed to go on after a crash: save it into a file first"
    if name == "-":
        msg = f"--checkpoint: standard input cannot be read again, {remedy}"
        raise UsageError(msg)
    try:
        regular = Path(name).is_file()  # before it is opened, for which a named pipe would wait
        if not regular and Path(name).exists() and not Path(name).is_dir():
            msg = f"--checkpoint: INPUT {name!r} is a stream that cannot be read again, {remedy}"
            raise UsageError(msg)
        digest = hashlib.blake2b(digest_size=16)
        source = open_source(name, encoding=encoding, digest=digest)
        try:
            records = count_records(source, csv=csv)
        finally:
            source.close()
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    return RunIdentity(target, form, source.size or 0, digest.hexdigest(), records, clean(name))


def count_records(source: Source, *, csv: bool) -> int:
    """Return how many records *source* holds; in malformed CSV, about how many."""
    found, quotes = 0, 0
    for line in source.lines():
        if csv:  # a line break within quotes does not end a record
            quotes += line.count(b'"')
        if quotes % 2 == 0 and line.strip(b"\r\n\t ,;|"):
            found += 1
    return max(0, found - 1) if csv else found


class Checkpoint:
    """The checkpoint of one run, from when it is made to `close`.

    Args:
        path: the file; it is made if it is not there.
        identity: of the run.
        retry_failed: whether records that failed before are to be run again.

    Attributes:
        resumed: whether an earlier process has begun the run.
        complete: whether it had nothing left to do.
        began_at: when it began, in seconds of the wall clock.
        error: why it cannot be written to any more; None while it can.

    Raises:
        UsageError: the file is damaged, is not a checkpoint, is one of another run, or is in use.
    """

    def __init__(self, path: Path, identity: RunIdentity, *, retry_failed: bool = False) -> None:
        self.path = path
        self.error: str | None = None
        # Rows to be written, by whichever thread gets _lock first: it writes those of all that
        # wait for it, in one transaction.
        self._rows: deque[tuple[object, ...]] = deque()
        # Guards the connection.
        self._lock = threading.Lock()
        self._closed = False
        with _explained(path):
            self._sql = _open(path)
            try:
                self._begin(identity, retry_failed=retry_failed)
            except BaseException:
                self._sql.close()
                raise

    def _begin(self, identity: RunIdentity, *, retry_failed: bool) -> None:
        sql = self._sql
        row = sql.execute("SELECT * FROM run").fetchone()
        self.resumed = row is not None
        if row is None:
            self.began_at, self.complete = time.time(), False
            sql.execute("INSERT INTO run VALUES(?,?,?,?,?,?,?,0)", (*identity, self.began_at))
        else:
            made_for = RunIdentity(*row[:6])
            self.began_at, self.complete = row[6], bool(row[7])
            if difference := identity.difference(made_for):
                msg = (
                    f"--checkpoint {str(self.path)!r} was made {difference} (that run began "
                    f"{format_time(self.began_at)}): go on with it as it was, or name another file"
                )
                raise UsageError(msg)
        with _transaction(sql):
            # Whatever is marked as running was so when the process before this one died.
            died = "UPDATE record SET state=?, deaths=deaths+1 WHERE state=?"
            sql.execute(died, (_WAITING, _RUNNING))
            gave_up = "UPDATE record SET state=?, reason=? WHERE state=? AND deaths>=?"
            sql.execute(gave_up, (_FAILED, CRASHES, _WAITING, MOST_DEATHS))
            if retry_failed:
                again = "UPDATE record SET state=?, deaths=0 WHERE state=?"
                if sql.execute(again, (_WAITING, _FAILED)).rowcount:
                    self.complete = False
            sql.execute("UPDATE run SET complete=?", (self.complete,))

    # ---- what is known

    def before(self, line: int) -> Before:
        """Return what earlier processes have made of the record at *line*."""
        if not self.resumed:
            return Before(done=False, failed=None, deaths=0)
        with self._lock:
            row = self._sql.execute(
                "SELECT state,deaths,attempts,reason,error FROM record WHERE line=?", (line,)
            ).fetchone()
        if row is None:
            return Before(done=False, failed=None, deaths=0)
        state, deaths, attempts, reason, error = row
        failed = FailedRecord(reason, attempts, error, line) if state == _FAILED else None
        return Before(done=state == _DONE, failed=failed, deaths=deaths)

    def finished(
        self,
    ) -> tuple[Counter[int], int, Counter[str], list[tuple[float, int, int]], int]:
        """Return what `RunStats.restore` takes: all that earlier processes have finished."""
        query = self._sql.execute
        done = query(
            "SELECT attempts,count(*) FROM record WHERE state=? AND reason IS NULL GROUP BY 1",
            (_DONE,),
        ).fetchall()
        (superseded,) = query(
            "SELECT count(*) FROM record WHERE state=? AND reason=?", (_DONE, SUPERSEDED)
        ).fetchone()
        errors = query(
            "SELECT coalesce(error,reason),count(*) FROM record WHERE state=? GROUP BY 1",
            (_FAILED,),
        ).fetchall()
        slowest = query(
            "SELECT seconds,line,attempts FROM record WHERE state IN (?,?) AND attempts>0 "
            "ORDER BY seconds DESC LIMIT 5",
            (_DONE, _FAILED),
        ).fetchall()
        by_error = Counter(dict(errors))
        return Counter(dict(done)), by_error.total(), by_error, slowest, superseded

    # ---- what happens

    def mark_running(self, line: int, attempts: int) -> None:
        """Write that an attempt at the record is about to begin."""
        self._write((line, _RUNNING, attempts, 0.0, None, None))

    def mark_waiting(self, line: int, attempts: int) -> None:
        """Write that no attempt at the record is running, and that it is not finished."""
        self._write((line, _WAITING, attempts, 0.0, None, None))

    def mark_done(self, line: int, attempts: int, seconds: float) -> None:
        """Write that the record has succeeded."""
        self._write((line, _DONE, attempts, seconds, None, None))

    def mark_superseded(self, line: int, attempts: int) -> None:
        """Write that a later record of its key stands for the record, and has ended."""
        self._write((line, _DONE, attempts, 0.0, SUPERSEDED, None))

    def mark_failed(self, failed: FailedRecord, seconds: float) -> None:
        """Write that the record has failed for good."""
        reason, attempts = clean(failed.reason), failed.attempts
        self._write((failed.line, _FAILED, attempts, seconds, reason, failed.error))

    def sync(self) -> None:
        """Bring what has been written to the disk, so that not even a power cut can lose it."""
        with self._lock, suppress(sqlite3.Error):
            if not self._closed:
                self._sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self, *, complete: bool = False) -> None:
        """Let others have the file; *complete* if nothing is left to do."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if complete and self.error is None:
                    self._sql.execute("UPDATE run SET complete=1")
                self._sql.close()
            except sqlite3.Error as error:
                self.error = str(error)

    def _write(self, row: tuple[object, ...]) -> None:
        self._rows.append(row)
        with self._lock:
            rows = [self._rows.popleft() for _ in range(len(self._rows))]
            if not rows or self._closed or self.error is not None:
                return  # written by the thread before, or nothing can be any more
            try:
                if len(rows) == 1:
                    self._sql.execute(_WRITE, rows[0])
                else:
                    with _transaction(self._sql):
                        self._sql.executemany(_WRITE, rows)
            except sqlite3.Error as failure:
                self.error = str(failure)


def _open(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        msg = f"--checkpoint {str(path)!r} is a directory: name a file, which is made if need be"
        raise UsageError(msg)
    sql = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        # Nobody else is let in, and the operating system ends that when the process dies.
        sql.execute("PRAGMA locking_mode=EXCLUSIVE")
        sql.execute("PRAGMA trusted_schema=OFF")
        (application,) = sql.execute("PRAGMA application_id").fetchone()
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        (tables,) = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            msg = f"--checkpoint {str(path)!r} is a database of something else: name another file"
            raise UsageError(msg)
        if version > _VERSION:
            msg = (
                f"--checkpoint {str(path)!r} is of version {version}, and this command knows up "
                f"to {_VERSION}: upgrade retryexec, or name another file"
            )
            raise UsageError(msg)
        sql.execute("PRAGMA journal_mode=WAL").fetchall()
        sql.execute("PRAGMA synchronous=NORMAL")
        with _transaction(sql):
            for statement in () if tables else _SCHEMA.split(";"):
                sql.execute(statement)
        (found,) = sql.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except BaseException:
        sql.close()
        raise
    return sql


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn errors of SQLite about the file *path* into UsageErrors that say what to do."""
    what = f"--checkpoint {str(path)!r}"
    try:
        yield
    except (sqlite3.Error, ValueError) as error:  # ValueError: a path with a NUL character
        code = getattr(error, "sqlite_errorcode", None) or 0
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            msg = f"{what} is in use by another run: wait for its end, or name another file"
        elif code == sqlite3.SQLITE_NOTADB:
            msg = f"{what} is not a checkpoint (nor any SQLite database): name another file"
        elif code & 0xFF == sqlite3.SQLITE_CANTOPEN:
            msg = f"{what} cannot be opened: is its directory there, and may it be written to?"
        elif isinstance(error, (sqlite3.OperationalError, ValueError)):
            msg = f"{what} cannot be used: {error}"
        else:
            msg = (
                f"{what} is damaged ({error}): restore it from a copy, or name another file, "
                "which runs all records again"
            )
        raise UsageError(msg) from error


@contextmanager
def _transaction(sql: sqlite3.Connection) -> Generator[None]:
    sql.execute("BEGIN IMMEDIATE")
    try:
        yield
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
        raise
