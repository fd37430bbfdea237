"""What a job costs, in numbers that are the same on every machine: frames, locks, objects.

No time is measured. A change that makes a common job cost more shows here, by name; whether it is
worth that is for the benchmarks to say.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Boom, Gate

from retryexec import ConstantBackoff, RetryFuture, RetryingExecutor, RetryPolicy, ZeroBackoff
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
        executor.shutdown(cancel_futures=True)


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
        patch.setattr(executor._pool, "accept", executor._pool.unfinished.add)
        return executor.submit(what)


def counted(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, *futures: Any
) -> tuple[Counting, Counting]:
    """Return the lock that *futures* have from now on, and the pool's."""
    own, pool = Counting(futures[0]._lock), Counting(executor._pool.lock)
    for future in futures:
        future._lock = own
    monkeypatch.setattr(executor._pool, "lock", pool)
    return own, pool


def frames(call: Callable[..., object], *args: object) -> Called:
    """Return the names of the Python functions that *call* runs, itself included."""
    called: Called = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    gc.collect()
    gc.disable()  # else finalizers of what other tests have left would be counted, too
    sys.setprofile(note)
    try:
        call(*args)
    finally:
        sys.setprofile(None)
        gc.enable()
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


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, []),
        ({"backoff": [0.0] * 9}, ["_next_delay"]),
        ({"backoff": ConstantBackoff(3600), "max_elapsed": None}, ["ready", "schedule"]),
    ],
    ids=["no delay", "a list of delays", "a wait"],
)
def test_frames_of_an_attempt_that_fails(
    changes: Any,
    more: Called,
    executor: RetryingExecutor,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (known,) = waiting(executor, worker, monkeypatch, 1)  # so the log has heard of such errors
    future = kept(executor.using(**changes), monkeypatch, failing)
    first, later = [frames(worker._attempt, queued_again(future)) for _ in range(2)]
    ends = ["decide", "fail", "text_of", "put_off", "release_frames"]
    assert less(first, more) == [
        *("_attempt", "begin", "failing", "_judge", "ensure_progress", "__init__", *ends)
    ]
    assert less(later, more) == ["_attempt", "begin", "begin", "failing", "_judge", *ends]
    assert future.cancel()
    assert known.cancel()


def less(called: Called, some: Called) -> Called:
    """Return *called* without *some*, each of which is there."""
    assert set(some) <= set(called)
    return [name for name in called if name not in some]


def queued_again(future: Any) -> Any:
    """Return *future*, whose job does not wait any more."""
    if future.due is not None:
        future.settings.pool.timekeeper.discard(future)
    return future


def test_frames_of_a_waiting_job_that_is_cancelled(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = waiting(executor, worker, monkeypatch, 2)
    ends = ["cancel", "after_end", "remove"]
    assert frames(one.cancel) == [*ends, "discard"]
    # As a shutdown does, once it has emptied the due queue.
    executor._pool.timekeeper.clear()
    assert frames(partial(other.cancel, or_request=False)) == ends


def test_locks_of_a_job_that_succeeds(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own twice, to begin and to end, and none that other jobs may hold for long."""
    future = kept(executor, monkeypatch, job)
    own, pool = counted(executor, monkeypatch, future)
    worker._attempt(future)
    assert future.result() == "saved"
    executor.submit(job).result()
    assert (own.taken, pool.taken) == (2, 0)


def test_locks_of_a_job_that_fails_waits_and_is_cancelled(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt takes no lock but the job's own; the end of the wait takes each once."""
    (known,) = waiting(executor, worker, monkeypatch, 1)
    future = kept(executor.using(backoff=[0.0, 3600.0], max_elapsed=None), monkeypatch, failing)
    own, pool = counted(executor, monkeypatch, future, known)
    worker._attempt(future)
    assert (own.taken, pool.taken) == (3, 0)  # once for its progress
    worker._attempt(future)
    assert (own.taken, pool.taken) == (5, 0)
    future.cancel()
    assert (own.taken, pool.taken) == (6, 1)
    known.cancel(or_request=False)
    assert (own.taken, pool.taken) == (7, 2)


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


def test_a_job_that_waits_after_three_failures_is_five_objects(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Itself, its progress, its exception, its run through the backoff, and its place in the queue.

    What the exceptions were is one object for all jobs that have failed in the same way.
    """
    (known,) = waiting(executor, worker, monkeypatch, 1)
    view = executor.using(backoff=[0.0, 0.0, 3600.0], max_elapsed=None)
    futures = [kept(view, monkeypatch, failing) for _ in range(1000)]
    gc.collect()
    pending = len(gc.get_objects())
    tracemalloc.start()
    try:
        for future in futures:
            while worker._attempt(future):
                pass
        executor._pool.next_due()  # gives all of them their places
        gc.collect()
        bytes_more = tracemalloc.get_traced_memory()[0] / len(futures)
    finally:
        tracemalloc.stop()
    objects = 1 + (len(gc.get_objects()) - pending) / len(futures)
    for future in [known, *futures]:
        future.cancel()
    assert objects == pytest.approx(5, abs=0.02)
    # The progress 112, the exception 104, the times of its failures 105, three other times 72, the
    # iterator 48, its place in the due queue 64. Python 3.15 takes a few more.
    assert bytes_more <= 550


def waiting(
    executor: RetryingExecutor, worker: Worker, monkeypatch: pytest.MonkeyPatch, count: int
) -> list[Any]:
    """Return the futures of jobs that have failed once, and wait for an hour."""
    view = executor.using(backoff=ConstantBackoff(3600), max_elapsed=None)
    futures = [kept(view, monkeypatch, failing) for _ in range(count)]
    for future in futures:
        worker._attempt(future)
    return futures


def test_a_new_future_has_no_waiters() -> None:
    future: RetryFuture[None] = RetryFuture()
    assert future._threads_waiting is None
    assert not future.__dict__
