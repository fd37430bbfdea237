"""What may happen in between: each race of a future staged, one step inside another.

A lock that calls the test before it is taken, or after it is given back, is where the other
thread's step goes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from threading import Barrier, Event, current_thread
from typing import Any

import pytest
from helpers.jobs import Boom, Gate, InThread
from helpers.waits import tell_of_gates

from retryexec import RetryFuture, RetryingExecutor, RetryPolicy, StopReason
from retryexec._core.future import LOCKS


class Staged:
    """A lock: *before* is called once, before the next taking of it; *after* once, after that."""

    def __init__(
        self,
        lock: Any,
        *,
        before: Callable[[], object] = list,
        after: Callable[[], object] = list,
    ) -> None:
        self.lock = lock
        self.before: list[Callable[[], object]] = [before]
        self.after: list[Callable[[], object]] = [after]

    def acquire(self) -> None:
        while self.before:
            self.before.pop()()
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()
        while self.after:
            self.after.pop()()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def staged(future: RetryFuture[Any], **steps: Callable[[], object]) -> None:
    future._lock = Staged(future._lock, **steps)


@pytest.fixture
def future() -> RetryFuture[str]:
    return RetryFuture()


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=1, policy=RetryPolicy.never()) as executor:
        yield executor


# ---- the audience is born late


def test_end_before_the_condition_is_made(future: RetryFuture[str]) -> None:
    """Who came to wait finds that there is nothing to wait for."""
    staged(future, before=lambda: future.set_result("saved"))
    assert future.result(timeout=5) == "saved"


def test_end_between_making_the_condition_and_waiting(future: RetryFuture[str]) -> None:
    staged(future, after=lambda: future.set_result("saved"))
    assert future.result(timeout=5) == "saved"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_end_while_wait_checks_the_state(future: RetryFuture[str], moment: str) -> None:
    staged(future, **{moment: lambda: future.set_result("saved")})
    assert wait([future], timeout=5).done == {future}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_end_while_as_completed_checks_the_state(future: RetryFuture[str], moment: str) -> None:
    staged(future, **{moment: lambda: future.set_result("saved")})
    assert list(as_completed([future], timeout=5)) == [future]


def test_end_as_the_timeout_expires(future: RetryFuture[str]) -> None:
    """Between the wait and the look at what came of it: the end counts."""

    def time_is_up() -> None:
        staged(future, before=lambda: future.set_result("saved"))

    staged(future, after=time_is_up)
    assert future.result(timeout=0) == "saved"


def test_expired_waits_leave_nothing_behind(future: RetryFuture[str]) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
    assert future._threads_waiting is not None
    assert future._threads_waiting.locks == []


@pytest.mark.parametrize("fails", [False, True])
def test_wait_begins_as_the_worker_ends_the_job(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """After the attempt, and before the worker takes the lock to end the future."""
    sleeps = tell_of_gates(monkeypatch)
    submitted: list[RetryFuture[str]] = []
    waiting: list[Any] = []
    known = Event()

    def come_to_wait() -> None:
        waiting.append(InThread(lambda: submitted[0].exception(timeout=10)))
        assert sleeps.wait(5)

    def job() -> str:
        assert known.wait(5)
        staged(submitted[0], before=come_to_wait)
        if fails:
            raise Boom
        return "saved"

    submitted.append(executor.submit(job))
    known.set()
    executor.submit(int).result()
    assert isinstance(waiting[0].result(), Boom if fails else type(None))


# ---- callbacks


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_callback_added_as_the_end_comes_runs_once(future: RetryFuture[str], moment: str) -> None:
    called: list[object] = []
    staged(future, **{moment: lambda: future.set_result("saved")})
    future.add_done_callback(called.append)
    assert called == [future]


def test_a_callback_added_as_the_worker_ends_the_job_runs_once(executor: RetryingExecutor) -> None:
    called: list[object] = []
    submitted: list[RetryFuture[str]] = []
    known = Event()

    def job() -> None:
        assert known.wait(5)
        future = submitted[0]
        staged(future, before=lambda: future.add_done_callback(called.append))

    submitted.append(executor.submit(job))
    known.set()
    executor.submit(int).result()
    assert called == submitted


# ---- cancel


def test_cancelled_between_the_queue_and_the_attempt(executor: RetryingExecutor) -> None:
    """The worker has got the job from the queue, and finds it cancelled when it takes the lock."""
    gate = Gate()
    executor.submit(gate)
    future = executor.submit(str)
    staged(future, before=future.cancel)
    gate.opened.set()
    executor.submit(int).result()
    assert (future.cancelled(), future.attempts) == (True, 0)


def test_job_starts_between_the_check_and_the_cancel(executor: RetryingExecutor) -> None:
    """Who wants to cancel takes the lock when the attempt has just begun."""
    held, inner = Gate(), Gate()
    executor.submit(held)
    future = executor.submit(inner)

    def begin() -> None:
        held.opened.set()
        assert inner.begun.wait(5)

    staged(future, before=begin)
    assert not future.cancel()
    inner.opened.set()
    assert future.result(timeout=5) == "through"


def test_cancelled_in_a_first_attempt_that_then_fails(executor: RetryingExecutor) -> None:
    """Both the canceller and the worker want the job's progress, which there is but one of."""
    view = executor.using(RetryPolicy(backoff=[0.0]))
    known = Event()
    submitted: list[RetryFuture[None]] = []

    def job() -> None:
        assert known.wait(5)
        future = submitted[0]
        # After the attempt, as the worker comes to make the progress.
        staged(future, before=future.cancel)
        raise Boom

    submitted.append(view.submit(job))
    known.set()
    assert isinstance(submitted[0].exception(timeout=5), Boom)
    assert (submitted[0].attempts, submitted[0].stop_reason) == (1, StopReason.CANCELLED)


