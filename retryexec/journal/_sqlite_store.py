"""The store that keeps jobs in a directory: one SQLite file for each process, and dead letters."""

import logging
import sqlite3
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from retryexec.journal._codec import Codec
from retryexec.journal._directory import Directory, Lock
from retryexec.journal._errors import JournalError, Newer
from retryexec.journal._file import JOBS, JournalFile
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._log import is_whole, transactions_left_out
from retryexec.journal._rows import JobRow, read_job
from retryexec.journal._salvage import salvage, set_aside
from retryexec.journal._sqlite import (
    WAL_HEADER,
    check_log_of_empty,
    damage,
    is_damaged,
    is_damaged_file,
    is_environment,
    is_full,
    is_plain,
    size_of,
)
from retryexec.journal._store import Lane, Taken
from retryexec.journal._takeover import NOBODY, findings, judge, revive, sort

logger = logging.getLogger("retryexec.journal")

_WAL_OF_NEW = WAL_HEADER + 8 * 4120  # bytes: no log that has only made the tables is as long


class SQLiteStore:
    """Files of jobs in a directory, and the dead letters beside them."""

    def __init__(
        self,
        directory: Directory,
        codec: Codec,
        *,
        power: bool,
        max_crashes: int = 3,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.letters = LetterFile(directory)
        self._codec = codec
        self._power = power
        self._max_crashes = max_crashes
        self._wall = wall
        self._left_alone: set[str] = set()  # files with which this process can do nothing
        self._warned: set[str] = set()
        self._outlived: dict[str, int] = {}  # locks held although their process has ended

    def serve(self, wake: Callable[[], object], lost: Callable[[], object]) -> None:
        """Do nothing: who looks at times finds all there is, and no lock is lost by itself."""

    def close(self) -> None:
        """Do nothing: files are closed as they are left."""

    def new_lane(self) -> JournalFile:
        """Make a file for this process."""
        lock = self.directory.new()
        try:
            file = JournalFile.create(lock, power=self._power)
        except BaseException:
            lock.remove()
            raise
        if self._power:
            self.directory.sync()
        return file

    def set_aside(self, lane: Lane, error: Exception) -> None:
        """Rename the file of a lane that is damaged."""
        assert isinstance(lane, JournalFile)
        if error.__cause__ is not None and is_damaged(error.__cause__):
            try:
                set_aside(lane.path)
                lane.lock.remove()
            except OSError:
                logger.exception("%s could not be set aside", lane.path)

    def is_rerun_pending(self, owner: str) -> bool:
        """Return whether somebody is about to rerun a letter that says it goes to *owner*."""
        if (self.directory.path / f"{owner}.db").exists():
            return True  # whoever takes over that file finishes it
        lock = self.directory.claim(owner)
        if lock is None:
            return (self.directory.path / f"{owner}.lock").exists()
        lock.remove()
        return False

    def is_unavailable(self, error: Exception) -> bool:
        """Return whether *error* comes from the disk, from others, or from a newer version."""
        return is_environment(error) or is_damaged(error) or isinstance(error, JournalError)

    def is_full(self, error: Exception) -> bool:
        """Return whether *error* means that the disk is full."""
        return is_full(error)

    def forget_after_fork(self) -> None:
        """In a forked child: have a lock of its own for the letters."""
        self.letters.forget_after_fork()

    # ---- taking over

    def take(self, seen: set[str], left: AbstractSet[str]) -> Taken | None:
        """Take over one file of a dead owner not yet *seen*; None if there is none left."""
        for owner in self.directory.owners():
            if owner in seen or owner in left or owner in self._left_alone:
                continue
            seen.add(owner)
            try:
                taken = self.visit(owner, self._take)
            except Exception as error:
                # Whatever a dead process has left, it must not keep this one from its work.
                self._warn_once(owner, "%s.db cannot be taken over: %r", owner, error)
                continue
            if taken is not None:
                return taken
        return None

    def visit(self, owner: str, use: Callable[[JournalFile], Taken | None]) -> Taken | None:
        """Return *use(file)* for the file of a dead *owner*; None if that one lives.

        The file is kept open if *use* returns something. One that is damaged is set aside, once
        what can be read of it is in a new file.
        """
        try:
            lock = self.directory.claim(owner)
        except OSError as error:
            self._warn_once(owner, "%s.lock cannot be used (%s): its jobs wait", owner, error)
            return None
        if lock is None:
            self._look_at_holder(owner)
            return None
        file: JournalFile | None = None
        taken: Taken | None = None
        try:
            file = None if self._is_unfinished(lock) else self._open(lock)
            if file is None:
                lock.remove()
            else:
                taken = use(file)
        except Newer as error:
            self._left_alone.add(owner)
            self._warn_once(owner, "%s: left alone, for a process with a newer library", error)
        except sqlite3.Error as error:
            if is_damaged_file(lock.database, error):
                if file is not None:
                    file.close_database()
                self._rescue(lock, error)
            else:
                words = "%s cannot be read (%s): it is tried again"
                self._warn_once(owner, words, lock.database, error)
        finally:
            if taken is None:
                if file is not None:
                    file.close_database()
                lock.release()
        return taken

    def _open(self, lock: Lock) -> JournalFile | None:
        """Open the file of *lock*; None if there is nothing in it.

        Raises:
            sqlite3.DatabaseError: it is damaged, or its log is.
        """
        log = Path(f"{lock.database}-wal")
        content = b""
        # A power cut leaves a log torn, but the death of a process does not. It is read before
        # SQLite reads it, which removes it in the end.
        if lock.same_boot and size_of(log) > WAL_HEADER and is_plain(log):
            content = log.read_bytes()
        file = JournalFile.open(lock, power=self._power)
        if content:
            missing = transactions_left_out(content, 0 if file is None else file.frames())
            if file is None and (len(content) > _WAL_OF_NEW or not is_whole(content)):
                missing = max(2, missing)  # frames that are out of place cannot be counted
            if missing > 1:
                if file is not None:
                    file.close_database()
                log.touch(mode=0o600)
                log.write_bytes(content)
                msg = f"{missing} transactions in its log cannot be read"
                raise damage(msg)
        return file

    def _is_unfinished(self, lock: Lock) -> bool:
        """Return whether there is no file, or an empty one: its owner died while it made it.

        SQLite would delete the log of an empty file.

        Raises:
            sqlite3.DatabaseError: there is something in the log.
        """
        check_log_of_empty(lock.database)
        return is_plain(lock.database) and size_of(lock.database) == 0

    def _take(self, file: JournalFile) -> Taken | None:
        owner = file.name
        died = self.letters.reconcile(owner, file.present)
        found = revive(file, file.rows(), self._codec, self._wall(), died)
        if file.parked:
            self._warn_once(owner, "%s: %d records parked, the rest is run", file.path, file.parked)
        # When the whole machine went down, it was none of the jobs.
        rebooted = file.lock.rebooted
        adoptions = file.adoptions() + 1
        verdict = NOBODY if rebooted else judge(found.marks, adoptions)
        if file.live:
            file.taken_over(findings(found, verdict, None if rebooted else adoptions))
            return sort(file, verdict, self._max_crashes)
        # Nothing in it is for this process, and it would be the same at the next look.
        if found.parked or found.gone:
            file.taken_over(findings(found, NOBODY, None))
        if file.parked:
            self._left_alone.add(owner)
        else:
            file.remove()
        return None

    def _rescue(self, lock: Lock, error: Exception) -> None:
        """Save what can be read of a damaged file into a new one, for the next look."""
        saved = salvage(lock.database, JOBS)
        rows: list[JobRow] = []
        for values in saved.rows:
            row, wrong = read_job(values)
            row.seq, row.parked = len(rows) + 1, row.parked if wrong is None else wrong
            rows.append(row)
        if rows:
            self._save(rows)
        # Only now: a crash in between runs jobs twice, and loses none.
        aside = set_aside(lock.database)
        logger.error(
            "%s is damaged (%s): %d jobs saved, about %d lost, the old file is %s",
            lock.database,
            error,
            len(rows),
            saved.lost,
            aside,
        )
        lock.remove()

    def _save(self, rows: list[JobRow]) -> None:
        lock = self.directory.new()
        file: JournalFile | None = None
        try:
            file = JournalFile.create(lock, power=self._power)
            file.insert_rows(rows)
            self.directory.sync()
        except BaseException:
            if file is not None:
                file.close_database()
            lock.remove()
            raise
        file.close()

    def _look_at_holder(self, owner: str) -> None:
        """Speak up when a lock outlives its process, for want of anything better."""
        with suppress(OSError):
            before = self._outlived.pop(owner, None)
            pid = self.directory.pid_of(owner)
            if pid is not None:
                self._outlived[owner] = pid
            # At the second look: the first may have met a process in the act of dying.
            if pid is not None and pid == before:
                self._warn_once(
                    owner,
                    "process %d has ended, and a child of it still holds %s.lock: its jobs are run "
                    "when that child ends",
                    pid,
                    owner,
                )

    def _warn_once(self, owner: str, message: str, *args: object) -> None:
        if owner not in self._warned:
            self._warned.add(owner)
            logger.warning(message, *args)
