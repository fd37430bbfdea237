"""CircuitBreaker: parks while open, probes half open, closes at a ramp, and is never stuck."""

import asyncio
import itertools
import logging
import math
import threading
from datetime import timedelta
from typing import Any

import pytest
from helpers.circuits import breaker, opened, run
from helpers.guards import SUCCESS, Asker, failure

from retryexec.guards import AttemptRequest, CircuitBreaker, Outcome
from retryexec.guards._window import Window

# ---- closed


def test_it_opens_at_the_rate_of_failures_among_enough_attempts() -> None:
    guard, asker = breaker(failure_rate=0.3, minimum_attempts=10)
    for outcome in [failure()] * 3 + [SUCCESS] * 6:
        run(asker, outcome)
    assert guard.state == "closed"
    run(asker, SUCCESS)  # the tenth
    assert guard.state == "open"


def test_a_rate_that_is_met_exactly_opens_it() -> None:
    for rate in (0.1, 0.3, 0.7):
        guard, asker = breaker(failure_rate=rate, minimum_attempts=10)
        failures = round(rate * 10)
        for outcome in [SUCCESS] * (10 - failures) + [failure()] * (failures - 1):
            run(asker, outcome)
        assert guard.state == "closed"
        run(asker, failure())
        assert guard.state == "open"


def test_without_a_failure_no_rate_opens_it() -> None:
    guard, asker = breaker(failure_rate=1e-12)
    for _ in range(5):
        run(asker, SUCCESS)
    assert guard.state == "closed"


def test_failures_count_for_the_window() -> None:
    guard, asker = breaker(window=5.0)
    run(asker, failure())
    asker.clock.time = 5.0
    run(asker, failure())
    assert guard.state == "closed"
    asker.clock.time = 9.9
    run(asker, failure())
    assert guard.state == "open"


def test_a_window_of_very_many_attempts_stays_small_and_right() -> None:
    window = Window(10.0)
    for i in range(100_000):
        window.add(i / 1000, failed=i % 10 < 4)
    assert 9900 <= window.attempts <= 10_000
    assert window.failures / window.attempts == pytest.approx(0.4, abs=0.001)
    assert len(window) <= 512


@pytest.mark.parametrize(
    ("trips_on", "exception", "counts"),
    [
        (Exception, ValueError(), True),
        (OSError, ValueError(), False),
        (OSError, TimeoutError(), True),
        ((OSError, KeyError), KeyError(), True),
        (lambda error: "down" in str(error), ValueError("down"), True),
        (lambda error: "down" in str(error), ValueError("no"), False),
    ],
)
def test_trips_on_says_what_is_a_failure(trips_on: Any, exception: Exception, counts: bool) -> None:
    guard, asker = breaker(trips_on=trips_on)
    for _ in range(2):
        run(asker, failure(exception))
    assert (guard.state == "open") == counts


def test_a_refused_result_is_an_answer() -> None:
    guard, asker = breaker()
    for _ in range(5):
        run(asker, Outcome(None, succeeded=False, seconds=0.0))
    assert guard.state == "closed"


@pytest.mark.parametrize(
    "exception", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()], ids=repr
)
def test_an_attempt_that_was_interrupted_says_nothing(exception: BaseException) -> None:
    guard, asker = breaker(minimum_attempts=1)
    run(asker, Outcome(exception, succeeded=False, seconds=0.0))
    run(asker, failure())
    assert guard.state == "open"


def test_what_trips_on_raises_is_logged_and_the_permit_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(error: BaseException) -> bool:
        raise ValueError(error)

    _guard, asker = opened()
    half_open, asker = breaker(trips_on=broken)
    half_open.open()
    half_open.close()
    run(asker, failure())
    assert half_open.state == "closed"
    assert "trips_on failed" in caplog.text
    assert repr(half_open) == "<CircuitBreaker closed: 0 held>"


# ---- open


def test_while_it_is_open_only_the_first_in_the_line_is_told_a_time() -> None:
    _, asker = opened()
    requests = [asker.request() for _ in range(1000)]
    assert [asker.ask(request) for request in requests] == [10.0] + [math.inf] * 999
    assert asker.woken == []
    asker.guard.release(requests[0], None)  # it is cancelled
    assert asker.woken == [requests[1]]
    assert asker.ask(requests[1]) == 10.0


