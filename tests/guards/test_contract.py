"""What all guards have in common."""

import gc
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker, failure

from retryexec import (
    AttemptRequest,
    CircuitBreaker,
    ConcurrencyLimit,
    RateLimit,
    RetryBudget,
    retry,
)

GUARDS: dict[str, Callable[[], Any]] = {
    "RateLimit": lambda: RateLimit(1),
    "RateLimit with keys": lambda: RateLimit(1, key=lambda *_: "all"),
    "ConcurrencyLimit": lambda: ConcurrencyLimit(1),
    "ConcurrencyLimit with keys": lambda: ConcurrencyLimit(1, key=lambda *_: "all"),
    "CircuitBreaker": lambda: half_open(CircuitBreaker(minimum_attempts=1, open_for=1.0)),
    "RetryBudget": lambda: RetryBudget(0.0, reserve=1.0),
}
every_guard = pytest.mark.parametrize("make", GUARDS.values(), ids=GUARDS)


def half_open(breaker: CircuitBreaker) -> CircuitBreaker:
    """Open *breaker* one second before 0 s."""
    asker = Asker(breaker)
    request = asker.request()
    asker.ask_at(-1.0, request)
    breaker.release(request, failure())
    return breaker


def retries(asker: Asker, count: int) -> list[AttemptRequest]:
    return [asker.request(number=2) for _ in range(count)]


@every_guard
def test_asked_again_it_gives_the_same_permit(make: Callable[[], Any]) -> None:
    asker = Asker(make())
    goes, waits = retries(asker, 2)
    assert [asker.ask(goes) for _ in range(3)] == [None] * 3
    told = asker.ask(waits)
    assert told is not None
    assert [asker.ask(goes), asker.ask(waits)] == [None, told]


@every_guard
def test_what_holds_nothing_may_be_released(make: Callable[[], Any]) -> None:
    asker = Asker(make())
    stranger, goes, waits = retries(asker, 3)
    for outcome in (None, SUCCESS):
        asker.guard.release(stranger, outcome)
    assert asker.ask(goes) is None
    assert asker.ask(waits) is not None
    for _ in range(2):
        asker.guard.release(waits, None)
        asker.guard.release(goes, None)
    assert asker.ask(stranger) is None


@every_guard
def test_a_permit_that_was_not_used_goes_to_the_next(make: Callable[[], Any]) -> None:
    asker = Asker(make())
    goes, waits = retries(asker, 2)
    assert asker.ask(goes) is None
    asker.guard.release(goes, None)
    assert asker.ask(waits) is None
    assert asker.ask(goes) is not None


@every_guard
def test_it_keeps_nothing_of_those_that_have_ended(make: Callable[[], Any]) -> None:
    guard = make()
    asker = Asker(guard)
    requests = retries(asker, 10)
    told = [asker.ask(request) for request in requests]
    assert told[0] is None
    assert all(time is not None for time in told[1:])
    for request in requests:
        guard.release(request, SUCCESS if request is requests[0] else None)
    assert ": 0 held" in repr(guard) or ", 0 held" in repr(guard)
    asker.woken.clear()
    dead = weakref.ref(asker)
    del asker, requests, request
    gc.collect()
    assert dead() is None


@every_guard
def test_who_waits_is_woken_or_has_a_time_whoever_leaves(make: Callable[[], Any]) -> None:
    """Of those that wait, one at least is told a time, or is woken, or another has a permit."""
    asker = Asker(make())
    requests = retries(asker, 6)
    told = {request: asker.ask(request) for request in requests}
    while len(told) > 1:
        leaves = next(iter(told))
        asker.guard.release(leaves, None)
        del told[leaves]
        woken, asker.woken = asker.woken, []
        for request in woken:
            if request in told:
                told[request] = asker.ask(request)
        assert any(time is None or time < math.inf for time in told.values())


@every_guard
def test_many_threads_leave_nothing_behind(make: Callable[[], Any]) -> None:
    guard = make()
    together = threading.Barrier(6, timeout=10)

    def ask() -> None:
        asker = Asker(guard)
        together.wait()
        for request in retries(asker, 200):
            went = asker.ask(request) is None
            guard.release(request, SUCCESS if went else None)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ": 0 held" in repr(guard) or "0 running, 0 held" in repr(guard)


def test_a_job_that_is_released_while_it_is_asked_holds_nothing() -> None:
    """Another thread cancels it, between the look for its key and the lock."""
    limit: Any = ConcurrencyLimit(1, key=lambda: "one")
    asker = Asker(limit)
    request = asker.request()

    class Lock:
        taken = 0

        def __enter__(self) -> None:
            self.taken += 1
            if self.taken == 2:  # by now it belongs to the state of its key
                limit._held.pop(request)

        def __exit__(self, *_: object) -> None: ...

    limit._lock = Lock()
    assert asker.ask(request) == math.inf
    assert asker.ask() is None


def test_one_that_is_woken_before_it_waits_does_not_wait() -> None:
    class Wakes:
        asked = 0

        def admit(self, request: AttemptRequest) -> float | None:
            self.asked += 1
            request.wake()
            return None if self.asked > 3 else math.inf

        def release(self, request: AttemptRequest, outcome: object) -> None: ...

    wakes = Wakes()
    assert retry(int, guards=[wakes]) == 0
    assert wakes.asked == 4
