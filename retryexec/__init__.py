"""A `concurrent.futures.Executor` that tries each job again until it succeeds or must fail."""

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
from retryexec._core.job import RetryFuture
from retryexec._errors import (
    Cancelled,
    MovedError,
    PendingLimitError,
    PermanentError,
    RetryAfter,
    ShutdownError,
)
from retryexec._events import GiveUp, Retry, ShutdownReport, Stats, Success
from retryexec._executor import Retriable, RetryingExecutor
from retryexec._journal_api import Recovered
from retryexec._outcome import Failure, StopReason
from retryexec._policy import RetryPolicy
from retryexec._retry import retry, retry_async
from retryexec._retrying import CallStats, LastCall, RetriedFunction, retrying
from retryexec._ticker import EventTimer, Ticker, Timer

__all__ = [
    "Attempt",
    "Backoff",
    "CallStats",
    "CancelToken",
    "Cancelled",
    "Clock",
    "ConstantBackoff",
    "DecorrelatedJitterBackoff",
    "EqualJitterBackoff",
    "EventTimer",
    "ExponentialBackoff",
    "Failure",
    "FibonacciBackoff",
    "FullJitterBackoff",
    "GiveUp",
    "LastCall",
    "LinearBackoff",
    "MovedError",
    "PendingLimitError",
    "PermanentError",
    "Recovered",
    "Retriable",
    "RetriedFunction",
    "Retry",
    "RetryAfter",
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
