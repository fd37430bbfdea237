"""Where there is no memory, a job is late or fails, and none is lost."""

import threading
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, raise_

from retryexec import (
    RetryingExecutor,
    RetryPolicy,
)
from retryexec._clock import SystemClock
from retryexec.testing import VirtualClock


class Scarce:
    """A queue or deque that finds no memory for one job that another thread brings."""

    def __init__(self, plenty: Any, name: str) -> None:
        self.plenty, self.name, self.refused = plenty, name, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return self.add if name == self.name else getattr(self.plenty, name)

    def __bool__(self) -> bool:
        return bool(self.plenty)

    def __len__(self) -> int:
        return len(self.plenty)

    def __iter__(self) -> Any:
        return iter(self.plenty)

    def __getitem__(self, n: int) -> Any:
        return self.plenty[n]

    def add(self, job: Any) -> None:
        mine = threading.current_thread() is threading.main_thread()
        if job is not None and not mine and not self.refused.is_set():
            self.refused.set()
            raise MemoryError
        getattr(self.plenty, self.name)(job)


@pytest.mark.leaks("the MemoryError leads to frames that lead to the executor")
def test_no_memory_to_schedule_a_job_fails_it_with_its_last_exception(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    keeper = executor._pool.timekeeper
    add, refused = keeper.add, threading.Event()

    def add_or_not(job: Any) -> None:
        if not refused.is_set():
            refused.set()
            raise MemoryError
        add(job)

    keeper.add = add_or_not
    future = executor.submit(Fails(9, clock))
    assert isinstance(future.exception(10), Boom)
    stats = executor.stats()
    assert (stats.failed, stats.waiting, stats.running) == (1, 0, 0)
    assert future.next_attempt_at is None
    assert executor.submit(len, "seven").result(10) == 5


@pytest.mark.leaks("the MemoryError leads to frames that lead to the executor")
def test_no_memory_to_queue_a_retry_fails_the_job_with_its_last_exception() -> None:
    with RetryingExecutor(1, policy=RetryPolicy(backoff=[0.0] * 3)) as executor:
        executor._pool.queue = Scarce(executor._pool.queue, "put")  # type: ignore[assignment]
        future = executor.submit(raise_, Boom())
        assert isinstance(future.exception(10), Boom)
        assert future.attempts == 1
        assert executor.submit(len, "seven").result(10) == 5


def test_no_memory_to_release_a_job_only_delays_it() -> None:
    policy = RetryPolicy(backoff=[0.01] * 3)
    with RetryingExecutor(1, policy=policy) as executor:
        executor._pool.queue = queue = Scarce(executor._pool.queue, "put")  # type: ignore[assignment]
        future = executor.submit(Fails(2, SystemClock()))
        assert queue.refused.wait(10)
        executor.shutdown()  # with a sentinel for the worker, which must not exit yet
    assert future.result(10) == "saved"
