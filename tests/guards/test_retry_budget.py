"""RetryBudget: retries are a share of first attempts, and are put off beyond that."""

import math
from datetime import timedelta
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker, SetClock
from hypothesis import given
from hypothesis import strategies as st

from retryexec.guards import AttemptRequest, RetryBudget


def first(asker: Asker, times: int = 1) -> None:
    """Let so many first attempts go."""
    for _ in range(times):
        request = asker.request()
        assert asker.ask(request) is None
        asker.guard.release(request, SUCCESS)


def retry(asker: Asker) -> float | None:
    return asker.ask(asker.request(number=2))


def test_first_attempts_always_go() -> None:
    first(Asker(RetryBudget(0.0, reserve=0.1)), times=1000)


def test_retries_are_a_share_of_first_attempts() -> None:
    asker = Asker(RetryBudget(0.2, reserve=0.0))
    assert retry(asker) == math.inf
    asker = Asker(RetryBudget(0.2, reserve=0.0))
    first(asker, 10)
    assert [retry(asker) for _ in range(4)] == [None, None, math.inf, math.inf]


def test_a_retry_that_waits_for_first_attempts_is_not_passed_by_and_forgotten() -> None:
    """It is told no time, and so it is not one that was woken and does not come."""
    asker = Asker(RetryBudget(0.5, reserve=0.0))
    waiting = [asker.request(number=2) for _ in range(3)]
    assert [asker.ask_at(10.0 * i, waiting[i]) for i in range(3)] == [math.inf] * 3
    assert asker.woken == []
    first(asker, 2)
    assert asker.woken == waiting[:1]
    assert [asker.ask(request) for request in waiting] == [None, math.inf, math.inf]


def test_a_share_that_a_float_cannot_hold_exactly_adds_up() -> None:
    for ratio in (0.1, 0.3, 0.7):
        asker = Asker(RetryBudget(ratio, reserve=0.0))
        first(asker, 1000)
        assert [retry(asker) for _ in range(1001)].count(None) == round(1000 * ratio)


def test_the_reserve_lets_so_many_go_each_second() -> None:
    asker = Asker(RetryBudget(0.0, reserve=4.0))
    waiting = asker.request(number=2)
    assert [retry(asker), asker.ask(waiting)] == [None, 0.25]
    assert asker.ask_at(0.25, waiting) is None
    assert retry(asker) == 0.5


def test_an_unused_reserve_does_not_add_up() -> None:
    asker = Asker(RetryBudget(0.0, reserve=4.0))
    retry(asker)
    asker.clock.time = 1000.0
    assert [retry(asker), retry(asker)] == [None, 1000.25]


def test_first_attempts_count_for_the_window() -> None:
    asker = Asker(RetryBudget(0.5, reserve=0.0, window=10.0))
    first(asker, 4)
    asker.clock.time = 9.0
    assert retry(asker) is None
    asker.clock.time = 10.0
    assert retry(asker) == math.inf


def test_those_put_off_go_one_by_one_and_only_the_first_has_a_time() -> None:
    asker = Asker(RetryBudget(0.0, reserve=2.0))
    retry(asker)
    requests = [asker.request(number=3) for _ in range(100)]
    assert [asker.ask(request) for request in requests] == [0.5] + [math.inf] * 99
    for n, request in enumerate(requests):
        assert asker.ask_at((n + 1) * 0.5, request) is None
        assert asker.woken == requests[1 : n + 2]
        if n < 99:
            assert asker.ask(requests[n + 1]) == (n + 2) * 0.5


def test_a_first_attempt_wakes_the_one_that_waits_for_it() -> None:
    asker = Asker(RetryBudget(0.5, reserve=0.0))
    waiting = asker.request(number=2)
    assert asker.ask(waiting) == math.inf
    first(asker)
    assert asker.woken == []
    first(asker)
    assert asker.woken == [waiting]
    assert asker.ask(waiting) is None


def test_a_newcomer_does_not_overtake() -> None:
    asker = Asker(RetryBudget(0.5, reserve=0.0))
    waiting = asker.request(number=2)
    asker.ask(waiting)
    first(asker, 2)
    assert retry(asker) == math.inf
    assert asker.ask(waiting) is None


def test_a_cancelled_one_leaves_the_line() -> None:
    asker = Asker(RetryBudget(0.0, reserve=2.0))
    retry(asker)
    cancelled, waiting = asker.request(number=2), asker.request(number=2)
    assert [asker.ask(cancelled), asker.ask(waiting)] == [0.5, math.inf]
    asker.guard.release(cancelled, None)
    assert asker.woken == [waiting]
    assert asker.ask(waiting) == 0.5


