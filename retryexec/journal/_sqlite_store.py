"""The store that keeps jobs in a directory: one SQLite file for each process, and dead letters."""

import logging
import sqlite3
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress

from retryexec.journal._codec import Codec
from retryexec.journal._directory import Directory, Lock
from retryexec.journal._errors import JournalError, Newer
from retryexec.journal._file import JournalFile
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._log import Log
from retryexec.journal._rescue import finish, rescue
from retryexec.journal._salvage import set_aside
from retryexec.journal._sqlite import (
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

_LARGE = 32 * 2**20  # bytes of a damaged file, of which reading each page takes some seconds
_FRAMES_OF_NEW = 8  # no log that has only made the tables has as many


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
        self._postponed: set[str] = set()  # large damaged files, for the next look
        self.rescued: list[str] = []  # what has become of damaged files
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
        rescued = -1
        while rescued != len(self.rescued):
            rescued = len(self.rescued)
            for owner in self.directory.owners():
                if owner in seen or owner in left or owner in self._left_alone:
                    continue
                seen.add(owner)
                try:
                    taken = self.visit(owner, self._take, patient=owner in self._postponed)
                except Exception as error:
                    # Whatever a dead process has left, it must not keep this one from its work.
                    self._warn_once(owner, "%s.db cannot be taken over: %r", owner, error)
                    continue
                if taken is not None:
                    return taken
                if rescued != len(self.rescued):
                    break  # what could be read of a damaged file is in a new one now
        return None

    def visit(
        self, owner: str, use: Callable[[JournalFile], Taken | None], *, patient: bool = True
    ) -> Taken | None:
        """Return *use(file)* for the file of a dead *owner*; None if that one lives.

        The file is kept open if *use* returns something. One that is damaged is set aside, once
        what can be read of it is in a new file.

        Args:
            patient: whether that may take as long as it takes.
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
        log: Log | None = None
        try:
            log = Log(lock.database)
            file = None if self._is_unfinished(lock) else self._open(lock, log)
            if file is None:
                self._remove_empty(lock)
            else:
                taken = use(file)
        except Newer as error:
            self._left_alone.add(owner)
            self._warn_once(owner, "%s: left alone, for a process with a newer library", error)
        except sqlite3.Error as error:
            if is_damaged_file(lock.database, error):
                if file is not None:
                    file.close_database()
                self._rescue(lock, error, log or Log(lock.database), patient=patient)
            else:
                words = "%s cannot be read (%s): it is tried again"
                self._warn_once(owner, words, lock.database, error)
        finally:
            if taken is None:
                if file is not None:
                    file.close_database()
                lock.release()
        return taken

    def _open(self, lock: Lock, log: Log) -> JournalFile | None:
        """Open the file of *lock*, with the *log* that it had; None if there is nothing in it.

        Raises:
            sqlite3.DatabaseError: it is damaged, or its log is.
        """
        left_out = log.left_out(same_boot=lock.same_boot)
        if left_out and lock.same_boot:
            count = "1 transaction" if left_out == 1 else f"{left_out} transactions"
            msg = f"{count} in its log cannot be read"
            raise damage(msg)
        if left_out:
            words = (
                "the last %d transactions in the log of %s cannot be read: the machine may have "
                "been switched off before they were on disk"
            )
            logger.warning(words, left_out, lock.database)
        elif lock.same_boot and (missing := log.missing()):
            words = (
                f"its log is shorter than it was, by about {missing} pages: what was in them last, "
                "new jobs or ends, is lost"
            )
            self._tell(f"{lock.database}: {words}")
        file = JournalFile.open(lock, power=self._power)
        if file is None and lock.same_boot and len(log.frames) > _FRAMES_OF_NEW:
            msg = f"its log, of {len(log.frames)} pages, cannot be read"
            raise damage(msg)
        return file

    def _rescue(self, lock: Lock, error: Exception, log: Log, *, patient: bool) -> None:
        size = size_of(lock.database) + len(log.content)
        if size > _LARGE and not patient:
            self._postponed.add(lock.owner)
            logger.warning(
                "%s is damaged (%s): what can be read of its %d MB is saved while other jobs run",
                lock.database,
                error,
                size >> 20,
            )
            return
        self.rescued.append(rescue(self.directory, lock, error, log, power=self._power))

    def _is_unfinished(self, lock: Lock) -> bool:
        """Return whether there is no file, or an empty one: its owner died while it made it.

        SQLite would delete the log of an empty file.

        Raises:
            sqlite3.DatabaseError: there is something in the log.
        """
        check_log_of_empty(lock.database)
        return is_plain(lock.database) and size_of(lock.database) == 0

    def _remove_empty(self, lock: Lock) -> None:
        """Remove a file in which there is nothing; tell if there was something once."""
        spare = lock.path.with_suffix(".spare")
        if is_plain(spare) and size_of(spare):  # it is made when there are tables
            words = "is gone, or empty, and so is its log: nobody can say how many jobs were in it"
            self._tell(f"{lock.database} {words}")
        lock.remove()

    def _tell(self, words: str) -> None:
        logger.error("%s", words)
        self.rescued.append(words)

    def _take(self, file: JournalFile) -> Taken | None:
        owner = file.name
        if not finish(self.directory, file):
            return None  # for now: its jobs may be run from there
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
