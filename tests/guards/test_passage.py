"""Passage: the guards are asked outermost first, and get back what was not used."""

import asyncio
import functools
import logging
import math
import threading
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker, SetClock

from retryexec.guards import AttemptRequest, ConcurrencyLimit, Guard, Outcome, RateLimit
from retryexec.guards._guard import Passage, checked_guards


class Noting:
    """A guard that answers as it is told, and notes what it is asked."""

    def __init__(self, name: Any, log: list[str], *answers: Any) -> None:
        self.name = name
        self.log = log
        self.answers = list(answers)

    def admit(self, request: AttemptRequest) -> float | None:  # noqa: ARG002
        self.log.append(f"admit {self.name}")
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:  # noqa: ARG002
        self.log.append(f"release {self.name} {'unused' if outcome is None else 'used'}")


def passage(*guards: Guard, clock: SetClock | None = None) -> Passage:
    return Passage(guards, Asker(guards[0], clock).request())


def test_guards_are_asked_outermost_first_and_released_innermost_first() -> None:
    log: list[str] = []
    way = passage(*(Noting(name, log) for name in "abc"))
    assert way.ask() is None
    assert way.held_by is None
    way.settle(SUCCESS)
    assert log == [f"admit {n}" for n in "abc"] + [f"release {n} used" for n in "cba"]


def test_the_first_no_counts_and_permits_are_given_back() -> None:
    log: list[str] = []
    a, b, c = Noting("a", log), Noting("b", log, 7.0), Noting("c", log)
    way = passage(a, b, c)
    assert way.ask() == 7.0
    assert way.held_by == "b"
    assert log == ["admit a", "admit b", "release a unused"]
    assert way.ask() is None
    assert way.held_by is None


def test_what_an_outer_guard_holds_back_keeps_nobody_waiting_at_an_inner_one() -> None:
    """It was given a permit there; by the time it asks, the outer guard says no."""
    log: list[str] = []
    inner = ConcurrencyLimit(1)
    asker = Asker(inner)
    running, other = asker.request(), asker.request()
    inner.admit(running)
    way = passage(Noting("outer", log, None, math.inf), inner)
    assert way.ask() == math.inf
    inner.admit(other)
    inner.release(running, SUCCESS)
    assert way.ask() == math.inf
    assert asker.woken == [other]


def test_a_time_reserved_at_an_inner_guard_is_kept_meanwhile() -> None:
    rate, clock = RateLimit(1), SetClock()
    asker = Asker(rate, clock)
    asker.ask()
    way = passage(Noting("outer", [], None, 0.5), rate, clock=clock)
    assert way.ask() == 1.0
    assert way.ask() == 0.5  # asked early, and the outer guard says no
    assert asker.ask() == 2.0
    assert way.ask() == 1.0


def test_a_second_settle_does_nothing() -> None:
    log: list[str] = []
    way = passage(Noting("a", log))
    way.ask()
    way.settle(None)
    way.settle(SUCCESS)
    assert log == ["admit a", "release a unused"]


def test_a_request_that_is_settled_while_it_is_asked_holds_nothing() -> None:
    limit = ConcurrencyLimit(1)

    class Cancels(Noting):
        def admit(self, request: AttemptRequest) -> float | None:
            way.settle(None)
            return super().admit(request)

    log: list[str] = []
    way = passage(limit, Cancels("b", log), ConcurrencyLimit(1))
    assert way.ask() == math.inf
    assert log == ["release b unused", "admit b", "release b unused"]
    assert Asker(limit).ask() is None
    assert way.ask() == math.inf


