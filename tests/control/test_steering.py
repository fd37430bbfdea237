"""Steering: pending, retry_now, postpone, pause and resume."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread

from retryexec import (
    ConstantBackoff,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
)
from retryexec._core.job import Job
from retryexec.guards import ConcurrencyLimit
from retryexec.testing import VirtualClock


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    policy = RetryPolicy(backoff=ConstantBackoff(10.0))
    with RetryingExecutor(max_workers=1, clock=clock, policy=policy) as executor:
        yield executor


def test_pending_tells_where_each_job_is(executor: RetryingExecutor, clock: VirtualClock) -> None:
    waiting = executor.submit(Fails(1, clock))
    clock.advance(4)
    gate = Gate()
    keyed = executor.using(key=("user", 1))
    running = keyed.submit(gate)
    assert gate.reached()
    behind = keyed.submit(len, "abc")
    queued = executor.submit(Fails(0, clock))
    found = executor.pending()
    assert [one.future for one in found] == [running, queued, behind, waiting]
    assert [one.state for one in found] == ["running", "queued", "held", "waiting"]
    assert [one.name for one in found] == ["Gate", "Fails", "len", "Fails"]
    assert [one.key for one in found] == [("user", 1), None, ("user", 1), None]
    assert [one.attempts for one in found] == [1, 0, 0, 1]
    assert [one.due_in for one in found] == [None, None, None, 6.0]
    assert [one.last_error for one in found] == [None, None, None, "Boom: 1"]
    assert [one.held_by for one in found] == [None, None, "key", None]
    stats = executor.stats()
    assert (stats.running, stats.queued, stats.held, stats.waiting) == (1, 1, 1, 1)
    gate.open()
    executor.shutdown()
    assert executor.pending() == []


def test_retry_now_ends_the_wait(executor: RetryingExecutor, clock: VirtualClock) -> None:
    job = Fails(1, clock)
    future = executor.submit(job)
    clock.advance(4)
    assert future.retry_now()
    assert future.result(10) == "saved"
    assert job.started_at == [0.0, 4.0]
    assert not future.retry_now()


def test_retry_now_is_nothing_to_one_that_waits_for_no_time(executor: RetryingExecutor) -> None:
    gate = Gate()
    keyed = executor.using(key="user")
    running, behind, queued = keyed.submit(gate), keyed.submit(int), executor.submit(int)
    assert gate.reached()
    assert not any(future.retry_now() for future in (running, behind, queued))
    gate.open()
    assert behind.result(10) == queued.result(10) == 0
    assert not RetryFuture[int]().retry_now()


def test_postpone_replaces_the_wait(executor: RetryingExecutor, clock: VirtualClock) -> None:
    job = Fails(1, clock)
    future = executor.submit(job)
    clock.advance(4)
    assert future.postpone(100)
    assert future.next_attempt_at == 104.0
    clock.advance(50)
    assert future.postpone(timedelta(seconds=1))
    clock.run_until(future.done)
    assert job.started_at == [0.0, 55.0]
    assert not future.postpone(1)


def test_postpone_takes_a_job_out_of_the_queue(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    gate, job = Gate(), Fails(0, clock)
    executor.submit(gate)
    assert gate.reached()
    future = executor.submit(job)
    assert future.postpone(7)
    assert executor.stats().waiting == 1
    assert executor.stats().oldest_wait == 0.0
    gate.open()
    executor.submit(int).result(10)
    assert not job.started_at
    clock.run_until(future.done)
    assert job.started_at == [7.0]


def test_postpone_one_behind_another_of_its_key(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    gate, job = Gate(), Fails(0, clock)
    keyed = executor.using(key="user")
    running = keyed.submit(gate)
    future = keyed.submit(job)
    assert gate.reached()
    assert not running.postpone(1)
    assert future.postpone(7)
    gate.open()
    clock.run_until(future.done)
    assert job.started_at == [7.0]


@pytest.mark.parametrize("guarded", [False, True])
def test_held_anew_before_the_thread_that_postponed_it_goes_on(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It was postponed by so little that it has come due, and a pause or a guard has it now."""
    pool, gate, limit = executor._pool, Gate(), CountedLimit(1)
    let_wait = pool.let_wait

    def held_after(job: Any, due: float) -> bool:
        asked = limit.asked
        assert let_wait(job, due)
        while guarded and not (limit.asked > asked and job in pool.control.parked):
            threading.Event().wait(0.0005)
        while job.held_by is None:
            threading.Event().wait(0.0005)
        return True

    if guarded:
        with RetryingExecutor(max_workers=1) as other:
            holder = other.using(guards=[limit]).submit(gate)
            assert gate.reached()
            future = executor.using(guards=[limit]).submit(int)
            while future.held_by is None:
                threading.Event().wait(0.0005)
            monkeypatch.setattr(pool, "let_wait", held_after)
            assert future.postpone(0)
            gate.open()
            holder.result(10)
    else:
        executor.pause()
        future = executor.submit(int)
        while future.held_by is None:
            threading.Event().wait(0.0005)
        monkeypatch.setattr(pool, "let_wait", held_after)
        assert future.postpone(0)
        executor.resume()
    assert future.result(10) == 0


