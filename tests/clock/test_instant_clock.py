"""A clock on which nobody waits."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from time import monotonic
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, raise_

from retryexec import (
    Cancelled,
    CancelToken,
    ConstantBackoff,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    Ticker,
    retry,
    retry_async,
)
from retryexec.testing import InstantClock

HOURS = RetryPolicy(max_attempts=5, max_elapsed=None, backoff=ConstantBackoff(3600))


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


def test_runs_with_the_real_clock_and_adds_what_was_skipped(clock: InstantClock) -> None:
    before = monotonic()
    assert before <= clock.now() <= monotonic()
    with (changed := threading.Condition()):
        clock.wait(changed, before + 1000)
        clock.wait(changed, before + 500)
    assert before + 1000 <= clock.now() <= monotonic() + 1000


def test_wait_without_a_limit_ends_with_a_notification(clock: InstantClock) -> None:
    changed, waiting = threading.Condition(), threading.Event()

    def wait() -> None:
        with changed:
            waiting.set()
            clock.wait(changed, float("inf"))

    thread = InThread(wait)
    waiting.wait(10)
    with changed:
        assert thread.is_alive()
        changed.notify_all()
    thread.result()
    assert clock.now() <= monotonic()


def test_a_retry_is_over_at_once(clock: InstantClock) -> None:
    began = monotonic()
    with pytest.raises(Boom) as caught:
        retry(partial(raise_, Boom()), policy=HOURS, clock=clock)
    assert "after 5 attempts over 14400." in caught.value.__notes__[0]
    assert monotonic() - began < 60


def test_a_coroutines_retry_is_over_at_once(clock: InstantClock) -> None:
    async def fails() -> None:
        raise Boom

    with pytest.raises(Boom) as caught:
        asyncio.run(retry_async(fails, policy=HOURS, clock=clock))
    assert "after 5 attempts over 14400." in caught.value.__notes__[0]


def test_a_job_is_over_at_once(clock: InstantClock) -> None:
    with RetryingExecutor(max_workers=1, policy=HOURS, clock=clock) as executor:
        future = executor.submit(raise_, Boom())
        assert isinstance(future.exception(10), Boom)
    assert (future.attempts, future.stop_reason) == (5, StopReason.MAX_ATTEMPTS)


def test_limits_count_what_was_skipped(clock: InstantClock) -> None:
    calls: list[Any] = []
    policy = HOURS.replace(max_elapsed=3600 * 2.5)
    with pytest.raises(Boom) as caught:
        retry(lambda: (calls.append(1), raise_(Boom())), policy=policy, clock=clock)
    assert len(calls) == 3
    assert caught.value.__notes__[0].endswith("max_elapsed")


def test_a_ticker_ticks_without_pause_by_its_own_time(clock: InstantClock) -> None:
    first, second, third = Ticker([3600, 60], clock=clock)
    assert 3600 <= second - first < 3660
    assert 60 <= third - second < 120


def test_a_tokens_time_comes_when_a_wait_is_longer(clock: InstantClock) -> None:
    calls: list[Any] = []
    token = CancelToken(timeout=5000, clock=clock)
    with pytest.raises(Cancelled):
        retry(lambda: (calls.append(1), raise_(Boom())), policy=HOURS, clock=clock, cancel=token)
    assert len(calls) == 2