# ---- one lock for many


def test_threads_that_wait_for_many_futures_do_not_deadlock() -> None:
    """Each holds the conditions of all its futures at a time; far more than there are locks."""
    futures: list[RetryFuture[int]] = [RetryFuture() for _ in range(4 * len(LOCKS))]
    together = Barrier(3)

    def await_all(mine: list[RetryFuture[int]]) -> int:
        together.wait(5)
        while len(wait(mine, timeout=10, return_when=FIRST_COMPLETED).not_done):
            pass
        return sum(future.result() for future in as_completed(mine, timeout=10))

    threads = [InThread(lambda f=f: await_all(f)) for f in (futures, futures[::-1])]
    together.wait(5)
    for future in futures:
        future.set_result(1)
    assert [thread.result() for thread in threads] == [len(futures)] * 2


def test_a_callback_ends_a_future_of_the_same_lock() -> None:
    first: RetryFuture[str] = RetryFuture()
    second: RetryFuture[str] = RetryFuture()
    second._lock = first._lock
    first.add_done_callback(lambda done: second.set_result(done.result()))
    InThread(lambda: first.set_result("saved")).result()
    assert second.result(timeout=5) == "saved"


def test_waiter_that_finds_the_future_ended_is_not_notified_too(
    future: RetryFuture[str],
) -> None:
    """As concurrent.futures.wait looks, counts and leaves its waiter: else it counts it twice."""
    found: list[str] = []
    told: list[object] = []
    threads: list[InThread] = []

    class Waiter:
        finished_futures: tuple[object, ...] = ()
        add_result = told.append

    def come() -> None:
        with future._condition:
            found.append(future._state)
            future._waiters.append(Waiter())  # type: ignore[arg-type]

    class Between:
        """A lock; after each release of it somebody comes, and may have to wait."""

        lock = future._lock

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            if len(threads) < 4 and current_thread() is main:
                threads.append(InThread(come))
                threads[-1].join(0.1)

    main = current_thread()
    assert future._condition is not None
    future._lock = Between()
    future.set_result("saved")
    for thread in threads:
        thread.result()
    assert len(told) == found.count("PENDING")
