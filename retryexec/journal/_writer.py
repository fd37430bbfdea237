"""The one thread that writes: it makes a transaction of whatever has come in since the last.

While one batch is being synced to the disk the next one gathers, so that many submitters share
the cost of one sync. No timer is involved: a single submitter waits for its own sync alone.

Nobody tells the writer what to do. It is shown entries, compares what they are with what is on
disk, and makes the disk agree; to be shown one twice costs nothing, and a transaction that
failed is made up for by looking again.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from retryexec.journal._dead import DeadFile, Death
from retryexec.journal._directory import Directory
from retryexec.journal._entry import DONE, HOMELESS, OVER, UNSEEN, Entry, Host
from retryexec.journal._errors import JournalError, JournalFull
from retryexec.journal._file import (
    Changes,
    Gone,
    JournalFile,
    errors_json,
    is_corrupt,
    is_full,
    row_of,
    set_aside,
    text_of,
)

logger = logging.getLogger("retryexec.journal")

MAX_BATCH = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_LINGER = 0.005  # seconds that ends wait for company
_DOUBTS = 5  # looks at the file, before an outcome stays unknown

_NUMBERED = -3  # an entry's `_row` from the first look at it until it has one

Command = Callable[[], object]


class Writer:
    """Keeps the files of this process in agreement with its entries.

    All but `show` and `command` is for its own thread.
    """

    def __init__(
        self,
        directory: Directory,
        dead: DeadFile,
        host: Host,
        later: Callable[[Command], object],
        *,
        power: bool,
        wall: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._dead = dead
        self._host = host
        self._later = later  # runs something on a thread that may wait for this one
        self._power = power
        self._wall = wall
        # Entries to look at, and commands to run, in the order they came.
        self._queue: SimpleQueue[Entry | Command] = SimpleQueue()
        self.show: Callable[[Entry], None] = self._queue.put
        self.command: Callable[[Command], None] = self._queue.put
        # Held while SQLite is in use, and by whoever forks.
        self.io = threading.RLock()
        self.own: JournalFile | None = None
        # Adopted files; the adopter adds, the writer removes.
        self.files: set[JournalFile] = set()
        self.left: set[str] = set()  # owners of files that were left with what nobody here can run
        # What the last transaction could not do, tried again after a pause.
        self._backlog: list[Entry] = []
        self._homeless: list[Entry] = []  # on no disk any more, by somebody else's doing
        self._unmarked: list[JournalFile] = []  # their next suspect is still to be marked
        self._barriers: list[threading.Event] = []
        self._pause = _FIRST_PAUSE
        self.error: Exception | None = None
        self._failing = False  # whether the batch at hand has met an error
        self.stopped = False
        self.batches = 0
        self.thread = threading.Thread(target=self._run, name="retryexec-journal", daemon=True)

    # ---- the loop

    def _run(self) -> None:
        while not self.stopped:
            items = self._gather()
            with self.io:
                self._handle(items)
            del items  # the thread sleeps now, and must hold no job

    def _gather(self) -> list[Any]:
        queue = self._queue
        try:
            items: list[Any] = [queue.get(timeout=self._pause if self._unwell() else None)]
        except Empty:
            return []
        self._gather_more(items)
        if all(map(_is_end, items)) and not self._unwell():
            # Nobody waits for an end to be on disk, and the next job is most likely about to
            # come: one sync will do for both.
            with suppress(Empty):
                items.append(queue.get(timeout=_LINGER))
                self._gather_more(items)
        return items

    def _gather_more(self, items: list[Any]) -> None:
        get, size = self._queue.get, self._queue.qsize()
        items.extend([get() for _ in range(min(size, MAX_BATCH - len(items)))])

    def _unwell(self) -> bool:
        return bool(self._backlog or self._homeless or self._unmarked)

    def _handle(self, items: Sequence[Any]) -> None:
        entries = [item for item in items if item.__class__ is Entry]
        commands = len(items) > len(entries)
        if self._backlog:
            entries, self._backlog = self._backlog + entries, []
        batches, self._failing = self.batches, False
        try:
            self._write(entries)
            files, self._unmarked = self._unmarked, []
            for file in files:
                self.look_after(file)
            for item in items if commands else ():
                if item.__class__ is not Entry:
                    item()
        except Exception as error:
            logger.exception("the journal's writer met an error it does not know")
            self._fail(error)
            self._despair(entries, error)
        if self.error is not None and batches < self.batches and not self._failing:
            self._recovered()
        if self._barriers and not self._unwell():
            barriers, self._barriers = self._barriers, []
            for barrier in barriers:
                barrier.set()

    def _despair(self, entries: Sequence[Entry], error: Exception) -> None:
        """After an error of unknown kind: leave nobody waiting, and forget no end."""
        new = [e for e in entries if e._file is None and e._row not in (OVER, HOMELESS)]
        self._refuse(new, error)
        self._backlog = [entry for entry in entries if entry._row > OVER]

    # ---- one batch

    def _write(self, entries: Sequence[Entry]) -> None:
        """Make the disk agree with *entries*."""
        if self._homeless:
            self._find_home()
        if not entries:
            return
        batch = self._sorted(entries)
        if batch.dying:
            batch.ended.extend(self._bury(batch.dying))
        if batch.inserts and not self._number(batch.inserts):
            batch = batch.without_inserts()
        own = self.own
        if self.files:
            for file, part in batch.by_file(own):
                self._apply(file, part)
                if file is not own:
                    self.look_after(file)
        elif own is not None and batch:  # the common case: all is in one file
            self._apply(own, batch)

    def _sorted(self, entries: Iterable[Entry]) -> "_Batch":
        """Return what is to be done for *entries*."""
        batch = _Batch([], [], [], [])
        inserts, changed, ended, dying = batch
        for entry in entries:
            row, end = entry._row, entry._end
            if row == OVER:
                continue
            if end is None:
                if row == UNSEEN:
                    entry._row = _NUMBERED
                    inserts.append(entry)
                if entry._past is not None and row != HOMELESS:
                    changed.append(entry)
            elif end.reason is not None:
                dying.append(entry)
            elif row > OVER or row == _NUMBERED:
                ended.append(entry)
            elif row == UNSEEN:
                self._over(entry)  # so quick that it never needed the disk
        return batch

    def _number(self, inserts: Sequence[Entry]) -> bool:
        """Give *inserts* rows in this process's own file, made if need be; refuse them if not."""
        own = self.own
        if own is None:
            try:
                own = self._new_own()
            except (Gone, sqlite3.Error, OSError) as error:
                self._refuse(inserts, error)
                self._fail(error)
                return False
        row = own.next_row
        for entry in inserts:
            entry._row = row
            row += 1
        own.next_row = row
        return True

    def _apply(self, file: JournalFile, batch: "_Batch") -> None:
        """Make one transaction of *batch*, and tell those who wait."""
        marks = self._running_in(file)
        deletes = [entry._row for entry in batch.ended]
        try:
            missing = file.apply(Changes(batch.inserts, batch.changed, marks, deletes))
        except (Gone, sqlite3.Error, OSError) as error:
            self._repair(file, batch, error)
            return
        if missing:
            logger.warning(
                "%d jobs that have ended here were no longer in %s: somebody else has ended or "
                "removed them",
                missing,
                file.path,
            )
        self._applied(file, batch, marks)

    def _applied(self, file: JournalFile, batch: "_Batch", marks: Sequence[Entry] = ()) -> None:
        self.batches += 1
        live = file.live
        for entry in batch.inserts:
            live[entry._row] = entry
            entry._file = file
            if entry._waiter is not None:
                entry._waiter.release()
            if entry._future is not None:
                self._later(entry._tell)
        for entry in batch.changed:
            entry._marked = False
            if entry is file.in_hand:
                file.in_hand = None
        for entry in marks:
            entry._marked = True
        for entry in batch.ended:
            live.pop(entry._row, None)
            entry._row = OVER
            if entry is file.in_hand:
                file.in_hand = None

    def _running_in(self, file: JournalFile) -> list[Entry]:
        """Return the entries at work for which there is no mark yet."""
        return [
            entry
            for entry in self._host.running()
            if entry._file is file
            and not entry._marked
            and entry._end is None
            and entry._row > OVER
        ]

    def _over(self, entry: Entry) -> None:
        """Note that *entry* has ended before it had to be written."""
        entry._row = OVER
        if entry._waiter is not None:
            entry._waiter.release()
        if entry._future is not None:
            self._later(entry._tell)

    def _refuse(self, entries: Iterable[Entry], error: Exception) -> None:
        refusal = _refusal(error)
        for entry in entries:
            entry.refusal = refusal
            entry._row = OVER
            if entry._waiter is not None:
                entry._waiter.release()
            if entry._future is not None:
                self._later(entry._tell)

    def _bury(self, dying: Sequence[Entry]) -> list[Entry]:
        """Write the dead letters; return the entries whose rows may go now."""
        now = self._wall()
        deaths = [_death(entry, now) for entry in {e.id: e for e in dying}.values()]
        try:
            self._dead.bury(deaths)
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail(error)
            self._backlog += dying
            return []
        ended = []
        for entry in dying:
            entry._end = DONE  # as far as its own file is concerned
            if entry._row == UNSEEN:
                self._over(entry)
            elif entry._row > OVER:
                ended.append(entry)
        return ended

    # ---- when things go wrong

    def _repair(self, file: JournalFile, batch: "_Batch", error: Exception) -> None:
        """Save what can be saved of a transaction that failed."""
        inserts = batch.inserts
        if isinstance(error, Gone) or is_corrupt(error):
            self._move_out(file, error)
            for entry in inserts:
                entry._row = HOMELESS
            self._homeless += inserts
            self._find_home()
            if self._homeless:
                self._turn_away(inserts, error)
            return
        if inserts:
            landed = self._landed(file, inserts[0])
            if landed:  # the error lied: all or nothing, and this is all
                self._applied(file, batch)
                return
            if landed is None:
                # Nobody can say. They are told no, and should the rows be there, they go.
                for entry in inserts:
                    entry._file, entry._end = file, DONE
                    file.live[entry._row] = entry
                    entry.refusal = _refusal(error)
                    if entry._waiter is not None:
                        entry._waiter.release()
                    if entry._future is not None:
                        self._later(entry._tell)
                self._backlog += inserts
            else:
                self._refuse(inserts, error)
        self._fail(error)
        self._backlog += [entry for entry in batch.changed + batch.ended if entry._row > OVER]

    def _landed(self, file: JournalFile, entry: Entry) -> bool | None:
        """Return whether the transaction that *entry* was in took place; None if unknown."""
        for _ in range(_DOUBTS):
            try:
                return file.holds(entry)
            except sqlite3.Error:
                threading.Event().wait(_FIRST_PAUSE)
        return None

    def _move_out(self, file: JournalFile, error: Exception) -> None:
        """Give up a file that is lost: what was in it is in memory, and needs a new home."""
        logger.error("%s is lost (%s): its jobs move to a new file", file.path, error)
        file.abandon()
        if is_corrupt(error):
            try:
                set_aside(file.lock)
                file.lock.remove()
            except OSError:
                logger.exception("%s could not be set aside", file.path)
        if file is self.own:
            self.own = None
        self.files.discard(file)
        for entry in file.live.values():
            entry._file, entry._row = None, HOMELESS
            entry._marked = False
        self._homeless += file.live.values()
        # No order is kept among suspects of a file that is gone.
        suspects, file.suspects = file.suspects, []
        if suspects:
            self._later(lambda: self._host.recover(suspects))
        file.live = {}

    def _find_home(self) -> None:
        """Write all homeless entries to this process's own file, a new one if need be."""
        entries = []
        for entry in self._homeless:
            if entry._row == HOMELESS:
                if entry._end is DONE:
                    self._over(entry)  # meanwhile
                else:
                    entries.append(entry)
        if not entries:
            self._homeless = []
            return
        try:
            own = self.own or self._new_own()
            first = own.next_row
            rows = [row_of(entry, first + n) for n, entry in enumerate(entries)]
            own.insert_rows(rows)
        except (Gone, sqlite3.Error, OSError) as error:
            self._fail(error)
            return
        self._homeless = []
        own.next_row = first + len(entries)
        for row, entry in zip(rows, entries, strict=True):
            entry._row = row.seq
        self._applied(own, _Batch(entries, [], [], []))
        # What became of them meanwhile, the rows may not tell yet.
        self._backlog += [entry for entry in entries if entry._end is not None]

    def _turn_away(self, inserts: list[Entry], error: Exception) -> None:
        """Refuse new entries for which there was no home either."""
        self._refuse(inserts, error)
        self._homeless = [entry for entry in self._homeless if entry._row != OVER]

    def _new_own(self) -> JournalFile:
        """Make a file for this process: not before there is something to write to it."""
        lock = self._directory.new()
        try:
            self.own = JournalFile.create(lock, power=self._power)
        except BaseException:
            lock.remove()
            raise
        if self._power:
            self._directory.sync()
        return self.own

    def _fail(self, error: Exception) -> None:
        self._failing = True
        if self.error is None:
            logger.error(
                "the journal in %s cannot be written (%s): it refuses jobs, and keeps trying to "
                "write down what has ended",
                self._directory.path,
                error,
            )
            self._pause = _FIRST_PAUSE
        else:
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
        self.error = error

    def _recovered(self) -> None:
        self.error = None
        self._pause = _FIRST_PAUSE
        logger.warning("the journal in %s can be written again", self._directory.path)

    # ---- adopted files

    def look_after(self, file: JournalFile) -> None:
        """Hand out the next suspect of an adopted file, and let go of a file that is done with."""
        if file not in self.files:
            return
        while file.suspects and file.in_hand is None:
            entry = file.suspects.pop()
            if entry._end is not None or entry._row <= OVER:
                continue
            try:
                file.apply(Changes(marks=[entry]))
            except (Gone, sqlite3.Error, OSError) as error:
                file.suspects.append(entry)
                self._unmarked.append(file)  # after a pause
                self._repair(file, _NOTHING, error)
                return
            self.batches += 1
            entry._marked = True
            file.in_hand = entry
            self._later(lambda entry=entry: self._host.recover([entry]))  # type: ignore[misc]
        if not file.live:
            self.files.discard(file)
            self._leave(file)
            if file.parked:
                self.left.add(file.lock.owner)

    # ---- commands

    def nudge(self) -> None:
        """Mark what has come to run since the last batch, and see that the files are there."""
        for file in [*self.files, *([self.own] if self.own else [])]:
            try:
                file.check_place()
                if not file.lock.holds() and not file.lock.regain():
                    msg = f"{file.lock.path} has been replaced by another lock"
                    raise Gone(msg)
            except (Gone, OSError) as error:
                self._repair(file, _NOTHING, error)
                continue
            if self._running_in(file):
                self._apply(file, _NOTHING)

    def tidy(self) -> None:
        """Give back the space of logs."""
        for file in [*self.files, *([self.own] if self.own else [])]:
            try:
                file.tidy()
            except sqlite3.Error as error:
                logger.debug("no checkpoint of %s: %s", file.path, error)

    def barrier(self, event: threading.Event) -> None:
        """Set *event* once all that was shown before is on disk."""
        self._barriers.append(event)

    def stop(self) -> None:
        """End: what has been shown is written, the files are left, and empty ones removed."""
        self.stopped = True
        self._handle(self._rest())
        if self._backlog or self._homeless:
            logger.error(
                "the journal in %s is closed before %d ends of jobs could be written (%s): they "
                "run again",
                self._directory.path,
                len(self._backlog) + len(self._homeless),
                self.error,
            )
        for file in [*self.files, *([self.own] if self.own else [])]:
            self._leave(file)
        self.files.clear()
        self.own = None
        for barrier in self._barriers:
            barrier.set()

    def _leave(self, file: JournalFile) -> None:
        try:
            file.check_place()
            if not file.live and not file.parked:
                file.remove()
                return
            file.calm()
        except (Gone, sqlite3.Error, OSError) as error:
            logger.error("%s is left as it is: %s", file.path, error)  # noqa: TRY400
            file.abandon()
            return
        file.close()

    def _rest(self) -> list[Entry | Command]:
        return [self._queue.get() for _ in range(self._queue.qsize())]

    def refuse_rest(self, error: Exception) -> None:
        """After the end: turn away what came too late; by any thread."""
        while True:
            try:
                item: Any = self._queue.get_nowait()
            except Empty:
                break
            if item.__class__ is Entry:
                if item._row == UNSEEN:
                    self._refuse([item], error)
            else:
                item()
        for barrier in self._barriers:  # nobody else will
            barrier.set()

    # ---- fork

    def forget_after_fork(self) -> None:
        """In a forked child: leave all files to the parent."""
        for file in [*self.files, *([self.own] if self.own else [])]:
            file.abandon()


