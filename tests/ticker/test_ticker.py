"""A delay sequence in time, for threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from helpers.jobs import InThread, raise_
from helpers.waits import AtOnceTimer, HandTimer, TellingClock

from retryexec import CancelToken, ConstantBackoff, Ticker, ZeroBackoff
from retryexec.testing import VirtualClock

TENS = ConstantBackoff(10)


@pytest.fixture
def clock() -> TellingClock:
    return TellingClock()


# ---- when it ticks


def test_ticks_at_once_and_then_after_each_delay(clock: VirtualClock) -> None:
    assert list(Ticker([1, 2, 0, 3.5], clock=clock)) == [0, 1, 3, 3, 6.5]
    assert list(Ticker((timedelta(minutes=1),), clock=clock)) == [6.5, 66.5]


def test_the_first_tick_waits_to_be_taken(clock: VirtualClock) -> None:
    ticker = Ticker([10], clock=clock)
    clock.advance(100)
    assert list(ticker) == [100, 110]


def test_a_slow_consumer_finds_one_tick_and_the_next_a_whole_delay_later(
    clock: VirtualClock,
) -> None:
    ticks = []
    for tick in Ticker(TENS.take(4), clock=clock):
        ticks.append(tick)
        if len(ticks) == 1:
            clock.advance(35)  # three delays pass meanwhile
    assert ticks == [0, 35, 45, 55, 65]


def test_the_delay_runs_while_the_work_does(clock: VirtualClock) -> None:
    ticks = []
    for tick in Ticker(TENS.take(2), clock=clock):
        ticks.append(tick)
        clock.advance(4)
    assert ticks == [0, 10, 20]


def test_two_tickers_go_through_one_backoff_by_themselves(clock: VirtualClock) -> None:
    delays = [1, 2]
    one, other = Ticker(delays, clock=clock), Ticker(delays, clock=clock)
    assert [one.wait(), other.wait(), one.wait(), other.wait()] == [0, 0, 1, 1]
    assert [one.wait(), other.wait(), one.wait(), other.wait()] == [3, 3, None, None]


def test_ticks_by_the_system_clock_by_default() -> None:
    first, second = Ticker([0.001])
    assert second - first >= 0.001


# ---- wait


def test_wait_says_when_there_will_be_no_other(clock: VirtualClock) -> None:
    ticker = Ticker([5], clock=clock)
    assert [ticker.wait() for _ in range(4)] == [0, 5, None, None]
    assert next(ticker, "none") == "none"


def test_wait_gives_up_after_its_timeout_and_the_tick_still_comes(clock: VirtualClock) -> None:
    ticker = Ticker(TENS.take(1), clock=clock)
    assert ticker.wait(0) == 0
    for seconds, then in [(0, 0), (3, 3), (timedelta(seconds=6), 9)]:
        with pytest.raises(TimeoutError, match="no tick within"):
            ticker.wait(seconds)
        assert clock.now() == then
    assert ticker.wait(1) == 10
    assert ticker.wait(0) is None


@pytest.mark.parametrize("bad", [-1, float("nan"), "soon"])
def test_a_timeout_that_cannot_be_right_is_refused(bad: Any, clock: VirtualClock) -> None:
    with pytest.raises((TypeError, ValueError), match=r"timeout takes seconds.*got"):
        Ticker(TENS, clock=clock).wait(bad)


# ---- the end


def test_a_stopped_ticker_ticks_no_more_however_often_it_is_stopped(clock: VirtualClock) -> None:
    ticker = Ticker(TENS, clock=clock)
    assert repr(ticker) == "<Ticker ticking>"
    ticker.wait()
    for _ in range(3):
        ticker.stop()
        assert ticker.wait() is None
    assert repr(ticker) == "<Ticker ended>"
    assert clock.now() == 0


def test_stop_from_inside_the_loop(clock: VirtualClock) -> None:
    ticks = []
    ticker = Ticker(TENS, clock=clock)
    for tick in ticker:
        ticks.append(tick)
        if len(ticks) == 3:
            ticker.stop()
    assert ticks == [0, 10, 20]


def test_stop_wakes_all_who_wait_and_any_thread_may(clock: TellingClock) -> None:
    ticker = Ticker(TENS, clock=clock)
    ticker.wait()
    waiting = [InThread(ticker.wait) for _ in range(3)]
    clock.until_waiting(3)
    together = threading.Barrier(4, timeout=10)
    for stopping in [InThread(lambda: (together.wait(), ticker.stop())) for _ in range(4)]:
        stopping.result()
    assert [thread.result() for thread in waiting] == [None] * 3


def test_the_end_of_the_with_block_stops_it(clock: VirtualClock) -> None:
    with pytest.raises(LookupError), Ticker(TENS, clock=clock) as ticker:
        raise LookupError
    assert ticker.wait() is None


def test_the_end_of_the_sequence_wakes_the_others(clock: TellingClock) -> None:
    ticker = Ticker([10], clock=clock)
    ticker.wait()
    waiting = [InThread(ticker.wait) for _ in range(2)]
    clock.until_waiting(2)
    clock.advance(10)
    assert {thread.result() for thread in waiting} == {10, None}


def test_stopped_by_its_own_backoff_it_stays_stopped(clock: VirtualClock) -> None:
    """The timer is started after the delay is known, which must not undo the stop."""

    class Stops:
        def __iter__(self) -> Iterator[float]:
            ticker.stop()
            yield 10

    timer = AtOnceTimer()
    ticker = Ticker(Stops(), timer=timer, clock=clock)
    assert ticker.wait() == 0
    assert timer.wait(0) is False
    assert ticker.wait() is None


# ---- a token


def test_cancelled_before_it_ticks_once_all_the_same(clock: VirtualClock) -> None:
    token = CancelToken()
    token.cancel()
    ticker = Ticker(TENS, cancel=token, clock=clock)
    assert (list(ticker), repr(ticker)) == ([0], "<Ticker ended>")


def test_cancel_wakes_whoever_waits(clock: TellingClock) -> None:
    token = CancelToken()
    ticker = Ticker(TENS, cancel=token, clock=clock)
    ticker.wait()
    waiting = [InThread(ticker.wait), InThread(ticker.wait)]
    clock.until_waiting(2)
    token.cancel()
    assert [thread.result() for thread in waiting] == [None, None]


def test_a_tokens_time_ends_the_ticker_exactly_then(clock: VirtualClock) -> None:
    token = CancelToken(timeout=25, clock=clock)
    assert list(Ticker(TENS, cancel=token, clock=clock)) == [0, 10, 20]
    assert clock.now() == 25


def test_tokens_deadline_ends_the_wait_of_those_who_do_not_lead(clock: TellingClock) -> None:
    token = CancelToken(timeout=5, clock=clock)
    ticker = Ticker(TENS, cancel=token, clock=clock)
    ticker.wait()
    waiting = [InThread(ticker.wait), InThread(ticker.wait)]
    clock.until_waiting(2)
    clock.advance(5)
    assert [thread.result() for thread in waiting] == [None, None]


def test_a_tick_and_the_tokens_end_at_one_time(clock: VirtualClock) -> None:
    token = CancelToken(timeout=10, clock=clock)
    assert list(Ticker(TENS, cancel=token, clock=clock)) == [0]


# ---- several consumers


def test_each_tick_goes_to_exactly_one(clock: VirtualClock) -> None:
    ticker = Ticker(ZeroBackoff().take(499), clock=clock)
    together = threading.Barrier(4, timeout=10)

    def consume() -> int:
        together.wait()
        return sum(1 for _ in ticker)

    consumers = [InThread(consume) for _ in range(4)]
    assert sum(consumer.result() for consumer in consumers) == 500


def test_consumers_take_turns(clock: TellingClock) -> None:
    ticker = Ticker([10, 20], clock=clock)
    ticker.wait()
    waiting = [InThread(ticker.wait), InThread(ticker.wait)]
    clock.until_waiting(2)
    clock.advance(10)
    clock.until_waiting()  # the one who did not get that tick
    clock.advance(20)
    assert {thread.result() for thread in waiting} == {10, 30}


def test_a_timeout_beside_one_who_waits_longer(clock: TellingClock) -> None:
    ticker = Ticker(TENS, clock=clock)
    ticker.wait()
    leads = InThread(ticker.wait)
    clock.until_waiting()
    with pytest.raises(TimeoutError):
        ticker.wait(4)
    assert clock.now() == 4
    clock.advance(6)
    assert leads.result() == 10


def test_waiter_that_times_out_passes_the_wait_on(clock: TellingClock) -> None:
    ticker = Ticker(TENS, clock=clock)
    ticker.wait()
    leads = InThread(ticker.wait, 4)
    clock.until_waiting()
    follows = InThread(ticker.wait)
    clock.until_waiting()
    clock.advance(10)
    with pytest.raises(TimeoutError):
        leads.result()
    assert follows.result() == 10


class Slow:
    """A backoff whose second delay takes until the gate is opened."""

    def __init__(self) -> None:
        self.asked, self.gate = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[float]:
        yield 0
        self.asked.set()
        self.gate.wait(10)
        yield 5


def test_one_at_a_time_asks_the_backoff(clock: VirtualClock) -> None:
    backoff = Slow()
    ticker = Ticker(backoff, clock=clock)
    ticker.wait()
    asks = InThread(ticker.wait)
    backoff.asked.wait(10)
    with pytest.raises(TimeoutError):
        ticker.wait(0)
    backoff.gate.set()
    assert (asks.result(), ticker.wait(), ticker.wait()) == (0, 5, None)


# ---- a backoff that is broken


class Breaks:
    def __init__(self, second: Any) -> None:
        self.second = second

    def __iter__(self) -> Iterator[Any]:
        yield 1
        yield self.second() if callable(self.second) else self.second


@pytest.mark.parametrize(
    ("second", "error", "words"),
    [
        (lambda: raise_(LookupError("broken")), LookupError, "broken"),
        (-1, ValueError, "a delay of the backoff takes seconds.*-1"),
        ("soon", TypeError, "a delay of the backoff takes seconds.*'soon'"),
    ],
)
def test_what_the_backoff_raises_comes_once_after_the_good_ticks(
    second: Any, error: type[Exception], words: str, clock: VirtualClock
) -> None:
    ticker = Ticker(Breaks(second), clock=clock)
    assert [ticker.wait(), ticker.wait()] == [0, 1]
    with pytest.raises(error, match=words):
        ticker.wait()
    assert ticker.wait() is None


# ---- a timer of one's own


def test_another_timer_says_when(clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    assert list(Ticker([1, 2, 3], timer=timer, clock=clock)) == [0, 0, 0, 0]
    assert timer.started == [1, 2, 3]


def test_stop_stops_the_timer(clock: VirtualClock) -> None:
    timer = HandTimer()
    ticker = Ticker([1, 2], timer=timer, clock=clock)
    ticker.wait()
    waiting = InThread(ticker.wait)
    ticker.stop()
    assert waiting.result() is None
    assert timer.started == [1]
    assert timer.stops


# ---- nothing is left


def test_abandoned_mid_loop_it_leaks_nothing(clock: VirtualClock) -> None:
    token = CancelToken(timeout=1000, clock=clock)
    threads = threading.active_count()
    gc.disable()
    try:
        ticker = Ticker(TENS, cancel=token, clock=clock)
        for tick in ticker:
            if tick == 20:
                break
        gone = weakref.ref(ticker)
        del ticker
        assert gone() is None
    finally:
        gc.enable()
    assert threading.active_count() == threads
    assert not token._callbacks
