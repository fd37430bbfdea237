"""What is written to which lane, and what an error means for whom.

Nobody says what is to be done for an entry. It is compared with what is on disk, and the disk is
made to agree: to look at an entry twice costs nothing, and a transaction that failed is made up
for by looking again. An error that comes from one entry costs that one alone: its transaction is
divided until it is found.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

from retryexec.journal._batch import (
    DETACHED,
    ENDED,
    NEW,
    STORED,
    WRITING,
    Answers,
    Batch,
    landed_in,
)
from retryexec.journal._entry import DONE, Entry, Host
from retryexec.journal._errors import Fenced, JournalError, Lost
from retryexec.journal._keyed import KeyedEnds
from retryexec.journal._lane_set import LaneSet
from retryexec.journal._letter_batch import write_letters
from retryexec.journal._store import Changes, Lane, Store

logger = logging.getLogger("retryexec.journal")


class Lanes(LaneSet):
    """The lanes of this process, in agreement with its entries. For the writer's thread alone.

    Attributes:
        answers: tells those who wait.
        backlog: entries for which something could not be written, to be looked at again.
        detached: entries of a lost lane.
        error: what the latest transaction met; None if all is well.
        failing: whether the batch at hand has met an error.
        batches: transactions so far.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        later: Callable[[Callable[[], object]], object],
        wall: Callable[[], float],
    ) -> None:
        super().__init__(host, later)
        self._store = store
        self.answers = Answers(store, later)
        self._keyed = KeyedEnds()
        self._wall = wall
        self.backlog: list[Entry] = []
        self.detached: list[Entry] = []
        # Held until their jobs are in another one: nobody else may take them over meanwhile.
        self._lost: list[tuple[Lane, Exception]] = []
        self.error: Exception | None = None
        self.failing = False
        self.batches = 0

    # ---- one batch

    def write(self, entries: list[Entry]) -> None:
        """Make the disk agree with *entries*, and with the backlog."""
        if self.backlog or self._keyed.stand_ins:
            entries, self.backlog = self.backlog + self._keyed.due() + entries, []
        if self.detached:
            self._find_home()
        if not entries:
            return
        self._keyed.at_risk = False
        batch, ending = self._compared(entries)
        if ending:
            batch.deletes.extend(self._end(ending))
        if batch.inserts and not self._number(batch.inserts):
            batch = batch.without_inserts()
        own = self.own
        if self.taken:
            for lane, part in batch.by_lane(own):
                self._apply(lane, part)
                self.release_next_suspect(lane)
        elif own is not None and batch:  # the common case: all is in one lane
            self._apply(own, batch)

    def _compared(  # noqa: C901  for each entry, in one go
        self, entries: Iterable[Entry]
    ) -> tuple[Batch, list[Entry]]:
        """Return the changes for *entries*, and those whose end needs more than a removal."""
        batch, ending = Batch([], [], [], []), []
        inserts, updates, deletes, marks = batch
        for entry in entries:
            state, outcome = entry.state, entry.outcome
            if state is ENDED:
                continue
            if outcome is None:
                if state is NEW:
                    entry.state = WRITING
                    inserts.append(entry)
                if state is not DETACHED:
                    if entry.failures is not None:
                        updates.append(entry)
                    if state is STORED and entry.waiter is not None:
                        marks.append(entry)
            elif outcome.reason is not None:
                ending.append(entry)
            elif state is STORED or state is WRITING:
                deletes.append(entry)
            elif state is NEW:
                self.answers.end(entry)  # so quick that it never needed the disk
        return batch, ending

    def _number(self, inserts: Sequence[Entry]) -> bool:
        """Give *inserts* rows in this process's own lane, made if need be; refuse them if not."""
        own = self.own
        if own is None:
            try:
                own = self.own = self._store.new_lane()
            except Exception as error:
                self.answers.refuse(inserts, error)
                self._fail(error)
                return False
        row = own.next_row
        for entry in inserts:
            entry.row = row
            row += 1
        own.next_row = row
        return True

    def _apply(self, lane: Lane, batch: Batch, *, mark: bool = True) -> bool:
        """Write *batch* in one transaction, and answer those who wait; return whether it went."""
        if batch.marks and batch.size > len(batch.marks):
            # In a transaction of their own, which need not be synced: a job that waits for its
            # mark is about to start, and must not be blamed for what happens meanwhile.
            done = self._apply(lane, batch._replace(marks=[]), mark=mark)
            return self._apply(lane, Batch([], [], [], batch.marks), mark=False) and done
        if self._keyed.at_risk:
            batch, kept = self._keyed.without_refused(batch)
            self.backlog += kept
        marks = self._running_in(lane, batch.marks) if mark else batch.marks
        try:
            missing = lane.apply(Changes(batch.inserts, batch.updates, marks, batch.deletes))
        except Exception as error:
            return self._repair(lane, batch, marks, error)
        if missing:
            words = "%d jobs that have ended here were no longer in %s: others have ended them"
            logger.warning(words, missing, lane)
        self._applied(lane, batch, marks)
        return True

    def _applied(self, lane: Lane, batch: Batch, marks: Sequence[Entry] = ()) -> None:
        self.batches += 1
        live = lane.live
        for entry in batch.inserts:
            assert entry.row is not None
            live[entry.row] = entry
            entry.lane = lane
            entry.state = STORED
            if entry.waiter is not None or entry.future is not None:
                self.answers.tell(entry)
        for entry in batch.updates:
            entry.marked = False
            self._end_turn(lane, entry)
        for entry in marks:
            entry.marked = True
            if entry.waiter is not None:
                entry.waiter.release()
        for entry in batch.deletes:
            live.pop(entry.row, None)  # type: ignore[arg-type]
            entry.state = ENDED
            if lane.turn is not None:
                self._end_turn(lane, entry, ended=True)

    def _running_in(self, lane: Lane, marks: list[Entry]) -> list[Entry]:
        """Return *marks* and the entries at work, no suspects, that bear no mark yet."""
        return marks + [
            entry
            for entry in self._host.running()
            if entry.lane is lane
            and not (entry.marked or entry.suspect)
            and entry.outcome is None
            and entry.state is STORED
        ]

    def _end(self, entries: list[Entry]) -> list[Entry]:
        """Do what the ends of *entries* ask for; return those whose rows may go now."""
        failed, succeeded, ended, later = self._keyed.sorted(entries)
        self.backlog += later
        written = self._write_letters(failed) if failed else []
        if succeeded:
            try:
                self._store.letters.outdate(succeeded)
            except Exception as error:
                if self._store.is_unavailable(error):
                    self._fail(error)
                    self.backlog, succeeded = self.backlog + succeeded, []
                else:
                    logger.exception("no dead letters of older jobs can be marked as stale")
        ended += succeeded
        self.answers.end_new(ended)
        return written + [entry for entry in ended if entry.state in {STORED, WRITING}]

    def _write_letters(self, failed: list[Entry]) -> list[Entry]:
        """Write dead letters; return the entries whose rows may go now."""
        written, postponed, error = write_letters(self._store, self.answers, failed, self._wall())
        if error is not None:
            self._fail(error)
            self.backlog += postponed
        return written

    # ---- when things go wrong

    def fail_batch(self, entries: Sequence[Entry], error: Exception) -> None:
        """After an unknown error: let nobody wait for this batch, and keep the ends of its jobs."""
        self._fail(error)
        self.answers.refuse([e for e in entries if e.state in {NEW, WRITING}], error)
        self.backlog = [entry for entry in entries if entry.state is STORED]

    def _repair(self, lane: Lane, batch: Batch, marks: Sequence[Entry], error: Exception) -> bool:
        """Save what can be saved of a transaction that failed; return whether all has been."""
        inserts = batch.inserts
        if isinstance(error, Fenced):
            self._let_go(lane, inserts, error)
            return False
        if isinstance(error, Lost):
            self._move_out(lane, error)
            self._move_home(inserts, error)
            return False
        landed = landed_in(lane, inserts[0]) if inserts else False
        if landed:  # the error lied: all or nothing, and this is all
            self._applied(lane, batch, marks)
            return True
        if landed is None:
            self._doubt(lane, inserts, error)
        elif not self._store.is_unavailable(error):
            self._isolate(lane, batch, marks, error)
            return False
        elif self._store.is_full(error) and not inserts and batch.size > 1:
            return self._apply_in_parts(lane, batch)
        else:
            self.answers.refuse(inserts, error)
        self._postpone(batch, error)
        return False

    def _apply_in_parts(self, lane: Lane, batch: Batch) -> bool:
        """Make smaller transactions of *batch*, for which there may be room on a full disk."""
        first, second = batch.halves()
        if self._apply(lane, first, mark=False):
            return self._apply(lane, second, mark=False)
        for part in second:
            self.backlog += part
        return False

    def _postpone(self, batch: Batch, error: Exception) -> None:
        self._fail(error)
        for part in batch[1:]:
            self.backlog += [entry for entry in part if entry.state is STORED]

    def _doubt(self, lane: Lane, inserts: Sequence[Entry], error: Exception) -> None:
        """Refuse *inserts* that may or may not have been written, and remove those that were."""
        refusal = self.answers.refusal(error)
        for entry in inserts:
            assert entry.row is not None
            entry.lane, entry.outcome, entry.state = lane, DONE, STORED
            lane.live[entry.row] = entry
            entry.refusal = refusal
            self.answers.tell(entry)
        self.backlog += inserts

    def _isolate(self, lane: Lane, batch: Batch, marks: Sequence[Entry], error: Exception) -> None:
        """Do what can be done of *batch*, one of whose entries cannot be written."""
        for entry in marks:
            if entry not in batch.marks:
                self._apply(lane, Batch([], [], [], [entry]), mark=False)
        if batch.size > 1:
            for half in batch.halves():
                self._apply(lane, half, mark=False)
        elif batch.inserts:
            self.answers.refuse(batch.inserts, error)
        elif batch.updates:
            self._update_plainly(lane, batch.updates[0], error)
        elif batch.marks:
            (entry,) = batch.marks
            logger.error("job %s cannot be marked as being at work: %r", entry.id, error)
            self._applied(lane, Batch([], [], [], []), batch.marks)  # as if it were
        elif batch.deletes:
            logger.error("the journal's writer met an error it does not know", exc_info=error)
            self._postpone(batch, error)

    def _update_plainly(self, lane: Lane, entry: Entry, error: Exception) -> None:
        """Write that *entry* has failed, without what may be wrong with its errors."""
        assert entry.failures is not None
        logger.error("the errors of job %s cannot be kept: %r", entry.id, error)
        if entry.failures.errors:
            entry.failures = entry.failures._replace(errors=())
            self._apply(lane, Batch([], [entry], [], []), mark=False)
        else:
            self._end_turn(lane, entry)

    def _move_out(self, lane: Lane, error: Exception) -> None:
        """Give up a lane that is lost: what was in it is in memory, and needs another one."""
        logger.error("%s is lost (%s): its jobs move to a new file", lane, error)
        self._lost.append((lane, error))
        if lane is self.own:
            self.own = None
        self.taken.discard(lane)
        for entry in lane.live.values():
            entry.lane, entry.row, entry.state = None, None, DETACHED
            entry.marked = False
        self.detached += lane.live.values()
        # No order is kept among suspects of a lane that is gone.
        suspects, lane.suspects = lane.suspects, []
        if suspects:
            self._later(lambda: self._host.recover(suspects))
        lane.live = {}

    def _let_go(self, lane: Lane, inserts: Sequence[Entry], error: Fenced) -> None:
        """Forget what was in a lane that somebody else has by now, and begin another one."""
        if lane in self.all():
            logger.error("%s: its jobs are run by others from now on", error)
        moved = [entry for entry in [*lane.live.values()] if entry.state is not ENDED]
        moved += [entry for entry in inserts if entry.row in error.landed]
        lane.live, lane.suspects, lane.turn = {}, [], None
        for entry in moved:
            self.answers.end(entry)
        lane.abandon()  # only now: none of them may start as the next lane is there
        self.own = None if lane is self.own else self.own
        self.taken.discard(lane)
        rest = [entry for entry in inserts if entry.state is not ENDED]
        if error.unsure:
            words = "the job may have been written down, or not: nobody can say, as %s"
            self.answers.refuse(rest, JournalError(words % error))
        else:
            self._move_home(rest, error)
        self._later(lambda: self._host.moved([e for e in moved if e.outcome is None]))

    def _move_home(self, inserts: Sequence[Entry], error: Lost) -> None:
        """Write *inserts* to another lane, or refuse them."""
        for entry in inserts:
            entry.state, entry.row = DETACHED, None
        self.detached += inserts
        self._find_home()
        if self.detached:
            self.answers.refuse(inserts, error.__cause__ or error)  # type: ignore[arg-type]
            self.detached = [entry for entry in self.detached if entry.state is not ENDED]

    def _find_home(self) -> None:
        """Write all detached entries to this process's own lane, a new one if need be."""
        entries = []
        for entry in self.detached:
            if entry.state is DETACHED:
                if entry.outcome is DONE:
                    self.answers.end(entry)  # meanwhile
                else:
                    entries.append(entry)
        if not entries:
            self.detached = []
            self._leave_lost()
            return
        try:
            own = self.own = self.own or self._store.new_lane()
            first = own.next_row
            rows = [entry.as_row(first + n) for n, entry in enumerate(entries)]
            own.insert_rows(rows, [lane.name for lane, _ in self._lost])
        except Exception as error:
            self._fail(error)
            return
        self.detached = []
        self._leave_lost()
        own.next_row = first + len(entries)
        for row, entry in enumerate(entries, first):
            entry.row = row
        self._applied(own, Batch(entries, [], [], []))
        # What became of them meanwhile, the rows may not tell yet.
        self.backlog += [e for e in entries if e.outcome is not None or e.suspect]

    def _leave_lost(self) -> None:
        """Let others have the lanes that are lost: their jobs are elsewhere by now."""
        lost, self._lost = self._lost, []
        for lane, error in lost:
            self._store.set_aside(lane, error)
            lane.abandon()

    def _fail(self, error: Exception) -> None:
        self.failing = True
        self.error = error

    # ---- all of them

    def verify(self) -> None:
        """Mark what has come to run since the last batch, and see that the lanes are there."""
        for lane in self.all():
            try:
                lane.verify()
            except Exception as error:
                self._repair(lane, Batch([], [], [], []), (), error)
                continue
            if self._running_in(lane, []):
                self._apply(lane, Batch([], [], [], []))

    def leave_all(self) -> None:
        """Let go of all lanes."""
        for entry in self.backlog:
            if entry.waiter is not None:
                entry.waiter.release()
        for lane in self.all():
            self._leave(lane)
        for lane, _ in self._lost:  # what was in them and has no other place is for the next
            lane.abandon()
        self._lost = []
        self.taken.clear()
        self.own = None