def test_a_new_job_in_the_place_of_one_that_waits_goes_as_a_first_attempt() -> None:
    asker = Asker(RetryBudget(0.5, reserve=0.0))
    replaced, behind = asker.request(number=2), asker.request(number=2)
    assert [asker.ask(replaced), asker.ask(behind)] == [math.inf, math.inf]
    replaced.number = 1
    assert asker.ask(replaced) is None
    assert asker.woken == [behind]
    asker.guard.release(replaced, None)
    first(asker)
    assert asker.ask(behind) == math.inf


def test_what_did_not_start_is_given_back() -> None:
    asker = Asker(RetryBudget(0.5, reserve=0.0))
    first(asker, 2)
    held = asker.request(number=2)
    assert asker.ask(held) is None
    asker.guard.release(held, None)
    assert asker.ask(held) is None
    unused = [asker.request() for _ in range(2)]
    for request in unused:
        asker.ask(request)
        asker.guard.release(request, None)
    assert retry(asker) == math.inf


def test_one_that_a_later_guard_held_back_does_not_queue_again() -> None:
    asker = Asker(RetryBudget(0.0, reserve=1.0))
    held, other = asker.request(number=2), asker.request(number=2)
    assert [asker.ask(held), asker.ask(other)] == [None, 1.0]
    asker.guard.release(held, None)
    assert asker.woken == [other]
    assert asker.ask(held) is None
    assert asker.ask(other) == 1.0


class Played:
    """Retries of one budget, asked for as an executor would."""

    def __init__(self, guard: RetryBudget) -> None:
        self.clock = SetClock()
        self.asker = Asker(guard, self.clock)
        self.started: dict[AttemptRequest, float] = {}
        self.due: dict[AttemptRequest, float] = {}
        self.asks = 0

    def first(self) -> None:
        first(self.asker)
        self.ask_for_the_woken()

    def retry(self) -> None:
        self.ask(self.asker.request(number=2))

    def ask(self, request: AttemptRequest) -> None:
        if request in self.started:  # it was woken as it was due
            return
        self.asks += 1
        told = self.asker.ask(request)
        if told is None:
            self.due.pop(request, None)
            self.started[request] = self.clock.time
        else:
            assert told > self.clock.time
            self.due[request] = told
        self.ask_for_the_woken()

    def ask_for_the_woken(self) -> None:
        woken, self.asker.woken = self.asker.woken, []
        for request in woken:
            self.ask(request)

    def finish(self) -> None:
        """Go on until all have started."""
        while self.due:
            request = min(self.due, key=lambda r: self.due[r])
            self.clock.time = max(self.clock.time, self.due[request])
            self.ask(request)


@given(
    st.lists(st.tuples(st.sampled_from(["first", "retry"]), st.sampled_from([0.0, 0.1, 1.5]))),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.5, 3.0]),
)
def test_no_more_than_the_share_and_the_reserve_and_all_go_in_the_end(
    steps: list[tuple[str, float]], ratio: float, reserve: float
) -> None:
    played = Played(RetryBudget(ratio, reserve=reserve, window=5.0))
    firsts: list[float] = []
    for what, pause in steps:
        if what == "first":
            firsts.append(played.clock.time)
        getattr(played, what)()
        played.clock.time += pause
    played.finish()
    retries = list(played.started.values())
    assert len(retries) == len(steps) - len(firsts)
    assert played.asks <= 4 * len(retries)
    for i, begin in enumerate(retries):
        for j in range(i, len(retries)):
            paid = sum(begin - 5.0 <= time <= retries[j] for time in firsts)
            assert j - i + 1 <= 1.001 + ratio * paid + reserve * (retries[j] - begin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": -0.1}, "ratio takes a finite number from 0 up"),
        ({"ratio": math.nan}, "ratio takes a finite number"),
        ({"ratio": True}, "ratio takes a number"),
        ({"reserve": -1}, "reserve takes a finite number from 0 up"),
        ({"reserve": math.inf}, "reserve takes a finite number"),
        ({"window": 0}, "window takes seconds above 0"),
        ({"ratio": 0, "reserve": 0}, "no retry would ever start"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RetryBudget(**arguments)


def test_it_says_what_it_is() -> None:
    budget = RetryBudget(window=timedelta(seconds=10))
    assert budget.name == "RetryBudget(0.2)"
    assert repr(budget) == "<RetryBudget(0.2): 0 held>"
