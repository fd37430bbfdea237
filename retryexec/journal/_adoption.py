"""What a dead owner has left, made fit to run again in place: no row is copied, so none is lost."""

import gc
import logging
import sqlite3
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from heapq import nsmallest
from operator import attrgetter
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
from retryexec.journal._suspects import CRASHES, NOBODY, Marked, Verdict, judge

logger = logging.getLogger("retryexec.journal")

# Of the jobs of a file that were due for another attempt while nobody was there, so many may
# start at once, and so many in each second after; none later than it would have been.
BURST = 100
RATE = 100


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


class _Found(NamedTuple):
    """What reading a file has come upon, beside entries."""

    marked: list[Marked]
    parked: list[tuple[str | None, int]]  # why it is now, or None if it is no more, and a row
    gone: list[int]


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
        self._outlived: dict[str, int] = {}  # locks held although their process has ended

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
            if file.is_blank():  # its owner died while it made the file
                file.remove()
                return None
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
        owner = file.lock.owner
        died = self._dead.settle(owner, file.present)
        found = self._read(file, died)
        if file.parked:
            self._warn_once(owner, "%s: %d records parked, the rest is run", file.path, file.parked)
        if not file.live:
            # Nothing in it is for this process, and it would be the same at the next look.
            if found.parked or found.gone:
                file.adopted(
                    blamed=(), marked=False, parked=found.parked, gone=found.gone, counts=False
                )
            if file.parked:
                self.left_alone.add(owner)
                file.close()
            else:
                file.remove()
            return None
        # When the whole machine went down, it was none of the jobs.
        fell = file.lock.machine_fell
        verdict = NOBODY if fell else judge(found.marked, file.adoptions() + 1)
        file.adopted(
            blamed=sorted(verdict.blamed),
            marked=any(mark.running for mark in found.marked),
            parked=found.parked,
            gone=found.gone,
            counts=not fell,
        )
        return self._sorted(file, verdict)

    def _read(self, file: JournalFile, died: set[str]) -> "_Found":
        """Make entries of *file*'s rows."""
        found = _Found([], [], [])
        # All that is made here stays; looking through it again and again for what does not
        # would take as long as the rest.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._read_into(found, file, died)
        finally:
            if collects:
                gc.enable()
        return found

    def _read_into(self, found: "_Found", file: JournalFile, died: set[str]) -> None:
        live, now, decode = file.live, self._wall(), self._codec.decode
        kinds: dict[str, str] = {}  # one text for each kind, and not for each row
        seq = overdue = 0
        for seq, id_, kind, ver, data, accepted_at, has_past in file.scan():
            if id_ in died:
                found.gone.append(seq)
                continue
            row = file.row(seq) if has_past else None
            was_parked = None if row is None else row.parked
            try:
                job = decode(kind, ver, data)
            except Undecodable as error:
                file.parked += 1
                if was_parked != str(error):
                    found.parked.append((str(error), seq))
                continue
            if was_parked is not None:
                found.parked.append((None, seq))
            entry = Entry(id_, job, kinds.setdefault(kind, kind), ver, data, accepted_at)
            entry._row, entry._file = seq, file
            if row is not None:
                if row.started or (row.crashes and row.attempts):
                    found.marked.append(Marked(seq, row.crashes, bool(row.started)))
                _recall(entry, row, now)
                if entry._past is not None and not entry.due_in:
                    overdue += 1
                    # What failed before would fail again if all of it came at the same moment.
                    entry.due_in = min(max(0, overdue - BURST) / RATE, entry._past.delay)
            live[seq] = entry
        file.next_row = seq + 1

    def _sorted(self, file: JournalFile, verdict: Verdict) -> Adopted:
        """Part the entries of *file* into those to run, suspects, and those that die now."""
        adopted = Adopted(file, [], [])
        for row in verdict.blamed:
            file.live[row].crashes += 1
        serial: AbstractSet[Entry] = frozenset()
        if verdict.serial:
            serial = {*nsmallest(verdict.serial, file.live.values(), key=attrgetter("due_in"))}
        for entry in file.live.values():
            if entry.crashes >= self._max_crashes:
                entry._end = End(CRASHES, entry.errors, entry.attempts)
                adopted.dead.append(entry)
            elif entry.crashes or entry in serial:
                file.suspects.append(entry)
            else:
                adopted.free.append(entry)
        # Those that crashed least first: a bystander clears itself by finishing.
        file.suspects.sort(key=attrgetter("crashes", "due_in"))
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
            before = self._outlived.pop(owner, None)
            pid = self._directory.pid_of(owner)
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


def _recall(entry: Entry, row: Row, now: float) -> None:
    """Tell *entry* where it was."""
    entry.crashes = row.crashes
    past = past_of(row)
    if past is None:
        return
    entry._past = past
    entry.attempts = past.attempts
    # No longer than was asked for, whichever way the wall clock has jumped.
    entry.due_in = min(max(0.0, past.due_at - now), past.delay)
    if past.first_at is not None:
        entry.elapsed = past.elapsed
