"""Cancelling a job, at any point of its life, and what a job lets go of when it ends."""

import operator
import weakref
from concurrent.futures import CancelledError, as_completed, wait
from contextvars import ContextVar
from threading import Event
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, raise_

from retryexec import (
    Cancelled,
    Retry,
    RetryFuture,
    RetryingExecutor,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock

# ---- between attempts


def test_a_waiting_job_is_cancelled_at_once(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job = Fails(5, clock)
    future = executor.submit(job)
    clock.advance(15)
    assert future.cancel()
    assert (future.cancelled(), future.next_attempt_at) == (True, None)
    assert (future.attempts, future.stop_reason) == (2, StopReason.CANCELLED)
    assert [failure.number for failure in future.history] == [1, 2]
    assert (executor.stats().waiting, executor.stats().cancelled) == (0, 1)
    with pytest.raises(CancelledError):
        future.result(0)
    clock.advance(100)
    assert job.started_at == [0, 10]


def test_a_queued_job_is_cancelled_at_once(executor: RetryingExecutor) -> None:
    gate, ran = Gate(), []
    executor.submit(gate)
    assert gate.reached()
    future = executor.submit(ran.append, 1)
    assert future.cancel()
    assert wait([future], timeout=0).done == {future}
    assert (executor.stats().queued, executor.stats().cancelled) == (0, 1)
    gate.open()
    assert executor.submit(len, "after").result(5) == 5
    assert (ran, executor.stats().queued) == ([], 0)


def test_wait_returns_on_a_cancel_between_attempts(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled when wait() has looked at it and is about to sleep; no worker has a hand in it."""
    future = executor.submit(Fails(5, clock))
    clock.advance(0)
    sleep = Event.wait

    def cancel_and_sleep(self: Event, timeout: float | None = None) -> bool:
        future.cancel()
        return sleep(self, timeout)

    monkeypatch.setattr(Event, "wait", cancel_and_sleep)
    assert wait([future], timeout=5).done == {future}


def test_as_completed_yields_a_job_cancelled_between_attempts(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    quick, waiting = executor.submit(len, ""), executor.submit(Fails(5, clock))
    clock.advance(0)
    ends = as_completed([quick, waiting], timeout=5)
    assert next(ends) is quick
    waiting.cancel()
    assert list(ends) == [waiting]


def test_many_cancelled_jobs_leave_the_others_in_order(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    jobs = [Fails(1, clock, result=n) for n in range(400)]
    futures = [executor.submit(job) for job in jobs]
    clock.advance(0)
    for future in futures[::2] + futures[1:399:4]:
        future.cancel()
    assert executor.stats().waiting == 100
    clock.advance(10)
    assert [f.result() for f in futures if not f.cancelled()] == list(range(3, 400, 4))
    assert (executor.stats().waiting, executor.stats().cancelled) == (0, 300)


def test_callbacks_of_a_cancelled_job_run_once(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    called: list[Any] = []
    future = executor.submit(Fails(5, clock))
    future.add_done_callback(called.append)
    clock.advance(0)
    future.cancel()
    assert called == [future]
    clock.advance(50)
    assert called == [future]


# ---- during an attempt


@pytest.mark.parametrize("backoff", [[0, 0], [10, 10]])
def test_no_attempt_follows_a_cancel_during_one(backoff: list[float], clock: VirtualClock) -> None:
    heard: list[Retry] = []
    gate = Gate(Boom("the outcome"))
    with RetryingExecutor(1, on_retry=heard.append, clock=clock) as executor:
        future = executor.using(backoff=backoff).submit(gate)
        assert gate.reached()
        assert not future.cancel()
        assert future.running()
        gate.open()
        assert str(future.exception(5)) == "the outcome"
    assert (future.attempts, future.stop_reason) == (1, StopReason.CANCELLED)
    assert (heard, future.cancelled()) == ([], False)
    assert "1 attempt " in future.exception().__notes__[0]


def test_success_despite_a_cancel_is_success(executor: RetryingExecutor) -> None:
    gate = Gate("saved")
    future = executor.submit(gate)
    assert gate.reached()
    assert not future.cancel()
    gate.open()
    assert (future.result(5), future.stop_reason) == ("saved", StopReason.SUCCEEDED)


def test_cancel_from_the_hook_counts(clock: VirtualClock) -> None:
    """The decision to retry has been made, and cancel() comes before the wait begins."""
    job = Fails(5, clock)
    with RetryingExecutor(1, on_retry=lambda e: e.future.cancel(), clock=clock) as executor:
        future = executor.submit(job)
        clock.advance(100)
    assert isinstance(future.exception(0), Boom)
    assert (job.started_at, future.stop_reason) == ([0], StopReason.CANCELLED)
    assert future.exception().__traceback__ is not None


def test_an_attempt_can_see_that_it_is_cancelled(executor: RetryingExecutor) -> None:
    begun, cancelled = Event(), Event()
    seen: list[bool] = []

    def job() -> None:
        attempt = current_attempt()
        attempt.checkpoint()
        seen.append(attempt.cancelled)
        begun.set()
        assert cancelled.wait(5)
        seen.append(attempt.cancelled)
        attempt.checkpoint()

    future = executor.submit(job)
    assert begun.wait(5)
    future.cancel()
    cancelled.set()
    assert isinstance(future.exception(5), Cancelled)
    assert (seen, future.attempts) == ([False, True], 1)


# ---- what a job lets go of, without the garbage collector (nothing here collects)


class Thing:
    """Something that can be watched."""

    def __call__(self, *_args: Any) -> str:
        return "called"

    def __index__(self) -> int:
        raise Boom


variable: ContextVar[Any] = ContextVar("variable")


def submit_all_kinds(
    executor: RetryingExecutor, call: Any
) -> tuple[RetryFuture[Any], list["weakref.ref[Any]"]]:
    """Submit a job with a callable, arguments and a context that only the job holds."""
    argument, keyword, value = Thing(), Thing(), Thing()
    refs = [weakref.ref(thing) for thing in (call, argument, keyword, value)]
    token = variable.set(value)
    future = executor.submit(call, argument, key=keyword)
    variable.reset(token)
    return future, refs


class FailsInC(Thing):
    """Raises from C, which leaves no frame of its own to hold anything."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        del self, args, kwargs
        return operator.truediv(1, 0)


class Succeeds(Thing):
    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return "saved"


@pytest.mark.parametrize("kind", [Succeeds, FailsInC])
def test_ended_job_releases_its_call(
    kind: type[Thing], executor: RetryingExecutor, clock: VirtualClock
) -> None:
    future, refs = submit_all_kinds(executor, kind())
    clock.run_until(future.done)
    clock.advance(0)
    assert [ref() for ref in refs] == [None] * 4
    assert future.done()


def test_cancelled_waiting_job_releases_its_call(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    future, refs = submit_all_kinds(executor, FailsInC())
    clock.advance(0)
    assert [ref() is None for ref in refs] == [False] * 4
    future.cancel()
    assert [ref() for ref in refs] == [None] * 4


def test_cancelled_queued_job_releases_its_call(executor: RetryingExecutor) -> None:
    gate = Gate()
    executor.submit(gate)
    future, refs = submit_all_kinds(executor, Succeeds())
    future.cancel()
    assert [ref() for ref in refs] == [None] * 4
    gate.open()


@pytest.mark.parametrize("end", ["succeeds", "fails", "is cancelled"])
def test_dropped_future_is_freed_at_once(
    end: str, executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job = Fails({"succeeds": 1, "fails": 9, "is cancelled": 9}[end], clock)
    future = executor.submit(job)
    clock.advance(0)
    if end == "is cancelled":
        future.cancel()
    clock.advance(100)
    if end == "fails":
        with pytest.raises(Boom):
            future.result(0)
    ref = weakref.ref(future)
    del future
    if end != "is cancelled":
        assert ref() is None
    else:  # its entry in the heap goes when it surfaces
        clock.advance(100)
        assert ref() is None


def test_a_waiting_job_keeps_no_frame_alive(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    """The traceback of the attempt before would keep all its variables, through the wait."""
    locals_: list[weakref.ref[Thing]] = []

    def job() -> None:
        thing = Thing()
        locals_.append(weakref.ref(thing))
        raise_(Boom())

    future = executor.submit(job)
    clock.advance(0)
    assert [ref() for ref in locals_] == [None]
    clock.advance(100)
    assert [ref() is None for ref in locals_] == [True] * 4 + [False]
    assert future.done()


def test_cancelled_jobs_do_not_pile_up_in_the_queue(executor: RetryingExecutor) -> None:
    """Behind a busy worker, whom they would wait for, most of them go; the others stay in line."""
    ran: list[int] = []
    gate = Gate()
    executor.submit(gate)
    assert gate.reached()
    for n in range(1000):
        future = executor.submit(ran.append, n)
        if n % 100:
            assert future.cancel()
    assert executor.stats().queued == 10
    assert executor._pool.queue.qsize() < 200
    gate.open()
    executor.shutdown()
    assert ran == [*range(0, 1000, 100)]
    assert executor.stats().queued == 0


def test_swept_jobs_do_not_count_as_load(clock: VirtualClock) -> None:
    """Else time would wait for them."""
    with RetryingExecutor(2, clock=clock) as executor:
        gate = Gate()
        futures = [executor.submit(gate) for _ in range(2)]
        futures += [executor.submit(len, "") for _ in range(200)]
        for future in futures[2:]:
            future.cancel()
        gate.open()
        clock.advance(1)
        assert (executor.stats().succeeded, executor.stats().cancelled) == (2, 200)


def test_only_jobs_yet_to_run_count_as_queued(executor: RetryingExecutor) -> None:
    """Not cancelled jobs, before and after they leave the queue, nor sentinels to the workers."""
    pool = executor._pool
    future, behind = executor.submit(first := Gate()), executor.submit(second := Gate())
    assert first.reached()
    executor.submit(len, "").cancel()
    for _ in range(3):
        pool.wake_worker()
    executor.submit(len, "")
    assert executor.stats().queued == 2
    first.open()
    assert future.result(10)
    assert second.reached()
    assert executor.stats().queued == 1
    second.open()
    assert behind.result(10)
    executor.submit(third := Gate())
    assert third.reached()
    executor.submit(len, "")
    executor.submit(len, "")
    assert executor.stats().queued == 2
    executor.shutdown(wait=False)
    assert executor.stats().queued == 2
    executor.shutdown(wait=False, cancel_futures=True)
    assert executor.stats().queued == 0
    third.open()
    executor.shutdown()
    assert executor.stats().queued == 0


def test_worker_that_passes_a_job_as_it_is_cancelled_leaves_nothing_behind(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = executor._pool
    executor.submit(gate := Gate())
    assert gate.reached()
    future = executor.submit(len, "")
    remove = pool.remove

    def late(job: Any, cancelled: bool) -> None:
        gate.open()
        executor.submit(len, "").result(10)  # behind the cancelled one
        remove(job, cancelled)

    monkeypatch.setattr(pool, "remove", late)
    assert future.cancel()
    executor.submit(last := Gate())
    assert last.reached()
    executor.submit(len, "")
    assert (executor.stats().queued, executor.stats().cancelled) == (1, 1)
    last.open()