def test_time_alone_half_opens_it() -> None:
    guard, asker = opened()
    asker.clock.time = 9.9
    assert guard.state == "open"
    asker.clock.time = 10.0
    assert guard.state == "half_open"
    assert guard.state.name == "HALF_OPEN"


def test_an_attempt_begun_before_the_opening_says_nothing_later() -> None:
    guard, asker = breaker()
    early = [asker.request() for _ in range(6)]
    for request in early:
        asker.ask(request)
    for request in early[:2]:
        guard.release(request, failure())
    assert guard.state == "open"
    guard.release(early[2], SUCCESS)
    assert guard.state == "open"
    asker.clock.time = 10.0
    probe = asker.request()
    assert asker.ask(probe) is None
    guard.release(early[3], failure())
    assert guard.state == "half_open"
    guard.release(probe, SUCCESS)
    for request in early[4:]:
        guard.release(request, failure())
    assert guard.state == "closed"


# ---- closed again: the ramp


def closed_with(parked: int) -> tuple[Asker, list[AttemptRequest]]:
    """Return what asks a breaker that closed at 10 s, and the requests that it has parked."""
    guard, asker = opened()
    requests = [asker.request() for _ in range(parked + 1)]
    for request in requests:
        asker.ask(request)
    assert asker.ask_at(10.0, requests[0]) is None
    asker.woken.clear()
    guard.release(requests[0], SUCCESS)
    assert guard.state == "closed"
    return asker, requests[1:]


def drained(asker: Asker) -> list[float]:
    """Ask for those that are woken, and those that are due; return when they went."""
    went: list[float] = []
    due: dict[AttemptRequest, float] = {}
    while asker.woken or due:
        for request in asker.woken:
            due[request] = asker.clock.time
        asker.woken.clear()
        assert len(due) <= 1  # one at a time, and no poll
        request, time = due.popitem()
        told = asker.ask_at(time, request)
        if told is None:
            went.append(time)
            asker.guard.release(request, SUCCESS)
        elif told < math.inf:
            due[request] = told
    return went


def test_what_was_parked_follows_at_a_ramp_in_order() -> None:
    asker, requests = closed_with(parked=1000)
    assert asker.woken == requests[:1]
    went = drained(asker)
    assert len(went) == 1000
    assert went[0] == 10.0
    in_first_second = sum(time < 11.0 for time in went)
    assert 100 <= in_first_second <= 110
    gaps = [b - a for a, b in itertools.pairwise(went)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(gaps))
    assert went[-1] < 20.0


def test_a_newcomer_does_not_overtake_what_was_parked() -> None:
    asker, requests = closed_with(parked=2)
    assert asker.ask() == math.inf
    assert asker.ask(requests[0]) is None
    assert asker.ask(requests[1]) == 10.01
    assert asker.ask() == math.inf


def test_in_the_end_all_go_however_many_come() -> None:
    asker, requests = closed_with(parked=3)
    assert asker.ask_at(70.0, requests[0]) is None
    assert asker.woken[1:] == requests
    assert [asker.ask(request) for request in requests[1:]] == [None, None]
    assert asker.ask() is None


def test_failures_on_the_ramp_open_it_again() -> None:
    asker, requests = closed_with(parked=5)
    guard: Any = asker.guard
    assert asker.ask(requests[0]) is None
    assert asker.ask_at(10.01, requests[1]) is None
    for request in requests[:2]:
        guard.release(request, failure())
    assert guard.state == "open"
    assert asker.ask(requests[2]) == pytest.approx(20.01)


def test_one_that_a_later_guard_held_back_does_not_queue_again() -> None:
    asker, requests = closed_with(parked=2)
    assert asker.ask(requests[0]) is None
    asker.guard.release(requests[0], None)
    assert asker.ask(requests[1]) == 10.01
    assert asker.ask(requests[0]) is None


# ---- by hand


def test_opened_by_hand_it_stays_open_until_it_is_closed_by_hand() -> None:
    guard, asker = breaker()
    parked = asker.request()
    guard.open()
    assert guard.state == "open"
    assert asker.ask_at(1e6, parked) == math.inf
    assert guard.state == "open"
    guard.close()
    assert guard.state == "closed"
    assert asker.woken == [parked]
    assert asker.ask(parked) is None


