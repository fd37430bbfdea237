"""A delay sequence in time, for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.jobs import InThread
from helpers.loops import LOOPS
from helpers.waits import AtOnceTimer, HandTimer, TellingClock

from retryexec import CancelToken, ConstantBackoff, EventTimer, Ticker
from retryexec.testing import InstantClock, VirtualClock

TENS = ConstantBackoff(10)


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def clock() -> TellingClock:
    return TellingClock()


async def ticks_of(ticker: Ticker) -> list[float]:
    return [tick async for tick in ticker]


def test_ticks_at_once_and_then_after_each_delay(loop: Any, clock: VirtualClock) -> None:
    ticker = Ticker([1, 2, 0, 3.5], clock=clock)
    assert loop.run(lambda: ticks_of(ticker)) == [0, 1, 3, 3, 6.5]


def test_system_clock(loop: Any) -> None:
    first, second = loop.run(lambda: ticks_of(Ticker([0.001])))
    assert second - first >= 0.001


def test_instant_clock(loop: Any) -> None:
    first, second, third = loop.run(lambda: ticks_of(Ticker([1000, 500], clock=InstantClock())))
    assert (second - first, third - second) == (pytest.approx(1000, 1), pytest.approx(500, 1))


def test_each_tick_goes_to_exactly_one_of_several(loop: Any, clock: VirtualClock) -> None:
    ticker = Ticker(TENS.take(4), clock=clock)
    taken: list[float] = []

    async def consume() -> None:
        async for tick in ticker:
            taken.append(tick)  # noqa: PERF401  in the order of all consumers

    loop.run(lambda: loop.gather(consume, consume, consume))
    assert taken == [0, 10, 20, 30, 40]


def test_shared_with_threads(loop: Any) -> None:
    """Each tick goes to one, whoever it is."""
    ticker = Ticker([0.0001] * 50)
    thread = InThread(lambda: len(list(ticker)))
    mine = loop.run(lambda: ticks_of(ticker))
    assert len(mine) + thread.result() == 51


def test_thread_that_waits_already_and_a_coroutine_get_a_tick_each(
    loop: Any, clock: TellingClock
) -> None:
    ticker = Ticker([10, 10], clock=clock)
    ticker.wait()
    thread = InThread(ticker.wait)
    clock.until_waiting()

    async def main() -> Any:
        return await anext(ticker)

    assert {loop.run(main), thread.result()} == {10, 20}


def test_one_at_a_time_asks_the_backoff(loop: Any) -> None:
    asked, gate = threading.Event(), threading.Event()

    class Slow:
        def __iter__(self) -> Iterator[float]:
            yield 0
            asked.set()
            gate.wait(10)
            yield 0.001

    ticker = Ticker(Slow())
    ticker.wait()
    asks = InThread(ticker.wait)
    asked.wait(10)
    ticks: list[float] = []

    async def consume() -> None:
        ticks.extend(await ticks_of(ticker))

    async def open_the_gate() -> None:
        for _ in range(5):
            await loop.turn()
        gate.set()

    loop.run(lambda: loop.gather(consume, open_the_gate))
    assert len({asks.result(), *ticks}) == 2


def test_a_waiter_that_is_cancelled_takes_no_tick_along(loop: Any, clock: VirtualClock) -> None:
    ticker = Ticker(TENS, clock=clock)

    async def main() -> float:
        await anext(ticker)
        await loop.give_up_soon(lambda: anext(ticker))
        assert not clock._calls
        return await anext(ticker)

    assert loop.run(main) == 10


def test_stop_wakes_the_coroutines_that_wait(loop: Any) -> None:
    """From a thread, on the real clock: nothing else would wake them for hours."""
    ticker = Ticker([10_000])
    waiting = threading.Semaphore(0)

    async def consume() -> None:
        async for _ in ticker:
            pass

    async def stop() -> None:
        for _ in range(5):  # the others have come to their waits
            await loop.turn()
        waiting.release()

    stopping = InThread(lambda: (waiting.acquire(timeout=10), ticker.stop()))
    loop.run(lambda: loop.gather(consume, consume, stop))
    stopping.result()
    assert ticker.wait() is None


def test_cancel_wakes_the_coroutine_that_waits(loop: Any, clock: VirtualClock) -> None:
    token = CancelToken()
    ticker = Ticker([10, 10_000], cancel=token)
    ticker.wait()

    async def cancel() -> None:
        for _ in range(5):
            await loop.turn()
        token.cancel()

    async def consume() -> None:
        assert await ticks_of(ticker) == []

    loop.run(lambda: loop.gather(consume, cancel))


def test_a_tokens_time_ends_it_exactly_then(loop: Any, clock: VirtualClock) -> None:
    token = CancelToken(timeout=25, clock=clock)
    ticker = Ticker(TENS, cancel=token, clock=clock)
    assert loop.run(lambda: ticks_of(ticker)) == [0, 10, 20]
    assert clock.now() == 25


def test_a_tick_and_the_tokens_end_at_one_time(loop: Any, clock: VirtualClock) -> None:
    token = CancelToken(timeout=10, clock=clock)
    assert loop.run(lambda: ticks_of(Ticker(TENS, cancel=token, clock=clock))) == [0]


def test_cancelled_before_it_ticks_once_all_the_same(loop: Any, clock: VirtualClock) -> None:
    token = CancelToken()
    token.cancel()
    assert loop.run(lambda: ticks_of(Ticker(TENS, cancel=token, clock=clock))) == [0]


def test_what_the_backoff_raises_comes_after_the_good_tick(loop: Any, clock: VirtualClock) -> None:
    class Broken:
        def __iter__(self) -> Iterator[float]:
            raise LookupError("broken")
            yield

    async def main() -> None:
        ticker = Ticker(Broken(), clock=clock)
        assert await anext(ticker) == 0
        with pytest.raises(LookupError, match="broken"):
            await anext(ticker)
        assert await ticks_of(ticker) == []

    loop.run(main)


@pytest.mark.leaks("trio keeps its threads for the next ten seconds")
def test_another_timer_is_waited_for_on_a_thread(loop: Any, clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    ticker = Ticker([1, 2], timer=timer, clock=clock)
    assert loop.run(lambda: ticks_of(ticker)) == [0, 0, 0]
    assert timer.started == [1, 2]


@pytest.mark.leaks("trio keeps its threads for the next ten seconds")
def test_the_loop_runs_on_while_another_timer_is_waited_for(loop: Any) -> None:
    timer = HandTimer()
    ticker = Ticker([1], timer=timer)
    ticks: list[float] = []

    async def consume() -> None:
        ticks.extend(await ticks_of(ticker))

    async def fire() -> None:
        while not timer.started:
            await loop.turn()
        timer.fire()

    loop.run(lambda: loop.gather(consume, fire))
    assert len(ticks) == 2


@pytest.mark.leaks("trio keeps its threads for the next ten seconds")
def test_an_event_timer_of_another_clock_keeps_its_own_time(loop: Any) -> None:
    """The ticker's clock, an hour behind, has no say in it."""
    timer = EventTimer(InstantClock())
    assert len(loop.run(lambda: ticks_of(Ticker([3600], timer=timer)))) == 2


def test_outliving_the_loop_of_a_waiting_coroutine_does_no_harm() -> None:
    ticker = Ticker([10_000])
    ticker.wait()
    loop = asyncio.new_event_loop()
    silent: list[Any] = []
    loop.set_exception_handler(lambda _, context: silent.append(context))
    task = loop.create_task(ticks_of(ticker))
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    ticker.stop()  # wakes a coroutine that nobody runs any more
    assert not task.done()
    task.get_coro().close()
    del task
    assert ticker.wait() is None
