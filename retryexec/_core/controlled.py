"""A job with a key or guards, which may be held back before an attempt.

A job that is held is in no queue. Whoever lets it go queues it, and perhaps once too often: the
worker that draws it asks whether it may start, so that does no harm.
"""

import math
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar

from retryexec._core.followers import Followers
from retryexec._core.future import FinalException, next_lock
from retryexec._core.job import Job, JobProgress
from retryexec._core.line import LEFT, Line
from retryexec._core.retry_future import RetryFuture
from retryexec._core.settings import JobSettings
from retryexec._exceptions import report
from retryexec._outcome import StopReason
from retryexec._typing import override

if TYPE_CHECKING:
    from contextvars import Context

    from retryexec.guards._guard import Passage

T = TypeVar("T")


class ControlledJob(Job[T]):
    """A job with a key or guards.

    Attributes:
        key: None if it has none.
        latest: whether a newer job of its key replaces it while it waits.
        line: the unfinished jobs of its key; None if it has no key, or has not joined them yet, or
            is alone with its key.
        not_before: when it may be tried, if its turn comes before that; None for at once.
        followers: the futures that end as it does; None if it has replaced no job.
        following: what it is one of, once it has been replaced.
        passage: what asks its guards; None between a job's attempts.
        held_back: whether the journal, from which it was taken over, does not let it start yet.
    """

    __slots__ = (
        "_asked_again",
        "_asking",
        "followers",
        "following",
        "held_back",
        "key",
        "latest",
        "line",
        "not_before",
        "passage",
    )

    def __init__(  # noqa: PLR0917  as Job's
        self,
        settings: JobSettings,
        submitted: Any,
        by_exec: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: "Context",
    ) -> None:
        # The same as in Job.__init__, repeated here to spare each job a call.
        self._lock = next_lock()
        self._state = PENDING
        self._threads_waiting = None
        self._done_callbacks = ()
        self._failure = None
        self.settings = settings
        self.submitted = submitted
        self.by_exec = by_exec
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.progress = self.due = self.started = self.entry = None
        self.key: Hashable = None
        self.latest = settings.latest
        self.line: Line | None = None
        self.not_before: float | None = None
        self.followers: Followers | None = None
        self.following: Followers | None = None
        self.passage: Passage | None = None
        self.held_back = False
        # Whether a worker is asking the guards, or about to begin; and whether another one has
        # drawn the job meanwhile, so that they are to be asked again.
        self._asking = False
        self._asked_again = False

    # ---- what users read

    @property
    @override
    def stop_reason(self) -> StopReason | None:
        if self.following is not None and not self.cancelled():
            return StopReason.SUPERSEDED
        return super().stop_reason

    @property
    @override
    def superseded_by(self) -> "RetryFuture[Any] | None":
        return None if self.following is None else self.following.target

    @property
    @override
    def held_by(self) -> str | None:
        if self._state != PENDING or self.following is not None:
            return None
        if self.line is not None and self.line.head is not self:
            return "key"
        if self.held_back:
            return "journal"
        passage = self.passage
        held_by = None if passage is None else passage.held_by
        return super().held_by if held_by is None else held_by

    @override
    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        super().add_done_callback(fn)
        if self.following is not None:
            self.following.keep(self)

    @property
    def has_callbacks(self) -> bool:
        """Whether there are callbacks to run at the end."""
        return bool(self._done_callbacks)

    # ---- verbs of a worker

    # A job that a guard holds is parked or waits until a time; one that was woken is queued, or is
    # being asked. Each of the next three changes that in one step, under the job's lock, so that
    # no wake-up is lost: not while the guards are being asked, nor just after.

    def start_asking(self) -> bool:
        """Claim the job, whose turn it is, to ask its guards; False if an attempt cannot start.

        Of several workers that draw the job, one claims it, until `begin`, `hold` or `give_back`.
        """
        with self._lock:
            if self._state != PENDING or self.due is not None or self.following is not None:
                return False
            if self._asking:
                self._asked_again = True
                return False
            self._asking = True
            self._asked_again = False
            self.settings.pool.control.parked.pop(self, None)
            return True

    def hold(self, due: float) -> bool | None:
        """Give up the claim: the guards hold the job until *due*, or if infinite until woken.

        Returns:
            True if the caller has to schedule the job; None if the guards have to be asked again,
            since one of them has woken the job meanwhile.
        """
        with self._lock:
            if self._asked_again:
                self._asked_again = False
                return None
            self._asking = False
            if self._state != PENDING or self.following is not None or self.due is not None:
                return False
            if due == math.inf:
                self.settings.pool.control.parked[self] = None
                return False
            self.due = due
            return True

    def wake(self) -> bool:
        """Let the guards be asked again; return whether the caller has to queue the job for it."""
        with self._lock:
            if self._asking:
                self._asked_again = True
                return False
            parked = self.settings.pool.control.parked
            if self.passage is None or self._state != PENDING or self not in parked:
                return False
            parked.pop(self, None)
            return True

    @override
    def give_back(self) -> None:
        self.settle_unused()
        with self._lock:
            self._asking = False

    @override
    def begin(self, now: float) -> JobProgress | bool:
        # As Job.begin does, which would be one more call, and take the lock once more.
        lock = self._lock
        lock.acquire()
        if self._state != PENDING or self.due is not None or self.following is not None:
            lock.release()
            return False
        progress = self.progress
        self.started = now
        self._state = RUNNING
        self._asking = False
        lock.release()
        return progress or True

    @override
    def succeed(self, value: T) -> bool:
        # As Job.succeed does. While the lock is held, a job that is alone with its key leaves.
        self.submitted = self.args = self.kwargs = self.context = None
        if self.progress is not None:
            self.progress.end()
        keys, key = self.settings.pool.control.keys, self.key
        jobs = keys.jobs
        lock = self._lock
        lock.acquire()
        found = None if keys.compared_by_users else jobs.get(key)
        if found is self and self.line is None:
            del jobs[key]
            self.line = LEFT
        if self._threads_waiting is None and self._state == RUNNING:
            self._result = value
            self._state = FINISHED
            lock.release()
        else:
            lock.release()
            self._end(FINISHED, value)
        return bool(self._done_callbacks)

    @override
    def wait_until(self, due: float, add: Callable[[Job[T]], object]) -> bool:
        with self._lock:
            return self.following is None and super().wait_until(due, add)

    def postpone_turn(self, due: float) -> bool:
        """Let the job start no sooner than *due* once its turn comes; False if it is its turn."""
        if self.line is None:
            return False
        with self.line.lock:
            if self.line.head is self:
                return False
            self.not_before = due
        return self.is_pending() and self.following is None

    def leave_guards(self) -> None:
        """Give up the place in a guard's line, if the job waits for a time."""
        with self._lock:
            if self.due is None:
                return  # not any more, and a guard may have held it since
            passage, self.passage = self.passage, None
            self.settings.pool.control.parked.pop(self, None)
        if passage is not None:
            passage.settle(None)

    def leave_guards_in_pause(self) -> None:
        """Give up what the job, which is queued, holds of its guards: others may wait for it."""
        newest = self if self.following is None else self.following.target
        if newest.passage is not None and newest.start_asking():
            newest.give_back()

    def _take_out_passage(self) -> "Passage | None":
        """Take the passage away from the job: of several threads, one gets it."""
        with self._lock:
            passage, self.passage = self.passage, None
            return passage

    @override
    def settle(self, succeeded: bool, exception: BaseException | None) -> None:
        passage = self.passage
        if passage is not None:
            self.passage = None
            started = self.started or 0.0
            seconds = self.settings.pool.now() - started
            passage.settle_attempt(exception, seconds, succeeded=succeeded)

    def settle_unused(self) -> None:
        """Give back to the guards what the job holds of them, if anything: there was no attempt."""
        if self.passage is not None and (passage := self._take_out_passage()) is not None:
            passage.settle(None)

    def take_passage(self, other: "ControlledJob[Any]") -> None:
        """Take over what *other*, which this job has replaced, holds of its guards."""
        passage = other._take_out_passage()
        if passage is not None:
            request = passage.request
            request.number, request.job = self.attempts + 1, self.submitted
            request.args, request.kwargs = self.args or (), self.kwargs or {}
            assert isinstance(request.wake, Waker)
            request.wake.job = self
            self.passage = passage
            if self.done() or self.following is not None:  # meanwhile
                self.settle_unused()

    # ---- alone with its key, or not any more

    def join(self, line: Line) -> Line:
        """Let *line* be the job's line, unless it has one; return its line."""
        with self._lock:
            if self.line is None:
                self.line = line
            return self.line

    def leave_alone(self, jobs: "dict[Hashable, Any]") -> Line | None:
        """Take the ended job out of *jobs* if it is alone with its key, and return its line.

        That is None if it is neither there nor in a line.
        """
        with self._lock:
            found = jobs.get(self.key)
            # From here on there is no call, so no signal handler or finalizer joins the job.
            if self.line is None and found is self:
                del jobs[self.key]
                self.line = LEFT  # for threads that have found it there before
            return self.line

    # ---- being replaced

    def is_accepted_before(self, other: "ControlledJob[Any]") -> bool:
        """Return whether the job, which was taken over, is older than *other*."""
        mine, its = self.entry, other.entry
        return mine is not None and its is not None and mine.id < its.id

    def follow(self, newer: "ControlledJob[Any]", *, running: bool = False) -> bool:
        """Be replaced by *newer*, and end as it does; False if the job is not pending any more.

        Args:
            newer: the job that takes this one's place; not startable yet.
            running: the caller is the worker that runs this job, whose attempt has failed.
        """
        # The newer one has followers of its own only if it waits while this one runs.
        followers = newer.followers or self.followers or Followers(newer)
        with self._lock:
            if self._state != (RUNNING if running else PENDING) or self.following is not None:
                return False
            # To an interrupt these are one step, since there is no call in them. From here on no
            # attempt begins, and only `end_as` and `cancel` end the future.
            older, self.followers = self.followers, None
            newer.followers = self.following = followers
            followers.leader = newer
            self._state = PENDING
        if older is not None and older is not followers:
            self.following = newer.followers = followers = older.merge_into(followers)
        followers.add(self)
        self.release_call()
        return True

    def finish_being_replaced(self) -> None:
        """Do what `follow` has left undone where an interrupt struck; in a worker."""
        if self.following is not None:
            self.following.add(self)
            self.release_call()

    def end_as(self, target: "ControlledJob[Any]") -> None:
        """End as *target* has, which has replaced this job; callbacks are up to the caller."""
        self.settings.pool.control.supersede(self)  # if an interrupt has kept another from it
        if target.cancelled():
            self._end(CANCELLED_AND_NOTIFIED)
        else:
            self._end(FINISHED, target._result, target._failure)

    @override
    def withdraw(self) -> bool:
        # One that has replaced another stays: that one was accepted, and must have an end.
        with self._lock:
            replaces = self.followers is not None or self.following is not None
            return not replaces and super().withdraw()

    @override
    def release_control(self) -> bool:
        if self.line is LEFT:
            return False  # it was alone with its key, and so has none
        control = self.settings.pool.control
        control.parked.pop(self, None)
        if self.passage is not None:
            self.settle_unused()
        if self.key is not None:
            control.keys.leave(self)
        followers = self.followers  # which may become those of another job meanwhile
        if followers is None:
            return False
        followers.end()
        return True

    @override
    def fail(self, reason: StopReason, failure: FinalException | None, refused: Any = None) -> bool:
        return super().fail(reason, failure, refused) or self.followers is not None

    @override
    def run_callbacks(self) -> None:
        """Run the callbacks of the ended job, and of those that follow it, each once."""
        followers = self.followers
        try:
            with self._lock:  # a follower may be ended by one thread and cancelled by another
                self._done_callbacks = iter(self._done_callbacks)
            super().run_callbacks()
        finally:
            if followers is not None:
                followers.run_callbacks()

    def end_late_followers(self) -> None:
        """End those that have begun to follow this job as it ended."""
        followers = self.followers
        if followers is not None and self.done():
            followers.end()
            try:
                followers.run_callbacks()
            except BaseException as error:
                report("a callback of a replaced job failed")
                if isinstance(error, KeyboardInterrupt):
                    raise  # the main thread's, which this interrupts


class Waker:
    """What a guard calls to be asked again for a job, or for the one that has replaced it."""

    __slots__ = ("job",)

    def __init__(self, job: ControlledJob[Any]) -> None:
        self.job = job

    def __call__(self) -> None:
        self.job.settings.pool.control.wake(self.job)
