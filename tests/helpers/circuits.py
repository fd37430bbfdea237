"""Circuit breakers under test, which two failures open."""

from typing import Any

from helpers.guards import Asker, failure
from retryexec.guards import CircuitBreaker, Outcome


def breaker(**terms: Any) -> tuple[CircuitBreaker, Asker]:
    """Return a breaker that two failures open for ten seconds, and what asks it."""
    defaults = {"minimum_attempts": 2, "open_for": 10.0, "window": 60.0}
    guard = CircuitBreaker(**{**defaults, **terms})
    return guard, Asker(guard)


def run(asker: Asker, outcome: Outcome | None) -> None:
    """Let one attempt go and end."""
    request = asker.request()
    assert asker.ask(request) is None
    asker.guard.release(request, outcome)


def opened(**terms: Any) -> tuple[CircuitBreaker, Asker]:
    """Return a breaker that has just opened, at 0 s."""
    guard, asker = breaker(**terms)
    for _ in range(2):
        run(asker, failure())
    assert guard.state == "open"
    return guard, asker
