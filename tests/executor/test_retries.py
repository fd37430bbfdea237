"""Retries in time: schedules, limits, and what ends them. An hour of it takes a millisecond."""

from collections.abc import Iterator
from datetime import timedelta
from threading import Condition, Event
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, busy_for, raise_

from retryexec import (
    ConstantBackoff,
    PermanentError,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    StopBackoff,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock

ALWAYS = float("inf")


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    """One worker, and ten seconds between attempts."""
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(10))
    with RetryingExecutor(max_workers=1, policy=policy, clock=clock) as executor:
        yield executor


# ---- schedules


def test_a_job_is_tried_until_it_succeeds(executor: RetryingExecutor, clock: VirtualClock) -> None:
    job = Fails(3, clock)
    future = executor.submit(job)
    clock.run_until(future.done)
    assert future.result() == "saved"
    assert job.started_at == [0, 10, 20, 30]
    assert (future.attempts, future.stop_reason) == (4, StopReason.SUCCEEDED)
    assert [failure.number for failure in future.history] == [1, 2, 3]


def test_delays_count_from_the_end_of_an_attempt(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    started: list[float] = []

    def slow() -> None:
        started.append(clock.now())
        busy_for(clock, 3)
        raise Boom

    future = executor.using(max_attempts=3).submit(slow)
    clock.run_until(future.done)
    assert started == [0, 13, 26]
    assert [(f.started, f.seconds) for f in future.history] == [(0, 3), (13, 3), (26, 3)]


def test_each_job_goes_through_the_backoff_by_itself(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    jobs = [Fails(3, clock), Fails(3, clock)]
    view = executor.using(backoff=[1, timedelta(seconds=2), 4.5])
    for job in jobs:
        view.submit(job)
        clock.advance(0)
    clock.advance(100)
    assert [job.started_at for job in jobs] == [[0, 1, 3, 7.5]] * 2


def test_jobs_start_in_the_order_they_are_due(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    """One clock step makes all of them due, and the order is still theirs."""
    started: list[str] = []

    def job(name: str) -> None:
        if current_attempt().number == 1:
            raise Boom
        started.append(name)

    for name, delay in [("c", 3), ("a", 1), ("d", 3), ("b", 2), ("now", 0)]:
        executor.using(backoff=[delay]).submit(job, name)
    clock.advance(3)
    assert started == ["now", "a", "b", "c", "d"]


def test_waiting_jobs_hold_no_worker(executor: RetryingExecutor, clock: VirtualClock) -> None:
    waiting = [executor.submit(Fails(1, clock)) for _ in range(100)]
    clock.advance(0)
    assert executor.stats().waiting == 100
    assert executor.submit(len, "free").result(5) == 4
    clock.advance(10)
    assert {future.result() for future in waiting} == {"saved"}


def test_a_waiting_job_is_pending_and_says_until_when(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    future = executor.submit(Fails(1, clock))
    clock.advance(4)
    assert (future.running(), future.done(), future.next_attempt_at) == (False, False, 10)
    assert (future.attempts, future.stop_reason) == (1, None)
    assert executor.stats().oldest_wait == 4
    clock.advance(6)
    assert (future.done(), future.next_attempt_at) == (True, None)


def test_history_keeps_the_latest_failures(executor: RetryingExecutor, clock: VirtualClock) -> None:
    future = executor.submit(Fails(1000, clock))
    clock.run_until(future.done)
    assert future.attempts == 1001
    assert [failure.number for failure in future.history] == [996, 997, 998, 999, 1000]
    assert future.history[-1].started == 9990
    assert (future.history[-1].exception_type, future.history[-1].text) == (Boom, "1000")


# ---- limits


@pytest.mark.parametrize(
    ("changes", "job", "reason", "ends_at"),
    [
        ({"max_attempts": 3}, lambda: raise_(Boom()), StopReason.MAX_ATTEMPTS, 20),
        ({"max_elapsed": 25}, lambda: raise_(Boom()), StopReason.MAX_ELAPSED, 20),
        ({"max_elapsed": 20}, lambda: raise_(Boom()), StopReason.MAX_ELAPSED, 20),
        ({"backoff": [1, 1]}, lambda: raise_(Boom()), StopReason.BACKOFF_EXHAUSTED, 2),
        ({"backoff": StopBackoff()}, lambda: raise_(Boom()), StopReason.BACKOFF_EXHAUSTED, 0),
        ({"retry_on": OSError}, lambda: raise_(Boom()), StopReason.NOT_RETRIABLE, 0),
        ({"retry_on": lambda e: False}, lambda: raise_(Boom()), StopReason.NOT_RETRIABLE, 0),
        ({}, lambda: raise_(PermanentError(Boom())), StopReason.PERMANENT, 0),
        ({"max_attempts": 2}, lambda: raise_(RetryAfter(7, Boom())), StopReason.MAX_ATTEMPTS, 7),
        ({"max_elapsed": 6}, lambda: raise_(RetryAfter(7, Boom())), StopReason.MAX_ELAPSED, 0),
    ],
)
def test_every_end_has_its_stop_reason(  # noqa: PLR0917
    changes: dict[str, Any],
    job: Any,
    reason: StopReason,
    ends_at: float,
    executor: RetryingExecutor,
    clock: VirtualClock,
) -> None:
    future = executor.using(**changes).submit(job)
    clock.run_until(future.done)
    assert clock.now() == ends_at
    assert future.stop_reason is reason
    assert isinstance(future.exception(), Boom)


class HandClock:
    """Moves although attempts run, which VirtualClock would wait for."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waiting: Condition | None = None
        self.asleep = Event()

    def now(self) -> float:
        return self.time

    def wait(self, changed: Condition, until: float) -> None:
        if until < ALWAYS:
            self.waiting = changed
            self.asleep.set()
        changed.wait()

    def move_to(self, time: float) -> None:
        assert self.asleep.wait(5)
        assert self.waiting is not None
        with self.waiting:
            self.time = time
            self.waiting.notify_all()


@pytest.mark.parametrize(("started", "runs"), [(12, True), (12.001, False)])
def test_a_retry_that_would_start_too_late_because_workers_are_busy_does_not(
    started: float, runs: bool
) -> None:
    clock, gate = HandClock(), Gate()
    policy = RetryPolicy(backoff=[10], max_elapsed=12)
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        job = Fails(1, clock)
        future = executor.submit(job)
        executor.submit(gate)
        assert gate.reached()  # so the job waits by now, and nobody is free for its retry
        clock.move_to(started)
        gate.open()
        error = future.exception(5)
    if runs:
        assert (error, job.started_at) == (None, [0, 12])
    else:
        assert isinstance(error, Boom)
        assert (future.stop_reason, future.attempts) == (StopReason.MAX_ELAPSED, 1)
        assert job.started_at == [0]


def test_elapsed_time_begins_with_the_first_attempt(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    """Time in the queue counts for nothing, though the job was submitted long before."""
    executor.submit(busy_for, clock, 100)
    job = Fails(1, clock)
    future = executor.using(max_elapsed=10).submit(job)
    clock.advance(200)
    assert future.result(0) == "saved"
    assert job.started_at == [100, 110]


def test_the_server_names_the_wait(executor: RetryingExecutor, clock: VirtualClock) -> None:
    started: list[float] = []

    def job() -> None:
        started.append(clock.now())
        if len(started) == 2:
            raise RetryAfter(timedelta(minutes=5))
        if len(started) < 4:
            raise Boom

    clock.run_until(executor.submit(job).done)
    assert started == [0, 10, 310, 320]


def test_retry_on_may_name_the_wait(executor: RetryingExecutor, clock: VirtualClock) -> None:
    job = Fails(2, clock)
    answers = iter([42, timedelta(seconds=1)])
    clock.run_until(executor.using(retry_on=lambda error: next(answers)).submit(job).done)
    assert job.started_at == [0, 42, 43]


# ---- results that are not wanted


def test_unwanted_results_are_retried(executor: RetryingExecutor, clock: VirtualClock) -> None:
    values = iter([None, None, "ready"])
    future = executor.using(retry_on_result=lambda v: v is None).submit(lambda: next(values))
    clock.run_until(future.done)
    assert (future.result(), future.attempts, clock.now()) == ("ready", 3, 20)
    assert [failure.exception_type for failure in future.history] == [None, None]


def test_the_last_unwanted_result_is_the_result(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    view = executor.using(max_attempts=2, retry_on_result=lambda value: True)
    future = view.submit(lambda: current_attempt().number)
    clock.run_until(future.done)
    assert (future.result(), future.exception()) == (2, None)
    assert future.stop_reason is StopReason.MAX_ATTEMPTS
    assert executor.stats().failed == 1


def test_retry_on_result_is_not_asked_about_errors(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    view = executor.using(max_attempts=1, retry_on_result=lambda value: pytest.fail("asked"))
    future = view.submit(raise_, Boom())
    clock.advance(0)
    assert isinstance(future.exception(), Boom)


def test_a_failure_after_an_unwanted_result_is_the_outcome(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    outcomes: list[Any] = [lambda: None, lambda: raise_(Boom())]
    view = executor.using(max_attempts=2, retry_on_result=lambda value: value is None)
    future = view.submit(lambda: outcomes.pop(0)())  # noqa: PLW0108  pops one each time
    clock.run_until(future.done)
    assert isinstance(future.exception(), Boom)
