"""A worker: the thread that runs attempts, and does with each outcome what the policy decides.

The worker runs user code and never sleeps but for want of a job; it holds no lock while it does.
"""

from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextvars import Context
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Protocol

from retryexec._events import GiveUp, Retry
from retryexec._exceptions import annotate, calls_jobs, report, trim, with_traceback
from retryexec._future import Unread
from retryexec._outcome import StopReason, gave_up, name_of
from retryexec._policy import decide
from retryexec._timekeeper import Job, Timekeeper


class Employer(Protocol):
    """What a worker has of its pool."""

    queue: "SimpleQueue[Job | None]"
    timekeeper: Timekeeper
    now: Callable[[], float]
    silent: bool  # whether the failures of abandoned jobs are told elsewhere
    stopping: bool  # whether no further attempt may start
    # Whether it wants to hear of every job that is done with, for one reason or the other.
    counting: bool
    closed: bool
    room: "SimpleQueue[None] | None"  # gets a None for each job that ends

    def wants(self, worker: "Worker") -> bool:
        """Return whether *worker*, whose thread has just begun, counts as one."""
        ...

    def prepare(self) -> bool:
        """Run the user's initializer; False if it failed."""
        ...

    def skip(self, job: Job) -> None:
        """Pass over *job*, which has been cancelled, or ends now that attempts are over."""
        ...

    def done_with(self, *, counted: bool) -> None:
        """Hear that a job, still *counted* as a load or not, has left a worker's hands."""
        ...

    def about_to_end(self) -> bool:
        """Hear that a worker is about to end a job; return whether it counts as free from now."""
        ...

    def call_back(self, job: Job) -> None:
        """Run the callbacks of *job*, which a free worker has ended."""
        ...

    def came_late(self, job: Job) -> None:
        """Hear that *job* was cancelled, or the timekeeper closed, when it came to wait there."""
        ...

    def may_leave(self) -> bool:
        """Return whether a worker that has come upon a None is not needed any more."""
        ...

    def leave(self, worker: "Worker") -> None:
        """Count *worker* out."""
        ...


class _Started(Event):
    """Tells that a thread has started.

    Thread.start() waits for it, by a lock of the event which a KeyboardInterrupt that strikes there
    can leave locked, with the new thread before it for good. This one is waited for in one call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._not_yet = Lock()
        self._not_yet.acquire()

    def set(self) -> None:
        super().set()
        self._not_yet.release()

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002  nobody gives one
        with self._not_yet:
            return True


class Startable(Thread):
    """A thread whose start() may be interrupted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._started = _Started()


