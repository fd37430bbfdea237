"""`retrying`: a decorator that retries each call of a function."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    overload,
)

from retryexec._cancel import CancelToken
from retryexec._clock import Clock
from retryexec._outcome import Failure, StopReason
from retryexec._policy import RetryPolicy, checked_policy
from retryexec._retry import (
    Call,
    OnRetry,
    OnSuccess,
    RetryOptions,
    run_attempts,
    run_attempts_async,
)
from retryexec._suggest import suggests_names, unknown_argument
from retryexec._ticker import Timer
from retryexec._typing import Unpack

if TYPE_CHECKING:
    from retryexec.guards import Guard

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class LastCall:
    """How the latest call of a decorated function ended.

    Attributes:
        attempts: how many attempts it took.
        elapsed: seconds from the start of its first attempt to the end of the call.
        stop_reason: why no further attempt followed.
        failure: its latest failed attempt; None if none failed.
    """

    attempts: int
    elapsed: float
    stop_reason: StopReason
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class CallStats:
    """Statistics of the calls of one decorated function, as returned by `fn.stats()`.

    Calls that are still running do not count yet.

    Attributes:
        calls: how many calls have ended.
        attempts: how many attempts these calls made.
        failures: how many calls failed for good, including cancelled calls and calls that returned
            a value that `retry_on_result` refuses.
        last: the latest call to end; None if no call has ended yet.
    """

    calls: int = 0
    attempts: int = 0
    failures: int = 0
    last: LastCall | None = None


class RetryChanges(TypedDict, total=False):
    """What `using` changes: the arguments of `retrying`."""

    policy: RetryPolicy
    on_retry: OnRetry | None
    on_success: OnSuccess | None
    cancel: CancelToken | None
    clock: Clock | None
    timer: Timer | None
    guards: "Iterable[Guard]"


class RetriedFunction(Protocol[P, T_co]):
    """A function made by `retrying`; call it like the function it decorates."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function, and retry the call."""
        ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> "RetriedFunction[P, T_co]": ...
    @overload
    def __get__(
        self: "RetriedFunction[Concatenate[Any, Q], T]", instance: object, owner: type | None, /
    ) -> Callable[Q, T]: ...

    def using(self, **changes: Unpack[RetryChanges]) -> "RetriedFunction[P, T_co]":
        """Return the same function with other options, and with statistics of its own.

        Args:
            changes: arguments of `retrying` that replace those of this function.

        Raises:
            TypeError: an argument has another name, or is invalid.
        """
        ...

    def stats(self) -> CallStats:
        """Return statistics of the calls so far, in all threads."""
        ...


class _CallCounter:
    """Counts the calls of one decorated function."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held by whoever replaces stats
        self.stats = CallStats()

    def count(self, call: Call) -> None:
        """Count *call*, which has ended."""
        progress, history = call.progress, call.progress.history
        # Without a reason it was interrupted in a wait, as the task of a coroutine can be.
        reason = call.stop_reason or StopReason.CANCELLED
        last = LastCall(progress.attempts, call.elapsed, reason, history[-1] if history else None)
        failed = reason is not StopReason.SUCCEEDED
        with self._lock:
            s = self.stats
            self.stats = CallStats(
                s.calls + 1, s.attempts + last.attempts, s.failures + failed, last
            )


@overload
def retrying(policy: Callable[P, T], /) -> RetriedFunction[P, T]: ...
@overload
def retrying(
    policy: RetryPolicy = ...,
    *,
    on_retry: OnRetry | None = None,
    on_success: OnSuccess | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    guards: "Iterable[Guard]" = (),
) -> Callable[[Callable[P, T]], RetriedFunction[P, T]]: ...
@suggests_names
def retrying(
    policy: Any = RetryPolicy(),
    *,
    on_retry: OnRetry | None = None,
    on_success: OnSuccess | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    guards: "Iterable[Guard]" = (),
) -> Any:
    """Decorate a function, or a coroutine function, so that each call of it is retried.

    Use it as ``@retrying``, as ``@retrying(policy)``, or with the options of `retry`. The decorated
    function has two methods: ``fn.using(clock=…, policy=…)`` returns the same function with other
    options, and ``fn.stats()`` returns statistics of its calls.

    Raises:
        TypeError: the decorated function is a generator function, whose body runs only when
            somebody iterates over it, and cannot be restarted; or an argument is unknown.
    """
    if not isinstance(policy, RetryPolicy) and callable(policy):
        return retrying()(policy)
    checked_policy(policy)
    options = RetryOptions(policy, on_retry, on_success, cancel, clock, timer, guards)
    return functools.partial(_decorate, options=options)


def _decorate(fn: Callable[..., Any], options: RetryOptions) -> Any:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        msg = (
            f"{fn.__qualname__} is a generator function: its body runs while somebody "
            "iterates, too late to be retried; retry the function that consumes it"
        )
        raise TypeError(msg)
    counter = _CallCounter()
    decorated: Any
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            call = Call(options, counter.count, job=fn, args=args, kwargs=kwargs)
            return await run_attempts_async(functools.partial(fn, *args, **kwargs), call)

        decorated = call_async
    else:

        @functools.wraps(fn)
        def call_here(*args: Any, **kwargs: Any) -> Any:
            call = Call(options, counter.count, job=fn, args=args, kwargs=kwargs)
            return run_attempts(functools.partial(fn, *args, **kwargs), call)

        decorated = call_here

    def using(**changes: Any) -> Any:
        for name in changes:
            if name not in _OPTIONS:
                raise TypeError(unknown_argument("using", name, _OPTIONS))
        return _decorate(fn, replace(options, **changes))

    decorated.using = using
    decorated.stats = lambda: counter.stats
    return decorated


_OPTIONS = [field.name for field in fields(RetryOptions)]
