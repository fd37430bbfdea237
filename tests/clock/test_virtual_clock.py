"""Time that tests move by hand."""

import asyncio
import math
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from helpers.jobs import Gate, InThread, busy_for
from helpers.played import Script, asleep
from hypothesis import given, settings
from hypothesis import strategies as st

from retryexec import (
    CancelToken,
    ConstantBackoff,
    EventTimer,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    Success,
    Ticker,
    retry,
)
from retryexec._clock import SystemClock, default_clock
from retryexec.testing import VirtualClock

MINUTES = RetryPolicy(max_attempts=4, backoff=ConstantBackoff(60))


def waiting_executor(clock: VirtualClock) -> RetryingExecutor:
    return RetryingExecutor(max_workers=2, policy=MINUTES, clock=clock)


# ---- moving


def test_stands_still_until_it_is_moved(clock: VirtualClock) -> None:
    assert clock.now() == clock.now() == 0
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    clock.advance(0)
    assert clock.now() == 61.5
    assert VirtualClock(start=1000).now() == 1000


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "1", None, timedelta(-1)])
def test_time_never_goes_back(clock: VirtualClock, bad: Any) -> None:
    for move in (clock.advance, VirtualClock):
        with pytest.raises((TypeError, ValueError), match=re.escape(repr(bad))):
            move(bad)
    assert clock.now() == 0


def test_advance_stops_at_everything_that_is_due(clock: VirtualClock) -> None:
    """An hour of backoff in one call: each attempt has seen its own time."""
    job = Script(clock, OSError, OSError, OSError, "saved")
    with waiting_executor(clock) as executor:
        future = executor.submit(job)
        clock.advance(3600)
        assert future.done()
        assert (job.started, clock.now()) == ([0, 60, 120, 180], 3600)


def test_advance_runs_what_is_due_exactly_then_and_nothing_later(clock: VirtualClock) -> None:
    job = Script(clock, OSError)
    with waiting_executor(clock) as executor:
        executor.submit(job).add_done_callback(RetryFuture.exception)
        clock.advance(59.999)
        assert job.started == [0]
        clock.advance(0.001)
        assert job.started == [0, 60]
        clock.advance(0)
        assert job.started == [0, 60]


@settings(deadline=None)  # threads take their time on a busy machine
@given(spans=st.lists(st.integers(0, 200), max_size=10))
def test_small_steps_and_large_ones_come_to_the_same(spans: list[int]) -> None:
    clock = VirtualClock()
    job = Script(clock, OSError)
    with waiting_executor(clock) as executor:
        executor.submit(job).add_done_callback(RetryFuture.exception)
        for span in [0, *spans]:
            clock.advance(span)
        assert clock.now() == sum(spans)
        assert job.started == [due for due in (0, 60, 120, 180) if due <= sum(spans)]


@pytest.mark.parametrize("steps", [1, 10])
def test_ten_tenths_are_one_second(clock: VirtualClock, steps: int) -> None:
    """Nor does it matter that three waits of a tenth make 0.30000000000000004 seconds."""
    policy = RetryPolicy(max_attempts=99, backoff=ConstantBackoff(steps / 10))
    with RetryingExecutor(policy=policy, clock=clock) as executor:
        future = executor.submit(Script(clock, *[OSError] * 50))
        for step in range(41):
            clock.advance(0.1 if step else 0)
            assert future.attempts == 1 + step // steps
        future.cancel()


def test_advance_waits_for_callbacks_and_for_what_they_submit(clock: VirtualClock) -> None:
    done: list[float] = []

    def again(_: Any) -> None:
        executor.submit(clock.now).add_done_callback(lambda future: done.append(future.result()))

    with waiting_executor(clock) as executor:
        executor.submit(Script(clock, OSError, "saved")).add_done_callback(again)
        clock.advance(60)
        assert done == [60]


