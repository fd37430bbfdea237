"""A `concurrent.futures.Executor` that tries each job again until it succeeds or must fail."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retryexec._attempt import Attempt, current_attempt
    from retryexec._backoff import (
        Backoff,
        ConstantBackoff,
        DecorrelatedJitterBackoff,
        EqualJitterBackoff,
        ExponentialBackoff,
        FibonacciBackoff,
        FullJitterBackoff,
        LinearBackoff,
        StopBackoff,
        ZeroBackoff,
    )
    from retryexec._cancel import CancelToken
    from retryexec._clock import Clock
    from retryexec._core.retry_future import RetryFuture
    from retryexec._core.steering import PendingJob
    from retryexec._errors import (
        Cancelled,
        ExecutorShutdownError,
        MovedError,
        PendingLimitError,
        PermanentError,
        RetryAfter,
        ShutdownError,
    )
    from retryexec._events import GiveUp, Retry, ShutdownReport, Stats, Success
    from retryexec._executor import RetryingExecutor
    from retryexec._journal_api import Recovered
    from retryexec._outcome import Failure, StopReason
    from retryexec._policy import RetryPolicy
    from retryexec._retriable import Retriable
    from retryexec._retry import retry, retry_async
    from retryexec._retrying import CallStats, LastCall, RetriedFunction, retrying
    from retryexec._ticker import EventTimer, Ticker, Timer
    from retryexec.guards import (
        AttemptRequest,
        BreakerState,
        CircuitBreaker,
        ConcurrencyLimit,
        Guard,
        Outcome,
        RateLimit,
        RetryBudget,
    )

__all__ = [
    "Attempt",
    "AttemptRequest",
    "Backoff",
    "BreakerState",
    "CallStats",
    "CancelToken",
    "Cancelled",
    "CircuitBreaker",
    "Clock",
    "ConcurrencyLimit",
    "ConstantBackoff",
    "DecorrelatedJitterBackoff",
    "EqualJitterBackoff",
    "EventTimer",
    "ExecutorShutdownError",
    "ExponentialBackoff",
    "Failure",
    "FibonacciBackoff",
    "FullJitterBackoff",
    "GiveUp",
    "Guard",
    "LastCall",
    "LinearBackoff",
    "MovedError",
    "Outcome",
    "PendingJob",
    "PendingLimitError",
    "PermanentError",
    "RateLimit",
    "Recovered",
    "Retriable",
    "RetriedFunction",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "RetryFuture",
    "RetryPolicy",
    "RetryingExecutor",
    "ShutdownError",
    "ShutdownReport",
    "Stats",
    "StopBackoff",
    "StopReason",
    "Success",
    "Ticker",
    "Timer",
    "ZeroBackoff",
    "current_attempt",
    "retry",
    "retry_async",
    "retrying",
]

# Imported when first used: a program that only retries a call needs no pool, and one that only
# mentions the package needs nothing at all.
_HOMES = {
    "Attempt": "_attempt",
    "AttemptRequest": "guards",
    "Backoff": "_backoff",
    "BreakerState": "guards",
    "CallStats": "_retrying",
    "CancelToken": "_cancel",
    "Cancelled": "_errors",
    "CircuitBreaker": "guards",
    "Clock": "_clock",
    "ConcurrencyLimit": "guards",
    "ConstantBackoff": "_backoff",
    "DecorrelatedJitterBackoff": "_backoff",
    "EqualJitterBackoff": "_backoff",
    "EventTimer": "_ticker",
    "ExecutorShutdownError": "_errors",
    "ExponentialBackoff": "_backoff",
    "Failure": "_outcome",
    "FibonacciBackoff": "_backoff",
    "FullJitterBackoff": "_backoff",
    "GiveUp": "_events",
    "Guard": "guards",
    "LastCall": "_retrying",
    "LinearBackoff": "_backoff",
    "MovedError": "_errors",
    "Outcome": "guards",
    "PendingJob": "_core.steering",
    "PendingLimitError": "_errors",
    "PermanentError": "_errors",
    "RateLimit": "guards",
    "Recovered": "_journal_api",
    "Retriable": "_retriable",
    "RetriedFunction": "_retrying",
    "Retry": "_events",
    "RetryAfter": "_errors",
    "RetryBudget": "guards",
    "RetryFuture": "_core.retry_future",
    "RetryPolicy": "_policy",
    "RetryingExecutor": "_executor",
    "ShutdownError": "_errors",
    "ShutdownReport": "_events",
    "Stats": "_events",
    "StopBackoff": "_backoff",
    "StopReason": "_outcome",
    "Success": "_events",
    "Ticker": "_ticker",
    "Timer": "_ticker",
    "ZeroBackoff": "_backoff",
    "current_attempt": "_attempt",
    "retry": "_retry",
    "retry_async": "_retry",
    "retrying": "_retrying",
}

if not TYPE_CHECKING:  # else type checkers would believe in any name

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
