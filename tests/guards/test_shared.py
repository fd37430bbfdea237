"""One guard that many share: executors, views, threads, event loops, and a forked child."""

import asyncio
import os
import threading
from collections.abc import Callable

import pytest
from helpers.guarded import FOR_EVER, Service, finish, work

from retryexec import (
    AttemptRequest,
    CircuitBreaker,
    ConcurrencyLimit,
    Guard,
    Outcome,
    RateLimit,
    RetryBudget,
    RetryingExecutor,
    RetryPolicy,
    ZeroBackoff,
    current_attempt,
    retry,
    retry_async,
)
from retryexec.testing import VirtualClock


def in_threads(*calls: Callable[[], object]) -> None:
    """Run each of *calls* in a thread of its own, and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_guards_of_views_and_executors_may_be_the_same() -> None:
    clock = VirtualClock()
    service, rate = Service(clock), RateLimit(1)
    with RetryingExecutor(1, clock=clock) as one, RetryingExecutor(1, clock=clock) as two:
        views = [one.using(guards=[rate]), two.using(guards=[rate])]
        futures = [view.submit(service.call) for view in views * 5]
        finish(clock, futures)
    assert service.attempts == [float(n) for n in range(10)]


def test_a_paused_executor_does_not_keep_others_from_a_shared_breaker() -> None:
    clock = VirtualClock()
    service = Service(clock, down=(0.0, 1.0))
    breaker = CircuitBreaker(minimum_attempts=1, open_for=10.0)
    with RetryingExecutor(1, clock=clock, policy=FOR_EVER, guards=[breaker]) as paused:
        parked = paused.submit(service.call)
        clock.advance(5.0)
        paused.pause()
        with RetryingExecutor(1, clock=clock, policy=FOR_EVER, guards=[breaker]) as other:
            waiting = other.submit(service.call)
            clock.advance(10.0)
            later = other.submit(service.call)
            clock.advance(10.0)
            finish(clock, [waiting, other.submit(service.call), later])
        paused.resume()
        clock.run_until(parked.done)


@pytest.mark.parametrize(
    "make", [lambda: ConcurrencyLimit(1), lambda: RateLimit(1), lambda: RetryBudget(0.0, reserve=1)]
)
def test_a_paused_executor_keeps_nothing_of_a_shared_guard(make: Callable[[], Guard]) -> None:
    """All its jobs leave the guard as they are drawn, and have their turns after the pause."""
    clock = VirtualClock()
    order: list[int] = []
    policy = RetryPolicy(backoff=ZeroBackoff(), retry_on_result=lambda number: number is None)

    def job(number: int) -> int | None:
        if current_attempt().number == 1:
            return None
        work(clock, 1.0)
        order.append(number)
        return number

    guards = [make()]
    with (
        RetryingExecutor(1, clock=clock, policy=policy, guards=guards) as paused,
        RetryingExecutor(1, clock=clock, policy=policy, guards=guards) as other,
    ):
        first = [paused.submit(job, number) for number in range(4)]
        clock.run_until(first[0].done)
        paused.pause()
        rest = [other.submit(job, number) for number in range(10, 14)]
        finish(clock, rest)
        assert order[-4:] == [10, 11, 12, 13]
        before = len(order)
        paused.resume()
        finish(clock, first)
        assert order[before:] == list(range(before - 4, 4))


def test_a_permit_that_a_paused_job_gets_goes_to_the_next() -> None:
    """Even where nobody asks for it: all that wait are in the line already."""
    clock = VirtualClock()
    limit = ConcurrencyLimit(1)
    with (
        RetryingExecutor(4, clock=clock, guards=[limit]) as paused,
        RetryingExecutor(1, clock=clock, guards=[limit]) as other,
    ):
        held = [paused.submit(work, clock, 1.0) for _ in range(3)]
        clock.advance(0.5)
        rest = [other.submit(work, clock, 1.0) for _ in range(3)]
        clock.advance(0.0)
        paused.pause()
        finish(clock, rest)
        assert clock.now() == 4.0
        assert [future.held_by for future in held] == [None, "pause", "pause"]
        paused.resume()
        finish(clock, held)
        assert clock.now() == 6.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_attempt_of_its_parent() -> None:
    limit = ConcurrencyLimit(1)
    running, release = threading.Event(), threading.Event()

    def first() -> None:
        running.set()
        release.wait(10)

    with RetryingExecutor(1, guards=[limit]) as executor:
        futures = [executor.submit(first), executor.submit(int)]
        running.wait(10)
        child = os.fork()
        if not child:
            try:
                assert executor.submit(lambda: 7).result(10) == 7
                retry(int, guards=[limit])
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        release.set()
        assert futures[1].result(10) == 0


def test_event_loops_and_threads_share_a_limit() -> None:
    """Each is woken where it waits, by whoever ends in another thread."""
    limit = ConcurrencyLimit(2)
    lock = threading.Lock()
    running, most = 0, 0

    def change(by: int) -> None:
        nonlocal running, most
        with lock:
            running += by
            most = max(most, running)

    async def attempt() -> None:
        change(1)
        await asyncio.sleep(0)
        change(-1)

    def attempt_here() -> None:
        change(1)
        change(-1)

    async def main() -> None:
        await asyncio.gather(*(retry_async(attempt, guards=[limit]) for _ in range(50)))

    def loop() -> None:
        asyncio.run(main())

    def calls() -> None:
        for _ in range(50):
            retry(attempt_here, guards=[limit])

    with RetryingExecutor(4, guards=[limit]) as executor:
        futures = [executor.submit(attempt_here) for _ in range(50)]
        in_threads(loop, loop, calls, calls)
    assert [future.result() for future in futures] == [None] * 50
    assert most == 2
    assert repr(limit) == "<ConcurrencyLimit(2): 0 running, 0 held>"


class Tells:
    """A guard that tells when another one has held an attempt back."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.held = threading.Event()

    def admit(self, request: AttemptRequest) -> float | None:
        told = self.guard.admit(request)
        if told is not None:
            self.held.set()
        return told

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        self.guard.release(request, outcome)


def test_a_probe_of_one_event_loop_that_is_cancelled_lets_one_of_another_go() -> None:
    breaker = CircuitBreaker(minimum_attempts=1, open_for=0.01)
    tells = Tells(breaker)
    probing = threading.Event()

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        retry(fail, guards=[breaker], policy=RetryPolicy.never())

    async def hang() -> None:
        probing.set()
        await asyncio.sleep(60)

    async def probe() -> None:
        task = asyncio.create_task(retry_async(hang, guards=[breaker]))
        await asyncio.to_thread(tells.held.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def answer() -> str:
        return "answered"

    def wait() -> str:
        probing.wait(10)
        return asyncio.run(retry_async(answer, guards=[tells]))

    found: list[str] = []
    in_threads(lambda: asyncio.run(probe()), lambda: found.append(wait()))
    assert found == ["answered"]
    assert breaker.state == "closed"