def test_advance_waits_for_the_hook_that_hears_of_a_success(clock: VirtualClock) -> None:
    gate, told_at = Gate(), list[float]()

    def on_success(_: Success) -> None:
        gate.exec()
        told_at.append(clock.now())

    with RetryingExecutor(1, clock=clock, on_success=on_success) as executor:
        executor.submit(len, "").result(10)
        assert gate.reached()
        advance = InThread(clock.advance, 5)
        advance.join(0.05)
        gate.open()
        advance.result()
    assert told_at == [0]


def test_run_until_goes_no_further_than_it_must(clock: VirtualClock) -> None:
    job = Script(clock, OSError)
    with waiting_executor(clock) as executor:
        future = executor.submit(job)
        clock.run_until(lambda: len(job.started) == 3)
        assert clock.now() == 120
        clock.run_until(lambda: True)
        assert clock.now() == 120
        clock.run_until(future.done)
        assert clock.now() == 180
    assert isinstance(future.exception(), OSError)


def test_run_until_tells_when_it_never_will_be(clock: VirtualClock) -> None:
    def pigs_fly() -> bool:
        return False

    with waiting_executor(clock) as executor:
        future = executor.submit(Script(clock, OSError, "saved"))
        with pytest.raises(RuntimeError, match=r"nothing is due any more at 60 s.*pigs_fly"):
            clock.run_until(pigs_fly)
        assert future.result() == "saved"


def test_the_end_of_the_with_block_moves_time(clock: VirtualClock) -> None:
    with waiting_executor(clock) as executor:
        future = executor.submit(Script(clock, OSError, OSError, "saved"))
    assert (future.result(), clock.now()) == ("saved", 120)


def test_shutdown_waits_no_longer_than_its_timeout(clock: VirtualClock) -> None:
    executor = waiting_executor(clock)
    job = Script(clock, OSError)
    future = executor.submit(job)
    report = executor.shutdown(timeout=100)
    assert (report.abandoned, job.started, clock.now()) == (1, [0, 60], 100)
    assert isinstance(future.exception(), RuntimeError)


def test_clocks_and_executors_do_not_mix(clock: VirtualClock) -> None:
    """One clock moves what was built with it, all of that, and nothing else."""
    other = VirtualClock()
    jobs = [Script(clock, OSError, "saved") for _ in range(3)]
    clocks = [clock, clock, other]
    executors = [waiting_executor(each) for each in clocks]
    futures = [ex.submit(job) for ex, job in zip(executors, jobs, strict=True)]
    clock.advance(60)
    assert [future.done() for future in futures] == [True, True, False]
    assert other.now() == 0
    for executor in executors:
        executor.shutdown()


def test_an_attempt_may_take_time(clock: VirtualClock) -> None:
    """It waits by the clock, and while it does others go on."""
    job = Script(clock, OSError, "saved")
    with waiting_executor(clock) as executor:
        slow, quick = executor.submit(busy_for, clock, 100), executor.submit(job)
        clock.advance(99)
        assert (quick.done(), slow.done()) == (True, False)
        clock.advance(1)
        assert slow.done()
    assert job.started == [0, 60]


def test_a_job_queued_behind_one_that_takes_time_waits_for_it() -> None:
    clock = VirtualClock(patience=5)
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        executor.submit(busy_for, clock, 100)
        behind = executor.submit(clock.now)
        clock.run_until(behind.done)
    assert behind.result() == 100


# ---- mistakes


def test_a_job_cannot_move_the_time_it_is_waited_for_in(clock: VirtualClock) -> None:
    with RetryingExecutor(max_workers=1, policy=RetryPolicy.never(), clock=clock) as executor:
        moves = [executor.submit(clock.advance, 1), executor.submit(clock.run_until, bool)]
        for future, name in zip(moves, ("advance", "run_until"), strict=True):
            exception = future.exception()
            assert isinstance(exception, RuntimeError)
            assert f"{name}() was called inside a job" in str(exception)


