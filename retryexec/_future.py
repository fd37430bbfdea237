"""RetryFuture: a `concurrent.futures.Future` that is its own job, and born light.

Most of what a standard Future costs is the Condition it is born with, which only a thread that
has to wait needs. Here an `Audience` is born late: the first thread that has to wait makes it. Both
that birth and the end of the future happen under the job's lock: either the end comes later, sees
the audience and wakes it, or the birth comes later, and whoever wanted to wait finds that the
future has ended.

The job's lock is not its own, either: a few locks serve all jobs by turns. It is held for a
handful of assignments and nothing is taken inside it, not even another job's, so two jobs that
share one notice nothing of it.

And what only a job in trouble needs, `JobProgress`, is made when its first attempt fails.
"""

import logging
import os
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
from itertools import count
from threading import TIMEOUT_MAX, Condition, Lock, RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from retryexec._errors import ShutdownError
from retryexec._exceptions import reads_futures, report, with_traceback
from retryexec._outcome import Failure, StopReason, type_name
from retryexec._policy import Progress

T = TypeVar("T")
logger = logging.getLogger("retryexec")

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

# The locks of all jobs, each job's for good. Reentrant, because a signal handler or a finalizer
# may strike while this thread holds one, and ask something of that very job. The last to be
# taken, wherever locks nest: whoever holds one takes no other.
LOCKS = tuple(RLock() for _ in range(64))
_turns = count()  # several threads may draw the same number, which does no harm


class Failed(NamedTuple):
    """How a job failed.

    Attributes:
        reason: why no attempt followed.
        exception: what the future raises; None for a job that ends on a refused value.
        traceback: the exception's own, before anyone raised it again.
    """

    reason: StopReason
    exception: BaseException | None
    traceback: TracebackType | None


class JobProgress(Progress):
    """How far a job of an executor has come, once it has met anything but plain success.

    Attributes:
        refused: the value that the latest attempt returned in vain.
        cancel_requested: `cancel` came during an attempt, so that no other follows.
        failed: how the job failed; None while it has not.
        fate: what ends it, once the pool's closing has taken it.
        unread: speaks up if nobody reads the failure.
    """

    __slots__ = ("cancel_requested", "failed", "fate", "refused", "unread")

    def __init__(self, started: float | None) -> None:
        super().__init__(started or 0.0, 0 if started is None else 1)
        self.refused: Any = None
        self.cancel_requested = False
        self.failed: Failed | None = None
        self.fate: Exception | None = None
        self.unread: Unread | None = None

    def is_cancelled(self, terms: Any) -> bool:
        return self.cancel_requested or terms.pool.stopping or super().is_cancelled(terms)

    def settle(self) -> None:
        """Put the latest failure on record, and drop what only attempts need."""
        if self.unrecorded:
            self.record()
        self.delays = self.previous = self.refused = None


class Audience:
    """Those who wait for the end of a future.

    Attributes:
        gates: one for each thread in `result` or `exception`, which stands before it.
        condition: what concurrent.futures.wait and as_completed come with their waiters by; None
            while they have not.
        untold: of those waiters, the ones that were there when the end came, and have not heard.
    """

    __slots__ = ("condition", "gates", "untold")

    def __init__(self) -> None:
        self.gates: list[Any] = []
        self.condition: LateCondition | None = None
        self.untold: list[Any] = []


