"""What hardly ever happens, staged: late comers, broken clocks, threads that do not start."""

import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread, raise_

from retryexec import (
    CancelToken,
    PermanentError,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
)
from retryexec._clock import SystemClock
from retryexec._core.job import Job
from retryexec._core.pool import Pool
from retryexec._core.worker import Worker
from retryexec.testing import VirtualClock

TENS = RetryPolicy(backoff=[10.0] * 3)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(1, clock=clock, policy=TENS) as executor:
        yield executor


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, happens: Any) -> None:
    """Let something happen just before a method of *owner* runs, once."""
    method = getattr(owner, name)

    def staged(*args: Any) -> Any:
        monkeypatch.undo()
        happens()
        return method(*args)

    monkeypatch.setattr(owner, name, staged)


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


# ---- no memory


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


# ---- a submit that a shutdown overtakes


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
    room_get = pool.room.get

    class Room:
        put, empty = pool.room.put, pool.room.empty

        def get(self) -> None:
            waiting.set()
            room_get()

    pool.room = Room()  # type: ignore[assignment]
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
        def stopping(self) -> bool:  # type: ignore[override]
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


# ---- ends that meet with trouble


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
