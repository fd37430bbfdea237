"""Ticks given to a callable, beside other sources."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from queue import Queue, SimpleQueue
from typing import Any

import pytest
from helpers.jobs import raise_

from retryexec import CancelToken, ConstantBackoff, Ticker
from retryexec.testing import VirtualClock

TENS = ConstantBackoff(10)


def feeders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "retryexec-ticker"]


def test_a_queue_gets_every_tick_at_its_time(clock: VirtualClock) -> None:
    queue: Queue[float] = Queue()
    Ticker([1, 2, 3], clock=clock).feed(queue.put)
    clock.advance(0)
    assert list(queue.queue) == [0]
    clock.advance(2)
    assert list(queue.queue) == [0, 1]
    clock.advance(100)
    assert list(queue.queue) == [0, 1, 3, 6]


def test_several_tickers_feed_one_queue(clock: VirtualClock) -> None:
    queue: Queue[tuple[str, float]] = Queue()
    with Ticker([4, 4], clock=clock) as slow, Ticker([3, 2], clock=clock) as fast:
        slow.feed(lambda tick: queue.put(("slow", tick)))
        fast.feed(lambda tick: queue.put(("fast", tick)))
        clock.advance(10)
    slow_ones = [("slow", 0), ("slow", 4), ("slow", 8)]
    assert sorted(queue.queue) == [("fast", 0), ("fast", 3), ("fast", 5), *slow_ones]


@pytest.mark.parametrize("end", ["stop", "cancel", "its own end"])
def test_the_thread_ends_with_the_ticker(end: str, clock: VirtualClock) -> None:
    token = CancelToken()
    ticker = Ticker([10] if end == "its own end" else TENS, cancel=token, clock=clock)
    ticker.feed(list[float]().append)
    (thread,) = feeders()
    assert thread.daemon
    {"stop": ticker.stop, "cancel": token.cancel, "its own end": lambda: clock.advance(10)}[end]()
    thread.join(10)
    assert not thread.is_alive()


def test_system_clock() -> None:
    ticks: SimpleQueue[float] = SimpleQueue()
    Ticker([0.001]).feed(ticks.put)
    first, second = ticks.get(timeout=10), ticks.get(timeout=10)
    assert second - first >= 0.001


def test_a_consumer_that_raises_ends_the_ticker_and_is_logged(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ticker = Ticker(TENS, clock=clock)
    ticker.feed(lambda tick: tick and raise_(LookupError("full")))
    clock.advance(100)
    assert ticker.wait() is None
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)
    assert "LookupError: full" in caplog.text


def test_a_backoff_that_raises_is_logged(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks:
        def __iter__(self) -> Iterator[float]:
            raise LookupError("broken")
            yield

    ticks: list[float] = []
    Ticker(Breaks(), clock=clock).feed(ticks.append)
    clock.advance(1)
    for thread in feeders():
        thread.join(10)
    assert ticks == [0]
    assert "LookupError: broken" in caplog.text


def test_time_waits_for_the_consumer() -> None:
    clock = VirtualClock(patience=0.01)
    gate = threading.Event()
    with Ticker(TENS, clock=clock) as ticker:
        ticker.feed(lambda _: gate.wait(10))
        with pytest.raises(RuntimeError, match="thread 'retryexec-ticker' acts"):
            clock.advance(5)
        gate.set()


def test_a_fed_ticker_has_other_consumers_all_the_same(clock: VirtualClock) -> None:
    fed: list[float] = []
    ticker = Ticker(TENS.take(9), clock=clock)
    ticker.feed(fed.append)
    mine = list(ticker)
    clock.advance(0)
    assert sorted(fed + mine) == [n * 10 for n in range(10)]


@pytest.mark.parametrize("bad", [None, [], "put"])
def test_a_consumer_must_be_callable(bad: Any, clock: VirtualClock) -> None:
    with pytest.raises(TypeError, match="consumer takes a callable"):
        Ticker(TENS, clock=clock).feed(bad)
