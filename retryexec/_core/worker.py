"""Worker: a thread that runs attempts, and acts on each outcome as the policy decides.

It runs user code, and holds no lock meanwhile. It sleeps only when the queue is empty.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from retryexec._core.controlled import ControlledJob
from retryexec._core.future import FinalException, UnreadFailure
from retryexec._core.job import Job, JobProgress
from retryexec._core.signals import StartableThread
from retryexec._errors import PermanentError
from retryexec._events import GiveUp, Retry, Success
from retryexec._exceptions import (
    annotate,
    calls_jobs,
    release_frames,
    report,
    trim,
)
from retryexec._outcome import StopReason, gave_up, name_of, text_of, type_name
from retryexec._policy import decide
from retryexec._typing import override
from retryexec._validate import coroutine_refusal

if TYPE_CHECKING:
    from retryexec._core.pool import Pool

logger = logging.getLogger("retryexec")

# For how many types of errors a first retry is logged. A program that keeps making types would
# fill the log.
LOGGED_TYPES_MAX = 100


class Worker(StartableThread):
    """A thread of the pool, with the job that it runs and its own counters.

    It counts a job before it ends the job's future, so whoever has seen the end finds it counted.
    """

    def __init__(self, pool: "Pool", name: str, *, daemon: bool) -> None:
        super().__init__(name=name, daemon=daemon)
        self._pool = pool
        self.job: Job[Any] | None = None
        self.failures = 0  # attempts that did not succeed
        self.succeeded = 0
        self.failed = 0
        self.abandoned = 0
        # Whether it is still busy with a job that has left `unfinished`: with callbacks, say.
        self.finishing = False
        self.exited = False  # whether it runs no more jobs
        self._overtaken = False  # whether it runs jobs that have overtaken the one it drew

    @override
    def run(self) -> None:
        """Run jobs until the pool is closed and no more are to come."""
        pool = self._pool
        if not pool.is_registered(self):
            return
        try:
            if pool.initialize_worker():
                self._work()
        finally:
            pool.shutdown.worker_exited(self)

    def _work(self) -> None:
        pool = self._pool
        get, put = pool.queue.get, pool.queue.put
        while True:
            job = get()
            if job is None:
                if pool.shutdown.should_exit():
                    return
                continue
            self.job = job
            try:
                if self._attempt(job):
                    put(job)
            except BaseException as error:
                self._fail_after_internal_error(job, error)
            # Keep no job alive, here above all, where this frame sleeps in get().
            self.job = job = None
            if pool.refusal is not None:
                pool.wake_if_drained()
            if pool.watched:
                self.finishing = False
                pool.at_rest()

    @calls_jobs
    def _attempt(self, job: Job[Any]) -> bool:  # noqa: C901  each call costs every job
        """Run one attempt of *job*; return whether it goes back into the queue at once."""
        pool, settings = self._pool, job.settings
        if settings.cancel is not None and settings.cancel.cancelled:
            job.cancel()
        journal = settings.journal
        if journal is not None and journal.leased and not journal.may_start(job):
            return False
        if settings.controlled and not pool.control.admit(job):
            return self._instead_of(job)
        now = pool.now()
        if pool.halted:
            job.give_back()
            pool.steering.set_aside_if_paused(job)  # else a shutdown is about to end it
            return False
        if not (progress := job.begin(now)):
            job.give_back()
            return self._instead_of(job)
        policy = settings.policy
        if progress is not True:
            if progress.attempts and now - progress.began > policy.elapsed_limit:
                give_up(pool, job, progress.previous, StopReason.MAX_ELAPSED, worker=self)
                return False
            progress.begin(now)
        if settings.journal is not None:
            settings.journal.note_start(job)
        if pool.runner is not None:
            return self._send(job)
        call, args, kwargs = job.submitted, job.args, job.kwargs
        # A fresh copy for each attempt: what one sets, the next does not see.
        context = job.context.copy()
        raised: BaseException | None = None
        try:
            if job.by_exec:
                call = call.exec
            # The * and ** of nothing would take as long as the call.
            value = context.run(call, *args, **kwargs) if args or kwargs else context.run(call)
        except BaseException as error:
            value, raised = None, error
        else:
            if policy.retry_on_result is None and type(value) is not CoroutineType:
                call = args = kwargs = None
                self._succeed(job, value, context)
                return False
        call = args = kwargs = None
        try:
            return self._judge(job, context, raised, value)
        finally:
            # A traceback keeps this frame alive, which must not keep the job alive.
            del job, progress, context, raised, value

    def _send(self, job: Job[Any]) -> bool:
        """Run the attempt elsewhere; an `AwayWorker` does."""
        raise NotImplementedError

    def _instead_of(self, job: Job[Any]) -> bool:
        """Run an attempt of a job that goes before *job*, which cannot start; return False.

        That is the one that was queued in its place, or one that has overtaken the queue. Mostly
        there is neither: *job* has ended, or somebody else will queue it.
        """
        pool = self._pool
        newer = job.superseded_by
        if isinstance(newer, ControlledJob):
            if job in pool.unfinished and isinstance(job, ControlledJob):
                pool.control.finish_replacing(job)
            self._attempt_instead(newer)
        elif pool.control.due and not self._overtaken:
            self._overtaken = True  # so that each is run from here, and not from the one before
            while (due := pool.control.next_due()) is not None:
                self._attempt_instead(due)
            self._overtaken = False
        return False

    def _attempt_instead(self, job: Job[Any]) -> None:
        self.job = job
        try:
            if self._attempt(job):
                self._pool.queue.put(job)
        except BaseException as error:
            self._fail_after_internal_error(job, error)

    def _succeed(self, job: Job[Any], value: Any, context: Context) -> None:
        """End *job* with *value*."""
        pool, settings = self._pool, job.settings
        if settings.guards:
            job.settle(True, None)
        submitted = job.submitted if settings.on_success is not None else None
        self.succeeded += 1
        self.job = None
        if settings.journal is not None:
            settings.journal.note_end(job, StopReason.SUCCEEDED, None)
        if pool.watched:
            self.finishing = True
        # Before the future ends: who sees the result and submits the next job must find room for
        # it, and this worker counted as free.
        pool.unfinished.discard(job)
        if pool.room is not None:
            pool.after_removal()
        has_callbacks = job.succeed(value)
        if settings.controlled:
            has_callbacks = job.release_control() or has_callbacks
        if settings.on_success is not None:
            event = Success(job.attempts, value, submitted, job)
            tell(settings.on_success, event, context)
            del event
        if has_callbacks:
            self.run_callbacks(job)

    def run_callbacks(self, job: Job[Any]) -> None:
        """Run the callbacks of *job*, which has ended."""
        pool = self._pool
        # A callback may wait for a job that is still queued, so another worker may be needed.
        if pool.growing:
            with pool.lock:
                self.finishing = True
                pool.grow()
        try:
            job.run_callbacks()
        finally:
            if not pool.watched:
                self.finishing = False

    def _judge(  # noqa: C901  each call costs every attempt that fails
        self, job: Job[Any], context: Context, raised: BaseException | None, value: Any
    ) -> bool:
        """Act on what an attempt raised or returned; return whether *job* is queued again."""
        pool, settings = self._pool, job.settings
        if type(value) is CoroutineType:
            value.close()
            # Nothing was done, and nothing else would be by another attempt.
            raised, value = PermanentError(TypeError(coroutine_refusal(job.submitted))), None
        progress = job.progress or job.ensure_progress()
        now = pool.now()
        self.failures += 1  # counted before anything of the user's can raise
        progress.refused = value
        try:
            exception, delay, reason = decide(settings.policy, progress, raised, value, now)
        except BaseException:  # control flow, from one of the policy's callables
            progress.fail(raised, now)
            raise
        if delay is None and reason is StopReason.SUCCEEDED:
            self.failures -= 1
            self._succeed(job, value, context)
            return False
        progress.fail(exception, now)
        if settings.guards:
            job.settle(False, exception)
        if delay is not None:
            due = None if delay == 0.0 else now + delay
            if settings.controlled and pool.control.hand_over(job, due):
                return False
            logged = settings.logged_types
            if logged is None or type(exception) not in logged or settings.journal is not None:
                _tell_of_retry(job, progress, raised, delay, context)
            if due is not None and not pool.timekeeper.ready():
                pool.timekeeper.wait_here(due)
                due = None
            reason = job.put_off(progress, due)
            if reason is None:
                if exception is not None:
                    release_frames(exception)
                if due is not None:
                    pool.timekeeper.schedule(job, due)
                return due is None
        assert reason is not None  # from decide() if there is no delay, else from put_off()
        trim_to_attempt(exception, raised)
        give_up(pool, job, exception, reason, worker=self, context=context)
        return False

    def remove_failed(self, job: Job[Any], reason: StopReason) -> None:
        """Remove *job*, which this worker ran and is about to fail, and count it."""
        pool = self._pool
        self.job = None
        if reason is StopReason.SHUTDOWN or reason is StopReason.MOVED:
            self.abandoned += 1
        else:
            self.failed += 1
        self.finishing = pool.watched
        pool.unfinished.discard(job)
        if pool.room is not None:
            pool.after_removal()

    def _fail_after_internal_error(self, job: Job[Any], error: BaseException) -> None:
        """End *job* after *error*, which did not come from its attempt."""
        pool = self._pool
        # If there was no memory to queue the job, or to schedule it, nobody else would run it.
        with pool.lock:
            pool.timekeeper.discard(job)
        job.claim()
        report("%s met an error outside the job it ran", self.name, error=error)
        if job.running():  # else it came from a callback
            progress = job.ensure_progress()
            self.failures += not progress.failed  # if _judge has not got that far
            exception = progress.previous if progress.failed else error
            try:
                give_up(pool, job, exception, StopReason.NOT_RETRIABLE, worker=self)
            except BaseException:
                report("%s met another error as it ended that job", self.name)
                self.failed += job in pool.unfinished  # if give_up has not got that far
                pool.unfinished.discard(job)
                pool.after_removal()
                message = "the job's exception could not be handled; the log has what it raised"
                if job.fail(StopReason.NOT_RETRIABLE, FinalException(RuntimeError(message))):
                    self.run_callbacks(job)
                job.release_control()


def give_up(
    pool: "Pool",
    job: Job[Any],
    exception: BaseException | None,
    reason: StopReason,
    *,
    worker: Worker | None = None,
    context: Context | None = None,
) -> None:
    """End *job*, which only this thread may end, with *exception* or the refused value."""
    progress, submitted, settings = job.ensure_progress(), job.submitted, job.settings
    value = progress.refused
    failure = None if exception is None else FinalException(exception)
    try:
        elapsed = pool.now() - progress.began if progress.attempts else 0.0
        note = gave_up(progress.attempts, elapsed, reason)
        if exception is not None:
            annotate(exception, note)
        if settings.on_give_up is not None:
            event = GiveUp(progress.attempts, exception, reason, submitted, job)
            tell(settings.on_give_up, event, context or job.context.copy())
            del event
        elif exception is not None and _is_news(pool, job, reason):
            failure = UnreadFailure(exception, name_of(submitted), note)
    finally:
        # Whatever the above raises, the job ends.
        del context, submitted
        try:
            if settings.journal is not None:
                settings.journal.note_end(job, reason, exception)
        finally:
            if worker is None:
                pool.remove(job, False)
            else:
                worker.remove_failed(job, reason)
            has_callbacks = job.fail(reason, failure, value)
            if settings.controlled:
                job.release_control()
            if has_callbacks:
                if worker is None:
                    job.run_callbacks()
                else:
                    worker.run_callbacks(job)


def _is_news(pool: "Pool", job: Job[Any], reason: StopReason) -> bool:
    """Return whether a failure is to be logged if nobody reads it off the future."""
    settings = job.settings
    asked_for = reason is StopReason.CANCELLED
    not_lost = reason is StopReason.MOVED or (
        reason is StopReason.SHUTDOWN and settings.journal is not None
    )
    logs = settings.logged_types is not None
    return logs and not (asked_for or not_lost or pool.shutdown.silent)


def _tell_of_retry(
    job: Job[Any],
    progress: JobProgress,
    raised: BaseException | None,
    delay: float,
    context: Context,
) -> None:
    """Tell the journal, and the user's hook or else the log, that another attempt follows."""
    settings, exception = job.settings, progress.previous
    if settings.journal is not None:
        settings.journal.note_retry(job, delay)
    if settings.on_retry is not None and not progress.cancel_requested:
        trim_to_attempt(exception, raised)
        event = Retry(progress.attempts, exception, delay, job.submitted, job)
        tell(settings.on_retry, event, context)
    if settings.logged_types is not None and type(exception) not in settings.logged_types:
        _log_first_retry(job, settings.logged_types, exception, delay)


