"""What became of which line of INPUT, on disk: how a run knows where it was when it was killed.

It lies beside the journal, as ``run.db``. A record is finished as soon as either of the two says
so: a line that succeeded is written here before the journal lets go of its job. What neither
knows has not been accepted yet, and is read from INPUT again.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

from retryexec.cli._failures import Failure
from retryexec.cli._identity import Identity
from retryexec.cli._misuse import Misuse
from retryexec.cli._table import moment
from retryexec.cli._tally import SLOWEST, Tally

APPLICATION = 0x72747872  # "rtxr"
VERSION = 1
_BATCH = 2000
_PAUSE = 0.2  # seconds until what could not be written is tried again
_SCHEMA = """
CREATE TABLE run(
  id TEXT NOT NULL,
  kind TEXT NOT NULL,         -- of its jobs in the journal
  format TEXT NOT NULL,       -- of INPUT, as what follows
  size INTEGER NOT NULL,
  digest TEXT NOT NULL,
  name TEXT NOT NULL,
  began_at REAL NOT NULL,     -- seconds of the wall clock
  complete INTEGER NOT NULL   -- 1: every record has met its end
);
CREATE TABLE outcome(
  line INTEGER PRIMARY KEY,   -- where the record begins in INPUT
  attempts INTEGER NOT NULL,
  seconds REAL NOT NULL,      -- from its first attempt on
  reason TEXT,                -- why it failed for good; NULL if it succeeded
  error TEXT
);
CREATE TABLE error(text TEXT PRIMARY KEY, attempts INTEGER NOT NULL);
"""


class _Outcome(NamedTuple):
    line: int
    attempts: int
    seconds: float
    reason: str | None
    error: str | None


# An outcome, an error's text, what to call once all before it is on disk, or None for the end.
_Item: TypeAlias = _Outcome | str | Callable[[], object] | None


class Ledger:
    """The ledger of one run, from `open` to `close`.

    Attributes:
        run: the id of the run.
        resumed: whether an earlier process has begun it.
        failed: by line, what failed for good before.
        error: why it cannot be written to any more; None while it can.
    """

    def __init__(self, directory: Path, identity: Identity) -> None:
        self._lock_fd = _lock(directory)
        self.error: str | None = None
        # Lines that succeeded; set by the thread that ran the job, never unset.
        self._done = bytearray(1024)
        self._growing = threading.Lock()
        self.failed: dict[int, Failure] = {}
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        try:
            self._sql = _open(directory / "run.db")
            self.run, self.began_at, self.complete, self.resumed = self._begin(identity, directory)
            for line, attempts, reason, error in self._sql.execute(
                "SELECT line,attempts,reason,error FROM outcome"
            ):
                if reason is None:
                    self._mark(line)
                else:
                    self.failed[line] = Failure(reason, attempts, error, line)
        except BaseException as error:
            with suppress(AttributeError, sqlite3.Error):
                self._sql.close()
            os.close(self._lock_fd)
            if isinstance(error, sqlite3.Error):
                msg = f"{directory / 'run.db'} cannot be used: {error}"
                raise Misuse(msg) from error
            raise
        self._thread = threading.Thread(target=self._write, name="retryexec-ledger", daemon=True)
        self._thread.start()

    def _begin(self, identity: Identity, directory: Path) -> tuple[str, float, bool, bool]:
        sql = self._sql
        row = sql.execute(
            "SELECT kind,format,size,digest,name,id,began_at,complete FROM run"
        ).fetchone()
        if row is not None:
            known, (run, began_at, complete) = Identity(*row[:5]), row[5:]
            changed = identity.difference(known)
            if changed is None:
                return run, began_at, bool(complete), True
            if not complete:
                msg = (
                    f"{changed}, since the run in {directory} began ({moment(began_at)}), which "
                    f"is not finished: to finish it, run it as before over {known.name!r} as it "
                    "was; to start another, name another directory for --journal"
                )
                raise Misuse(msg)
        run, began_at = os.urandom(8).hex(), time.time()
        sql.execute("BEGIN IMMEDIATE")
        for table in ("run", "outcome", "error"):
            sql.execute(f"DELETE FROM {table}")  # noqa: S608
        sql.execute("INSERT INTO run VALUES(?,?,?,?,?,?,?,0)", (run, *identity, began_at))
        sql.execute("COMMIT")
        return run, began_at, False, False

    # ---- what is known

    def is_done(self, line: int) -> bool:
        """Return whether the record at *line* has succeeded."""
        place = line >> 3
        return place < len(self._done) and bool(self._done[place] >> (line & 7) & 1)

    def restore(self, tally: Tally) -> None:
        """Count in *tally* what earlier processes have done."""
        sql = self._sql
        succeeded = "SELECT attempts,count(*) FROM outcome WHERE reason IS NULL GROUP BY attempts"
        slowest = "SELECT seconds,line,attempts FROM outcome ORDER BY seconds DESC LIMIT ?"
        last = "SELECT coalesce(sum(attempts),0) FROM error"
        (failed_attempts,) = sql.execute(last).fetchone()
        tally.restore(
            succeeded=Counter(dict(sql.execute(succeeded).fetchall())),
            failed=len(self.failed),
            retries=max(0, failed_attempts - len(self.failed)),
            errors=Counter(dict(sql.execute("SELECT text,attempts FROM error").fetchall())),
            slowest=sql.execute(slowest, (SLOWEST,)).fetchall(),
        )

    def reopen(self, lines: "set[int]") -> None:
        """Forget that *lines* failed: somebody has had them run again; called before `restore`."""
        again = [(line,) for line in lines if self.failed.pop(line, None) is not None]
        if again:
            self._sql.execute("BEGIN IMMEDIATE")
            self._sql.executemany("DELETE FROM outcome WHERE line=?", again)
            self._sql.execute("UPDATE run SET complete=0")
            self._sql.execute("COMMIT")

    # ---- what happens

    def succeeded(self, line: int, attempts: int, seconds: float) -> None:
        """Write down that the record at *line* has succeeded; return when it is on disk.

        The worker waits, so that a crash finds no more records done and not known to be than
        there are workers. All that wait share one sync.
        """
        written = threading.Lock()
        written.acquire()
        self._queue.put(_Outcome(line, attempts, seconds, None, None))
        self._queue.put(written.release)
        written.acquire()
        self._mark(line)

    def gave_up(self, failure: Failure, seconds: float) -> None:
        """Write down, soon, that a record has failed for good."""
        self._queue.put(
            _Outcome(failure.line, failure.attempts, seconds, failure.reason, failure.error)
        )

    def failed_attempt(self, error: str) -> None:
        """Write down, soon, that an attempt has failed with *error*."""
        self._queue.put(error)

    def close(self, *, complete: bool) -> None:
        """Write what there is to write, and let others have the directory."""
        if self._lock_fd < 0:
            return
        self._queue.put(None)
        self._thread.join()
        try:
            if complete and self.error is None:
                self._sql.execute("UPDATE run SET complete=1 WHERE complete=0")
        except sqlite3.Error as error:
            self.error = f"run.db: {error}"
        finally:
            self._sql.close()
            fd, self._lock_fd = self._lock_fd, -1
            os.close(fd)

    def _mark(self, line: int) -> None:
        place = line >> 3
        with self._growing:
            if place >= len(self._done):
                self._done.extend(bytes(max(place + 1 - len(self._done), len(self._done))))
            self._done[place] |= 1 << (line & 7)

    def _write(self) -> None:
        ended = False
        while not ended:
            items = [self._queue.get()]
            items += [self._queue.get() for _ in range(min(_BATCH, self._queue.qsize()))]
            ended = None in items
            outcomes = [item for item in items if isinstance(item, _Outcome)]
            errors = Counter(item for item in items if isinstance(item, str))
            while outcomes or errors:
                try:
                    self._commit(outcomes, errors)
                    break
                except sqlite3.Error as error:
                    with suppress(sqlite3.Error):
                        if self._sql.in_transaction:
                            self._sql.execute("ROLLBACK")
                    self.error = f"run.db cannot be written: {error}"
                    if ended:
                        break
                    # Nobody is kept waiting for a disk that is full: the run stops by itself.
                    self._release(items)
                    time.sleep(_PAUSE)
                    items = []
            self._release(items)

    def _release(self, items: "list[_Item]") -> None:
        for item in items:
            if item is not None and not isinstance(item, (_Outcome, str)):
                item()

    def _commit(self, outcomes: list[_Outcome], errors: Counter[str]) -> None:
        sql = self._sql
        sql.execute("BEGIN IMMEDIATE")
        sql.executemany("INSERT OR REPLACE INTO outcome VALUES(?,?,?,?,?)", outcomes)
        sql.executemany(
            "INSERT INTO error VALUES(?,?) ON CONFLICT(text) DO UPDATE SET "
            "attempts=attempts+excluded.attempts",
            list(errors.items()),
        )
        sql.execute("COMMIT")


def _lock(directory: Path) -> int:
    path = directory / "run.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"--journal {str(directory)!r} cannot be used: {error.strerror}"
        raise Misuse(msg) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(fd, 20).decode(errors="replace").strip() or "?"
        os.close(fd)
        msg = (
            f"another run (pid {pid}) is at work in {directory}: wait for it, or name another "
            "directory for --journal"
        )
        raise Misuse(msg) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        sql.execute("PRAGMA trusted_schema=OFF")
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            msg = (
                f"{path} is of version {version}, and this command knows up to {VERSION}: "
                "upgrade it, or name another directory for --journal"
            )
            raise Misuse(msg)
        sql.execute("PRAGMA journal_mode=WAL")
        sql.execute("PRAGMA synchronous=FULL")
        sql.execute("PRAGMA fullfsync=1")
        if version == 0:
            sql.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";\n")[:-1]:
                sql.execute(statement)
            sql.execute(f"PRAGMA application_id={APPLICATION}")
            sql.execute(f"PRAGMA user_version={VERSION}")
            sql.execute("COMMIT")
    except BaseException:
        sql.close()
        raise
    return sql
