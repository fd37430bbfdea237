"""Submits and cancels that a shutdown overtakes, staged."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread

from retryexec import (
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
)
from retryexec._core.job import Job
from retryexec._core.pool import Pool
from retryexec.testing import VirtualClock


def test_job_queued_behind_the_sentinel_of_a_shutdown_is_run() -> None:
    """Closed right after the look whether it is, and before the job is queued."""
    executor = RetryingExecutor(1)
    executor.submit(len, "").result(10)
    queue = executor._pool.queue

    class Queue:
        def __getattr__(self, name: str) -> Any:
            return getattr(queue, name)

        def put(self, job: Any) -> None:
            if job is not None:
                executor._pool.queue = queue
                executor.shutdown(wait=False)
            queue.put(job)

    executor._pool.queue = Queue()  # type: ignore[assignment]
    assert executor.submit(len, "").result(10) == 0
    assert executor.shutdown().done == 2


def test_workers_leave_when_the_last_job_after_shutdown_is_cancelled(
    executor: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = executor.submit(Fails(9, clock))
    clock.advance(1)
    (worker,) = executor._threads
    looked, should_exit = threading.Event(), executor._pool.shutdown.should_exit

    def look() -> bool:
        exits = should_exit()
        looked.set()
        return exits

    monkeypatch.setattr(executor._pool.shutdown, "should_exit", look)
    executor.shutdown(wait=False)
    assert looked.wait(10)  # it has got its sentinel, and must get another one
    assert future.cancel()
    worker.join(10)
    assert not worker.is_alive()


class RunsAtOnce:
    """A pool's queue whose `put` of a job returns only once that job has begun."""

    def __init__(self, pool: Pool, gate: Gate) -> None:
        self.queue, self.gate = pool.queue, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    def put(self, job: Job[Any] | None) -> None:
        self.queue.put(job)
        if job is not None and job.submitted is self.gate:
            assert self.gate.reached()


def test_submit_refused_while_it_waits_for_room_runs_nothing() -> None:
    first, late, waiting = Gate(), Gate(), threading.Event()
    late.open()
    executor = RetryingExecutor(1, max_pending=1)
    pool = executor._pool
    pool.queue = RunsAtOnce(pool, late)  # type: ignore[assignment]
    executor.submit(first)
    assert pool.room is not None
    news = pool.room._news

    class News:
        put, empty = news.put, news.empty

        def get(self) -> None:
            waiting.set()
            news.get()

    pool.room._news = News()  # type: ignore[assignment]
    submitter = InThread(executor.submit, late)
    assert waiting.wait(10)
    first.open()
    executor.shutdown(wait=False)
    with suppress(RuntimeError):  # unless its room came first
        assert submitter.result().result(10) == "through"
    report = executor.shutdown()
    assert (report.done, report.unfinished) == (1 + late.begun.is_set(), 0)


def test_job_that_a_worker_takes_while_attempts_are_being_stopped_is_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, late, passed = Gate(), Gate(), threading.Event()
    late.open()
    executor = RetryingExecutor(1)
    pool = executor._pool
    executor.submit(gate)
    future = executor.submit(late)
    assert gate.reached()
    should_exit = pool.shutdown.should_exit

    def exits() -> bool:
        passed.set()
        return should_exit()

    def let_the_worker_go_on() -> None:
        gate.open()
        assert passed.wait(10)  # it has got the sentinel, and so the job before that

    monkeypatch.setattr(pool.shutdown, "should_exit", exits)
    close = pool.timekeeper.close

    def close_later() -> None:
        let_the_worker_go_on()
        close()

    monkeypatch.setattr(pool.timekeeper, "close", close_later)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()
    assert not late.begun.is_set()


class AddsAfter(set[Any]):
    """A set of unfinished jobs; something happens before the next job joins it."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self.happens: Callable[[], object] | None = happens

    def add(self, job: Any) -> None:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        super().add(job)


def test_submit_that_a_whole_shutdown_overtakes_is_refused() -> None:
    """Nothing runs any more once the shutdown has returned."""
    executor, late = RetryingExecutor(2), Gate()
    late.open()
    executor.submit(len, "").result(10)
    pool = executor._pool
    pool.queue = RunsAtOnce(pool, late)  # type: ignore[assignment]
    pool.unfinished = AddsAfter(lambda: InThread(executor.shutdown).result())
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(late)
    assert not late.begun.is_set()


def test_job_taken_over_as_a_whole_shutdown_overtakes_it_ends() -> None:
    executor = RetryingExecutor(1)
    executor.submit(len, "").result(10)
    pool = executor._pool
    pool.unfinished = AddsAfter(lambda: InThread(executor.shutdown).result())
    job: Job[Any] = Job(executor._settings, len, False, ("",), {}, Context())
    pool.take_over([(job, None)])
    with pytest.raises(ShutdownError, match="took this job over"):
        job.result(10)
    assert executor.shutdown().unfinished == 0


def test_job_that_is_about_to_wait_ends_though_futures_are_being_cancelled() -> None:
    """It has found no shutdown, and the shutdown finds it running: then the shutdown waits."""
    gate, met = Gate(Boom()), threading.Event()
    shutdowns: list[InThread] = []
    executor = RetryingExecutor(1, policy=RetryPolicy(backoff=[3600.0], max_elapsed=None))

    class Lock:
        def __init__(self, lock: Any) -> None:
            self.lock, self.release = lock, lock.release

        def acquire(self) -> None:
            if not self.lock.acquire(blocking=False):
                met.set()
                self.lock.acquire()

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *_: object) -> None:
            self.release()

    class StagedPool(Pool):
        @property
        def stopping(self) -> bool:
            stopping: bool = self.__dict__["stopping"]
            if future.running() and not shutdowns and threading.current_thread() in self.threads():
                shut_down = partial(executor.shutdown, wait=False, cancel_futures=True)
                shutdowns.append(InThread(lambda: (shut_down(), met.set())))
                assert met.wait(10)
            return stopping

        @stopping.setter
        def stopping(self, value: bool) -> None:
            self.__dict__["stopping"] = value

    future = executor.submit(gate)
    assert gate.reached()
    future._lock = Lock(future._lock)  # type: ignore[assignment]
    executor._pool.__class__ = StagedPool
    gate.open()
    with pytest.raises((CancelledError, ShutdownError)):
        future.result(10)
    shutdowns[0].result()
    assert executor.shutdown().unfinished == 0
