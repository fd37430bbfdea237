"""Control: what keeps a job from starting, beside its due time: its key, and its guards.

A held job is in no queue. Whoever lets it go queues it, perhaps once too often; the worker that
draws it asks here whether an attempt may start.
"""

from collections import deque
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from retryexec._core.controlled import ControlledJob, Waker
from retryexec._core.key_values import BUILTIN, is_builtin
from retryexec._core.keys import Keys
from retryexec._outcome import StopReason

if TYPE_CHECKING:
    from retryexec._core.pool import AnyJob, Pool
    from retryexec.guards._guard import Passage


# So many jobs that have come due overtake the queue at one time: two lots of a `RateLimit`'s.
DUE_MAX = 64


class Control:
    """Decides which jobs of a pool may start, and has those that may not.

    Attributes:
        keys: the lines of jobs that have the same key.
        parked: jobs that wait behind another of their key, or in a guard's line.
        superseded: how many jobs were replaced by newer ones. The pool's lock guards it.
    """

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        # They are in no queue, and not in the due queue. Each change is one call into C, so neither
        # a thread nor a signal handler comes in between.
        self.parked: dict[ControlledJob[Any], None] = {}
        self.used = False  # whether there ever was a job with a key or guards
        self.superseded = 0
        self.keys = Keys(self)
        # Jobs that have come due at the time a guard named, where the queue is long. A worker that
        # has found that a guard holds the job it drew runs one of these first, or else they would
        # be late by as long as it takes to ask for all in the queue. They are in the queue, too, so
        # it does no harm to forget some.
        self.due: deque[ControlledJob[Any]] = deque(maxlen=DUE_MAX)
        # The module of guards, which an executor without any does not need, once there are some.
        self._guard_module: ModuleType | None = None

    # ---- in

    def place_by_replacing(self, job: "AnyJob") -> bool:
        """Put *job* in the place of one that it replaces; return False if there is none."""
        assert isinstance(job, ControlledJob)
        self.used = True
        return self.keys.enter_by_replacing(job)

    def place(self, job: Any, due: float | None = None, *, taken_over: bool = False) -> None:
        """Put *job*, an unfinished `ControlledJob`, where it waits for its first attempt.

        Args:
            due: the attempt is not due before that; None if it is due now.
            taken_over: it was accepted by another process.
        """
        self.used = True
        key = job.key
        if key is None:
            self.pool.enqueue(job, due)
        elif job.line is None:
            # Most are alone with their key. One call into C, so that of two threads one job is.
            alone = (
                (type(key) in BUILTIN or is_builtin(key))
                and due is None
                and not job.held_back
                and not self.keys.compared_by_users
                and self.keys.jobs.setdefault(key, job) is job
            )
            if alone:
                self.pool.queue.put(job)
            elif not self.keys.enter(job, due, taken_over=taken_over):
                self.supersede(job)
                newer = job.superseded_by
                assert isinstance(newer, ControlledJob)
                newer.end_late_followers()
            if job not in self.pool.unfinished:  # a shutdown has ended it before it was in its line
                job.release_control()

    # ---- a newer job takes the place of another

    def take_place(self, job: ControlledJob[Any], replaced: ControlledJob[Any]) -> None:
        """Let *job* wait where *replaced* did, which it has replaced in the line of their key.

        Where that was the queue, the worker that draws *replaced* goes on with *job*.
        """
        self._pass_on(job, replaced)
        # Last: after an interrupt a worker goes on with one that is still unfinished.
        self.supersede(replaced)
        job.end_late_followers()

    def _pass_on(self, job: ControlledJob[Any], replaced: ControlledJob[Any]) -> None:
        """Give *job* the place of *replaced* in the lines of guards, and in the due queue."""
        guarded = replaced.passage is not None
        if replaced.settings.guards == job.settings.guards:
            job.take_passage(replaced)
        else:
            replaced.settle_unused()
        due = replaced.due
        waited = due is not None and self.pool.end_wait(replaced)
        if guarded:
            self.pool.enqueue(job)  # to ask the guards anew, which know its place in their lines
        elif waited and due is not None:
            self._let_newest_wait(job, due)
        elif replaced.held_back:
            self.pool.enqueue(job)  # which nothing holds back
        line = job.line
        gave_up = not waited and replaced.done() and line is not None and line.head is job
        if gave_up or job.following is not None:
            # The replaced one was cancelled meanwhile, and has given its place up; or the new one
            # was replaced, perhaps before it had the place to pass on. So the newest is queued: if
            # it has its place all the same, that does no harm.
            self.parked.pop(job, None)
            self.pool.enqueue(job)

    def _let_newest_wait(self, job: ControlledJob[Any], due: float) -> None:
        """Let *job* wait until *due*, or what has replaced it meanwhile."""
        pool = self.pool
        while pool.timekeeper.ready():
            if pool.let_wait(job, due):
                return
            if job.following is None:
                return  # it has ended
            job = job.following.target
        pool.enqueue(job)

    def finish_replacing(self, job: ControlledJob[Any]) -> None:
        """In a worker, do what an interrupt in the midst of replacing *job* has left undone."""
        job.finish_being_replaced()
        newer = job.superseded_by
        assert isinstance(newer, ControlledJob)
        self.keys.finish_replacing(job)
        self.take_place(newer, job)

    def supersede(self, job: ControlledJob[Any]) -> None:
        """Remove *job*, which a newer one has replaced, from the unfinished ones, and count it."""
        pool = self.pool
        self.parked.pop(job, None)
        with pool.lock:
            if job not in pool.unfinished:
                return
            assert job.following is not None
            pool.steering.pass_on_seat(job, job.following.target)
            self.superseded += 1
            # There is no call between the count and this, so no interrupt comes in between.
            pool.unfinished.remove(job)
        if job.settings.journal is not None:
            job.settings.journal.note_end(job, StopReason.SUPERSEDED, None)
        if pool.room is not None:
            pool.after_removal()

    def hand_over(self, job: "AnyJob", due: float | None) -> bool:
        """Let a newer job of the same key go instead of *job*, whose attempt failed in this worker.

        Args:
            job: a job that would be tried again.
            due: when that would be; None for at once.

        Returns:
            whether there is one, so that *job* is not tried again.
        """
        assert isinstance(job, ControlledJob)
        progress = job.progress
        cancelled = progress is not None and progress.cancel_requested
        if cancelled or job.line is None or not self.keys.hand_over(job, due):
            return False
        self.supersede(job)
        newer = job.superseded_by
        assert isinstance(newer, ControlledJob)
        newer.end_late_followers()
        self.keys.leave(job)
        return True

    def note_due(self, job: "AnyJob") -> None:
        """Let *job*, which has been queued since it is due, overtake the queue if it has guards."""
        if isinstance(job, ControlledJob) and job.passage is not None:
            self.due.append(job)

    # ---- for workers

    def next_due(self) -> "ControlledJob[Any] | None":
        """Take the next of the jobs that overtake the queue; None if there is none."""
        with suppress(IndexError):
            return self.due.popleft()
        return None

    def admit(self, job: Any) -> bool:
        """Return whether an attempt of the `ControlledJob` *job* may start, unless all are halted.

        One that is held will be queued again.
        """
        pool, line = self.pool, job.line
        # Mostly it is its turn, which takes no lock to see.
        out_of_turn = line is not None and (line.head is not job or job.held_back)
        guarded = bool(job.settings.guards)
        if (out_of_turn or guarded) and pool.halted:
            pool.steering.set_aside_if_paused(job)
            return False
        if out_of_turn and not self.keys.is_its_turn(job):
            return False
        return not guarded or (job.start_asking() and self._ask(job))

    def _ask(self, job: ControlledJob[Any]) -> bool:
        """Ask the guards of *job*; return whether they let an attempt go."""
        while True:
            passage = job.passage or self._new_passage(job)
            if passage is None:
                job.give_back()
                return False
            due = passage.ask()
            if due is None:
                return True
            held = job.hold(due)
            if held is not None:
                break
        if held:
            self._schedule(job, due)
        if job.following is not None or job not in self.pool.unfinished:  # meanwhile
            self.parked.pop(job, None)
            job.settle_unused()
        return False

    def _schedule(self, job: ControlledJob[Any], due: float) -> None:
        """Let *job*, whose `due` has been set for a guard, wait until then."""
        keeper = self.pool.timekeeper
        if not keeper.ready():
            keeper.wait_here(due)
            job.due = None
            self.pool.queue.put(job)
        else:
            keeper.schedule(job, due)

    def _new_passage(self, job: ControlledJob[Any]) -> "Passage | None":
        """Return a way through the guards of *job*; None if it has ended, or was replaced."""
        module = self._guard_module
        if module is None:
            from retryexec.guards import _guard

            module = self._guard_module = _guard
        # This one is read last, and dropped first: if it is there, so were the others.
        args, kwargs, submitted = job.args, job.kwargs, job.submitted
        if submitted is None:
            return None
        request = module.AttemptRequest(
            job.attempts + 1,
            submitted,
            args,
            kwargs,
            now=self.pool.now,
            wake=Waker(job),
            attempt_timeout=job.settings.policy.attempt_timeout,
            by_exec=job.by_exec,
        )
        request.origin = self.pool
        passage: Passage = module.Passage(job.settings.guards, request)
        job.passage = passage
        return passage

    def release(self, job: ControlledJob[Any]) -> None:
        """Let *job*, which was held back, start once it is its turn."""
        job.held_back = False
        line = job.line
        if line is None:
            return  # it is about to be placed
        with line.lock:
            self.parked.pop(job, None)
            is_its_turn = line.head is job
        if is_its_turn:
            self.pool.enqueue(job)

    def wake(self, job: ControlledJob[Any]) -> None:
        """Have the guards of *job*, one of which holds it, asked again."""
        pool = self.pool
        with pool.resuming(job):
            if job.wake() or (job.held_by is not None and pool.end_wait(job)):
                pool.enqueue(job)