class Worker(Startable):
    """A thread of the pool, with the job in its hand and the counts of what it has done.

    Each worker counts for itself, and does so before a future ends: whoever has seen the end
    finds it counted.
    """

    def __init__(self, pool: Employer, name: str, *, daemon: bool) -> None:
        super().__init__(name=name, daemon=daemon)
        self._pool = pool
        self.job: Job | None = None
        self.failures = 0  # attempts that did not succeed
        self.succeeded = 0
        self.failed = 0
        self.abandoned = 0
        self._free = False  # whether the job in hand counts as a load no more
        self.gone = False  # whether it has left the pool

    def run(self) -> None:
        """Run jobs until the pool is closed and no more are to come."""
        if not self._pool.wants(self):
            return
        try:
            if self._pool.prepare():
                self._work()
        finally:
            self._pool.leave(self)

    def _work(self) -> None:
        pool = self._pool
        get, put = pool.queue.get, pool.queue.put
        while True:
            job = get()
            if job is None:
                if pool.may_leave():
                    return
                continue
            self.job = job
            again = False
            try:
                again = self._attempt(job)
                if again:
                    put(job)
            except BaseException as error:
                again = False
                self._rescue(job, error)
            # Nothing here may outlive the job, in this frame least of all: it sleeps in get().
            self.job = job = None
            if (pool.counting or pool.closed) and not again:
                pool.done_with(counted=not self._free)
            self._free = False

    @calls_jobs
    def _attempt(self, job: Job) -> bool:
        """Run one attempt of *job*; return whether it goes back into the queue at once."""
        # Not "with", here and where the job succeeds: a third of what those few lines cost.
        terms, lock = job._terms, job._lock
        if terms.cancel is not None and terms.cancel.cancelled:
            job.cancel()
        lock.acquire()
        if job._state != PENDING or self._pool.stopping:
            lock.release()
            self._pool.skip(job)
            return False
        job._state = RUNNING
        lock.release()
        policy = terms.policy
        now = self._pool.now()
        if job.attempts and job._too_late(policy, now):
            give_up(self._pool, job, job._previous, StopReason.MAX_ELAPSED, worker=self)
            return False
        job._begin_attempt(now)
        submitted, call, args, kwargs, context = job._work
        # A fresh copy for each attempt: what one sets, the next does not see.
        context = context.copy()
        raised: BaseException | None = None
        try:
            value = context.run(call, *args, **kwargs)
        except BaseException as error:
            value, raised = None, error
            trim(error)
        else:
            if policy.retry_on_result is None:
                call = args = kwargs = context = None
                self._succeed(job, value)
                return False
        call = args = kwargs = None
        try:
            return self._judge(job, context, raised, value)
        finally:
            # The frames of a traceback lead back to this one: it must not lead to the job.
            del job, submitted, context, raised, value

    def _judge(self, job: Job, context: Context, raised: BaseException | None, value: Any) -> bool:
        """Act on what an attempt raised or returned; return whether *job* is queued again."""
        pool = self._pool
        now = pool.now()
        job._failed(raised, now)
        self.failures += 1  # counted before anything of the user's can raise
        job._refused = value
        exception, delay, reason = decide(job._terms.policy, job, raised, value, now)
        if reason is StopReason.SUCCEEDED:
            job._unrecorded = False
            self.failures -= 1
            self._succeed(job, value)
            return False
        job._previous = exception
        if delay is not None:
            on_retry = job._terms.on_retry
            if on_retry is not None and not job._cancel_requested:
                tell(on_retry, Retry(job.attempts, exception, delay, job._work[0], job), context)
            due = None if delay == 0.0 else now + delay
            if due is not None and not pool.timekeeper.ready():
                pool.timekeeper.wait_here(due)
                due = None
            reason = self._put_off(job, due)
            if reason is None:
                return due is None
        assert reason is not None  # it was there instead of a delay, or why that cannot be
        give_up(pool, job, exception, reason, worker=self, context=context)
        return False

    def _put_off(self, job: Job, due: float | None) -> StopReason | None:
        """Make *job* pending until *due*, or for the queue if None; return why not, or None."""
        timekeeper, exception = self._pool.timekeeper, job._previous
        # The traceback would keep the variables of every frame alive, for as long as the job
        # waits; and an exception raised again would add its new one to it.
        traceback = None if exception is None else exception.__traceback__
        if exception is not None:
            with_traceback(exception, None)
        with job._lock:
            reason = StopReason.CANCELLED if job._cancel_requested else None
            if reason is None and self._pool.stopping:
                reason = StopReason.SHUTDOWN
            if reason is None:
                job._state = PENDING
        if reason is None:
            # No lock of ours is taken inside a job's: here, too, it may be cancelled by now.
            if due is not None:
                scheduled = timekeeper.schedule(job, due)
                with job._lock:
                    ended = job.done()
                if ended or not scheduled:
                    self._pool.came_late(job)
            return None
        if exception is not None:
            with_traceback(exception, traceback)
        return reason

    def _succeed(self, job: Job, value: Any) -> None:
        self.succeeded += 1
        self.job = None
        if self._pool.room is not None:
            self._pool.room.put(None)
        # Whoever has seen the result may submit the next job at once, and it is this worker's.
        self._free = self._pool.counting and self._pool.about_to_end()
        job._succeed(value)
        if job._done_callbacks:
            if self._free:
                self._pool.call_back(job)
            else:
                job._run_callbacks()

    def _rescue(self, job: Job, error: BaseException) -> None:
        """End *job* all the same, when *error* came from anywhere but its attempt."""
        # No memory for its place in the queue, or for its wait, and it is in nobody's hands.
        with job._lock:
            if job._state == PENDING:
                job._state = RUNNING
        self._pool.timekeeper.take_back(job)
        report("%s met an error beside the job it ran", self.name, error=error)
        if job.running():  # else it came from a callback
            self.failures += not job._unrecorded  # if _judge has not got that far
            exception = job._previous if job._unrecorded else error
            try:
                give_up(self._pool, job, exception, StopReason.NOT_RETRIABLE, worker=self)
            except BaseException:
                report("%s met another error beside that job", self.name)


def give_up(
    pool: Employer,
    job: Job,
    exception: BaseException | None,
    reason: StopReason,
    *,
    worker: Worker | None = None,
    context: Context | None = None,
) -> None:
    """End *job*, in the hands of this thread, with *exception* or the value it refused.

    Without a *worker* it is up to the caller to have counted it.
    """
    value, work, terms = job._refused, job._work, job._terms
    try:
        elapsed = pool.now() - job._began if job.attempts else 0.0
        note = gave_up(job.attempts, elapsed, reason)
        if exception is not None:
            annotate(exception, note)
        if terms.on_give_up is not None:
            event = GiveUp(job.attempts, exception, reason, work[0], job)
            tell(terms.on_give_up, event, context or work[-1].copy())
            del event
        elif _is_news(pool, terms, exception, reason):
            assert exception is not None
            job._unread = Unread(name_of(work[0]), exception, note)
    finally:
        # Whatever came of all that, the job ends.
        del context, work
        job._let_go()
        if worker is not None:
            worker.job = None
            if reason is StopReason.SHUTDOWN:
                worker.abandoned += 1
            else:
                worker.failed += 1
            if pool.room is not None:
                pool.room.put(None)
        job._end(FINISHED, value, exception, reason)
        job._run_callbacks()


def _is_news(
    pool: Employer, terms: Any, exception: BaseException | None, reason: StopReason
) -> bool:
    """Return whether a failure is to be logged if nobody reads it off the future."""
    asked_for = reason is StopReason.CANCELLED
    return exception is not None and terms.on_retry is None and not (asked_for or pool.silent)


def tell(hook: Callable[[Any], object], event: Retry | GiveUp, context: Context) -> None:
    """Call the user's *hook*; what it raises costs the job nothing."""
    try:
        context.run(hook, event)
    except BaseException as error:
        kind = "on_retry" if isinstance(event, Retry) else "on_give_up"
        report("%s failed for %s; the job goes on", kind, name_of(event.job))
        if isinstance(error, KeyboardInterrupt):
            raise  # it was meant for whoever is shutting down