def test_an_attempt_that_does_not_end_is_named_once_patience_is() -> None:
    clock = VirtualClock(patience=0.01)
    gate = Gate()
    executor = RetryingExecutor(max_workers=1, thread_name_prefix="saver", clock=clock)
    executor.submit(gate)
    assert gate.reached()
    with pytest.raises(RuntimeError, match=r"from 0 s.*saver is running Gate"):
        clock.advance(1)
    assert clock.now() == 0
    gate.open()
    executor.submit(len, "seven").result()
    executor.shutdown(wait=False)


# ---- results that are waited for by the owner


READS: list[Callable[[RetryFuture[Any]], Any]] = [RetryFuture.result, RetryFuture.exception]


@pytest.mark.parametrize("read", READS)
def test_the_owner_does_not_wait_for_a_job_in_backoff(
    clock: VirtualClock, read: Callable[[RetryFuture[Any]], Any]
) -> None:
    """Nobody else would move time; so it says what to do."""
    with waiting_executor(clock) as executor:
        future = executor.submit(Script(clock, OSError, "saved"))
        with pytest.raises(RuntimeError, match=r"at 0 s.*Call clock\.run_until\(future\.done\)"):
            read(future)
        with pytest.raises(TimeoutError):
            future.result(0)
        clock.run_until(future.done)
        assert future.result() == "saved"


def test_the_owner_does_not_wait_for_an_attempt_that_waits_by_the_clock(
    clock: VirtualClock,
) -> None:
    with waiting_executor(clock) as executor:
        future = executor.submit(busy_for, clock, 100)
        with pytest.raises(RuntimeError, match="wait for ever"):
            future.result()


def test_the_owner_waits_for_an_attempt_that_takes_no_time(clock: VirtualClock) -> None:
    gate = Gate()
    with waiting_executor(clock) as executor:
        executor.submit(Script(clock, OSError, "saved"))  # something that is due later
        future = executor.submit(gate)
        assert gate.reached()
        reading = InThread(gate.open)
        assert future.result() == gate.outcome
        reading.result()


def test_with_nothing_due_the_owner_waits_for_what_is_not_a_matter_of_time(
    clock: VirtualClock,
) -> None:
    """As a future that somebody else cancels or completes."""
    over: list[int] = []
    clock.before_endless_wait(lambda: over)
    assert over == []


def test_another_thread_waits_for_the_owner_to_move_time(clock: VirtualClock) -> None:
    with waiting_executor(clock) as executor:
        future = executor.submit(Script(clock, OSError, "saved"))
        reading = InThread(future.result)
        clock.run_until(future.done)
        assert reading.result() == "saved"


# ---- as the default


def test_as_default_it_is_the_clock_of_what_is_made_without_one(clock: VirtualClock) -> None:
    with clock.as_default():
        job = Script(clock, OSError, OSError, "saved")
        with RetryingExecutor(max_workers=1, policy=MINUTES) as executor:
            executor.submit(job)
        assert job.started == [0, 60, 120]
        assert list(Ticker([5, 5])) == [120, 125, 130]
        assert CancelToken(timeout=3).wait()
        assert not CancelToken().wait(7)
        timer = EventTimer()
        timer.start(10)
        assert timer.wait()
        assert retry(Script(clock, OSError, "saved").exec, policy=MINUTES) == "saved"
        assert clock.now() == 130 + 3 + 7 + 10 + 60


def test_a_clock_that_is_given_comes_before_the_default(clock: VirtualClock) -> None:
    other = VirtualClock()
    with clock.as_default():
        retry(Script(clock, OSError, "saved").exec, policy=MINUTES, clock=other)
        child = CancelToken(parent=CancelToken(timeout=5, clock=other))
        assert child.wait()
    assert (clock.now(), other.now()) == (0, 65)


def test_it_is_the_default_in_jobs_of_the_block_and_no_longer_than_that(
    clock: VirtualClock,
) -> None:
    with clock.as_default(), RetryingExecutor(max_workers=1, clock=SystemClock()) as executor:
        assert executor.submit(default_clock).result() is clock
        with VirtualClock().as_default() as inner:
            assert default_clock() is inner
        assert default_clock() is clock
        assert InThread(default_clock).result() is not clock
    assert isinstance(default_clock(), SystemClock)