@pytest.mark.parametrize("answer", [ValueError("broken"), "soon", math.nan, True, -5.0])
def test_a_guard_that_fails_is_logged_once_and_passed(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    way = passage(Noting("broken", log, answer, answer), Noting("b", log, 1.0))
    with caplog.at_level(logging.ERROR, "retryexec"):
        assert way.ask() == 1.0
        assert way.ask() is None
    assert [record.message for record in caplog.records] == [
        "broken failed to decide; the attempt goes past it"
    ]


def test_what_release_raises_is_logged_and_the_others_are_released(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Noting):
        def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:  # noqa: ARG002
            raise ValueError(self.name)

    log: list[str] = []
    way = passage(Noting("a", log), Broken("b", log))
    way.ask()
    way.settle(SUCCESS)
    assert log[-1] == "release a used"
    assert [record.message for record in caplog.records] == ["b failed to take back a permit"]


def test_an_interrupt_comes_out_and_everything_can_still_be_given_back() -> None:
    log: list[str] = []
    limit = ConcurrencyLimit(1)
    way = passage(limit, Noting("b", log, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        way.ask()
    way.settle(None)
    assert Asker(limit).ask() is None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_in_a_worker_whatever_a_guard_raises_lets_the_attempt_go(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Noting):
        def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:  # noqa: ARG002
            raise error

    way = passage(Broken("broken", [], error()))
    told: list[float | None] = [1.0]

    def ask() -> None:
        told[0] = way.ask()
        way.settle(SUCCESS)

    worker = threading.Thread(target=ask)
    worker.start()
    worker.join()
    assert told == [None]
    assert [record.message for record in caplog.records] == [
        "broken failed to decide; the attempt goes past it",
        "broken failed to take back a permit",
    ]


def test_a_guard_is_called_by_its_name_or_its_types() -> None:
    class Odd(Noting):
        def __getattribute__(self, name: str) -> Any:
            if name == "name":
                raise ValueError
            return super().__getattribute__(name)

        def admit(self, request: AttemptRequest) -> float | None:  # noqa: ARG002
            return 1.0

    log: list[str] = []
    for guard, name in (
        (Noting("my guard", log, 1.0), "my guard"),
        (Noting(3, log, 1.0), "Noting"),
        (Odd("", log, 1.0), "Odd"),
    ):
        way = passage(guard)
        way.ask()
        assert way.held_by == name


@pytest.mark.parametrize(
    ("guard", "name"),
    [
        (RateLimit(100), "RateLimit(100/s)"),
        (RateLimit(5, per=60), "RateLimit(5/60 s)"),
        (ConcurrencyLimit(3), "ConcurrencyLimit(3)"),
    ],
    ids=str,
)
def test_our_guards_say_what_they_are(guard: Any, name: str) -> None:
    assert guard.name == name


def test_a_rate_outside_of_a_limit_loses_no_time() -> None:
    """Ten jobs of five seconds, one at a time, at one a second: the limit alone decides."""
    clock = SetClock()
    guards = RateLimit(1), ConcurrencyLimit(1)
    assert played(guards, clock, jobs=10, seconds=5.0) == [n * 5.0 for n in range(10)]


def test_a_rate_inside_of_a_limit_loses_no_time() -> None:
    clock = SetClock()
    guards = ConcurrencyLimit(1), RateLimit(1)
    assert played(guards, clock, jobs=10, seconds=5.0) == [n * 5.0 for n in range(10)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_limit_beside_a_rate_does_not_slow_it(order: int) -> None:
    """Jobs of half a second: the rate alone decides."""
    clock = SetClock()
    guards = (RateLimit(1), ConcurrencyLimit(1))[::order]
    assert played(guards, clock, jobs=10, seconds=0.5) == [n * 1.0 for n in range(10)]


class Player:
    """Has guards asked for jobs as an executor would."""

    def __init__(self, guards: tuple[Guard, ...], clock: SetClock) -> None:
        self.clock = clock
        self.starts: list[float] = []
        self.asks = 0
        self._guards = guards
        self._due: dict[Passage, float] = {}
        self._ends: dict[Passage, float] = {}
        self._woken: list[Passage] = []

    def submit(self) -> None:
        ways: list[Passage] = []
        wake = functools.partial(self._woken.extend, ways)
        request = AttemptRequest(1, print, now=self.clock.now, wake=wake)
        ways.append(Passage(self._guards, request))
        wake()

    def play(self, seconds: float) -> None:
        """Go on until all have run for *seconds*."""
        while self._woken or self._due or self._ends:
            while self._woken:
                self._ask(self._woken.pop(0), seconds)
            times = (self._due, self._ends)
            self.clock.time = now = min(t for known in times for t in known.values())
            for way in [way for way, time in self._ends.items() if time <= now]:
                del self._ends[way]
                way.settle(SUCCESS)
            self._woken += [way for way, time in self._due.items() if time <= now]

    def _ask(self, way: Passage, seconds: float) -> None:
        self._due.pop(way, None)
        self.asks += 1
        told = way.ask()
        if told is None:
            self.starts.append(self.clock.time)
            self._ends[way] = self.clock.time + seconds
        elif told < math.inf:
            self._due[way] = told


def played(guards: tuple[Guard, ...], clock: SetClock, *, jobs: int, seconds: float) -> list[float]:
    """Play *jobs* that arrive at once and run for *seconds* each; return when they started."""
    player = Player(guards, clock)
    for _ in range(jobs):
        player.submit()
    player.play(seconds)
    assert player.asks <= 6 * jobs
    return player.starts


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        (RateLimit(1), "takes a list of guards: guards="),
        ([RateLimit], "RateLimit is a class"),
        (RateLimit, "guards takes a list of guards"),
        (5, "guards takes a list of guards"),
        ("rate", "guards takes a list of guards"),
        ([5], "which 5 is not"),
        ([None], "which None is not"),
    ],
    ids=str,
)
def test_what_is_not_a_list_of_guards_is_refused(guards: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checked_guards(guards)


def test_one_guard_twice_is_refused() -> None:
    limit = ConcurrencyLimit(1)
    with pytest.raises(ValueError, match="same guard twice"):
        checked_guards([limit, limit])


def test_any_iterable_of_guards_will_do() -> None:
    limit, rate = ConcurrencyLimit(1), RateLimit(1)
    assert checked_guards(iter([limit, rate])) == (limit, rate)
    assert checked_guards(()) == ()
