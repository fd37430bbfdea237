"""An observed pool tells of each attempt and each job; one that is not observed pays nothing."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread
from helpers.remote import exits

from retryexec import (
    CancelToken,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    ZeroBackoff,
)
from retryexec._core.controlled import ControlledJob
from retryexec._core.job import Job
from retryexec._core.observed import (
    AttemptEnd,
    DormantPool,
    ObservedPool,
    forget,
    observe,
    observe_once,
)
from retryexec._core.pool import Pool
from retryexec._core.process import pool_of
from retryexec.engines import processes
from retryexec.guards import RateLimit
from retryexec.telemetry._tally import Tally
from retryexec.testing import VirtualClock

AT_ONCE = RetryPolicy(max_attempts=3, backoff=ZeroBackoff())


class Log:
    """An observer of everything, which writes it down."""

    wants_traces = False

    def __init__(self) -> None:
        self.attempts: list[tuple[int, AttemptEnd]] = []
        self.jobs: list[str | None] = []
        self.accepts = 0
        self.begun: list[tuple[int, float]] = []

    def started(self, job: Job[Any], number: int, ago: float) -> object:
        assert job.running()
        self.begun.append((number, ago))
        return number

    def ended(self, told: Any, job: Job[Any], end: AttemptEnd) -> None:
        assert not job.done()
        self.attempts.append((told, end))

    def accepted(self, job: Job[Any]) -> None:
        assert not job.done()
        self.accepts += 1

    def left(self, job: Job[Any], outcome: str | None) -> None:
        assert job.settings is not None
        self.jobs.append(outcome)

    @property
    def reasons(self) -> list[StopReason | None]:
        return [end.reason for _, end in self.attempts]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def executor(clock: VirtualClock, log: Log) -> Iterator[RetryingExecutor]:
    policy = RetryPolicy(max_attempts=3, backoff=[2.0, 4.0])
    with RetryingExecutor(2, policy=policy, clock=clock) as executor:
        observe(pool_of(executor), [log], [log])
        yield executor
        executor.shutdown(cancel_futures=True)


def test_each_attempt_is_told_with_its_delay(
    executor: RetryingExecutor, clock: VirtualClock, log: Log
) -> None:
    clock.run_until(executor.submit(Fails(2, clock)).done)
    assert [(n, e.reason, e.delay) for n, e in log.attempts] == [
        (1, None, 2.0),
        (2, None, 4.0),
        (3, StopReason.SUCCEEDED, None),
    ]
    assert [type(end.exception) for _, end in log.attempts] == [Boom, Boom, type(None)]
    assert log.jobs == ["succeeded"]


def test_the_last_failure_is_told_with_its_reason(
    executor: RetryingExecutor, clock: VirtualClock, log: Log
) -> None:
    future = executor.submit(Fails(9, clock))
    clock.run_until(future.done)
    assert log.reasons == [None, None, StopReason.MAX_ATTEMPTS]
    assert log.attempts[-1][1].exception is future.exception()
    assert log.jobs == ["failed"]


def test_a_value_that_is_refused_has_no_exception(
    executor: RetryingExecutor, clock: VirtualClock, log: Log
) -> None:
    picky = executor.using(retry_on_result=lambda value: value is None)
    clock.run_until(picky.submit(Fails(0, clock, None)).done)
    assert [(e.exception, e.reason) for _, e in log.attempts] == [
        (None, None),
        (None, None),
        (None, StopReason.MAX_ATTEMPTS),
    ]


def test_a_wait_beyond_the_limit_is_no_attempt(clock: VirtualClock, log: Log) -> None:
    """The job waits longer than it should, and ends without the attempt it waited for."""
    policy = RetryPolicy(max_elapsed=5.0, backoff=[4.0])
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        observe(pool_of(executor), [log], [log])
        future = executor.submit(Fails(9, clock))
        clock.run_until(lambda: future.next_attempt_at is not None)
        assert future.postpone(50)
        clock.run_until(future.done)
    assert future.stop_reason is StopReason.MAX_ELAPSED
    assert [number for number, _ in log.begun] == [1]
    assert log.jobs == ["failed"]


def test_a_cancel_during_an_attempt_makes_it_the_last(log: Log) -> None:
    gate = Gate(Boom())
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        observe(pool_of(executor), [log], [log])
        future = executor.submit(gate)
        assert gate.reached()
        assert not future.cancel()
        gate.open()
        future.exception(10)
    assert log.reasons == [StopReason.CANCELLED]
    assert log.jobs == ["failed"]


def test_jobs_that_end_without_a_worker_are_told(log: Log) -> None:
    gate = Gate()
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        observe(pool_of(executor), [log], [log])
        first = executor.submit(gate)
        assert gate.reached()
        assert executor.submit(len, "").cancel()
        assert set(log.jobs) == {"cancelled"}
        log.jobs.clear()
        late = executor.submit(len, "")
        executor.shutdown(wait=False, timeout=0)
        assert late.exception(10) is not None
        assert set(log.jobs) == {"failed"}
        gate.open()
        first.result(10)
    assert log.jobs[-1] == "succeeded"
    assert log.accepts == 3


def test_a_job_that_is_refused_is_told_as_such(executor: RetryingExecutor, log: Log) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(len, "")
    assert (log.accepts, log.jobs) == (1, [None])


def test_replaced_jobs_are_told(clock: VirtualClock, log: Log) -> None:
    """One that waits in a queue is replaced there; one that runs hands over when it fails."""
    gate = Gate(Boom())
    policy = RetryPolicy(backoff=[1.0])
    with RetryingExecutor(1, policy=policy, key="a", keep="latest") as executor:
        observe(pool_of(executor), [log], [log])
        running = executor.submit(gate)
        assert gate.reached()
        waiting = executor.submit(len, "a")
        newest = executor.submit(len, "ab")
        assert waiting.stop_reason is StopReason.SUPERSEDED
        assert set(log.jobs) == {"superseded"}
        gate.open()
        assert newest.result(10) == 2
    assert running.stop_reason is StopReason.SUPERSEDED
    assert log.reasons == [StopReason.SUPERSEDED, StopReason.SUCCEEDED]
    assert isinstance(log.attempts[0][1].exception, Boom)


def test_guarded_jobs_are_told_once_they_start(clock: VirtualClock, log: Log) -> None:
    with RetryingExecutor(1, clock=clock, guards=[RateLimit(1)]) as executor:
        observe(pool_of(executor), [log], [log])
        futures = [executor.submit(len, "") for _ in range(3)]
        clock.run_until(futures[-1].done)
    assert len(log.begun) == len(log.attempts) == 3


def test_an_attempt_that_is_lost_with_its_engine_is_none(log: Log) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=processes(1, max_crashes=2)) as executor:
        observe(pool_of(executor), [log], [log])
        assert executor.submit(exits, 1).exception(30) is not None
        assert executor.submit(len, "four").result(30) == 4
    told = [(number, end.crashed, end.reason) for number, end in log.attempts]
    assert told == [
        (1, True, None),
        (1, False, StopReason.CRASHED),
        (1, False, StopReason.SUCCEEDED),
    ]
    assert log.jobs == ["failed", "succeeded"]


def test_attempts_that_run_when_the_observer_comes_are_told(log: Log) -> None:
    gate, other = Gate(), Gate()
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        executor.submit(gate)
        queued = executor.submit(other)
        assert gate.reached()
        observe(pool_of(executor), [log], [log])
        gate.open()
        other.open()
        queued.result(10)
    assert [number for number, _ in log.begun] == [1, 1]
    assert log.begun[0][1] > 0.0
    assert log.begun[1][1] == 0.0
    assert log.reasons == [StopReason.SUCCEEDED] * 2
    assert log.jobs == ["succeeded"] * 2


class Broken(Log):
    """Raises whatever it is told."""

    def fail(self, *_: object) -> Any:
        raise Boom

    started = ended = accepted = left = fail


def test_what_an_observer_raises_harms_nothing(
    log: Log, caplog: pytest.LogCaptureFixture, clock: VirtualClock
) -> None:
    broken = Broken()
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        observe(pool_of(executor), [broken, log], [broken, log])
        assert executor.submit(Fails(1, clock)).result(10) == "saved"
    assert log.reasons == [None, StopReason.SUCCEEDED]
    assert log.jobs == ["succeeded"]
    assert {record.message for record in caplog.records} >= {
        "telemetry failed as an attempt began; the job goes on",
        "telemetry failed as a job was accepted; the job goes on",
        "telemetry failed as a job ended",
    }


def test_views_that_were_made_before_are_observed(log: Log) -> None:
    with RetryingExecutor(1) as executor:
        view = executor.using(key="k")
        observe(pool_of(executor), [log])
        view.submit(len, "").result(10)
        assert len(log.attempts) == 1
        forget(pool_of(executor), lambda observer: observer is log)
        view.submit(len, "").result(10)
        assert len(log.attempts) == 1


def test_a_pool_with_an_observer_is_collected(log: Log) -> None:
    executor = RetryingExecutor(1)
    observe(pool_of(executor), [log], [log])
    executor.submit(len, "").result(10)
    executor.shutdown()
    gone = weakref.ref(pool_of(executor))
    del executor
    gc.collect()
    assert gone() is None


# ---- observed once it is wanted


def test_a_dormant_pool_wakes_up_with_the_first_job_that_is_wanted(log: Log) -> None:
    wanted: list[object] = [None]
    with RetryingExecutor(1) as executor:
        pool = pool_of(executor)
        observe_once(lambda: wanted[0], pool, log)
        executor.submit(len, "").result(10)
        assert type(pool) is DormantPool
        assert type(executor.submit(len, "")) is Job
        wanted[0] = True
        executor.submit(len, "").result(10)
        assert type(pool) is ObservedPool
    assert len(log.attempts) >= 1


def test_two_threads_that_wake_it_up_observe_it_once(log: Log) -> None:
    """Both have seen that it is wanted before either does anything."""
    both = threading.Barrier(2, timeout=10)
    waits = iter([both.wait, both.wait])

    def wanted() -> bool:
        next(waits, lambda: 0)()
        return True

    with RetryingExecutor(2) as executor:
        pool = pool_of(executor)
        observe_once(lambda: None, pool, log)
        vars(pool)["wanted"] = wanted
        threads = [InThread(executor.submit, len, "") for _ in range(2)]
        for thread in threads:
            thread.result().result(10)
        assert list(pool.attempt_observers) == [log]  # type: ignore[attr-defined]
    assert len(log.attempts) == 2


def test_another_observer_wakes_a_dormant_pool_up_for_both(log: Log) -> None:
    other = Log()
    with RetryingExecutor(1) as executor:
        observe_once(lambda: None, pool_of(executor), log)
        observe(pool_of(executor), [other])
        executor.submit(len, "").result(10)
    assert (len(log.attempts), len(other.attempts)) == (1, 1)


def test_a_dormant_pool_can_be_let_alone(log: Log) -> None:
    with RetryingExecutor(1) as executor:
        pool = pool_of(executor)
        observe_once(lambda: None, pool, log)
        forget(pool, lambda observer: observer is log)
        assert type(pool) is Pool
        executor.submit(len, "").result(10)


# ---- one that is not observed


def test_a_pool_without_observers_has_the_plain_classes() -> None:
    """So it runs not one instruction more than if there were no observers at all."""
    with RetryingExecutor(1) as executor:
        assert type(pool_of(executor)) is Pool
        assert type(executor.submit(len, "")) is Job
        assert type(executor.using(key=1).submit(len, "")) is ControlledJob


@pytest.mark.parametrize("kind", [Pool, Job, ControlledJob])
def test_plain_classes_know_nothing_of_observers(kind: type) -> None:
    def names(kind: type) -> Iterator[str]:
        for value in vars(kind).values():
            code = getattr(getattr(value, "fget", value), "__code__", None)
            if code is not None:
                yield from code.co_names

    assert not [name for name in names(kind) if "observ" in name or "telemetry" in name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_observed_too(log: Log) -> None:
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        observe(pool_of(executor), [log], [log])
        executor.submit(len, "").result(10)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                executor.submit(len, "").result(10)
                status = 0 if len(log.attempts) == 2 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- every way to end without a worker


def wait_all(executor: RetryingExecutor, clock: VirtualClock) -> list[RetryFuture[Any]]:
    """Return jobs that wait for their next attempts."""
    futures = [executor.submit(Fails(9, clock)) for _ in range(200)]
    clock.run_until(lambda: executor.stats().waiting == len(futures))
    return futures


def queue_all(executor: RetryingExecutor, clock: VirtualClock) -> list[RetryFuture[Any]]:
    """Return jobs that a pause holds, and that were queued until then."""
    executor.pause()
    return [executor.submit(len, "") for _ in range(200)]


def guard_all(executor: RetryingExecutor, clock: VirtualClock) -> list[RetryFuture[Any]]:
    """Return jobs of which a guard holds all but the first."""
    guarded = executor.using(guards=[RateLimit(0.001)])
    first, *others = [guarded.submit(len, "") for _ in range(200)]
    clock.run_until(first.done)
    return [first, *others]


def key_all(executor: RetryingExecutor, clock: VirtualClock) -> list[RetryFuture[Any]]:
    """Return jobs that stand behind each other, the first in backoff."""
    keyed = executor.using(key="k")
    futures = [keyed.submit(Fails(9, clock)) for _ in range(200)]
    clock.run_until(lambda: executor.stats().waiting == 1)
    return futures


def cancel_each(executor: RetryingExecutor, futures: list[RetryFuture[Any]]) -> None:
    for future in futures:
        future.cancel()


def cancel_at_shutdown(executor: RetryingExecutor, futures: list[RetryFuture[Any]]) -> None:
    executor.shutdown(cancel_futures=True)


def abandon(executor: RetryingExecutor, futures: list[RetryFuture[Any]]) -> None:
    executor.shutdown(timeout=0)


@pytest.mark.parametrize("end", [cancel_each, cancel_at_shutdown, abandon])
@pytest.mark.parametrize("hold", [wait_all, queue_all, guard_all, key_all])
def test_each_end_is_told_that_stats_count(
    hold: Any, end: Any, executor: RetryingExecutor, clock: VirtualClock
) -> None:
    tally = Tally(threading.RLock(), by_name=True, seconds=True, delays=True, bounds=[1.0])
    observe(pool_of(executor), [tally], [tally])
    futures = hold(executor, clock)
    end(executor, futures)
    executor.resume()
    executor.shutdown()
    assert all(future.done() for future in futures)
    told: Counter[str] = Counter()
    for (_, outcome), count in tally.jobs.items():
        told[outcome] += count
    stats = executor.stats()
    assert told == Counter(
        {
            name: number
            for name in ("succeeded", "failed", "cancelled", "superseded")
            if (number := getattr(stats, name))
        }
    )
    assert sum(told.values()) == len(futures)
    assert sum(tally.attempts.values()) == stats.attempts
    assert not tally._names
    assert not tally._ready
    assert not pool_of(executor).open  # type: ignore[attr-defined]


def test_a_token_that_cancels_all_is_told(executor: RetryingExecutor, log: Log) -> None:
    token = CancelToken()
    executor.pause()
    futures = [executor.using(cancel=token).submit(len, "") for _ in range(50)]
    token.cancel()
    assert all(future.cancelled() for future in futures)
    assert log.jobs.count("cancelled") >= 50
    assert set(log.jobs) == {"cancelled"}
    executor.resume()


def test_replaced_jobs_of_many_keys_are_told(clock: VirtualClock) -> None:
    """In a shutdown, too, where a job and those that follow it end together."""
    tally = Tally(threading.RLock(), by_name=True, seconds=False, delays=False, bounds=[1.0])
    with RetryingExecutor(1, clock=clock, key=lambda n: n % 7, keep="latest") as executor:
        observe(pool_of(executor), [tally], [tally])
        executor.pause()
        futures = [executor.submit(abs, n) for n in range(100)]
        executor.shutdown(timeout=0)
    assert all(future.done() for future in futures)
    stats = executor.stats()
    assert {outcome: count for (_, outcome), count in tally.jobs.items()} == {
        "superseded": stats.superseded,
        "failed": stats.failed,
    }
    assert stats.superseded + stats.failed == 100


def test_jobs_that_were_running_at_the_end_are_told_when_they_end(log: Log) -> None:
    gate = Gate(Boom())
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        observe(pool_of(executor), [log], [log])
        executor.submit(gate)
        assert gate.reached()
        executor.shutdown(wait=False, cancel_futures=True)
        gate.open()
    assert log.reasons == [StopReason.SHUTDOWN]
    assert set(log.jobs) == {"failed"}
