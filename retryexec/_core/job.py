"""A job of an executor, which is its own future: its states, and the verbs that change them.

    PENDING ── begin ──→ RUNNING ── succeed, fail ──→ FINISHED
       ↑ └── cancel, withdraw ──→ CANCELLED_AND_NOTIFIED
       └──── put_off ──────┘

A pending job is queued, or waits until it is due. `expire` takes a pending job for itself, as
`begin` does, to fail it without a further attempt. Nothing outside this file and `future.py`
writes a state or takes a job's lock.

Most jobs succeed at once. The others get a `JobProgress` when their first attempt fails.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar

from retryexec._async import outcome_of
from retryexec._core.future import FinalException, next_lock
from retryexec._core.retry_future import RetryFuture
from retryexec._core.settings import JobSettings
from retryexec._errors import ShutdownError
from retryexec._outcome import Failure, StopReason
from retryexec._progress import Progress, Settings
from retryexec._typing import override
from retryexec._validate import Seconds
from retryexec._validate import seconds as seconds_to_wait

if TYPE_CHECKING:
    from contextvars import Context

    from retryexec._journal_api import JournalEntry

T = TypeVar("T")


class JobProgress(Progress):
    """How far a job of an executor has come; made only if it does not simply succeed.

    Attributes:
        refused: the value of the latest attempt, which `retry_on_result` refused.
        cancel_requested: `cancel` came during an attempt, so that no other follows.
        stop_reason: why the job failed; None while it has not.
    """

    __slots__ = ("cancel_requested", "refused", "stop_reason")

    def __init__(self, started: float | None) -> None:
        # The same as in Progress.__init__, repeated here to spare each job that fails a call.
        self.attempts = 0 if started is None else 1
        self.began = self.started = started or 0.0
        self.delays = self.previous = None
        self._times, self._errors = b"", ()
        self.refused: Any = None
        self.cancel_requested = False
        self.stop_reason: StopReason | None = None

    @override
    def is_cancelled(self, settings: Settings) -> bool:
        assert isinstance(settings, JobSettings)
        stopping = settings.pool.stopping
        return self.cancel_requested or stopping or super().is_cancelled(settings)

    def end(self) -> None:
        """Drop what only further attempts need."""
        self.delays = self.previous = self.refused = None


class Job(RetryFuture[T]):
    """A submitted job, which is its own future."""

    _shown_as = "RetryFuture"
    _renewed = False  # True once the future has been made usable in this forked child

    # Each slot costs every job 8 bytes and a few nanoseconds, so what few jobs need is in
    # JobProgress.
    __slots__ = (
        "args",
        "by_exec",
        "context",
        "due",
        "entry",
        "kwargs",
        "progress",
        "settings",
        "started",
        "submitted",
    )

    def __init__(  # noqa: PLR0917  one call with all of them costs less than six stores more
        self,
        settings: JobSettings,
        submitted: Any,
        by_exec: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: "Context",
    ) -> None:
        # The same as in LazyFuture.__init__, repeated here to spare each job a call.
        self._lock = next_lock()
        self._state = PENDING
        self._threads_waiting = None
        self._done_callbacks = ()
        self._failure = None
        self.settings = settings
        # The call. Read by the thread that made the job RUNNING, and dropped at the end. Not in
        # a tuple, which would be one more object for every garbage collection to visit.
        self.submitted: Any = submitted
        self.by_exec = by_exec  # whether it is run by its exec(), or called itself
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.context: Any = context
        self.progress: JobProgress | None = None
        # When its wait ends; None unless it waits. Written by `put_off`, by `wait_until`, and by
        # the due queue.
        self.due: float | None = None
        # When the latest attempt began; read only while there is no progress, so it is the first.
        self.started: float | None = None
        self.entry: JournalEntry | None = None  # the job as the journal has it

    # ---- what users read

    @property
    @override
    def attempts(self) -> int:
        progress = self.progress
        if progress is None:
            return 0 if self.started is None else 1
        return progress.attempts

    @property
    @override
    def stop_reason(self) -> StopReason | None:
        if self._state == FINISHED and (progress := self.progress) is not None:
            return progress.stop_reason or StopReason.SUCCEEDED
        return super().stop_reason

    @property
    @override
    def history(self) -> tuple[Failure, ...]:
        return () if self.progress is None else self.progress.history

    @property
    @override
    def next_attempt_at(self) -> float | None:
        return self.due

    @property
    @override
    def held_by(self) -> str | None:
        return "pause" if self.settings.pool.steering.holds(self) else None

    @override
    def retry_now(self) -> bool:
        return self.settings.pool.steering.retry_now(self)

    @override
    def postpone(self, seconds: Seconds) -> bool:
        return self.settings.pool.steering.postpone(self, seconds_to_wait("seconds", seconds))

    @property
    @override
    def job_id(self) -> str:
        return super().job_id if self.entry is None else str(self.entry.id)

    @property
    @override
    def accepted(self) -> "Future[None]":
        return super().accepted if self.entry is None else self.entry.accepted

    # ---- verbs of a worker, which no signal handler interrupts

    def begin(self, now: float) -> JobProgress | bool:
        """Make the queued job running; return False if it has ended, or waits, or is running.

        Returns:
            how far the job has come before; True if this is its first attempt.
        """
        # Not "with", here and below, which would take a third more time, for every job.
        lock = self._lock
        lock.acquire()
        if self._state != PENDING or self.due is not None:
            lock.release()
            return False
        progress = self.progress
        self.started = now  # a cancel that comes from now on finds that an attempt has begun
        self._state = RUNNING
        lock.release()
        return progress or True

    def put_off(self, progress: JobProgress, due: float | None) -> StopReason | None:
        """Make the running job pending again, until *due* or, if None, for the queue.

        Returns:
            why it cannot be tried again; None if it can, and is pending.
        """
        lock, pool = self._lock, self.settings.pool
        lock.acquire()
        if progress.cancel_requested:
            reason = StopReason.CANCELLED
        elif pool.stopping:
            reason = StopReason.SHUTDOWN
        elif self.entry is not None and self.entry.moved:
            reason = StopReason.MOVED
        else:
            reason = None
            self.due = due
            self._state = PENDING
        lock.release()
        return reason

    def succeed(self, value: T) -> bool:
        """End the running job with *value*; return whether there are callbacks to run."""
        # As release_call does, which would be one more call for every job.
        self.submitted = self.args = self.kwargs = self.context = None
        if self.progress is not None:
            self.progress.end()
        lock = self._lock
        lock.acquire()
        if self._threads_waiting is None and self._state == RUNNING:
            self._result = value
            self._state = FINISHED
            lock.release()
        else:
            lock.release()
            self._end(FINISHED, value)
        return bool(self._done_callbacks)

    # ---- verbs of any thread

    def fail(self, reason: StopReason, failure: FinalException | None, refused: Any = None) -> bool:
        """End the running job with *failure*, or with the value that was *refused*.

        Returns:
            whether there are callbacks to run.
        """
        self.ensure_progress().stop_reason = reason
        self.release_call()
        self._end(FINISHED, refused, failure)
        return bool(self._done_callbacks)

    def expire(self, error: BaseException) -> bool:
        """Take the job, if it is pending, to fail it with *error*; its last failure is the cause.

        From then on it counts as running, and it is up to this thread to end it.
        """
        with self._lock:
            if self._state != PENDING:
                return False
            progress = self.ensure_progress()
            error.__cause__ = progress.previous
            # `resume_end` reads these, if an interrupt keeps this thread from ending the job.
            self._failure = FinalException(error)
            progress.stop_reason = StopReason.SHUTDOWN
            self._state = RUNNING
        return True

    def is_pending(self) -> bool:
        """Return whether the job is queued or waits, and not just about to."""
        # Under the lock: a `put_off` that has found nothing against it comes before this look.
        with self._lock:
            return self._state == PENDING

    def wait_until(self, due: float, add: Callable[["Job[T]"], object]) -> bool:
        """Let the pending job wait until *due*; return False if it waits, or is not pending.

        Args:
            add: C code that adds it to the due queue. To an interrupt these two are one step.
        """
        with self._lock:
            if self._state != PENDING or self.due is not None:
                return False
            try:
                self.due = due
                add(self)
            except MemoryError:
                self.due = None
                raise
            return True

    def claim(self) -> None:
        """Take the job, if it is pending, to fail it after an internal error."""
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING

    def withdraw(self) -> bool:
        """Take the job back that this thread has just submitted, unless an attempt has begun."""
        unfinished = self.settings.pool.unfinished
        with self._lock:
            if self._state != PENDING or self.started is not None or self.progress is not None:
                return False
            self._state = CANCELLED_AND_NOTIFIED
            # Under the same lock as the state, so that nobody else removes the job and counts it.
            unfinished.discard(self)
        return True

    @override
    def cancel(self, *, or_request: bool = True) -> bool:
        """Cancel the job, unless an attempt is running or it has finished.

        A job that is queued, or waits for its next attempt, ends at once and drops its callable
        and arguments. During an attempt the answer is False, but with *or_request* no other
        attempt follows it.

        Returns:
            whether the job is cancelled.
        """
        try:
            if self.settings.pool.forked:
                self._check_fork()
            ended = False
            while not ended:
                with self._lock:
                    if self._state != PENDING:
                        if self._state == RUNNING and or_request:
                            self.ensure_progress().cancel_requested = True
                        return self.cancelled()
                    if self._threads_waiting is None:  # the short way, for there is nobody to tell
                        self._state = CANCELLED_AND_NOTIFIED
                        ended = True
                # False if an attempt has begun meanwhile.
                ended = ended or self._end(CANCELLED_AND_NOTIFIED)
            self.after_end()
        except BaseException:  # an interrupt, or what a callback has raised
            try:  # for a second interrupt
                self.settings.pool.interrupted.append(self)
            finally:
                self.settings.pool.wake_worker()
            raise
        return True

    # ---- the end

    def release_call(self) -> None:
        """Drop callable, arguments and context. Call it without a lock: finalizers may run."""
        self.submitted = self.args = self.kwargs = self.context = None
        if self.progress is not None:
            self.progress.end()

    def after_end(self) -> None:
        """Do what follows the end of a job that no worker was running. May be called twice."""
        settings, progress = self.settings, self.progress
        # As release_call does, which would be two more calls for every job at a shutdown.
        self.submitted = self.args = self.kwargs = self.context = None
        if progress is not None:
            progress.delays = progress.previous = progress.refused = None
        if settings.journal is not None:
            reason = self.stop_reason
            assert reason is not None
            settings.journal.note_end(self, reason, self._exception)
        settings.pool.remove(self, self._state == CANCELLED_AND_NOTIFIED)
        if settings.controlled:
            self.release_control()
            self.run_callbacks()
        elif self._done_callbacks:
            self._run_callbacks()

    # ---- what a `ControlledJob` does beyond that

    def settle(self, succeeded: bool, exception: BaseException | None) -> None:
        """Tell the guards how the attempt went, and give back to them what it took."""

    def give_back(self) -> None:
        """Give back to the guards what was taken for an attempt that cannot start after all."""

    def release_control(self) -> bool:
        """Let go on what the job, which has ended, held back. May be called twice.

        Returns:
            whether other futures end as this one does, and may have callbacks.
        """
        return False

    def run_callbacks(self) -> None:
        """Run the callbacks of the ended job, each once."""
        if self._done_callbacks:
            self._run_callbacks()

    def resume_end(self) -> bool:
        """In a worker, finish ending this job where an interrupt stopped another thread.

        Returns:
            False if the job has not ended, and nobody was about to end it.
        """
        if self._state == RUNNING and self._failure is not None:
            self._end(FINISHED, None, self._failure)  # it was taken by `expire`
        if not self.done():
            return False
        if self._threads_waiting is not None:
            self._notify(self._threads_waiting, again=True)
        self.after_end()
        return True

    def ensure_progress(self) -> JobProgress:
        """Return the job's progress, which is made now if it has none."""
        with self._lock:
            if self.progress is None:
                self.progress = JobProgress(self.started)
            return self.progress

    @override
    def __await__(self) -> Generator[Any, None, T]:
        if self.settings.clock.moves_while_awaited and not self.done():
            return outcome_of(self, self.settings.clock.until_set).__await__()
        return super().__await__()

    @override
    def _wait_for_end(self, timeout: float | None) -> None:
        self._check_fork()
        if timeout is None:
            # Raises in the thread that moves a virtual clock, if this would wait for it to move.
            self.settings.clock.before_endless_wait(self.done)
        super()._wait_for_end(timeout)

    # ---- in a forked child

    @override
    def _check_fork(self) -> None:
        if self.settings.pool.forked and not self._renewed:
            self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Make the future usable in a forked child, where only its outcome can be had.

        The locks of its waiters may be held by threads that exist in the parent alone. If the job
        is pending, it runs in the parent and fails here; its callbacks are dropped, since they
        belong to where it goes on. Two threads may do this at once: they write the same.
        """
        self._threads_waiting = None
        self._done_callbacks = ()
        if not self.done():
            error = ShutdownError(
                "the process forked while this job was pending: it runs in the parent, not here"
            )
            self._failure = FinalException(error)
            self.ensure_progress().stop_reason = StopReason.SHUTDOWN
            self._state = FINISHED
            self.release_call()
        self._renewed = True
