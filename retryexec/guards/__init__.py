"""Guards: what protects the other side from too many attempts.

Given as ``guards=[…]`` to an executor, `retry`, `retry_async` or `retrying`.
"""

from retryexec.guards._circuit_breaker import BreakerState, CircuitBreaker
from retryexec.guards._concurrency_limit import ConcurrencyLimit
from retryexec.guards._guard import AttemptRequest, Guard, Outcome
from retryexec.guards._rate_limit import RateLimit
from retryexec.guards._retry_budget import RetryBudget

__all__ = [
    "AttemptRequest",
    "BreakerState",
    "CircuitBreaker",
    "ConcurrencyLimit",
    "Guard",
    "Outcome",
    "RateLimit",
    "RetryBudget",
]