def test_closing_it_by_hand_forgets_the_failures() -> None:
    guard, asker = breaker()
    run(asker, failure())
    guard.close()
    run(asker, failure())
    assert guard.state == "closed"


def test_a_probe_that_is_out_when_it_is_opened_by_hand_does_not_close_it() -> None:
    guard, asker = opened()
    asker.clock.time = 10.0
    probe = asker.request()
    asker.ask(probe)
    guard.open()
    guard.release(probe, SUCCESS)
    assert guard.state == "open"
    guard.close()


# ---- keys


def test_each_key_has_a_breaker_of_its_own() -> None:
    guard, asker = breaker(key=lambda host: host)
    for _ in range(2):
        request = asker.request("a")
        asker.ask(request)
        guard.release(request, failure())
    assert asker.ask(asker.request("a")) == 10.0
    assert asker.ask(asker.request("b")) is None
    assert guard.state == "open"
    guard.open()
    assert asker.ask(asker.request("c")) == math.inf
    guard.close()
    assert asker.ask(asker.request("c2")) is None


def test_an_idle_key_is_forgotten() -> None:
    guard, asker = breaker(key=lambda host: host, window=5.0)
    for n in range(200):
        request = asker.request(n % 100)
        if asker.ask(request) is None:
            guard.release(request, failure() if n % 3 else SUCCESS)
        else:
            guard.release(request, None)
    assert len(guard.states()) == 100
    asker.clock.time = 100.0
    for _ in range(100):
        request = asker.request("other")
        asker.ask(request)
        guard.release(request, None)
    assert guard.states() == []


# ---- what it says


def test_each_change_of_state_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retryexec")
    guard, asker = opened()
    guard.name = "database"
    asker.clock.time = 10.0
    run(asker, SUCCESS)
    guard.open()
    guard.close()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "CircuitBreaker is open for 10 s: 2 of 2 attempts failed in the last 60 s",
        ),
        ("INFO", "database is half open: 1 may go to see if it answers"),
        ("INFO", "database is closed: what is called has answered"),
        ("WARNING", "database is open until it is closed by hand"),
        ("INFO", "database is closed by hand"),
    ]


def test_no_log_handler_runs_under_the_lock() -> None:
    guard, asker = breaker()
    seen: list[str] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
            other = threading.Thread(target=lambda: seen.append(guard.state))
            other.start()
            other.join(10)

    handler = Asks()
    logging.getLogger("retryexec").addHandler(handler)
    try:
        for _ in range(2):
            run(asker, failure())
    finally:
        logging.getLogger("retryexec").removeHandler(handler)
    assert seen == ["open"]


def test_its_repr_is_a_status_line() -> None:
    guard, asker = opened()
    asker.ask()
    assert repr(guard) == "<CircuitBreaker open: 1 held>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_rate": 0}, "failure_rate takes a number above 0"),
        ({"failure_rate": 1.1}, "failure_rate takes a finite number from 0 to 1"),
        ({"failure_rate": 50}, "failure_rate takes a finite number from 0 to 1"),
        ({"failure_rate": math.nan}, "failure_rate takes a finite number"),
        ({"minimum_attempts": 0}, "minimum_attempts takes a whole number from 1 up"),
        ({"minimum_attempts": 1.5}, "minimum_attempts takes a whole number"),
        ({"window": 0}, "window takes a number above 0"),
        ({"window": -1}, "window takes seconds from 0 up"),
        ({"open_for": 0}, "open_for takes a number above 0"),
        ({"open_for": "30"}, "open_for takes seconds"),
        ({"probes": 0}, "probes takes a whole number from 1 up"),
        ({"trips_on": 3}, "trips_on takes an exception type"),
        ({"trips_on": int}, "trips_on takes an exception type"),
        ({"trips_on": (OSError, 3)}, "trips_on takes an exception type"),
        ({"trips_on": ()}, "trips_on takes an exception type"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        CircuitBreaker(**arguments)


def test_times_may_be_timedeltas() -> None:
    _, asker = opened(open_for=timedelta(seconds=7), window=timedelta(minutes=1))
    assert asker.ask() == 7.0


def test_without_any_attempt_it_is_closed() -> None:
    guard = CircuitBreaker()
    assert guard.state == "closed"
    guard.close()
    assert guard.state == "closed"