class _Batch(NamedTuple):
    """What one look at some entries has found to do."""

    inserts: list[Entry]
    changed: list[Entry]
    ended: list[Entry]
    dying: list[Entry]

    def __bool__(self) -> bool:
        return bool(self.inserts or self.changed or self.ended)

    def without_inserts(self) -> "_Batch":
        """Return what is left of it when the new entries have been refused."""
        changed = [entry for entry in self.changed if entry._row > OVER]
        return _Batch([], changed, [entry for entry in self.ended if entry._row > OVER], [])

    def by_file(self, own: JournalFile | None) -> "Iterable[tuple[JournalFile, _Batch]]":
        """Return the parts of it that belong to one file each; new entries belong to *own*."""
        parts: dict[JournalFile, _Batch] = {}
        if own is not None and self.inserts:
            parts[own] = _Batch(self.inserts, [], [], [])
        for place, group in enumerate(self[1:3], 1):
            for entry in group:
                file: Any = entry._file or own
                if file not in parts:
                    parts[file] = _Batch([], [], [], [])
                parts[file][place].append(entry)
        return parts.items()


_NOTHING = _Batch([], [], [], [])


def _is_end(item: Any) -> bool:
    return item.__class__ is Entry and item._end is not None and item._row > OVER


def _refusal(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    if is_full(error) or (isinstance(error, OSError) and error.errno == 28):
        refusal: JournalError = JournalFull(f"the disk is full: the job was not accepted ({error})")
    else:
        refusal = JournalError(
            f"the job could not be written down, so it was not accepted: {error}"
        )
    refusal.__cause__ = error
    return refusal


def _death(entry: Entry, now: float) -> Death:
    end = entry._end
    assert end is not None and end.reason is not None
    file: Any = entry._file
    return Death(
        entry.id,
        entry.kind,
        entry._version,
        text_of(entry),
        end.reason,
        end.attempts,
        entry.crashes,
        entry.accepted_at,
        now,
        errors_json(end.errors),
        "" if file is None else file.lock.owner,
    )
