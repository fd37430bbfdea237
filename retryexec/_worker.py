"""A worker: the thread that runs attempts, and does with each outcome what the policy decides.

The worker runs user code and never sleeps but for want of a job; it holds no lock while it does.
"""

from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextvars import Context
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Protocol

from retryexec._events import GiveUp, Retry, Success
from retryexec._exceptions import annotate, calls_jobs, report, trim, with_traceback
from retryexec._future import JobProgress, RetryFuture, Unread
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
            if self._free:
                self._free = False

    @calls_jobs
    def _attempt(self, job: Job) -> bool:
        """Run one attempt of *job*; return whether it goes back into the queue at once."""
        # Not "with", here and where the job succeeds: a third of what those few lines cost.
        pool, terms, lock = self._pool, job._terms, job._lock
        if terms.cancel is not None and terms.cancel.cancelled:
            job.cancel()
        lock.acquire()
        if job._state != PENDING or pool.stopping:
            lock.release()
            pool.skip(job)
            return False
        job._state = RUNNING
        lock.release()
        policy, progress, now = terms.policy, job._progress, pool.now()
        if progress is None:
            job._started = now
        elif progress.attempts and now - progress.began > policy._longest:
            give_up(pool, job, progress.previous, StopReason.MAX_ELAPSED, worker=self)
            return False
        else:
            progress.begin(now)
        if terms.journal is not None:
            terms.journal.note_start(job)
        call, args, kwargs = job._submitted, job._args, job._kwargs
        # A fresh copy for each attempt: what one sets, the next does not see.
        context = job._context.copy()
        raised: BaseException | None = None
        try:
            if job._by_exec:
                call = call.exec
            # Spreading nothing costs as much as the call.
            value = context.run(call, *args, **kwargs) if args or kwargs else context.run(call)
        except BaseException as error:
            value, raised = None, error
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
            del job, progress, context, raised, value

    def _judge(self, job: Job, context: Context, raised: BaseException | None, value: Any) -> bool:
        """Act on what an attempt raised or returned; return whether *job* is queued again."""
        pool = self._pool
        progress = job._progress or job._in_trouble()
        now = pool.now()
        progress.fail(raised, now)
        self.failures += 1  # counted before anything of the user's can raise
        progress.refused = value
        exception, delay, reason = decide(job._terms.policy, progress, raised, value, now)
        if reason is StopReason.SUCCEEDED:
            progress.unrecorded = False
            self.failures -= 1
            self._succeed(job, value)
            return False
        progress.previous = exception
        if delay is not None:
            on_retry = job._terms.on_retry
            if on_retry is not None and not progress.cancel_requested:
                trim_to_attempt(exception, raised)
                event = Retry(progress.attempts, exception, delay, job._submitted, job)
                tell(on_retry, event, context)
                del event
            due = None if delay == 0.0 else now + delay
            if due is not None and not pool.timekeeper.ready():
                pool.timekeeper.wait_here(due)
                due = None
            reason = self._put_off(job, progress, due)
            if reason is None:
                return due is None
        assert reason is not None  # it was there instead of a delay, or why that cannot be
        trim_to_attempt(exception, raised)
        give_up(pool, job, exception, reason, worker=self, context=context)
        return False

    def _put_off(self, job: Job, progress: JobProgress, due: float | None) -> StopReason | None:
        """Make *job* pending until *due*, or for the queue if None; return why not, or None."""
        pool, lock, exception = self._pool, job._lock, progress.previous
        traceback = None
        if exception is not None:
            # The traceback would keep the variables of every frame alive, for as long as the job
            # waits; and an exception raised again would add its new one to it.
            traceback = exception.__traceback__
            with_traceback(exception, None)
            if exception.__context__ is not None or exception.__cause__ is not None:
                trim(exception)
        lock.acquire()
        if progress.cancel_requested:
            reason = StopReason.CANCELLED
        elif pool.stopping:
            reason = StopReason.SHUTDOWN
        else:
            reason = None
            job._state = PENDING
        lock.release()
        if reason is not None:
            if exception is not None:
                with_traceback(exception, traceback)
            return reason
        # No lock of ours is taken inside a job's: here, too, it may be cancelled by now.
        if due is not None and (not pool.timekeeper.schedule(job, due) or job.done()):
            pool.came_late(job)
        return None

    def _succeed(self, job: Job, value: Any) -> None:
        pool = self._pool
        self.succeeded += 1
        self.job = None
        if pool.room is not None:
            pool.room.put(None)
        # Whoever has seen the result may submit the next job at once, and it is this worker's.
        self._free = pool.counting and pool.about_to_end()
        job._let_go()
        lock = job._lock
        lock.acquire()
        if job._audience is None and job._state == RUNNING:
            job._result = value
            job._state = FINISHED
            lock.release()
        else:
            lock.release()
            job._end(FINISHED, value)
        if job._done_callbacks:
            if self._free:
                pool.call_back(job)
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
            progress = job._in_trouble()
            self.failures += not progress.unrecorded  # if _judge has not got that far
            exception = progress.previous if progress.unrecorded else error
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
    progress, submitted, terms = job._in_trouble(), job._submitted, job._terms
    value = progress.refused
    try:
        elapsed = pool.now() - progress.began if progress.attempts else 0.0
        note = gave_up(progress.attempts, elapsed, reason)
        if exception is not None:
            annotate(exception, note)
        if terms.on_give_up is not None:
            event = GiveUp(progress.attempts, exception, reason, submitted, job)
            tell(terms.on_give_up, event, context or job._context.copy())
            del event
        elif _is_news(pool, terms, exception, reason):
            assert exception is not None
            progress.unread = Unread(name_of(submitted), exception, note)
    finally:
        # Whatever came of all that, the job ends.
        del context, submitted
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
    not_lost = reason is StopReason.SHUTDOWN and terms.journal is not None
    return exception is not None and not (terms.quiet or asked_for or not_lost or pool.silent)


def trim_to_attempt(exception: BaseException | None, raised: BaseException | None) -> None:
    """Trim what an attempt raised, and what it failed with, which may be the exception behind."""
    if exception is not None:
        trim(exception)
    if raised is not None and raised is not exception:
        trim(raised)


def tell(hook: Callable[[Any], object], event: Retry | GiveUp | Success, context: Context) -> None:
    """Call the user's *hook*; what it raises costs the job nothing."""
    try:
        context.run(hook, event)
    except BaseException as error:
        kind = {Retry: "on_retry", GiveUp: "on_give_up", Success: "on_success"}[type(event)]
        report("%s failed for %s; the job goes on", kind, name_of(event.job))
        if isinstance(error, KeyboardInterrupt):
            raise  # it was meant for whoever is shutting down


def tell_success(
    hook: Callable[[Success], object], job: Any, context: Context, future: RetryFuture[Any]
) -> None:
    """Call the user's on_success *hook* if *job* has succeeded: a callback of its *future*."""
    if future.stop_reason is StopReason.SUCCEEDED:
        event = Success(future.attempts, future.result(), job, future)
        tell(hook, event, context.copy())
