"""`retry` and `retry_async`: retry a call in the calling thread or coroutine."""

import functools
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass
from types import CoroutineType, MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from retryexec._async import AsyncEvent, in_thread
from retryexec._attempt import retrying_here, running_job
from retryexec._cancel import CancelToken
from retryexec._clock import Clock, engine_clock
from retryexec._errors import Cancelled, PermanentError
from retryexec._events import Retry, Success
from retryexec._exceptions import annotate, calls_jobs, release_frames, report, trim
from retryexec._outcome import StopReason, gave_up
from retryexec._policy import RetryPolicy, checked_policy, decide
from retryexec._progress import Progress, Settings
from retryexec._ticker import EventTimer, Timer
from retryexec._validate import callable_or_none, is_coroutine_function
from retryexec._waits import wait, wait_async

if TYPE_CHECKING:
    from retryexec.guards import Guard
    from retryexec.guards._guarded_call import GuardedCall

T = TypeVar("T")
OnRetry: TypeAlias = Callable[[Retry], object]
OnSuccess: TypeAlias = Callable[[Success], object]


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How a call is retried: the arguments of `retry`, but for the call itself."""

    policy: RetryPolicy = RetryPolicy()
    on_retry: OnRetry | None = None
    on_success: OnSuccess | None = None
    cancel: CancelToken | None = None
    clock: Clock | None = None
    timer: Timer | None = None
    guards: "Iterable[Guard]" = ()  # a tuple, once checked

    def __post_init__(self) -> None:
        checked_policy(self.policy)
        callable_or_none("on_retry", self.on_retry)
        callable_or_none("on_success", self.on_success)
        if self.guards != ():
            from retryexec.guards._guard import checked_guards

            object.__setattr__(self, "guards", checked_guards(self.guards))


class Call:
    """One call being retried: its state, apart from running attempts and waiting."""

    def __init__(
        self,
        options: RetryOptions,
        on_end: "Callable[[Call], object] | None" = None,
        *,
        job: Callable[..., object],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.options = options
        self._on_end = on_end  # called when the call is over, before the caller hears of it
        self.clock = engine_clock(options.clock)
        self.cancel = options.cancel
        self.progress = Progress()
        # What to raise in the end; None to return the last value.
        self.exception: BaseException | None = None
        self.stop_reason: StopReason | None = None  # None until it is over
        self._job_id: str | None = None
        self.guarded: GuardedCall | None = None
        if options.guards:
            from retryexec.guards import _guarded_call

            self.guarded = _guarded_call.GuardedCall(
                tuple(options.guards), (job, args, kwargs), self.clock, options.timer
            )

    def __enter__(self) -> Self:
        settings = Settings(self.options.policy, self.clock, self.cancel)
        self._token: Token[Any] = retrying_here.set((self.progress, settings, self, running_job()))
        return self

    def __exit__(self, *_: object) -> None:
        if self.guarded is not None:
            self.guarded.settle(None)  # if it was interrupted
        with suppress(ValueError):  # a coroutine that is closed in another context than it ran in
            retrying_here.reset(self._token)
        self.clock.thread_idle()
        if self.options.timer is not None:
            self.options.timer.stop()
        if self._on_end is not None:
            self._on_end(self)
        # The exception's traceback leads back here.
        self.exception = self.progress.previous = None

    @property
    def job_id(self) -> str:
        """What the call is known by in all its attempts."""
        self._job_id = self._job_id or os.urandom(16).hex()
        return self._job_id

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return self.clock.now() - self.progress.began

    def held_until(self, *, is_async: bool) -> float | None:
        """Ask the guards; return None if the next attempt may begin, else until when to wait.

        The call ends if it is held back while it is cancelled, or its time is up.
        """
        if self.guarded is None or self.stop_reason is not None:
            return None
        attempts, policy = self.progress.attempts, self.options.policy
        until = self.guarded.ask(attempts + 1, policy.attempt_timeout, is_async=is_async)
        if until is None:
            return None
        last = self.progress.began + policy.elapsed_limit if attempts else math.inf
        if self.is_cancelled():
            self._end(_cancelled_after(self.exception), StopReason.CANCELLED)
        elif self.clock.now() >= last:
            self._end(self.exception, StopReason.MAX_ELAPSED)
        else:
            return min(until, last)
        self.guarded.settle(None)
        return None

    def begin(self) -> bool:
        """Note the start of an attempt; False if there is none, because the call is over."""
        if self.progress.attempts and self.stop_reason is None:
            if self.is_cancelled():
                self._end(_cancelled_after(self.exception), StopReason.CANCELLED)
            elif self.elapsed > self.options.policy.elapsed_limit:  # the wait took too long
                self._end(self.exception, StopReason.MAX_ELAPSED)
        if self.stop_reason is not None:
            return False
        self.progress.begin(self.clock.now())
        return True

    def delay_after(self, raised: BaseException | None, value: Any) -> float | None:
        """Return how long to wait after an attempt; None if no other follows.

        Do not call it in an except clause that handles *raised*: its frames would be kept.
        """
        progress, now = self.progress, self.clock.now()
        exception, delay, reason = decide(self.options.policy, progress, raised, value, now)
        self.exception = exception
        if self.guarded is not None:
            succeeded = reason is StopReason.SUCCEEDED
            self.guarded.settle_attempt(exception, now - progress.started, succeeded=succeeded)
        if reason is StopReason.SUCCEEDED:
            self.stop_reason = reason
            self._tell_success(value)
            return None
        progress.fail(exception, now)
        if delay is None or self.is_cancelled():
            if reason is None:  # only the token prevents another attempt
                exception = _cancelled_after(exception)
            self._end(exception, reason or StopReason.CANCELLED)
            return None
        if self.options.on_retry is not None:
            try:
                self.options.on_retry(Retry(progress.attempts, exception, delay))
            except Exception:
                report("on_retry failed; the retries go on")
        if exception is not None:
            # Its frames would keep the attempt's variables alive through the wait; and an
            # exception that is raised again would add its new traceback to the old one.
            release_frames(exception)
        return delay

    def is_cancelled(self) -> bool:
        """Return whether the token wants the retries to end."""
        return self.cancel is not None and self.cancel.cancelled

    def _tell_success(self, value: Any) -> None:
        if self.options.on_success is not None:
            try:
                self.options.on_success(Success(self.progress.attempts, value))
            except Exception:
                report("on_success failed; the call has succeeded all the same")

    def _end(self, exception: BaseException | None, reason: StopReason) -> None:
        self.exception, self.stop_reason = exception, reason
        if exception is not None:
            annotate(exception, gave_up(self.progress.attempts, self.elapsed, reason))


def retry(
    fn: Callable[[], T],
    *,
    policy: RetryPolicy = RetryPolicy(),
    on_retry: OnRetry | None = None,
    on_success: OnSuccess | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    guards: "Iterable[Guard]" = (),
) -> T:
    """Call ``fn()`` in this thread until it succeeds or the policy stops; return its result.

    Args:
        fn: called for each attempt, at least once.
        policy: when to try again.
        on_retry: called with a `Retry` before each wait, but not for the final failure.
        on_success: called with a `Success` when an attempt has succeeded, before the return.
        cancel: a token that ends the retries; a running attempt is not interrupted.
        clock: where the time comes from.
        timer: the timer used for the waits; it is stopped at the end.
        guards: what each attempt has to pass, outermost first, such as a `RateLimit`.

    Raises:
        Exception: what the last attempt raised; its note says why no other followed.
        Cancelled: *cancel* was cancelled; ``__cause__`` is the last failure.
        TypeError: *fn* is a coroutine function (see `retry_async`), or is not callable.
    """
    _refuse_async(fn)
    options = RetryOptions(policy, on_retry, on_success, cancel, clock, timer, guards)
    return run_attempts(fn, Call(options, job=fn))


async def retry_async(
    fn: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy = RetryPolicy(),
    on_retry: OnRetry | None = None,
    on_success: OnSuccess | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    guards: "Iterable[Guard]" = (),
) -> T:
    """Await ``fn()`` until it succeeds or the policy stops: `retry` for asyncio and trio.

    Args:
        fn: called for each attempt, at least once; the awaitable it returns is awaited.
        policy, on_retry, on_success, cancel, clock, timer, guards: as for `retry`. With a *timer*,
            the waits happen on another thread.

    Raises:
        Exception: what the last attempt raised; its note says why no other followed.
        Cancelled: *cancel* was cancelled; ``__cause__`` is the last failure.
        TypeError: *fn* is not callable.
    """
    _check_callable(fn)
    options = RetryOptions(policy, on_retry, on_success, cancel, clock, timer, guards)
    return await run_attempts_async(fn, Call(options, job=fn))


# The two loops differ only in that one awaits attempts and waits. Both call delay_after outside of
# the except clause, and keep no exception through a wait.


@calls_jobs
def run_attempts(fn: Callable[[], T], call: Call) -> T:
    """Run the attempts of *call* in this thread."""
    timer = call.options.timer or EventTimer(call.clock)
    value: Any = None
    with call:
        while (call.guarded is None or _let_go(call)) and call.begin():
            raised, value = None, None
            try:
                value = _no_coroutine(fn())
            except BaseException as error:
                raised = trim(error)
            delay = call.delay_after(raised, value)
            del raised
            if delay is not None:
                wait(timer, delay, call.cancel)
        if call.exception is not None:
            raise call.exception
        return value  # type: ignore[no-any-return]  # what fn returned


@calls_jobs
async def run_attempts_async(fn: Callable[[], Awaitable[T]], call: Call) -> T:
    """Run the attempts of *call* in this coroutine."""
    value: Any = None
    with call:
        while (call.guarded is None or await _let_go_async(call)) and call.begin():
            raised, value = None, None
            try:
                value = await fn()
            except BaseException as error:
                raised = trim(error)
            delay = call.delay_after(raised, value)
            del raised
            if delay is not None:
                await _wait_async(delay, call)
        if call.exception is not None:
            raise call.exception
        return value  # type: ignore[no-any-return]  # what fn returned


def _let_go(call: Call) -> bool:
    """Wait until the guards let the next attempt go, or the call has ended; return True."""
    while (until := call.held_until(is_async=False)) is not None:
        assert call.guarded is not None
        call.guarded.wait(until, call.cancel)
    return True


async def _let_go_async(call: Call) -> bool:
    while (until := call.held_until(is_async=True)) is not None:
        assert call.guarded is not None
        await call.guarded.wait_async(until, call.cancel)
    return True


def _no_coroutine(value: Any) -> Any:
    """Return what an attempt returned, unless that is a coroutine, which has done nothing yet."""
    if type(value) is CoroutineType:
        value.close()
        msg = (
            f"retry calls plain functions, and this call returned {value!r}, which nobody would "
            "retry when it is awaited: use retry_async, or decorate the coroutine function itself"
        )
        raise PermanentError(TypeError(msg))
    return value


def _cancelled_after(failure: BaseException | None) -> Cancelled:
    cancelled = Cancelled("cancelled, and so not tried again")
    cancelled.__cause__ = failure
    return cancelled


async def _wait_async(delay: float, call: Call) -> None:
    """Wait *delay* seconds in a coroutine, or until the token is cancelled."""
    timer, clock = call.options.timer, call.clock
    if timer is not None:
        await in_thread(functools.partial(wait, timer, delay, call.cancel))
    else:
        await wait_async(clock, clock.now() + delay, call.cancel, AsyncEvent())


def _check_callable(fn: Any) -> None:
    if not callable(fn):
        msg = f"fn takes a callable (got {fn!r})"
        raise TypeError(msg)


def _refuse_async(fn: Any) -> None:
    _check_callable(fn)
    if is_coroutine_function(fn):
        msg = f"retry calls a plain function, and {fn!r} is a coroutine function: use retry_async"
        raise TypeError(msg)
