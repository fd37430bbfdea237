"""What a job costs, in numbers that are the same on every machine: frames, locks, objects.

No time is measured. A change that makes a common job cost more shows here, by name; whether it is
worth that is for the benchmarks to say.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest
from helpers.jobs import Boom, Gate

from retryexec import RetryFuture, RetryingExecutor, RetryPolicy, ZeroBackoff
from retryexec._core.future import LOCKS
from retryexec._core.worker import Worker

pytestmark = pytest.mark.uninstrumented("counts frames and objects")

Called = list[str]


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    policy = RetryPolicy(backoff=ZeroBackoff())
    with RetryingExecutor(max_workers=1, policy=policy) as executor:
        executor.submit(job).result()  # so that all its threads have been started
        yield executor


@pytest.fixture
def worker(executor: RetryingExecutor) -> Worker:
    """A worker of the executor's that sleeps, and whose work the test does."""
    (worker,) = executor._threads
    return worker


def job() -> str:
    return "saved"


def failing() -> None:
    raise Boom


class Counting:
    """A lock that counts how often it is taken."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.taken = 0

    def acquire(self) -> None:
        self.taken += 1
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def kept(executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, what: Any) -> Any:
    """Return the future of a job that never gets to the queue."""
    with monkeypatch.context() as patch:
        patch.setattr(executor._pool, "accept", lambda _: None)
        return executor.submit(what)


def frames(call: Callable[..., object], *args: object) -> Called:
    """Return the names of the Python functions that *call* runs, itself included."""
    called: Called = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call(*args)
    finally:
        sys.setprofile(None)
    return called


def test_frames_of_a_job_that_succeeds(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted, run and read."""
    assert frames(executor.submit, job) == ["submit", "__init__", "accept"]
    future = kept(executor, monkeypatch, job)
    assert frames(worker._attempt, future) == [
        "_attempt",
        "begin",
        "job",
        "_succeed",
        "succeed",
    ]
    assert frames(future.result) == ["result"]


def test_frames_of_an_attempt_that_fails(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second one on; the first makes the job's progress."""
    future = kept(executor, monkeypatch, failing)
    worker._attempt(future)
    assert frames(worker._attempt, future) == [
        *("_attempt", "begin", "begin", "failing"),
        *("_judge", "decide", "fail", "text_of", "put_off", "release_frames"),
    ]
    future.cancel()


def test_locks_of_a_job_that_succeeds(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own twice, to begin and to end, and none that other jobs may hold for long."""
    pool = Counting(executor._pool.lock)
    monkeypatch.setattr(executor._pool, "lock", pool)
    future = kept(executor, monkeypatch, job)
    future._lock = own = Counting(future._lock)
    worker._attempt(future)
    assert future.result() == "saved"
    executor.submit(job).result()
    assert (own.taken, pool.taken) == (2, 0)


def test_a_pending_job_is_one_object(executor: RetryingExecutor) -> None:
    """For a garbage collection to visit, that is, where no context variable is set."""
    gate = Gate()
    executor.submit(gate)
    futures: list[Any] = [None] * 1000
    gc.collect()
    before = len(gc.get_objects())
    for i in range(len(futures)):
        futures[i] = Context().run(executor.submit, job)
    objects = len(gc.get_objects()) - before
    gate.opened.set()
    # Give or take what the rest of the process makes and drops meanwhile.
    assert objects / len(futures) == pytest.approx(1, abs=0.02)
    assert sys.getsizeof(futures[0]) <= 200  # bytes; the standard library's has 1,600
    assert all(future._lock in LOCKS for future in futures)


def test_a_new_future_has_no_waiters() -> None:
    future: RetryFuture[None] = RetryFuture()
    assert future._threads_waiting is None
    assert not future.__dict__