# ---- threads that wait by it


def test_a_waiting_thread_goes_on_when_it_is_time(clock: VirtualClock) -> None:
    early, late = asleep(clock, 5), asleep(clock, 10)
    clock.advance(5)
    assert (early.is_alive(), late.is_alive()) == (False, True)
    clock.run_until(lambda: not late.is_alive())
    assert clock.now() == 10


def test_what_is_past_is_not_waited_for(clock: VirtualClock) -> None:
    clock.advance(10)
    changed = threading.Condition()

    def look_back() -> None:
        with changed:
            clock.wait(changed, 10)

    thread = threading.Thread(target=look_back)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_notification_ends_the_wait_of_a_thread(clock: VirtualClock) -> None:
    """And time has no business with it any more."""
    changed, begun = threading.Condition(), threading.Event()

    def wait() -> None:
        with changed:
            begun.set()
            clock.wait(changed, 100)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    with changed:
        changed.notify_all()
    thread.join()
    with pytest.raises(RuntimeError, match="nothing is due"):
        clock.run_until(lambda: False)
    assert clock.now() == 0


def test_a_woken_thread_has_acted_before_time_moves_on(clock: VirtualClock) -> None:
    seen: list[float] = []
    for until in (3, 1, 2):
        asleep(clock, until, then=lambda: seen.append(clock.now()))
    clock.advance(10)
    assert seen == [1, 2, 3]


def test_owner_thread_moves_time_by_waiting(clock: VirtualClock) -> None:
    """To the next thing that is due, and no further than it wants to wait."""
    asleep(clock, 5)
    with (changed := threading.Condition()):
        clock.wait(changed, 100)
        assert clock.now() == 5
        clock.wait(changed, 100)
        assert clock.now() == 100


def test_next_thread_moves_time_when_the_owner_has_gone() -> None:
    clocks: list[VirtualClock] = []
    maker = threading.Thread(target=lambda: clocks.append(VirtualClock()))
    maker.start()
    maker.join()
    with (changed := threading.Condition()):
        clocks[0].wait(changed, 7)
    assert clocks[0].now() == 7


def test_time_moves_by_itself_while_its_owner_awaits_a_future() -> None:
    clock = VirtualClock()
    with RetryingExecutor(1, policy=MINUTES, clock=clock) as executor:

        async def main() -> None:
            assert await executor.submit(lambda: "at once") == "at once"
            assert clock.now() == 0
            with pytest.raises(ZeroDivisionError):
                await executor.submit(lambda: 1 / 0)
            assert clock.now() == 180
            loop = asyncio.get_running_loop()

            def needs_the_loop() -> str:
                return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "done"), loop).result()

            assert await executor.submit(needs_the_loop) == "done"

        asyncio.run(main())


def test_whoever_cancels_the_await_of_a_future_cancels_the_job() -> None:
    clock = VirtualClock()
    with RetryingExecutor(1, policy=MINUTES, clock=clock) as executor:
        future = executor.submit(lambda: 1 / 0)
        clock.advance(0)  # an attempt that runs could not be cancelled

        async def main() -> None:
            awaiting = asyncio.ensure_future(future)
            await asyncio.sleep(0)
            awaiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaiting

        asyncio.run(main())
        assert future.cancelled()


def test_the_owner_is_told_if_it_would_wait_for_ever_for_room_in_an_executor() -> None:
    clock = VirtualClock()
    with RetryingExecutor(1, policy=MINUTES, clock=clock, max_pending=1) as executor:
        future = executor.submit(lambda: 1 / 0)
        with pytest.raises(RuntimeError, match=r"would wait for ever"):
            executor.submit(lambda: "no room")
        clock.run_until(future.done)
        assert executor.submit(lambda: "room").result() == "room"
        assert executor.submit(lambda: "room again").result() == "room again"
