"""Shutdown: what was accepted comes to an end, and the report counts it."""

import threading
from contextlib import suppress
from threading import Barrier, Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread
from helpers.staged import TENS

from retryexec import (
    ExecutorShutdownError,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    ShutdownReport,
    StopReason,
    ZeroBackoff,
    current_attempt,
)
from retryexec._journal_api import LAST_FLUSH
from retryexec.testing import VirtualClock

# ---- to the end


def test_shutdown_waits_for_waiting_jobs(executor: RetryingExecutor, clock: VirtualClock) -> None:
    jobs = [Fails(2, clock), Fails(1, clock), Fails(9, clock)]
    futures = [executor.submit(job) for job in jobs]
    report = executor.shutdown()
    assert [future.done() for future in futures] == [True] * 3
    assert jobs[0].started_at == [0, 10, 20]
    assert isinstance(futures[2].exception(), Boom)
    assert report == ShutdownReport(done=2, failed=1, cancelled=0, abandoned=0)
    assert clock.now() == 40


def test_leaving_the_block_waits(clock: VirtualClock) -> None:
    with RetryingExecutor(1, policy=TENS, clock=clock) as executor:
        future = executor.submit(Fails(3, clock))
    assert (future.result(0), clock.now()) == ("saved", 30)


def test_threads_have_ended_after_shutdown(executor: RetryingExecutor) -> None:
    before = set(threading.enumerate())
    with RetryingExecutor(3, policy=TENS) as other:
        barrier = Barrier(3, timeout=5)
        futures = [other.submit(barrier.wait) for _ in range(3)]
        assert {f.result(5) for f in futures} == {0, 1, 2}
    assert set(threading.enumerate()) <= before


def test_second_shutdown_is_harmless(executor: RetryingExecutor, clock: VirtualClock) -> None:
    executor.submit(Fails(1, clock))
    first = executor.shutdown()
    assert executor.shutdown() == first
    assert executor.shutdown(wait=False, cancel_futures=True, timeout=0) == first


def test_shutdown_of_an_unused_executor(executor: RetryingExecutor) -> None:
    assert executor.shutdown() == ShutdownReport(0, 0, 0, 0)


def test_no_job_is_taken_after_shutdown(executor: RetryingExecutor) -> None:
    view = executor.using(max_attempts=1)
    executor.shutdown()
    for submit in (executor.submit, view.submit):
        with pytest.raises(
            ExecutorShutdownError, match="cannot schedule new futures after shutdown"
        ):
            submit(len, "")
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(len, ["", ""])


