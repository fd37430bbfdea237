"""Retry a call right here, in a thread or a coroutine."""

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, ParamSpec, Self, TypeVar, overload

from retryexec._async import AsyncEvent, in_thread
from retryexec._attempt import retrying_here, running_job
from retryexec._cancel import CancelToken
from retryexec._clock import Clock, engine_clock
from retryexec._errors import Cancelled
from retryexec._events import Retry
from retryexec._exceptions import annotate, calls_jobs, release_frames, report, trim
from retryexec._outcome import StopReason, gave_up
from retryexec._policy import RetryPolicy, checked_policy, decide
from retryexec._progress import Progress, Settings
from retryexec._ticker import EventTimer, Timer
from retryexec._validate import callable_or_none, is_coroutine_function

P = ParamSpec("P")
T = TypeVar("T")
OnRetry = Callable[[Retry], object]


class _Retrying:
    """One call being retried: all of it but the call itself and the waits."""

    def __init__(
        self,
        policy: RetryPolicy,
        on_retry: OnRetry | None,
        cancel: CancelToken | None,
        clock: Clock | None,
        timer: Timer | None,
    ) -> None:
        self._policy = checked_policy(policy)
        self._on_retry = callable_or_none("on_retry", on_retry)
        self.cancel = cancel
        self.clock = engine_clock(clock)
        self._timer = timer  # the caller's, if any
        self._progress = Progress()
        self.exception: BaseException | None = None
        self._name: str | None = None

    def __enter__(self) -> Self:
        settings = Settings(self._policy, self.clock, self.cancel)
        self._token: Token[Any] = retrying_here.set((self._progress, settings, self, running_job()))
        return self

    def __exit__(self, *_: object) -> None:
        retrying_here.reset(self._token)
        self.clock.thread_idle()
        if self._timer is not None:
            self._timer.stop()
        # The exception's traceback leads back here.
        del self.exception, self._progress

    @property
    def job_id(self) -> str:
        """What the call is known by in all its attempts."""
        self._name = self._name or os.urandom(16).hex()
        return self._name

    def begin(self) -> None:
        """Note the start of an attempt."""
        self._progress.begin(self.clock.now())

    def delay_after(self, raised: BaseException | None, value: Any) -> float | None:
        """Return how long to wait for another attempt; None if that was the last one.

        In that case `exception` is what to raise, or None to return the value.
        """
        progress, now = self._progress, self.clock.now()
        progress.fail(raised, now)
        exception, delay, reason = decide(self._policy, progress, raised, value, now)
        progress.previous = self.exception = exception
        if delay is None or self.is_cancelled():
            if reason is None:  # there would be another attempt, but for the token
                exception = _cancelled_after(exception)
            self._end(exception, reason or StopReason.CANCELLED)
            return None
        if self._on_retry is not None:
            try:
                self._on_retry(Retry(progress.attempts, exception, delay))
            except Exception:
                report("on_retry failed; the retries go on")
        if exception is not None:  # raised again, it would add its new traceback to this one
            release_frames(exception)
        return delay

    def cut_short(self) -> bool:
        """After a wait: return whether no attempt may follow it; `exception` is as at the end."""
        if self.is_cancelled():
            self._end(_cancelled_after(self.exception), StopReason.CANCELLED)
            return True
        elapsed = self.clock.now() - self._progress.began
        if elapsed > self._policy.elapsed_limit:  # the wait took longer
            self._end(self.exception, StopReason.MAX_ELAPSED)
            return True
        return False

    def is_cancelled(self) -> bool:
        """Return whether the token wants the retries to end."""
        return self.cancel is not None and self.cancel.cancelled

    def _end(self, exception: BaseException | None, reason: StopReason) -> None:
        progress = self._progress
        self.exception = exception
        if exception is not None:
            elapsed = self.clock.now() - progress.began
            annotate(exception, gave_up(progress.attempts, elapsed, reason))


@calls_jobs
def retry(
    fn: Callable[[], T],
    *,
    policy: RetryPolicy = RetryPolicy(),
    on_retry: OnRetry | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
) -> T:
    """Call ``fn()`` in this thread until it succeeds or the policy stops; return what it returns.

    Args:
        fn: called for each attempt, at least once.
        policy: when to try again.
        on_retry: called with a `Retry` before each wait, and not for the final failure.
        cancel: a token that ends the retries; an attempt that runs is not interrupted.
        clock: where the time comes from.
        timer: what to wait by; stopped at the end.

    Raises:
        Exception: what the last attempt raised; its note says why no other followed.
        Cancelled: *cancel* was cancelled; ``__cause__`` is the last failure.
        TypeError: *fn* is a coroutine function (see `retry_async`), or no callable.
    """
    _refuse_async(fn)
    retrying = _Retrying(policy, on_retry, cancel, clock, timer)
    waiting = EventTimer(retrying.clock) if timer is None else timer
    with retrying:
        while True:
            retrying.begin()
            raised, value = None, None
            try:
                value = fn()
            except BaseException as error:
                raised = trim(error)
            delay = retrying.delay_after(raised, value)
            del raised
            if delay is None:
                break
            _wait(waiting, delay, retrying.cancel)
            if retrying.cut_short():
                break
        if retrying.exception is not None:
            raise retrying.exception
        return value  # type: ignore[return-value]