class LateCondition(Condition):
    """What the standard library's functions wait by; it has a lock of its own.

    They hold those of all their futures at a time, in an order that only suits locks which belong
    to one future each.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        super().__init__(self.lock)
        self.waiters: list[Any] = []


class RetryFuture(Future[T]):
    """The outcome of a job that is tried again until it succeeds or finally fails.

    A `concurrent.futures.Future` in every way, and ``await``-able on any running asyncio loop.
    Between two attempts it is pending again: not running, and `cancel` works.
    """

    # Each of these costs a job 8 bytes and a few nanoseconds: what is not for every job is in
    # its JobProgress.
    __slots__ = (
        "_args",
        "_audience",
        "_by_exec",
        "_context",
        "_counted",
        "_done_callbacks",
        "_due",
        "_kwargs",
        "_lock",
        "_passed",
        "_progress",
        "_result",
        "_started",
        "_state",
        "_submitted",
        "_terms",
    )

    def __init__(  # noqa: PLR0917  one call with all of them costs less than six stores more
        self,
        terms: Any = None,
        submitted: Any = None,
        by_exec: bool = False,
        args: Any = None,
        kwargs: Any = None,
        context: Any = None,
    ) -> None:
        # Not Future's own, which makes what this class makes late, or never.
        # One of LOCKS. Guards _state and what is written with it, _done_callbacks, _audience and
        # the birth of _progress.
        self._lock = LOCKS[next(_turns) & 63]
        self._state = PENDING
        self._audience: Audience | None = None  # made by the first one to wait
        self._done_callbacks: Any = ()
        # Whether its pool has counted it out, if no worker does, and whether it has left the queue
        # since it ended there. The pool's lock guards both.
        self._counted = self._passed = False
        self._progress: JobProgress | None = None
        # When its wait ends; None unless it is with the timekeeper, whose lock guards it.
        self._due: float | None = None
        self._started: float | None = None  # when the first attempt began
        self._terms: Any = terms  # what it was accepted under; None for a future without a pool
        # What a pool runs; used by whoever took the future from PENDING to RUNNING, and dropped at
        # the end. Not in a tuple, which would be one more object for every collection to visit.
        self._submitted: Any = submitted
        self._by_exec = by_exec  # whether it is run by its exec(), or called itself
        self._args: Any = args
        self._kwargs: Any = kwargs
        self._context: Any = context

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        progress = self._progress
        if progress is None:
            return 0 if self._started is None else 1
        return progress.attempts

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the attempts ended; None while they have not."""
        if self.cancelled():
            return StopReason.CANCELLED
        if self._state != FINISHED:
            return None
        failed = self._failed
        return StopReason.SUCCEEDED if failed is None else failed.reason

    @property
    def _failed(self) -> Failed | None:
        return None if self._progress is None else self._progress.failed

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        return () if self._progress is None else self._progress.history

    @property
    def next_attempt_at(self) -> float | None:
        """When the next attempt is due, in the clock's seconds; None unless waiting for it."""
        return self._due

    @property
    def job_id(self) -> str:
        """What the job is called, the same in all its attempts: in a journal, and after a crash."""
        entry = self.__dict__.get("_entry")
        if entry is not None:
            return str(entry.id)
        with self._lock:
            name: str = self.__dict__.setdefault("_name", os.urandom(16).hex())
            return name

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the journal has the job on disk; fails if it cannot be put there.

        Raises:
            AttributeError: the executor has no journal.
        """
        entry = self.__dict__.get("_entry")
        if entry is None:
            msg = "this job is in no journal: give the executor one, by journal="
            raise AttributeError(msg)
        accepted: Future[None] = entry.accepted
        return accepted

    # The standard library's wait(), as_completed() and executors come in through these. To
    # type checkers they stay the plain attributes that those functions ask for.
    if not TYPE_CHECKING:  # pragma: no branch  the other one is theirs

        @property
        def _condition(self) -> LateCondition:
            self._mind_fork()
            with self._lock:
                audience = self._audience = self._audience or Audience()
                if audience.condition is None:
                    audience.condition = LateCondition()
                return audience.condition

        @property
        def _waiters(self) -> list[Any]:
            return self._condition.waiters

        # Debuggers read this one, and tests of the standard library's write it.
        @property
        def _exception(self) -> BaseException | None:
            return None if self._failed is None else self._failed.exception

        @_exception.setter
        def _exception(self, exception: BaseException | None) -> None:
            if exception is not None:
                failed = Failed(StopReason.NOT_RETRIABLE, exception, exception.__traceback__)
                self._in_trouble().failed = failed

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
        terms = None
        try:
            self._mind_fork()
            terms = self._terms
            # Without a pool it is up to whoever runs this future to notify the waiters, as the
            # standard library has it: by set_running_or_notify_cancel.
            state = CANCELLED if terms is None else CANCELLED_AND_NOTIFIED
            while not self._end(state):
                with self._lock:
                    if self._state == RUNNING:
                        self._in_trouble().cancel_requested = True
                    if self._state != PENDING:  # else the attempt has failed meanwhile
                        return self.cancelled()
            self._wind_up()
        except BaseException:
            # An interrupt has struck, or a callback has raised.
            if terms is not None and self.cancelled():
                terms.pool.closing.orphans.append(self)  # in one step: no second one loses it
                terms.pool.closing.find_orphans()
            raise
        return self.cancelled()

    def _wind_up(self, *, again: bool = False) -> None:
        """Do what comes after the end; *again*, do what an interrupt has left undone."""
        self._let_go()
        if again and self._audience is not None:
            self._tell(self._audience, again=True)
        terms = self._terms
        if terms is not None and self.cancelled():
            terms.pool.count_cancelled(self)
        if self._done_callbacks:
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
            if self._progress is None or (exception := self._read()) is None:
                return self._result  # type: ignore[return-value]
            raise exception
        finally:
            # The exception's traceback holds this frame, which must not hold the future too.
            exception = None
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
        return self._read()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` once the future has ended, or at once if it already has.

        Callbacks run in the order they were added, in the thread that ends the future. What one
        of them raises is logged and costs the others nothing.
        """
        self._mind_fork()
        with self._lock:
            if self._state not in _DONE:
                if self._done_callbacks:
                    self._done_callbacks.append(fn)
                else:
                    self._done_callbacks = [fn]
                return
        self._run([fn])

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # here, since most programs with threads never need it

        return asyncio.wrap_future(self, loop=asyncio.get_running_loop()).__await__()

    def __repr__(self) -> str:
        state, failed = self._state, self._failed
        if state != FINISHED:
            end = ""
        elif failed is not None and failed.exception is not None:
            end = f" raised {type_name(type(failed.exception))}"
        else:
            end = f" returned {type_name(type(self._result))}"
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
            condition: Any = self._condition if self._state == CANCELLED else None
        if condition is not None:
            with condition.lock:
                with self._lock:
                    audience: Any = self._audience
                    newly = self._state == CANCELLED
                    if newly:
                        audience.untold = condition.waiters.copy()
                        self._state = CANCELLED_AND_NOTIFIED
                if newly:
                    self._tell(audience)
        cancelled = self._state == CANCELLED_AND_NOTIFIED
        if cancelled:
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
            audience = self._audience
            condition = None if audience is None else audience.condition
            ended = condition is None and self._enter(state, result, exception, reason)
        if condition is not None:
            # wait() looks at the state and leaves its waiter under the condition, so the end comes
            # under it too: whoever finds the future ended must not be told of it as well.
            with condition.lock:
                with self._lock:
                    ended = self._enter(state, result, exception, reason)
                if ended:
                    self._tell(audience)
        elif ended and audience is not None:
            self._tell(audience)
        return ended

    def _enter(
        self, state: str, result: Any, exception: BaseException | None, reason: StopReason | None
    ) -> bool:
        """Do the part of `_end` that is under the lock, which is held."""
        if self._state != PENDING and not (self._state == RUNNING and state == FINISHED):
            return False
        if reason is not None:
            traceback = None if exception is None else exception.__traceback__
            self._in_trouble().failed = Failed(reason, exception, traceback)
        self._result = result
        if (audience := self._audience) is not None and audience.condition is not None:
            audience.untold = audience.condition.waiters.copy()
        self._state = state  # written after all that belongs to it
        return True

    def _tell(self, audience: Any, *, again: bool = False) -> None:
        """Wake those who wait for the end, which has come; *again*, those not told before."""
        if (condition := audience.condition) is not None:
            # Not "with condition", whose way in is code in which an interrupt may strike.
            with condition.lock:
                # Who came later has found the future ended, and must not be told of it as well.
                while untold := audience.untold:
                    if not (again and self in untold[0].finished_futures):
                        self._tell_waiter(untold[0])
                    del untold[0]
                condition.notify_all()
        for gate in audience.gates:  # to which nobody adds from now on
            with suppress(RuntimeError):  # it is open
                gate.release()

    def _tell_waiter(self, waiter: Any) -> None:
        failed = self._failed
        if self._state == CANCELLED_AND_NOTIFIED:
            waiter.add_cancelled(self)
        elif self._state == FINISHED and failed is not None and failed.exception is not None:
            waiter.add_exception(self)
        elif self._state == FINISHED:
            waiter.add_result(self)

    def _run_callbacks(self) -> None:
        """Run the callbacks, once the end has come: from then on nobody adds to them."""
        # One iterator, for whoever has to go on where an interrupt has struck.
        callbacks = self._done_callbacks = iter(self._done_callbacks)
        self._run(callbacks)
        self._done_callbacks = ()

    def _let_go(self) -> None:
        """Drop what only attempts need; done by whoever ends the job, outside every lock."""
        self._submitted = self._args = self._kwargs = self._context = None
        if self._progress is not None:
            self._progress.settle()

    def _in_trouble(self) -> JobProgress:
        """Return the job's progress, which is made now if it has none."""
        with self._lock:
            if self._progress is None:
                self._progress = JobProgress(self._started)
            return self._progress

    def _await_end(self, timeout: float | None) -> None:
        """Return once the future has finished; raise if it was cancelled or time ran out."""
        self._mind_fork()
        terms = self._terms
        if timeout is None and terms is not None and not self.done():
            terms.clock.before_endless_wait(self.done)
        if not self.done():
            gate = Lock()
            gate.acquire()
            with self._lock:
                audience = self._audience = self._audience or Audience()
                if self._state in _DONE:
                    gate.release()  # nobody else would
                else:
                    audience.gates.append(gate)
            if not gate.acquire(timeout=_lock_timeout(timeout)):
                with self._lock:
                    if self._state not in _DONE:
                        audience.gates.remove(gate)
                        msg = f"not done after {timeout} s"
                        raise TimeoutError(msg)
        if self._state != FINISHED:
            raise CancelledError

    def _run(self, callbacks: Iterable[Callable[[Future[T]], object]]) -> None:
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

    def _read(self) -> BaseException | None:
        """Return the exception of a job that has ended, which somebody has now seen."""
        progress = self._progress
        if progress is None or progress.failed is None:
            return None
        if progress.unread is not None:
            progress.unread.job_name = None
        _, exception, traceback = progress.failed
        # With its own traceback, or each time it is raised would make it longer.
        return None if exception is None else with_traceback(exception, traceback)

    def _mind_fork(self) -> None:
        """See to it that the future is usable if this is a forked child."""
        terms = self._terms
        if terms is not None and terms.pool.forked:
            self._renew_after_fork()

    def _renew_after_fork(self) -> None:
        """Make the future usable in a forked child, where only its outcome can be had.

        Its audience's lock may be held by a thread that exists in the parent alone. If the job is
        pending, it runs in the parent and fails here; its callbacks are dropped, since they belong
        to where it goes on. Two threads may do this at once: they write the same.
        """
        self._audience = None
        self._done_callbacks = ()
        if not self.done():
            error = ShutdownError(
                "the process forked while this job was pending: it runs in the parent, not here"
            )
            self._in_trouble().failed = Failed(StopReason.SHUTDOWN, error, None)
            self._state = FINISHED
            self._let_go()
        self._terms = None


def _lock_timeout(timeout: float | None) -> float:
    """Return *timeout* as a lock wants it, which takes a negative one for none at all."""
    return -1.0 if timeout is None else min(max(0.0, timeout), TIMEOUT_MAX)


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
