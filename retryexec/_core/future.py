"""A standard Future that makes its waiters on demand, and so is light to make.

Most of what a standard Future costs is the Condition that each is made with, which only a thread
that has to wait needs. Here the first thread that has to wait makes the `Waiters`. It does so under
the future's lock, and so does whoever ends the future: either the end comes later, sees the waiters
and wakes them, or it came before, and whoever wanted to wait finds the future ended.

The lock is not the future's own either: a few locks serve all futures by turns. One is held for a
handful of assignments, and nothing else is taken inside it, so two futures that share one notice
nothing of it.
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from contextlib import suppress
from itertools import cycle
from threading import TIMEOUT_MAX, Condition, Lock, RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from retryexec._exceptions import reads_futures, report, with_traceback
from retryexec._typing import override
from retryexec._validate import as_float

T = TypeVar("T")

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

# The locks of all futures, each future's for good. Reentrant, because a signal handler or a
# finalizer may run while this thread holds one, and ask something of that very future. Where locks
# nest this is the innermost: whoever holds one takes no other.
LOCKS = tuple(RLock() for _ in range(64))
# Draws one of them for a new future. A cycle is C code, and threads may draw the same one.
next_lock = cycle(LOCKS).__next__


_traceback_of: Callable[[BaseException], TracebackType | None]
_traceback_of = BaseException.__dict__["__traceback__"].__get__


class FinalException:
    """What a future raises: an exception, and the traceback that it had at the end."""

    __slots__ = ("exception", "traceback")

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        # By the base class's attribute: one of the exception's own class might raise.
        self.traceback: TracebackType | None = _traceback_of(exception)

    def read(self) -> BaseException:
        """Return the exception, with the traceback it had at the end."""
        # Python adds to that traceback each time the exception is raised.
        return with_traceback(self.exception, self.traceback)


class UnreadFailure(FinalException):
    """A failure that is logged if it is collected before anybody has read it."""

    __slots__ = ("job_name", "note")

    def __init__(self, exception: BaseException, job_name: str, note: str) -> None:
        super().__init__(exception)
        self.note = note
        self.job_name: str | None = job_name  # None once it has been read

    @override
    def read(self) -> BaseException:
        self.job_name = None
        return super().read()

    def __del__(self) -> None:
        # The attribute is missing if an interrupt struck in the constructor.
        if getattr(self, "job_name", None) is not None:
            report(
                "%s failed and nobody read its future: %s",
                self.job_name,
                self.note,
                error=self.exception,
            )


class LazyCondition(Condition):
    """The condition that `concurrent.futures.wait` and `as_completed` use; it has its own lock.

    Those functions hold the locks of all their futures at once, so two futures must not share
    one: the order in which they take them prevents deadlocks only then.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        super().__init__(self.lock)
        self.waiters: list[Any] = []


class Waiters:
    """The threads that wait for the end of a future.

    Attributes:
        locks: one for each thread in `result` or `exception`, which waits until it is released.
        condition: made for `wait` and `as_completed`; None while they have not asked for it.
        untold: waiters of those two that came before the end and have not been notified of it.
    """

    __slots__ = ("condition", "locks", "untold")

    def __init__(self) -> None:
        self.locks: list[Any] = []
        self.condition: LazyCondition | None = None
        self.untold: list[Any] = []


