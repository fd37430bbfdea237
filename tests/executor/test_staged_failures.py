"""What hardly ever happens, staged: late comers, broken clocks, threads that do not start."""

import logging
import threading
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextvars import Context
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, raise_
from helpers.staged import before

from retryexec import (
    CancelToken,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
)
from retryexec._clock import SystemClock
from retryexec._core.job import Job
from retryexec._core.worker import Worker
from retryexec.testing import VirtualClock


def test_cancel_before_a_job_is_scheduled_leaves_nothing_behind(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(Boom())
    future = executor.submit(gate)
    assert gate.reached()
    before(monkeypatch, executor._pool.timekeeper, "schedule", future.cancel)
    gate.open()
    clock.advance(0)
    assert future.cancelled()
    stats = executor.stats()
    assert (stats.cancelled, stats.waiting, stats.queued) == (1, 0, 0)


def test_cancel_just_after_a_job_is_scheduled_leaves_nothing_behind(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(Boom())
    future = executor.submit(gate)
    assert gate.reached()
    schedule, cancelled = executor._pool.timekeeper.schedule, threading.Event()

    def staged(job: Any, due: float) -> bool:
        scheduled = schedule(job, due)
        assert future.cancel()
        cancelled.set()
        return scheduled

    monkeypatch.setattr(executor._pool.timekeeper, "schedule", staged)
    gate.open()
    assert cancelled.wait(10)
    clock.advance(0)
    stats = executor.stats()
    assert (stats.cancelled, stats.waiting, stats.queued) == (1, 0, 0)


def test_job_that_fails_during_shutdown_is_ended(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(Boom())
    future = executor.submit(gate)
    assert gate.reached()
    before(
        monkeypatch,
        executor._pool.timekeeper,
        "schedule",
        lambda: executor.shutdown(wait=False, cancel_futures=True),
    )
    gate.open()
    with pytest.raises((CancelledError, ShutdownError)):
        future.result(10)


class BrokenClock(SystemClock):
    """A clock that cannot be waited for."""

    def wait(self, changed: threading.Condition, until: float) -> None:
        if threading.current_thread().name.endswith("_timekeeper"):
            raise Boom
        super().wait(changed, until)


def test_clock_whose_wait_fails_is_polled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Jobs come late by it, and come all the same."""
    clock = BrokenClock()
    policy = RetryPolicy(backoff=[0.01, 0.15])
    with RetryingExecutor(1, clock=clock, policy=policy) as executor:
        assert executor.submit(Fails(2, clock)).result(30) == "saved"
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert [line[:16] for line in errors] == ["the clock failed"]


def test_without_a_timekeeper_the_worker_waits_itself(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started, as at the end of some interpreters."""
    executor.submit(len, "").result(10)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    job = Fails(2, clock)
    future = executor.submit(job)
    clock.run_until(future.done)
    monkeypatch.undo()
    assert job.started_at == [0, 10, 20]


def test_wait_of_a_worker_ends_at_shutdown(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.submit(len, "").result(10)
    monkeypatch.setattr(executor._pool.timekeeper, "_start", lambda: None)
    future = executor.submit(Fails(2, clock))
    clock.advance(5)
    executor.shutdown(cancel_futures=True)
    assert isinstance(future.exception(10), Boom)
    assert future.stop_reason is StopReason.SHUTDOWN


def test_second_worker_that_does_not_start_is_logged_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RetryingExecutor(2) as executor:
        gate = Gate()
        first = executor.submit(gate)
        assert gate.reached()

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        second = executor.submit(len, "seven")
        monkeypatch.undo()
        gate.open()
        assert (first.result(10), second.result(10)) == ("through", 5)
    assert "cannot start another worker: can't start new thread" in caplog.text


def test_job_queued_as_the_pool_breaks_ends_as_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, broken = threading.Event(), threading.Event()

    def initializer() -> None:
        assert go.wait(10)
        raise Boom

    executor = RetryingExecutor(1, initializer=initializer)
    pool = executor._pool
    stop = pool.shutdown.stop_attempts

    def stopped(end: Any) -> None:
        stop(end)
        broken.set()

    monkeypatch.setattr(pool.shutdown, "stop_attempts", stopped)
    logging.getLogger("concurrent.futures").disabled = True
    try:
        first = executor.submit(len, "")
        put = pool.queue.put

        class Queue:
            """The pool's, to which a job comes when all the others have been ended."""

            def __getattr__(self, name: str) -> Any:
                return getattr(queue, name)

            def put(self, job: Any) -> None:
                if job is not None and not broken.is_set():
                    go.set()
                    assert broken.wait(10)
                put(job)

        queue = pool.queue
        monkeypatch.setattr(pool, "queue", Queue())
        second = executor.submit(len, "")
        assert isinstance(first.exception(10), BrokenThreadPool)
        assert isinstance(second.exception(10), BrokenThreadPool)
        assert executor._broken
    finally:
        logging.getLogger("concurrent.futures").disabled = False
        executor.shutdown()


def test_future_left_behind_by_a_fork_fails_when_waited_for(
    executor: RetryingExecutor,
) -> None:
    """One that was neither queued nor running at that moment; staged here, in the parent."""
    job: Job[int] = Job(executor._settings, len, False, ("",), {}, Context())
    executor._pool.forked = True
    with pytest.raises(ShutdownError, match="it runs in the parent, not here"):
        job.result(10)


def test_interrupt_as_a_worker_starts_does_not_use_up_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = Worker.start

    def interrupted(worker: Worker) -> None:
        start(worker)
        raise KeyboardInterrupt

    with RetryingExecutor(1) as executor:
        monkeypatch.setattr(Worker, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(len, "")
        monkeypatch.undo()
        assert executor.submit(len, "seven").result(10) == 5
        assert len(executor._threads) == 1


def test_interrupt_as_jobs_are_abandoned_ends_them_all_the_same(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = executor.submit(Fails(9, clock))
    clock.advance(1)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retryexec._core.shutdown.give_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown(timeout=0)
    assert isinstance(future.exception(10), ShutdownError)


def test_callback_that_raises_in_a_shutdown_without_wait_is_logged(
    executor: RetryingExecutor, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.submit(Fails(9, clock))
    clock.advance(1)
    future.add_done_callback(lambda _: raise_(SystemExit()))
    executor.shutdown(wait=False, timeout=0)
    assert isinstance(future.exception(10), ShutdownError)
    for thread in threading.enumerate():
        if thread.name.endswith("_shutdown"):
            thread.join(10)
    assert "a callback failed while" in caplog.text


def test_first_kind_of_shutdown_stands(executor: RetryingExecutor, clock: VirtualClock) -> None:
    future = executor.submit(Fails(9, clock))
    clock.advance(1)
    executor.shutdown(wait=False, cancel_futures=True)
    executor.shutdown(timeout=0)
    assert future.cancelled()
    assert executor.shutdown(cancel_futures=True).cancelled == 1


def test_closed_executor_refuses_jobs_with_a_cancelled_token(clock: VirtualClock) -> None:
    executor = RetryingExecutor(1, clock=clock)
    view = executor.using(cancel=(token := CancelToken()))
    executor.shutdown()
    token.cancel()
    with pytest.raises(RuntimeError, match="after shutdown"):
        view.submit(len, "")
    assert executor.stats().cancelled == 0


def test_full_executor_refuses_a_job_from_its_own_worker_with_a_token() -> None:
    with RetryingExecutor(1, max_pending=1) as executor:
        token = CancelToken()
        view = executor.using(cancel=token, max_attempts=1)
        error = view.submit(lambda: view.submit(len, "")).exception(10)
        assert "max_pending=1" in str(error)
        assert not token._callbacks


def test_exec_that_is_not_callable_is_refused(executor: RetryingExecutor) -> None:
    class Job:
        exec = "now"

    with pytest.raises(TypeError, match="has 'now' in its place"):
        executor.submit(Job())


def test_attributes_that_monitors_read(executor: RetryingExecutor) -> None:
    executor.submit(len, "").result(10)
    assert executor._max_workers == 1
    assert not executor._broken
    assert [thread.name[-2:] for thread in executor._threads] == ["_0"]


def test_partial_is_named_for_its_function(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.using(max_attempts=1).submit(partial(partial(raise_), Boom()))
    executor.shutdown()
    assert "raise_ failed and nobody read its future" in caplog.text
