"""A KeyboardInterrupt at every moment of a guarded `retry` in the main thread."""

from contextvars import copy_context

import pytest
from helpers.guards import Asker
from helpers.strikes import Strike

from retryexec import (
    CircuitBreaker,
    ConcurrencyLimit,
    RateLimit,
    RetryBudget,
    retry,
)


class Played:
    """A call of `retry`; while its attempt runs, another one asks."""

    def __init__(self) -> None:
        self.limit = ConcurrencyLimit(1, key=lambda: "one")
        self.asker = Asker(self.limit)
        self.waiting = self.asker.request()

    def __call__(self) -> None:
        guards = [self.limit, CircuitBreaker(), RetryBudget(), RateLimit(1e9)]
        retry(self.attempt, guards=guards)

    def attempt(self) -> None:
        self.asker.ask(self.waiting)


def stuck_after_a_strike(at: int, left: list[str]) -> bool:
    """Strike at that moment; note it if a permit was left behind, or one waits and is not woken."""
    played = Played()
    strike = Strike(at)
    # In a context that goes: struck as it begins or ends, a call may leave its variable set there.
    struck = copy_context().run(strike, played)
    waits = "1 held" in repr(played.limit) and played.waiting not in played.asker.woken
    if waits or played.asker.ask(played.waiting) is not None:
        left.append(f"{at}: {strike.where}")
    return struck


@pytest.mark.slow("it calls retry some four hundred times, each under trace")
def test_an_interrupt_leaves_neither_a_permit_behind_nor_anybody_waiting() -> None:
    at = 1
    left: list[str] = []
    while stuck_after_a_strike(at, left):
        at += 1
    assert left == []
    assert at > 200
