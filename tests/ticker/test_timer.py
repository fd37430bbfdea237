"""What every Timer promises, and EventTimer keeps on every clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from helpers.jobs import InThread
from helpers.waits import HandTimer

from retryexec import EventTimer, Timer
from retryexec.testing import InstantClock, VirtualClock

SOON, LONG = 0.001, 1000.0


class Bench(NamedTuple):
    """A timer, and what makes its time come."""

    timer: Timer
    come: Callable[[], object]


def system() -> Bench:
    return Bench(EventTimer(), lambda: None)


def virtual() -> Bench:
    clock = VirtualClock()
    return Bench(EventTimer(clock), lambda: clock.advance(SOON))


def instant() -> Bench:
    return Bench(EventTimer(InstantClock()), lambda: None)


def by_hand() -> Bench:
    timer = HandTimer()
    return Bench(timer, timer.fire)


@pytest.fixture(params=[system, virtual, instant, by_hand])
def bench(request: pytest.FixtureRequest) -> Bench:
    made: Bench = request.param()
    return made


def test_fires_when_its_time_has_come(bench: Bench) -> None:
    bench.timer.start(SOON)
    bench.come()
    assert bench.timer.wait() is True


def test_stays_fired_until_it_is_started_again(bench: Bench) -> None:
    bench.timer.start(SOON)
    bench.come()
    assert bench.timer.wait()
    assert bench.timer.wait(0)
    bench.timer.start(LONG)
    assert bench.timer.wait(0) is False


def test_a_wait_ends_with_its_timeout(bench: Bench) -> None:
    bench.timer.start(LONG)
    assert bench.timer.wait(SOON) is False


def test_once_stopped_it_does_not_fire(bench: Bench) -> None:
    bench.timer.start(SOON)
    bench.timer.stop()
    bench.timer.stop()
    assert bench.timer.wait() is False


def test_a_stop_after_the_time_has_come_still_counts(bench: Bench) -> None:
    bench.timer.start(SOON)
    bench.come()
    assert bench.timer.wait()
    bench.timer.stop()
    assert bench.timer.wait() is False


def test_started_after_a_stop_it_begins_anew(bench: Bench) -> None:
    bench.timer.stop()
    bench.timer.start(SOON)
    bench.come()
    assert bench.timer.wait() is True


def test_stop_wakes_those_who_wait(bench: Bench) -> None:
    waiting = [InThread(bench.timer.wait) for _ in range(2)]
    bench.timer.stop()
    assert [thread.result() for thread in waiting] == [False, False]


def test_start_reaches_those_who_wait_already(bench: Bench) -> None:
    waiting = InThread(bench.timer.wait)
    bench.timer.start(SOON)
    bench.come()
    assert waiting.result() is True


def test_a_zero_wait_fires_at_once() -> None:
    timer = EventTimer(VirtualClock())
    timer.start(0)
    assert timer.wait(0)


def test_a_started_timer_takes_the_new_time_and_forgets_the_old() -> None:
    clock = VirtualClock()
    timer = EventTimer(clock)
    timer.start(5)
    timer.start(20)
    assert not timer.wait(10)
    assert clock.now() == 10
    assert timer.wait()
    assert clock.now() == 20
