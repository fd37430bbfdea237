"""Waits that hardly ever happen: on other threads' time, for what is over, for nobody."""

import asyncio
import gc
import math
import pickle
import random
import sys
import threading
from collections.abc import Callable

import pytest
import sniffio
from helpers.jobs import Fails, InThread

from retryexec import CancelToken, ExponentialBackoff, RetryPolicy, retry_async
from retryexec._async import AsyncEvent, current_library
from retryexec._clock import SystemClock
from retryexec._ticker import weak_callback
from retryexec.testing import InstantClock, VirtualClock


class TellingClock(VirtualClock):
    """Says when a coroutine has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()

    def call_at(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        try:
            return super().call_at(time, callback)
        finally:
            self.awaited.set()


def test_a_coroutine_waits_for_time_that_another_thread_moves() -> None:
    clock = TellingClock()
    job = Fails(1, clock)

    async def save() -> str:
        return str(job.exec())

    policy = RetryPolicy(backoff=[5])
    thread = InThread(lambda: asyncio.run(retry_async(save, policy=policy, clock=clock)))
    assert clock.awaited.wait(10)
    clock.advance(5)
    assert thread.result() == "saved"
    assert job.started_at == [0, 5]


def test_outside_of_any_loop_asyncio_is_assumed() -> None:
    assert sniffio is not None
    assert current_library() == "asyncio"


def test_a_backoff_is_pickled_with_a_random_of_its_own() -> None:
    backoff = ExponentialBackoff(random=random.Random(5).random)
    assert [*pickle.loads(pickle.dumps(backoff)).take(3)] == [*backoff.take(3)]


def test_without_sniffio_it_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sniffio")
    assert current_library() == "asyncio"


def test_coroutine_waits_to_be_woken_when_nothing_is_due() -> None:
    class Told(AsyncEvent):
        async def wait(self, seconds: float) -> None:
            self.set()
            await super().wait(seconds)

    async def wait() -> bool:
        event = Told()
        await VirtualClock().wait_async(event, math.inf)
        return event.is_set

    assert asyncio.run(wait())


class StandingClock(SystemClock):
    """It is always the same time, and whoever waits waits for a word."""

    def __init__(self) -> None:
        self.waiting = threading.Event()

    def wait(self, changed: threading.Condition, until: float) -> None:
        self.waiting.set()
        super().wait(changed, max(until, math.inf))


def test_cancelled_deadline_is_passed_over() -> None:
    clock = StandingClock()
    tokens = [CancelToken(timeout=span, clock=clock) for span in (100, 200, 150)]
    first, second = (token.on_cancel(lambda: None) for token in tokens[:2])
    assert clock.waiting.wait(10)
    first()
    third = tokens[2].on_cancel(lambda: None)
    (thread,) = (t for t in threading.enumerate() if t.name == "retryexec-deadlines")
    second()
    third()
    thread.join(10)
    assert not thread.is_alive()


def test_weak_callback_of_a_freed_object_does_nothing() -> None:
    class Gone:
        def called(self) -> None:
            raise AssertionError

    call = weak_callback(Gone().called)
    gc.collect()
    call()


def test_what_is_due_already_is_called_at_once() -> None:
    clock, called = VirtualClock(), []
    clock.call_at(0, lambda: called.append(clock.now()))
    assert called == [0]


def test_wait_without_a_limit_ends_when_woken() -> None:
    async def wait() -> bool:
        event = AsyncEvent()
        waiting = asyncio.create_task(InstantClock().wait_async(event, math.inf))
        await asyncio.sleep(0)
        assert not waiting.done()
        event.set()
        await waiting
        return event.is_set

    assert asyncio.run(wait())
