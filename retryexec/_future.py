"""RetryFuture: a `concurrent.futures.Future` that is its own job, and born light.

Most of what a standard Future costs is the Condition it is born with, which only a thread that
has to wait needs. Here a future is born with one plain lock; the first thread that has to wait
makes the Condition, around that same lock. Both the birth of the Condition and the end of the
future happen under the lock: either the end comes later, sees the Condition and notifies it, or
the birth comes later, and whoever wanted to wait finds that the future has ended.
"""

import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from threading import Condition, RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from retryexec._errors import ShutdownError
from retryexec._exceptions import reads_futures, report, with_traceback
from retryexec._outcome import StopReason
from retryexec._policy import Progress

T = TypeVar("T")
logger = logging.getLogger("retryexec")

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class RetryFuture(Future[T], Progress):
    """The outcome of a job that is tried again until it succeeds or finally fails.

    A `concurrent.futures.Future` in every way, and ``await``-able on any running asyncio loop.
    Between two attempts it is pending again: not running, and `cancel` works.

    Attributes:
        attempts: how many attempts have begun.
    """

    # Guards _state and what is written with it, _waiters and _done_callbacks. Released before any
    # callback runs. Reentrant, because a signal handler or a finalizer may strike while this
    # thread holds it, and ask something of this very future. Taken before the pool's lock.
    _lock: Any
    # Made by the first one to wait, around _lock; notified when the future ends.
    _late_condition: Condition | None = None
    _waiters: Any = ()  # of concurrent.futures.wait and as_completed; a list once there are any

    # Defaults are on the class: an instance stores what differs.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _traceback: TracebackType | None = None  # the exception's own, before anyone raised it again
    _done_callbacks: Any = ()
    _stop_reason: StopReason | None = None
    _unread: "Unread | None" = None

    # What a pool runs: (job, its callable, args, kwargs, context). Written by submit, used by
    # whoever took the future from PENDING to RUNNING, dropped at the end.
    _work: Any = None
    # When its wait ends; None unless it is with the timekeeper, whose lock guards it.
    _due: float | None = None
    _refused: Any = None  # the value that the latest attempt returned in vain
    _cancel_requested: bool = False  # cancel() came during an attempt: no other follows
    _counted: bool = False  # whether its pool has counted it out, if no worker does
    _passed: bool = False  # whether it was passed over, having ended, where it was queued
    _fate: Exception | None = None  # what ends it, once the closing has taken it

    def __init__(self) -> None:
        # Not Future's own, which makes what this class makes late, or never.
        self._lock = RLock()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the attempts ended; None while they have not."""
        if self._stop_reason is None and self._state == FINISHED:
            return StopReason.SUCCEEDED
        return self._stop_reason

    @property
    def next_attempt_at(self) -> float | None:
        """When the next attempt is due, in the clock's seconds; None unless waiting for it."""
        return self._due

    # The standard library's wait(), as_completed() and executors come in through _condition. To
    # type checkers it stays the plain attribute that those functions ask for.
    if not TYPE_CHECKING:  # pragma: no branch  the other one is theirs

        @property
        def _condition(self) -> Condition:
            with self._usable_lock():
                if self._late_condition is None:
                    self._waiters = []
                    self._late_condition = Condition(self._lock)
                return self._late_condition

    def _usable_lock(self) -> Any:
        """Return _lock, for those who may find themselves in a forked child."""
        terms = self._terms
        if terms is not None and terms.pool.forked:
            self._renew_after_fork()
        return self._lock

    # The next three read one attribute, as atomic as any lock could make it; and wait() asks
    # them while it holds the conditions of all its futures.
    def cancelled(self) -> bool:
        """Return True if the future was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Return True while an attempt runs; between two attempts the answer is False."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Return True if the future was cancelled or has finished."""
        return self._state in _DONE

    def cancel(self) -> bool:
        """Cancel the job, unless an attempt is running or it has finished.

        A job that is queued, or waits for its next attempt, ends at once and lets go of what it
        held. During an attempt the answer is False, but no further attempt follows that one.

        Returns:
            whether the job is cancelled.
        """
        ended, terms = False, None
        try:
            with self._usable_lock():
                terms = self._terms
                if self._state == RUNNING:
                    self._cancel_requested = True
                elif self._state == PENDING:
                    self._stop_reason = StopReason.CANCELLED
                    ended = True
                    # Without a pool it is up to whoever runs this future to notify the waiters,
                    # as the standard library has it: by set_running_or_notify_cancel.
                    self._state = CANCELLED if terms is None else CANCELLED_AND_NOTIFIED
                    if self._late_condition is not None:
                        self._tell_waiters(self._late_condition)
            if ended:
                self._wind_up()
        except BaseException:
            # An interrupt has struck, or a callback has raised.
            if ended and terms is not None:
                terms.pool.closing.orphans.append(self)  # in one step: no second one loses it
                terms.pool.closing.find_orphans()
            raise
        return self.cancelled()

    def _wind_up(self) -> None:
        """Do what comes after a cancellation; doing it again does what is still to be done."""
        self._let_go()
        terms = self._terms
        if terms is not None:
            terms.pool.count_cancelled(self)
        self._run_callbacks()

    @reads_futures
    def result(self, timeout: float | None = None) -> T:
        """Return what the job returned.

        Args:
            timeout: how long to wait for it, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: the job has not ended in that time.
            CancelledError: the job was cancelled.
            BaseException: the job failed; this is the very exception its last attempt raised.
        """
        try:
            # _state is written after all that belongs to it, so this needs no lock.
            if self._state != FINISHED:
                self._await_end(timeout)
            if self._exception is None:
                return self._result  # type: ignore[no-any-return]
            self._read()
            # With its own traceback, or each call would make it longer.
            raise with_traceback(self._exception, self._traceback)
        finally:
            # The exception's traceback holds this frame, which must not hold the future too.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the job's last attempt raised, or None if the job succeeded.

        Args:
            timeout: how long to wait for it, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: the job has not ended in that time.
            CancelledError: the job was cancelled.
        """
        if self._state != FINISHED:
            self._await_end(timeout)
        self._read()
        if self._exception is not None:
            with_traceback(self._exception, self._traceback)
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` once the future has ended, or at once if it already has.

        Callbacks run in the order they were added, in the thread that ends the future. What one
        of them raises is logged and costs the others nothing.
        """
        with self._usable_lock():
            if self._state not in _DONE:
                if self._done_callbacks:
                    self._done_callbacks.append(fn)
                else:
                    self._done_callbacks = [fn]
                return
        self._call([fn])

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # here, since most programs with threads never need it

        return asyncio.wrap_future(self, loop=asyncio.get_running_loop()).__await__()

    def __repr__(self) -> str:
        state, exception = self._state, self._exception
        if state != FINISHED:
            end = ""
        elif exception is not None:
            end = f" raised {type(exception).__name__}"
        else:
            end = f" returned {type(self._result).__name__}"
        word = "cancelled" if self.cancelled() else state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={word}{end}>"

    # What follows is for executors, and for tests that play one.

    def set_running_or_notify_cancel(self) -> bool:
        """Mark the future as running; return False, and notify waiters, if it was cancelled.

        Raises:
            RuntimeError: it is running already, or has finished.
        """
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING
                return True
            if self._state == CANCELLED:
                self._state = CANCELLED_AND_NOTIFIED
                if self._late_condition is not None:
                    self._tell_waiters(self._late_condition)
            if self._state == CANCELLED_AND_NOTIFIED:
                return False
        msg = f"a future is started once; this one is {self!r}"
        raise RuntimeError(msg)  # the standard library's choice, which others may catch

    def set_result(self, result: T) -> None:
        """End the future with *result*.

        Raises:
            InvalidStateError: it has ended already.
        """
        if not self._end(FINISHED, result):
            raise self._ended_before()
        self._run_callbacks()

    def set_exception(self, exception: BaseException | None) -> None:
        """End the future with *exception*.

        Raises:
            InvalidStateError: it has ended already.
        """
        if not self._end(FINISHED, None, exception, StopReason.NOT_RETRIABLE):
            raise self._ended_before()
        self._run_callbacks()

    def _ended_before(self) -> InvalidStateError:
        return InvalidStateError(f"{self._state}: {self!r}")

    def _end(
        self,
        state: str,
        result: Any = None,
        exception: BaseException | None = None,
        reason: StopReason | None = None,
    ) -> bool:
        """Enter the end *state* and notify those who wait; callbacks are up to the caller.

        Args:
            state: FINISHED, or a cancelled state, which a running attempt prevents.
            result, exception, reason: how the job ended.

        Returns:
            False if nothing ended: it had ended before, or it is running and cannot be cancelled.
        """
        with self._lock:
            if self._state != PENDING and not (self._state == RUNNING and state == FINISHED):
                return False
            if exception is not None:
                self._exception, self._traceback = exception, exception.__traceback__
            else:
                self._result = result
            if reason is not None:
                self._stop_reason = reason
            self._state = state
            if self._late_condition is not None:
                self._tell_waiters(self._late_condition)
            return True

    def _succeed(self, value: T) -> None:
        """Let go and finish with *value*: `_end` for the one end that must cost nothing."""
        self._work = None
        if self.attempts > 1:
            self._let_go()
        # Not "with", which takes three times as long.
        lock = self._lock
        lock.acquire()
        if self._late_condition is None and self._state == RUNNING:
            self._result = value
            self._state = FINISHED
            lock.release()
        else:
            lock.release()
            self._end(FINISHED, value)

    def _tell_waiters(self, condition: Condition) -> None:
        """Wake those who wait for the end, which has come; lock held."""
        for waiter in self._waiters:
            if self in waiter.finished_futures:
                continue  # told before an interrupt struck
            if self._state == FINISHED:
                tell = waiter.add_result if self._exception is None else waiter.add_exception
                tell(self)
            elif self._state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
        condition.notify_all()

    def _run_callbacks(self) -> None:
        """Run the callbacks, once the end has come: from then on nobody adds to them."""
        # One iterator, for whoever has to go on where an interrupt has struck.
        callbacks = self._done_callbacks = iter(self._done_callbacks)
        self._call(callbacks)
        self._done_callbacks = ()

    def _let_go(self) -> None:
        """Drop what only attempts need; done by whoever ends the job, outside every lock."""
        self._work = None
        if self._unrecorded:
            self._recorded, self._unrecorded = self.history, False
        self._delays = self._previous = self._refused = None

    def _await_end(self, timeout: float | None) -> None:
        """Return once the future has finished; raise if it was cancelled or time ran out."""
        if not self.done():
            condition = self._condition
            # Not "with condition", whose way in is code in which an interrupt may strike.
            with self._lock:
                if not condition.wait_for(self.done, timeout):
                    msg = f"not done after {timeout} s"
                    raise TimeoutError(msg)
        if self._state != FINISHED:
            raise CancelledError

    def _call(self, callbacks: Iterable[Callable[[Future[T]], object]]) -> None:
        """Run *callbacks*, all of them, whatever they raise."""
        interrupt = None
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                report("exception calling callback for %r", self)
            except BaseException as error:
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt

    def _read(self) -> None:
        """Note that somebody has seen how the job ended."""
        if self._unread is not None:
            self._unread.job_name = None

    def _is_cancelled(self) -> bool:
        return self._cancel_requested or self._terms.pool.stopping or super()._is_cancelled()

    def _renew_after_fork(self) -> None:
        """Make the future usable in a forked child, where only its outcome can be had.

        Its lock may be held by a thread that exists in the parent alone, so it gets a new one. If
        the job is pending, it runs in the parent and fails here; its callbacks are dropped, since
        they belong to where it goes on. Two threads may do this at once: they write the same.
        """
        self._lock = RLock()
        self._late_condition = None
        self._waiters = self._done_callbacks = ()
        if not self.done():
            self._exception = ShutdownError(
                "the process forked while this job was pending: it runs in the parent, not here"
            )
            self._stop_reason = StopReason.SHUTDOWN
            self._state = FINISHED
            self._let_go()
        self._terms = None


class Unread:
    """Lives and dies with a failed future; speaks up if nobody looked at the failure.

    Apart from the future, so that a future that succeeds has no finalizer to run.
    """

    __slots__ = ("exception", "job_name", "note")

    def __init__(self, job_name: str, exception: BaseException, note: str) -> None:
        self.job_name: str | None = job_name
        self.exception = exception
        self.note = note

    def __del__(self) -> None:
        # An interrupt may have struck before it had a name.
        if getattr(self, "job_name", None) is not None:
            report(
                "%s failed and nobody read its future: %s",
                self.job_name,
                self.note,
                error=self.exception,
            )
