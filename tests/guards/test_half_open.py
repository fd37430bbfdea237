"""CircuitBreaker, half open: what other breakers got wrong."""

import asyncio
import math
import threading

import pytest
from helpers.circuits import opened, run
from helpers.guards import SUCCESS, failure

from retryexec.guards import Outcome


def test_one_probe_goes_and_no_more() -> None:
    _guard, asker = opened()
    asker.clock.time = 10.0
    told = [asker.ask() for _ in range(5)]
    assert told == [None, 20.0, math.inf, math.inf, math.inf]


def test_no_more_than_the_permitted_go_when_many_threads_ask_at_the_switch() -> None:
    _guard, asker = opened(probes=3)
    asker.clock.time = 10.0
    together = threading.Barrier(8, timeout=10)
    told: list[float | None] = []

    def ask() -> None:
        together.wait()
        told.extend(asker.ask() for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(None) == 3
    assert len([t for t in told if t == 20.0]) == 1


def test_a_probe_that_succeeds_closes_it() -> None:
    guard, asker = opened()
    asker.clock.time = 10.0
    run(asker, SUCCESS)
    assert guard.state == "closed"
    assert [asker.ask() for _ in range(5)] == [None] * 5


def test_a_probe_that_fails_opens_it_again() -> None:
    guard, asker = opened()
    asker.clock.time = 12.0
    probe, parked = asker.request(), asker.request()
    assert [asker.ask(probe), asker.ask(parked)] == [None, 22.0]
    asker.clock.time = 13.0
    guard.release(probe, failure())
    assert guard.state == "open"
    assert asker.woken[-1] is parked
    assert asker.ask(parked) == 23.0


def test_all_probes_have_to_succeed() -> None:
    guard, asker = opened(probes=2)
    asker.clock.time = 10.0
    first, second = asker.request(), asker.request()
    assert [asker.ask(first), asker.ask(second), asker.ask()] == [None, None, 20.0]
    guard.release(first, SUCCESS)
    assert guard.state == "half_open"
    assert asker.ask() == math.inf
    guard.release(second, SUCCESS)
    assert guard.state == "closed"


def test_one_probe_of_several_that_fails_opens_it_at_once() -> None:
    guard, asker = opened(probes=2)
    asker.clock.time = 10.0
    first, second = asker.request(), asker.request()
    assert [asker.ask(first), asker.ask(second)] == [None, None]
    guard.release(first, failure())
    assert guard.state == "open"
    guard.release(second, SUCCESS)
    assert guard.state == "open"


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome(KeyboardInterrupt(), succeeded=False, seconds=0.0),
        Outcome(asyncio.CancelledError(), succeeded=False, seconds=0.0),
    ],
    ids=["not started", "interrupted", "cancelled"],
)
def test_the_permit_of_a_probe_without_an_outcome_goes_to_the_next(outcome: Outcome | None) -> None:
    guard, asker = opened()
    asker.clock.time = 10.0
    probe, parked = asker.request(), asker.request()
    assert [asker.ask(probe), asker.ask(parked)] == [None, 20.0]
    guard.release(probe, outcome)
    assert guard.state == "half_open"
    assert asker.woken[-1] is parked
    assert asker.ask(parked) is None


def test_a_probe_whose_exception_does_not_trip_it_closes_it() -> None:
    guard, asker = opened(trips_on=OSError)
    asker.clock.time = 10.0
    run(asker, failure(ValueError("a bad record")))
    assert guard.state == "closed"


@pytest.mark.parametrize(("attempt_timeout", "lost_at"), [(None, 20.0), (3.0, 20.0), (25.0, 35.0)])
def test_a_probe_that_never_returns_blocks_nobody_for_ever(
    attempt_timeout: float | None, lost_at: float
) -> None:
    guard, asker = opened()
    asker.clock.time = 10.0
    lost = asker.request(attempt_timeout=attempt_timeout)
    parked = asker.request()
    assert [asker.ask(lost), asker.ask(parked)] == [None, lost_at]
    assert asker.ask_at(lost_at, parked) is None
    guard.release(lost, failure())  # it returns after all: too late to count
    assert guard.state == "half_open"
    guard.release(parked, SUCCESS)
    assert guard.state == "closed"


def test_the_first_in_the_line_is_told_when_a_probe_counts_as_lost() -> None:
    """Whoever becomes the first when the first has gone as a probe is asked, and told."""
    _guard, asker = opened()
    first, second = asker.request(), asker.request()
    assert [asker.ask(first), asker.ask(second)] == [10.0, math.inf]
    assert asker.ask_at(10.0, first) is None
    assert asker.woken[-1] is second
    assert asker.ask(second) == 20.0


def test_another_executor_probes_if_the_first_is_that_of_a_busy_one() -> None:
    """Nobody else asks meanwhile, and nobody wakes the second: so it is told when to ask."""
    guard, asker = opened()
    busy, idle = asker.request(), asker.request()
    idle.origin = "another executor"
    assert asker.ask(busy) == 10.0
    due = asker.ask(idle)
    asked = 0
    while due is not None:
        assert asker.clock.time < due < 13.0
        due = asker.ask_at(due, idle)
        asked += 1
    assert (asked, guard.state) == (2, "half_open")
    guard.release(idle, SUCCESS)
    assert guard.state == "closed"


def test_the_second_of_one_executor_is_not_asked_in_vain() -> None:
    guard, asker = opened()
    first, second, third = requests = [asker.request() for _ in range(3)]
    third.origin = "another executor"
    for request in requests:
        asker.ask(request)
    asker.woken.clear()
    guard.release(first, None)
    assert asker.woken == [second, third]
    assert asker.ask(second) == 10.0
    assert asker.ask(third) == pytest.approx(11.0)


def test_a_first_that_does_not_come_is_passed_by() -> None:
    """Its executor may be paused, while others share the breaker."""
    _guard, asker = opened()
    absent, second = asker.request(), asker.request()
    assert [asker.ask(absent), asker.ask(second)] == [10.0, math.inf]
    newcomer = asker.request()
    assert asker.ask_at(10.5, newcomer) == math.inf
    assert asker.ask_at(12.0, newcomer) == math.inf
    assert second in asker.woken
    assert asker.ask(second) is None
