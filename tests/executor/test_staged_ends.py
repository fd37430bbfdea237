"""Ends of jobs that meet with trouble, staged."""

import sys
import threading
import weakref
from concurrent.futures.thread import BrokenThreadPool
from contextvars import Context
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread, raise_
from helpers.staged import TENS, before

from retryexec import (
    PermanentError,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
)
from retryexec._core.job import Job
from retryexec.testing import VirtualClock


def test_worker_that_repairs_does_not_end_what_another_is_failing(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, gate, error = executor._pool, Gate(PermanentError(Boom())), Boom()
    gate.outcome = PermanentError(error)
    future: Any = executor.submit(gate)

    def repair() -> None:
        pool.interrupted.append(future)
        InThread(pool.shutdown.should_exit).result()

    before(monkeypatch, Job, "release_call", repair)
    gate.open()
    assert future.exception(10) is error
    assert future.stop_reason is StopReason.PERMANENT


def test_broken_initializer_fails_all_jobs_though_a_callback_raises_control_flow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()

    def initializer() -> None:
        assert go.wait(10)
        raise Boom

    executor = RetryingExecutor(1, initializer=initializer)
    futures = [executor.submit(len, "") for _ in range(5)]
    for future in futures:
        future.add_done_callback(lambda _: sys.exit())
    go.set()
    for future in futures:
        assert isinstance(future.exception(10), BrokenThreadPool)
    assert executor.shutdown().abandoned == 5
    assert "found broken" in caplog.text


@pytest.mark.parametrize("outcome", [Boom(), "through"])
def test_job_ends_though_its_end_cannot_be_noted(outcome: Any) -> None:
    class Journal:
        def open(self, host: Any) -> None: ...
        def close(self, timeout: float | None = None) -> bool:  # noqa: ARG002
            return True

        def accept(self, job: Any) -> Any:
            return SimpleNamespace(id="1", job=job, suspect=False)

        def raise_(self, *_: Any, **__: Any) -> None:
            raise MemoryError

        starting = retrying = succeeded = cancelled = died = raise_

    gate = Gate(outcome)
    gate.open()
    executor = RetryingExecutor(1, journal=Journal(), policy=RetryPolicy.never())
    future = executor.submit(gate)
    assert isinstance(future.exception(10), Boom | MemoryError)
    assert InThread(executor.shutdown).result().unfinished == 0


def test_job_that_cannot_be_given_up_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, its callbacks run, and its room is free again."""

    def give_up(*_: Any, **__: Any) -> None:
        raise Boom

    monkeypatch.setattr("retryexec._core.worker.give_up", give_up)
    gate, ended = Gate(Boom()), threading.Event()
    with RetryingExecutor(1, max_pending=1, policy=RetryPolicy.never()) as executor:
        future = executor.submit(gate)
        future.add_done_callback(lambda _: ended.set())
        late = InThread(executor.submit, len, "seven")
        gate.open()
        with pytest.raises(RuntimeError, match="the log has what it raised"):
            future.result(10)
        assert ended.wait(10)
        assert late.result().result(10) == 5
        assert future.stop_reason is StopReason.NOT_RETRIABLE
        assert (executor.stats().failed, executor.stats().attempts) == (1, 2)
    assert "met another error as it ended that job" in caplog.text


def test_cancel_as_an_attempt_begins_counts_no_attempt_twice(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, cancelled = Job.begin, list[bool]()

    def begin_and_cancel(job: Any, now: float) -> Any:
        begun = begin(job, now)
        cancelled.append(job.cancel())
        return begun

    monkeypatch.setattr(Job, "begin", begin_and_cancel)
    future = executor.submit(raise_, Boom())
    assert isinstance(future.exception(10), Boom)
    assert (cancelled, future.attempts, executor.stats().attempts) == ([False], 1, 1)


def test_repair_begins_no_attempt_of_a_waiting_job_before_it_is_due(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job = Fails(1, clock)
    future = executor.submit(job)
    clock.advance(0)
    executor._pool.interrupted.append(future)  # type: ignore[arg-type]
    executor._pool.wake_worker()
    other = Gate()
    other.open()
    assert executor.submit(other).result(10) == "through"  # so the repair has been
    clock.advance(5)
    assert job.started_at == [0]
    clock.advance(5)
    assert (job.started_at, future.result(10)) == ([0, 10], "saved")


def test_interrupted_submit_lets_a_job_go_on_that_has_begun(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job, pool = Fails(1, clock), executor._pool
    queue = pool.queue

    class Queue:
        def __getattr__(self, name: str) -> Any:
            return getattr(queue, name)

        def put(self, item: Any) -> None:
            queue.put(item)
            if item is not None:
                pool.queue = queue
                clock.advance(0)  # so it has failed once
                raise KeyboardInterrupt

    executor.submit(len, "").result(10)
    pool.queue = Queue()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        executor.submit(job)
    clock.advance(10)
    assert (job.started_at, executor.stats().succeeded) == ([0, 10], 2)


def test_success_lets_the_failures_before_it_go(clock: VirtualClock) -> None:
    raised: list[Any] = []

    def job() -> str:
        if not raised:
            error = Boom()
            raised.append(weakref.ref(error))
            raise error
        return "saved"

    with RetryingExecutor(1, clock=clock, policy=TENS) as executor:
        future = executor.submit(job)
        clock.advance(10)
        assert future.result(10) == "saved"
        assert raised[0]() is None
        assert len(future.history) == 1


def test_shutdown_waits_for_a_waiting_job_that_was_taken_over_before_any_other(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    job: Job[Any] = Job(executor._settings, len, False, ("",), {}, Context())
    executor._pool.take_over([(job, 10.0)])
    assert executor.shutdown().done == 1
    assert (job.result(0), clock.now()) == (0, 10)
