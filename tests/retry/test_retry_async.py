"""Retrying a coroutine right here, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
import trio
from helpers.jobs import Boom, InThread, raise_
from helpers.loops import LOOPS
from helpers.played import Script
from helpers.waits import AtOnceTimer, HandTimer

from retryexec import (
    Cancelled,
    CancelToken,
    ConstantBackoff,
    PermanentError,
    Retry,
    RetryPolicy,
    current_attempt,
    retry_async,
)
from retryexec.testing import InstantClock, VirtualClock

TENS = RetryPolicy(max_attempts=4, backoff=ConstantBackoff(10))


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


class AsyncScript(Script):
    """A script whose attempts are coroutines."""

    async def aexec(self) -> Any:
        await trio.lowlevel.checkpoint() if _on_trio() else await asyncio.sleep(0)
        return self.exec()


def _on_trio() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def test_is_tried_until_it_succeeds(loop: Any, clock: VirtualClock) -> None:
    job = AsyncScript(clock, Boom, Boom, "saved")
    told: list[Retry] = []
    run = partial(retry_async, job.aexec, policy=TENS, clock=clock, on_retry=told.append)
    assert loop.run(run) == "saved"
    assert job.started == [0, 10, 20]
    assert [event.attempt for event in told] == [1, 2]


def test_the_last_exception_comes_back_with_its_note(loop: Any, clock: VirtualClock) -> None:
    error = Boom()
    job = AsyncScript(clock, error)
    with pytest.raises(Boom) as caught:
        loop.run(partial(retry_async, job.aexec, policy=TENS, clock=clock))
    assert caught.value is error
    assert error.__notes__ == ["retryexec: gave up after 4 attempts over 30.000 s: max_attempts"]


def test_permanent_ends_it(loop: Any, clock: VirtualClock) -> None:
    error = Boom()
    job = AsyncScript(clock, PermanentError(error))
    with pytest.raises(Boom) as caught:
        loop.run(partial(retry_async, job.aexec, policy=TENS, clock=clock))
    assert (caught.value, job.started) == (error, [0])


def test_an_unwanted_value_is_retried_and_returned_at_last(loop: Any, clock: VirtualClock) -> None:
    policy = TENS.replace(retry_on_result=lambda value: value == "no")
    job = AsyncScript(clock, "no")
    assert loop.run(partial(retry_async, job.aexec, policy=policy, clock=clock)) == "no"
    assert job.started == [0, 10, 20, 30]


def test_the_call_knows_its_attempt(loop: Any, clock: VirtualClock) -> None:
    seen: list[int] = []

    async def job() -> None:
        seen.append(current_attempt().number)
        raise Boom

    with pytest.raises(Boom):
        loop.run(partial(retry_async, job, policy=TENS, clock=clock))
    assert seen == [1, 2, 3, 4]


def test_several_at_a_time_keep_their_own_schedules(loop: Any, clock: VirtualClock) -> None:
    jobs = [AsyncScript(clock, Boom, Boom, "saved") for _ in range(3)]
    policies = [RetryPolicy(backoff=[n, n]) for n in (7, 5, 3)]
    runs = [
        partial(retry_async, job.aexec, policy=policy, clock=clock)
        for job, policy in zip(jobs, policies, strict=True)
    ]
    loop.run(lambda: loop.gather(*runs))
    assert [job.started for job in jobs] == [[0, 7, 14], [0, 5, 10], [0, 3, 6]]


def test_system_clock(loop: Any) -> None:
    job = AsyncScript(VirtualClock(), Boom, "saved")
    policy = RetryPolicy(backoff=[0.001])
    assert loop.run(partial(retry_async, job.aexec, policy=policy)) == "saved"


def test_instant_clock(loop: Any) -> None:
    job = AsyncScript(VirtualClock(), Boom, Boom, "saved")
    policy = TENS.replace(backoff=ConstantBackoff(1000), max_elapsed=None)
    assert loop.run(partial(retry_async, job.aexec, policy=policy, clock=InstantClock())) == "saved"


def test_with_a_virtual_clock_that_another_thread_moves(loop: Any, clock: VirtualClock) -> None:
    job = AsyncScript(clock, Boom, "saved")
    waits = threading.Event()

    async def beside() -> None:
        for _ in range(50):  # long enough for the other to move time, if it did
            await loop.turn()
        waits.set()

    run = partial(retry_async, job.aexec, policy=TENS, clock=clock)
    thread = InThread(loop.run, lambda: loop.gather(run, beside))
    assert waits.wait(10)
    clock.advance(4)
    assert (job.started, clock.now()) == ([0], 4)
    clock.advance(6)
    thread.result()
    assert job.started == [0, 10]


def test_clock_yields_to_other_tasks_while_nothing_is_due(loop: Any, clock: VirtualClock) -> None:
    """Here a thread, whose end is no matter of time."""
    token = CancelToken()
    timer = HandTimer()

    async def beside() -> None:
        while clock.now() < 10:
            await loop.turn()
        token.cancel()

    async def job() -> None:
        with pytest.raises(Cancelled):
            await retry_async(partial(raise_, Boom()), policy=TENS, clock=clock, cancel=token)

    loop.run(lambda: loop.gather(job, beside))
    assert clock.now() in {10, 20}
    assert timer.started == []


# ---- cancelling


def test_cancelling_the_token_ends_the_wait(loop: Any) -> None:
    """On the real clock, from a thread: nothing else would end it for hours."""
    token, error = CancelToken(), Boom()
    waits = threading.Event()
    policy = RetryPolicy(backoff=[10_000], max_elapsed=None)
    word = InThread(lambda: (waits.wait(10), token.cancel()))
    run = partial(
        retry_async,
        AsyncScript(VirtualClock(), error).aexec,
        policy=policy,
        cancel=token,
        on_retry=lambda _: waits.set(),
    )
    with pytest.raises(Cancelled) as caught:
        loop.run(run)
    word.result()
    assert caught.value.__cause__ is error
    assert not token._callbacks


def test_a_tokens_time_ends_the_wait_exactly_then(loop: Any, clock: VirtualClock) -> None:
    token, job = CancelToken(timeout=25, clock=clock), AsyncScript(clock, Boom)
    with pytest.raises(Cancelled):
        loop.run(partial(retry_async, job.aexec, policy=TENS, clock=clock, cancel=token))
    assert (job.started, clock.now()) == ([0, 10, 20], 25)


def test_a_wait_ends_with_the_loops_own_cancelling(loop: Any) -> None:
    """Which is no failure, and is not retried."""
    calls: list[str] = []
    token = CancelToken()

    async def job() -> None:
        calls.append("job")
        raise Boom

    policy = RetryPolicy(backoff=[10_000], max_elapsed=None)
    run = partial(retry_async, job, policy=policy, cancel=token)
    loop.run(lambda: loop.give_up_soon(run))
    assert calls == ["job"]
    assert not token._callbacks


def test_an_attempt_ends_with_the_loops_own_cancelling(loop: Any, clock: VirtualClock) -> None:
    calls: list[str] = []

    async def job() -> None:
        calls.append("job")
        while True:
            await loop.turn()

    loop.run(lambda: loop.give_up_soon(partial(retry_async, job, policy=TENS, clock=clock)))
    assert calls == ["job"]


# ---- a timer of one's own


@pytest.mark.leaks("trio keeps its threads for the next ten seconds")
def test_another_timer_is_waited_for_on_a_thread(loop: Any, clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    job = AsyncScript(clock, Boom, Boom, "saved")
    run = partial(retry_async, job.aexec, policy=TENS, clock=clock, timer=timer)
    assert loop.run(run) == "saved"
    assert (timer.started, timer.stops, clock.now()) == ([10, 10], 1, 0)


@pytest.mark.leaks("trio keeps its threads for the next ten seconds")
def test_giving_up_stops_the_timer_so_that_its_thread_can_end(loop: Any) -> None:
    """asyncio.run would wait for it."""
    timer = HandTimer()

    async def beside() -> None:
        while not timer.started:
            await loop.turn()
        raise LookupError

    run = partial(retry_async, AsyncScript(VirtualClock(), Boom).aexec, policy=TENS, timer=timer)
    with pytest.raises(ExceptionGroup):
        loop.run(lambda: loop.gather(run, beside))
    assert timer.stops


def test_a_coroutine_may_be_closed_in_another_context_than_it_ran_in() -> None:
    """As the garbage collector does with the tasks of a loop that was closed too early."""
    timer = AtOnceTimer()
    coroutine = retry_async(partial(asyncio.sleep, 0), policy=TENS, timer=timer)
    copy_context().run(coroutine.send, None)
    coroutine.close()
    assert timer.stops == 1
