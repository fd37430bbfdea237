"""What a dead owner has left, made fit to run again in place: no row is copied, so none is lost."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from retryexec.journal._codec import Codec
from retryexec.journal._dead import DeadFile
from retryexec.journal._directory import Directory, Lock
from retryexec.journal._entry import End, Entry
from retryexec.journal._errors import Undecodable
from retryexec.journal._file import (
    JournalFile,
    Newer,
    Row,
    is_corrupt,
    past_of,
    salvage,
    set_aside,
)
from retryexec.journal._suspects import CRASHES, judge

logger = logging.getLogger("retryexec.journal")


class Adopted(NamedTuple):
    """A file that was a dead owner's and is this process's now.

    Attributes:
        file: where the entries are.
        free: entries to be run at once.
        dead: entries that are dead letters by now.
    """

    file: JournalFile
    free: list[Entry]
    dead: list[Entry]


class Adopter:
    """Looks for the files of dead owners.

    Attributes:
        left_alone: owners whose files this process can do nothing with.
    """

    def __init__(
        self,
        directory: Directory,
        codec: Codec,
        dead: DeadFile,
        *,
        power: bool,
        max_crashes: int,
        wall: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._codec = codec
        self._dead = dead
        self._power = power
        self._max_crashes = max_crashes
        self._wall = wall
        self.left_alone: set[str] = set()
        self._warned: set[str] = set()

    def next(self, seen: set[str]) -> Adopted | None:
        """Adopt one file of a dead owner not yet *seen*; None if there is none left."""
        for owner in self._directory.owners():
            if owner in seen or owner in self.left_alone:
                continue
            seen.add(owner)
            adopted = self._try(owner)
            if adopted is not None:
                return adopted
        return None

    def _try(self, owner: str) -> Adopted | None:
        lock = self._directory.claim(owner)
        if lock is None:
            self._look_at_holder(owner)
            return None
        if not lock.database.exists():
            lock.remove()  # it died between the two, or after it had tidied up
            return None
        file: JournalFile | None = None
        try:
            file = JournalFile.open(lock, power=self._power)
            adopted = self._take(file)
        except Newer as error:
            self.left_alone.add(owner)
            logger.warning("%s: left alone, for a process with a newer library", error)
        except (sqlite3.Error, OSError) as error:
            if file is None and is_corrupt(error):
                self._rescue(lock, error)
                return None
            self._warn_once(
                owner, "%s cannot be read (%s): it is tried again", lock.database, error
            )
        else:
            if adopted is not None:
                return adopted
            file = None
        if file is not None:
            file.close()
        lock.release()
        return None

    def _take(self, file: JournalFile) -> Adopted | None:
        rows = file.rows()
        if not rows:
            file.remove()
            return None
        owner = file.lock.owner
        died = self._dead.settle(owner, rows)
        entries: list[Entry] = []
        parked: list[tuple[str | None, int]] = []
        now = self._wall()
        seqs: list[int] = []
        runnable: list[Row] = []
        decode = self._codec.decode
        for row in rows:
            if row.id in died:
                continue
            try:
                job = decode(row.kind, row.ver, row.data)
            except Undecodable as error:
                file.parked += 1
                if row.parked != str(error):
                    parked.append((str(error), row.seq))
                continue
            if row.parked is not None:
                parked.append((None, row.seq))
            entry = Entry(row.id, job, row.kind, row.ver, row.data.encode(), row.accepted_at)
            entry.crashes = row.crashes
            entry._row = row.seq
            entry._file = file
            if row.attempts or row.errors:
                _recall(entry, row, now)
            entries.append(entry)
            seqs.append(row.seq)
            runnable.append(row)
        if file.parked:
            self._warn_once(owner, "%s: %d records parked, the rest is run", file.path, file.parked)
        if not entries:
            # Nothing in it is for this process, and it would be the same at the next look.
            if parked or died:
                gone = [row.seq for row in rows if row.id in died]
                file.adopted(blamed=(), marked=False, parked=parked, gone=gone, counts=False)
            if file.parked:
                self.left_alone.add(owner)
                file.close()
            else:
                file.remove()
            return None
        verdict = judge(runnable, file.adoptions() + 1)
        file.adopted(
            blamed=sorted(verdict.blamed),
            marked=any(row.started for row in rows),
            parked=parked,
            gone=[row.seq for row in rows if row.id in died],
            counts=True,
        )
        file.live = dict(zip(seqs, entries, strict=True))
        file.next_row = rows[-1].seq + 1
        adopted = Adopted(file, [], [])
        for entry in entries:
            entry.crashes += entry._row in verdict.blamed
            if entry.crashes >= self._max_crashes:
                entry._end = End(CRASHES, entry.errors, entry.attempts)
                adopted.dead.append(entry)
            elif entry.crashes or verdict.serial:
                file.suspects.append(entry)
            else:
                adopted.free.append(entry)
        # Those that crashed least first: a bystander clears itself by finishing.
        file.suspects.sort(key=lambda entry: (entry.crashes, entry.due_in))
        file.suspects.reverse()  # the next one is taken from the end
        return adopted

    def _rescue(self, lock: Lock, error: Exception) -> None:
        """Save what can be read of a damaged file into a new one, for the next look."""
        rows = salvage(lock.database)
        if rows:
            heir = self._directory.new()
            file = JournalFile.create(heir, power=self._power)
            file.insert_rows(row._replace(seq=seq) for seq, row in enumerate(rows, 1))
            self._directory.sync()
            file.close()
        # Only now: a crash in between runs jobs twice, and loses none.
        aside = set_aside(lock)
        logger.error(
            "%s is damaged (%s): %d jobs saved, the old file is %s",
            lock.database,
            error,
            len(rows),
            aside,
        )
        lock.remove()

    def _look_at_holder(self, owner: str) -> None:
        """Speak up when a lock outlives its process, for want of anything better."""
        with suppress(OSError):
            pid = self._directory.pid_of(owner)
            if pid is not None:
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


def _recall(entry: Entry, row: Row, now: float) -> None:
    """Tell *entry* where it was."""
    past = past_of(row)
    assert past is not None  # there are attempts or errors
    entry._past = past
    entry.attempts = past.attempts
    # No longer than was asked for, whichever way the wall clock has jumped.
    entry.due_in = min(max(0.0, past.due_at - now), past.delay)
    entry.elapsed = max(0.0, now - past.first_at)