def _log_first_retry(
    job: Job[Any], logged: set[type], exception: BaseException | None, delay: float
) -> None:
    """Log the first retry after this type of error: there is no hook that is told of it."""
    if len(logged) >= LOGGED_TYPES_MAX:
        return
    logged.add(type(exception))
    most = job.settings.policy.max_attempts
    with suppress(Exception):  # a log handler's
        logger.warning(
            "%s: attempt %d%s failed with %s; the next one follows in %.3g s. This is logged once "
            "for each type of error: on_retry= hears of every retry, and retry_on= says which "
            "errors are worth one.",
            name_of(job.submitted),
            job.attempts,
            "" if most is None else f" of at most {most}",
            "a refused result"
            if exception is None
            else f"{type_name(type(exception))}: {text_of(exception)}",
            delay,
        )


def trim_to_attempt(exception: BaseException | None, raised: BaseException | None) -> None:
    """Trim the traceback of what an attempt *raised*, and of *exception*, taken out of it."""
    if exception is not None:
        trim(exception)
    if raised is not None and raised is not exception:
        trim(raised)


def tell(hook: Callable[[Any], object], event: Retry | GiveUp | Success, context: Context) -> None:
    """Call the user's *hook*, and log what it raises."""
    try:
        context.run(hook, event)
    except BaseException as error:
        kind = {Retry: "on_retry", GiveUp: "on_give_up", Success: "on_success"}[type(event)]
        report("%s failed for %s; the job goes on", kind, name_of(event.job))
        if isinstance(error, KeyboardInterrupt):
            raise  # the main thread is ending jobs at a shutdown, which this interrupts