def test_shutdown_without_waiting_lets_all_jobs_finish(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    gate = Gate()
    futures = [executor.submit(gate), executor.submit(Fails(1, clock))]
    assert gate.reached()
    report = executor.shutdown(wait=False)
    assert report.unfinished == 2
    gate.open()
    assert futures[0].result(5) == "through"
    clock.advance(10)
    assert futures[1].result(0) == "saved"
    assert executor.shutdown() == ShutdownReport(done=2, failed=0, cancelled=0, abandoned=0)


def test_a_view_shuts_down_the_whole(executor: RetryingExecutor) -> None:
    executor.using(max_attempts=1).shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(len, "")


# ---- not to the end


def test_timeout_ends_pending_jobs_from_their_last_exception(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    waiting, quick = executor.submit(Fails(9, clock)), executor.submit(Fails(1, clock))
    report = executor.shutdown(timeout=25)
    assert clock.now() == 25
    assert quick.result(0) == "saved"
    error = waiting.exception(0)
    assert isinstance(error, ShutdownError)
    assert isinstance(error.__cause__, Boom)
    assert error.__cause__.args == (3,)
    assert (waiting.attempts, waiting.stop_reason) == (3, StopReason.SHUTDOWN)
    assert "after 3 attempts over 25.000 s: shutdown" in error.__notes__[0]
    assert report == ShutdownReport(done=1, failed=0, cancelled=0, abandoned=1)


def test_timeout_leaves_the_running_attempt_alone(executor: RetryingExecutor) -> None:
    running, queued = Gate(Boom("late")), Gate()
    first, second = executor.submit(running), executor.submit(queued)
    assert running.reached()
    report = executor.shutdown(timeout=0)
    assert report == ShutdownReport(0, 0, 0, abandoned=1, unfinished=1)
    error = second.exception(0)
    assert isinstance(error, ShutdownError)
    assert (error.__cause__, second.attempts) == (None, 0)
    assert first.running()
    running.open()
    assert str(first.exception(5)) == "late"  # its own, and no further attempt
    assert (first.attempts, first.stop_reason) == (1, StopReason.SHUTDOWN)
    assert not queued.begun.is_set()
    assert executor.shutdown() == ShutdownReport(0, 0, 0, abandoned=2)


def test_timeout_waits_for_idle_workers_and_for_no_running_attempt() -> None:
    executor = RetryingExecutor(max_workers=2)
    barrier = Barrier(2, timeout=5)
    for future in [executor.submit(barrier.wait) for _ in range(2)]:
        future.result(5)
    last = executor.submit(gate := Gate())
    assert gate.reached()
    report = InThread(lambda: executor.shutdown(timeout=0)).result()
    assert (report.done, report.unfinished) == (2, 1)
    assert sum(thread.is_alive() for thread in executor._threads) == 1
    gate.open()
    assert last.result(5) == "through"


def test_timeout_holds_for_retries_without_a_delay(clock: VirtualClock) -> None:
    """A job that fails for ever, again at once, comes to its end too."""
    begun, shut = Event(), Event()

    def job() -> None:
        begun.set()
        assert shut.wait(10)
        raise Boom

    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ZeroBackoff())
    with RetryingExecutor(1, policy=policy) as executor:
        future = executor.submit(job)
        assert begun.wait(5)
        executor.shutdown(timeout=0)
        shut.set()
        error = future.exception(5)
    assert isinstance(error, (Boom, ShutdownError))
    assert (future.attempts, future.stop_reason) == (1, StopReason.SHUTDOWN)


def test_an_attempt_sees_that_no_other_follows(executor: RetryingExecutor) -> None:
    begun, shut = Event(), Event()

    def job() -> bool:
        begun.set()
        assert shut.wait(5)
        return current_attempt().cancelled

    future = executor.submit(job)
    assert begun.wait(5)
    executor.shutdown(timeout=0)
    shut.set()
    assert future.result(5) is True


def test_timeout_without_wait_takes_effect_later(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    future = executor.submit(Fails(9, clock))
    clock.advance(0)
    assert executor.shutdown(wait=False, timeout=15).unfinished == 1
    clock.advance(14)
    assert (future.done(), future.attempts) == (False, 2)
    clock.advance(1)
    assert isinstance(future.exception(5), ShutdownError)


def test_cancel_futures_cancels_queued_and_waiting_jobs(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    waiting = executor.submit(Fails(9, clock))
    clock.advance(0)
    gate = Gate(Boom("the last"))
    running, queued = executor.submit(gate), executor.submit(len, "")
    assert gate.reached()
    report = executor.shutdown(wait=False, cancel_futures=True)
    assert [f.cancelled() for f in (waiting, running, queued)] == [True, False, True]
    assert report == ShutdownReport(0, 0, cancelled=2, abandoned=0, unfinished=1)
    gate.open()
    assert str(running.exception(5)) == "the last"
    assert running.attempts == 1


def test_shutdown_ends_all_jobs_though_a_callback_raises_control_flow(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    futures = [executor.submit(Fails(9, clock)) for _ in range(5)]
    clock.advance(0)
    futures[1].add_done_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown(wait=False, cancel_futures=True)
    executor.shutdown()
    assert [future.cancelled() for future in futures] == [True] * 5


# ---- from within


def test_a_job_may_shut_its_executor_down(executor: RetryingExecutor) -> None:
    assert executor.submit(executor.shutdown, wait=False).result(5).unfinished == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(len, "")


def test_a_job_cannot_wait_for_itself(executor: RetryingExecutor) -> None:
    future = executor.using(RetryPolicy.never()).submit(executor.shutdown)
    with pytest.raises(RuntimeError, match="would wait for itself"):
        future.result(5)


def test_a_job_cannot_submit_after_shutdown(executor: RetryingExecutor) -> None:
    gate = Gate()

    def job() -> Any:
        gate.exec()
        return executor.submit(len, "")

    future = executor.using(RetryPolicy.never()).submit(job)
    assert gate.reached()
    executor.shutdown(wait=False)
    gate.open()
    assert "after shutdown" in str(future.exception(5))


# ---- races, staged


def test_shutdown_while_submit_starts_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler may: either the job is refused, or it is run."""
    ran: list[int] = []
    executor = RetryingExecutor(1, policy=TENS)
    start = Thread.start

    def shut_down_and_start(self: Thread) -> None:
        executor.shutdown(wait=False)
        start(self)

    monkeypatch.setattr(Thread, "start", shut_down_and_start)
    future = None
    with suppress(RuntimeError):
        future = executor.submit(ran.append, 1)
    executor.shutdown()
    assert ran == ([1] if future else [])


def submit_after(barrier: Barrier, executor: RetryingExecutor, ran: list[int]) -> list[Any]:
    barrier.wait()
    futures: list[Any] = []
    with suppress(RuntimeError):
        for n in range(20):
            futures.append(executor.submit(ran.append, n))  # noqa: PERF401  keeps the first ones
    return futures


def test_shutdown_and_many_submits_at_once() -> None:
    """Whatever submit took ends, and what it refused never ran."""
    for _ in range(20):
        executor = RetryingExecutor(2)
        barrier = Barrier(4, timeout=5)
        ran: list[int] = []

        threads = [InThread(submit_after, barrier, executor, ran) for _ in range(3)]
        barrier.wait()
        executor.shutdown()
        futures = [future for thread in threads for future in thread.result()]
        assert all(future.result(5) is None for future in futures)
        report = executor.shutdown()
        assert report.done == len(ran)
        assert (report.failed, report.abandoned, report.unfinished) == (0, 0, 0)


class FakeJournal:
    """Keeps nothing, and remembers how long each of its closings might take."""

    def __init__(self) -> None:
        self.closings: list[float | None] = []

    def open(self, host: Any) -> None: ...

    def close(self, timeout: float | None = None) -> bool:
        self.closings.append(timeout)
        return True

    def accept(self, job: Any) -> Any:
        return SimpleNamespace(id="1", job=job, suspect=False)

    def ignore(self, *_: Any, **__: Any) -> None: ...

    starting = retrying = succeeded = cancelled = died = ignore


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("jobs", [0, 1])
def test_shutdown_closes_the_journal_once(jobs: int, wait: bool) -> None:
    """By its last worker; by the shutdown itself if there has never been one."""
    journal, gate = FakeJournal(), Gate()
    gate.open()
    executor = RetryingExecutor(1, journal=journal)
    for _ in range(jobs):
        executor.submit(gate).result(10)
    executor.shutdown(wait=wait)
    for worker in executor._threads:
        worker.join(10)
    assert journal.closings == [None]


def test_a_second_shutdown_gives_the_journal_no_more_time_than_the_first() -> None:
    journal, gate = FakeJournal(), Gate()
    executor = RetryingExecutor(1, journal=journal)
    executor.submit(gate)
    assert gate.reached()
    executor.shutdown(timeout=0)
    second = InThread(executor.shutdown)
    second.join(0.05)
    gate.open()
    second.result()
    assert journal.closings == [LAST_FLUSH]