@calls_jobs
async def retry_async(
    fn: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy = RetryPolicy(),
    on_retry: OnRetry | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
) -> T:
    """Await ``fn()`` until it succeeds or the policy stops; as `retry`, on asyncio or trio.

    Args:
        fn: called for each attempt, at least once; what it returns is awaited.
        policy, on_retry, cancel, clock, timer: as for `retry`. A *timer* is waited for on another
            thread.

    Raises:
        Exception: what the last attempt raised; its note says why no other followed.
        Cancelled: *cancel* was cancelled; ``__cause__`` is the last failure.
    """
    _check_callable(fn)
    retrying = _Retrying(policy, on_retry, cancel, clock, timer)
    with retrying:
        while True:
            retrying.begin()
            raised, value = None, None
            try:
                value = await fn()
            except BaseException as error:
                raised = trim(error)
            delay = retrying.delay_after(raised, value)
            del raised
            if delay is None:
                break
            await _wait_async(timer, delay, retrying)
            if retrying.cut_short():
                break
        if retrying.exception is not None:
            raise retrying.exception
        return value  # type: ignore[return-value]


@overload
def retrying(policy: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def retrying(
    policy: RetryPolicy = ...,
    *,
    on_retry: OnRetry | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def retrying(
    policy: Any = RetryPolicy(),
    *,
    on_retry: OnRetry | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
) -> Any:
    """Decorate a function, or a coroutine function, so that each call of it is retried.

    Used as ``@retrying``, ``@retrying(policy)`` or with the options of `retry`.

    Raises:
        TypeError: what is decorated is a generator function, whose body runs only when somebody
            iterates, and cannot be begun again.
    """
    if not isinstance(policy, RetryPolicy) and callable(policy):
        return retrying()(policy)
    checked_policy(policy)
    options: dict[str, Any] = {
        "policy": policy,
        "on_retry": on_retry,
        "cancel": cancel,
        "clock": clock,
        "timer": timer,
    }

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            msg = (
                f"{fn.__qualname__} is a generator function: its body runs while somebody "
                "iterates, too late to be retried; retry the function that consumes it"
            )
            raise TypeError(msg)
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                return await retry_async(functools.partial(fn, *args, **kwargs), **options)

            return call_async

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return retry(functools.partial(fn, *args, **kwargs), **options)

        return call

    return decorate


def _cancelled_after(failure: BaseException | None) -> Cancelled:
    cancelled = Cancelled("cancelled, and so not tried again")
    cancelled.__cause__ = failure
    return cancelled


def _wait(timer: Timer, delay: float, cancel: CancelToken | None) -> None:
    """Wait *delay* seconds, or until *cancel* is cancelled."""
    timer.start(delay)
    if cancel is None:
        timer.wait()
        return
    # Registered after the start, which would undo a stop: a token cancelled by now stops it here.
    unregister = cancel.on_change(timer.stop)
    try:
        # What is left of the token's time may be rounded down, or be told by another clock.
        while (left := cancel.remaining()) != 0.0 and not timer.wait(left) and left is not None:
            pass
    finally:
        unregister()


async def _wait_async(timer: Timer | None, delay: float, retrying: _Retrying) -> None:
    cancel, clock = retrying.cancel, retrying.clock
    if timer is not None:
        await in_thread(functools.partial(_wait, timer, delay, cancel))
        return
    due = clock.now() + delay
    event = AsyncEvent()
    unregister = None if cancel is None else cancel.on_change(event.set)
    try:
        while clock.now() < due and not event.is_set and not retrying.is_cancelled():
            left = None if cancel is None else cancel.remaining()
            await clock.wait_async(event, due if left is None else min(due, clock.now() + left))
    finally:
        if unregister is not None:
            unregister()


def _check_callable(fn: Any) -> None:
    if not callable(fn):
        msg = f"fn takes a callable (got {fn!r})"
        raise TypeError(msg)


def _refuse_async(fn: Any) -> None:
    _check_callable(fn)
    if is_coroutine_function(fn):
        msg = f"retry calls a plain function, and {fn!r} is a coroutine function: use retry_async"
        raise TypeError(msg)
