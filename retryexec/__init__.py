"""A `concurrent.futures.Executor` that tries each job again until it succeeds or must fail."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from retryexec.guards import (
        AttemptRequest,
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


def __getattr__(name: str) -> Any:
    """Import a guard when it is first used: most programs use none (PEP 562)."""
    if name in __all__:
        from retryexec import guards

        return getattr(guards, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