class LazyFuture(Future[T]):
    """A standard Future in every way, and ``await``-able on any running asyncio loop."""

    __slots__ = ("_done_callbacks", "_failure", "_lock", "_result", "_state", "_threads_waiting")

    def __init__(self) -> None:
        # Future.__init__ is not called: it makes at once what this class makes late, or never.
        # One of LOCKS. Guards _state and what is written with it, _done_callbacks and
        # _threads_waiting.
        self._lock = next_lock()
        self._state = PENDING
        self._threads_waiting: Waiters | None = None  # made by the first thread to wait
        self._done_callbacks: Any = ()
        self._failure: FinalException | None = None

    # The standard library's wait(), as_completed() and executors use these attributes. Type
    # checkers know them from Future, as plain attributes.
    if not TYPE_CHECKING:  # pragma: no branch  the other one is for type checkers

        @property
        def _condition(self) -> LazyCondition:
            self._check_fork()
            with self._lock:
                waiters = self._threads_waiting = self._threads_waiting or Waiters()
                if waiters.condition is None:
                    waiters.condition = LazyCondition()
                return waiters.condition

        @property
        def _waiters(self) -> list[Any]:
            return self._condition.waiters

        # Debuggers read this one, and tests of the standard library's write it.
        @property
        def _exception(self) -> BaseException | None:
            return None if self._failure is None else self._failure.exception

        @_exception.setter
        def _exception(self, exception: BaseException | None) -> None:
            self._failure = None if exception is None else FinalException(exception)

    # The next three read one attribute, for which no lock is needed; and wait() calls them while
    # it holds the conditions of all its futures.
    @override
    def cancelled(self) -> bool:
        """Return True if the future was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    @override
    def running(self) -> bool:
        """Return True while an attempt runs; between two attempts the answer is False."""
        return self._state == RUNNING

    @override
    def done(self) -> bool:
        """Return True if the future was cancelled or has finished."""
        return self._state in _DONE

    @override
    def cancel(self) -> bool:
        """Cancel the future unless it runs or has finished; return whether it is cancelled."""
        self._check_fork()
        # It is up to whoever runs the future to notify those who wait, as the standard library
        # has it: by set_running_or_notify_cancel.
        if self._end(CANCELLED):
            self._run_callbacks()
        return self.cancelled()

    @reads_futures
    @override
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
                self._wait_for_end(timeout)
            if self._failure is None:
                return self._result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
            raise self._failure.read()
        finally:
            # The exception's traceback holds this frame, which must not hold the future too.
            del self

    @override
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the job's last attempt raised, or None if the job succeeded.

        Args:
            timeout: how long to wait for it, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: the job has not ended in that time.
            CancelledError: the job was cancelled.
        """
        if self._state != FINISHED:
            self._wait_for_end(timeout)
        return None if self._failure is None else self._failure.read()

    @override
    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` once the future has ended, or at once if it already has.

        Callbacks run in the order they were added, in the thread that ends the future. What one
        of them raises is logged, and the others run all the same.
        """
        self._check_fork()
        with self._lock:
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

    # ---- for executors, and for tests that play one

    @override
    def set_running_or_notify_cancel(self) -> bool:
        """Mark the future as running; return False, and notify waiters, if it was cancelled.

        Raises:
            RuntimeError: it is running already, or has finished.
        """
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING
                return True
            condition: Any = self._condition if self._state == CANCELLED else None
        if condition is not None:
            with condition.lock:
                with self._lock:
                    waiters: Any = self._threads_waiting
                    newly = self._state == CANCELLED
                    if newly:
                        waiters.untold = condition.waiters.copy()
                        self._state = CANCELLED_AND_NOTIFIED
                if newly:
                    self._notify(waiters)
        if self._state == CANCELLED_AND_NOTIFIED:
            return False
        msg = f"a future is started once; this one is {self!r}"
        raise RuntimeError(msg)  # the standard library's choice, which others may catch

    @override
    def set_result(self, result: T) -> None:
        """End the future with *result*.

        Raises:
            InvalidStateError: it has ended already.
        """
        if not self._end(FINISHED, result):
            raise self._ended_before()
        self._run_callbacks()

    @override
    def set_exception(self, exception: BaseException | None) -> None:
        """End the future with *exception*.

        Raises:
            InvalidStateError: it has ended already.
        """
        if not self._end(FINISHED, None, None if exception is None else FinalException(exception)):
            raise self._ended_before()
        self._run_callbacks()

    def _ended_before(self) -> InvalidStateError:
        return InvalidStateError(f"{self._state}: {self!r}")

    # ---- the end

    def _end(self, state: str, result: Any = None, failure: FinalException | None = None) -> bool:
        """Enter the end *state* and notify those who wait; callbacks are up to the caller.

        Args:
            state: FINISHED, or a cancelled state, which a running attempt prevents.
            result, failure: how it ended.

        Returns:
            False if nothing ended: it had ended before, or it is running and cannot be cancelled.
        """
        with self._lock:
            waiters = self._threads_waiting
            condition = None if waiters is None else waiters.condition
            ended = condition is None and self._set_end_state(state, result, failure)
        if condition is not None:
            # wait() checks the state and adds its waiter while it holds the condition, so the end
            # comes under it too: a waiter that finds the future ended must not be notified as well.
            with condition.lock:
                with self._lock:
                    ended = self._set_end_state(state, result, failure)
                if ended:
                    self._notify(waiters)
        elif ended and waiters is not None:
            self._notify(waiters)
        return ended

    def _set_end_state(self, state: str, result: Any, failure: FinalException | None) -> bool:
        """Do the part of `_end` that is under the lock, which is held."""
        if self._state != PENDING and not (self._state == RUNNING and state == FINISHED):
            return False
        if failure is not None:
            self._failure = failure
        self._result = result
        if (waiters := self._threads_waiting) is not None and waiters.condition is not None:
            waiters.untold = waiters.condition.waiters.copy()
        self._state = state  # written after all that belongs to it
        return True

    def _notify(self, waiters: Any, *, again: bool = False) -> None:
        """Wake those who wait for the end, which has come; *again*, those not told before."""
        if (condition := waiters.condition) is not None:
            # Not "with condition": its __enter__ is Python code, where an interrupt may strike.
            with condition.lock:
                # A waiter that came later found the future ended, and must not be notified.
                while untold := waiters.untold:
                    if not (again and self in untold[0].finished_futures):
                        self._tell_waiter(untold[0])
                    del untold[0]
                condition.notify_all()
        for lock in waiters.locks:  # to which nobody adds from now on
            with suppress(RuntimeError):  # it has been released
                lock.release()

    def _tell_waiter(self, waiter: Any) -> None:
        if self._state == CANCELLED_AND_NOTIFIED:
            waiter.add_cancelled(self)
        elif self._state == FINISHED and self._failure is not None:
            waiter.add_exception(self)
        elif self._state == FINISHED:
            waiter.add_result(self)

    def _run_callbacks(self) -> None:
        """Run the callbacks, once the end has come: from then on nobody adds to them."""
        # One iterator, so that a worker can go on where an interrupt stopped this thread.
        callbacks = self._done_callbacks = iter(self._done_callbacks)
        self._call(callbacks)
        self._done_callbacks = ()

    def _call(self, callbacks: Iterable[Callable[[Future[T]], object]]) -> None:
        """Call all *callbacks*, whatever they raise."""
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

    # ---- the wait

    def _wait_for_end(self, timeout: float | None) -> None:
        """Return once the future has finished; raise if it was cancelled or time ran out."""
        self._check_fork()
        if not self.done():
            lock = Lock()
            lock.acquire()
            with self._lock:
                waiters = self._threads_waiting = self._threads_waiting or Waiters()
                if self._state in _DONE:
                    lock.release()  # nobody else would
                else:
                    waiters.locks.append(lock)
            if not lock.acquire(timeout=_lock_timeout(timeout)):
                with self._lock:
                    if self._state not in _DONE:
                        waiters.locks.remove(lock)
                        msg = f"not done after {timeout} s"
                        raise TimeoutError(msg)
        if self._state != FINISHED:
            raise CancelledError

    def _check_fork(self) -> None:
        """In a forked child, make the future usable; a plain future needs nothing."""


def _lock_timeout(timeout: float | None) -> float:
    """Return *timeout* for `Lock.acquire`, where -1 stands for no limit."""
    return -1.0 if timeout is None else min(max(0.0, as_float(timeout)), TIMEOUT_MAX)