class CountedLimit(ConcurrencyLimit):
    """Counts how often it was asked."""

    asked = 0

    def admit(self, request: Any) -> float | None:
        told = super().admit(request)
        self.asked += 1
        return told


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "soon", None, True])
def test_postpone_refuses_what_is_not_a_time(executor: RetryingExecutor, bad: Any) -> None:
    gate = Gate()
    future = executor.submit(gate)
    with pytest.raises((TypeError, ValueError), match="seconds"):
        future.postpone(bad)
    gate.open()


def test_no_attempt_starts_in_a_pause(executor: RetryingExecutor, clock: VirtualClock) -> None:
    gate, waits = Gate(), Fails(1, clock)
    waiting = executor.submit(waits)
    clock.advance(1)
    running = executor.submit(gate)
    assert gate.reached()
    executor.pause()
    ran = list[int]()
    futures = [executor.submit(ran.append, n) for n in range(100)]
    gate.open()
    assert running.result(10) == "through"
    clock.advance(100)
    assert ran == []
    assert len(waits.started_at) == 1
    assert {one.state for one in executor.pending()} <= {"held", "queued"}
    assert executor.stats().running == 0
    assert futures[3].cancel()
    executor.resume()
    clock.run_until(waiting.done)
    executor.shutdown()
    assert sorted(ran) == [n for n in range(100) if n != 3]
    assert waits.started_at[1] >= 101
    stats = executor.stats()
    assert (stats.held, stats.queued, stats.cancelled) == (0, 0, 1)


def test_jobs_say_that_a_pause_holds_them(executor: RetryingExecutor) -> None:
    executor.pause()
    future = executor.submit(int)
    told = threading.Event()

    def is_held() -> bool:
        return future.held_by == "pause"

    while not is_held():
        told.wait(0.001)
    assert executor.stats().held == 1
    executor.resume()
    assert future.result(10) == 0
    assert future.held_by is None


def test_pause_and_resume_keep_the_order(executor: RetryingExecutor) -> None:
    ran = list[int]()
    executor.pause()
    futures = [executor.submit(ran.append, n) for n in range(1000)]
    executor.resume()
    for future in futures:
        future.result(10)
    assert len(ran) == 1000


@pytest.mark.parametrize("guarded", [False, True])
def test_a_pause_that_ends_as_a_worker_has_seen_it_keeps_no_job(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    room, name = (executor._pool.control, "admit") if guarded else (Job, "give_back")
    real = getattr(room, name)

    def resumed_after(job: Any) -> Any:
        monkeypatch.setattr(room, name, real)
        done = real(job)
        InThread(executor.resume).result()
        return done

    monkeypatch.setattr(room, name, resumed_after)
    executor.pause()
    view = executor.using(guards=[ConcurrencyLimit(1)] if guarded else [])
    assert view.submit(int).result(10) == 0


def test_no_job_is_set_aside_for_the_next_pause_while_one_ends(executor: RetryingExecutor) -> None:
    """It would be forgotten with those that are queued again."""
    pool, free = executor._pool, list[bool]()

    def is_free() -> bool:
        acquired = pool.lock.acquire(blocking=False)
        if acquired:
            pool.lock.release()
        return acquired

    class Seats(dict[int, Any]):
        def clear(self) -> None:
            free.append(InThread(is_free).result())
            super().clear()

    executor.pause()
    future = executor.submit(int)
    while future.held_by is None:
        threading.Event().wait(0.0005)
    pool.steering.set_aside = Seats(pool.steering.set_aside)
    executor.resume()
    assert future.result(10) == 0
    assert free == [False]


@pytest.mark.parametrize("how", [{}, {"cancel_futures": True}, {"timeout": 0}])
def test_a_shutdown_ends_a_pause(clock: VirtualClock, how: Any) -> None:
    executor = RetryingExecutor(max_workers=1, clock=clock)
    executor.pause()
    futures = [executor.submit(int) for _ in range(10)]
    executor.shutdown(**how)
    assert all(future.done() for future in futures)
    executor.pause()  # too late for anything
    executor.resume()


def test_keyed_jobs_in_a_pause(executor: RetryingExecutor) -> None:
    ran = list[int]()
    executor.pause()
    keyed = executor.using(key="user")
    futures = [keyed.submit(ran.append, n) for n in range(50)]
    executor.resume()
    for future in futures:
        future.result(10)
    assert ran == list(range(50))


def test_steering_from_callbacks_and_from_signal_handlers(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job = Fails(1, clock)
    future = executor.submit(job)
    clock.advance(1)
    answers: list[bool] = []

    def handler(*_: Any) -> None:
        executor.pause()
        answers.append(future.postpone(5))
        answers.append(future.retry_now())
        executor.pending()
        executor.resume()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with executor._pool.lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [True, True]
    assert future.result(10) == "saved"
    other = executor.submit(Fails(1, clock))
    executor.submit(int).add_done_callback(lambda _: answers.append(other.postpone(3)))
    executor.shutdown()
    assert other.stop_reason is StopReason.SUCCEEDED
    assert len(answers) == 3


def test_one_postponed_past_its_limit_fails(clock: VirtualClock) -> None:
    policy = RetryPolicy(max_elapsed=20, backoff=[10, 10])
    with RetryingExecutor(max_workers=1, clock=clock, policy=policy) as executor:
        future = executor.submit(Fails(5, clock))
        clock.advance(1)
        assert future.postpone(30)
        clock.run_until(future.done)
    assert isinstance(future.exception(), Boom)
    assert future.stop_reason is StopReason.MAX_ELAPSED
