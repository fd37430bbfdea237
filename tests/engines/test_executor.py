"""An executor whose attempts run elsewhere keeps what it promises of those that run here."""

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from helpers import remote
from helpers.jobs import Boom

from retryexec import (
    CancelToken,
    ConstantBackoff,
    GiveUp,
    Retry,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
    Success,
    ZeroBackoff,
)
from retryexec.engines import interpreters, processes
from retryexec.testing import VirtualClock

ENGINES: dict[str, Callable[[], Any]] = {
    "processes": lambda: processes(2),
    "the standard library's pool": lambda: partial(
        ProcessPoolExecutor, 2, mp_context=multiprocessing.get_context("forkserver")
    ),
    "threads": lambda: partial(ThreadPoolExecutor, 2),
}
if sys.version_info >= (3, 14):
    ENGINES["interpreters"] = lambda: interpreters(2)
AT_ONCE = RetryPolicy(backoff=ZeroBackoff(), max_attempts=3)


@pytest.fixture(params=ENGINES.values(), ids=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_jobs_that_succeed_and_fail(engine: Any) -> None:
    """With hooks and callbacks, which all are called here."""
    events: list[Any] = []
    note = events.append
    executor = RetryingExecutor(
        policy=AT_ONCE, attempts_on=engine, on_retry=note, on_success=note, on_give_up=note
    )
    with executor:
        done = [executor.submit(remote.double, i) for i in range(30)]
        assert [future.result(30) for future in done] == [2 * i for i in range(30)]
        assert [future.attempts for future in done] == [1] * 30
        late = executor.submit(remote.fails_until, 3)
        assert (late.result(30), late.attempts) == (3, 3)
        assert [failure.text for failure in late.history] == ["1", "2"]
        bad = executor.submit(remote.boom, "no use")
        called = threading.Event()
        bad.add_done_callback(lambda _: called.set())
        failure = bad.exception(30)
        assert called.wait(10)
    assert type(failure) is Boom
    assert "gave up after 3 attempts" in failure.__notes__[0]
    assert bad.stop_reason is StopReason.MAX_ATTEMPTS
    kinds = [type(event) for event in events]
    assert (kinds.count(Success), kinds.count(Retry), kinds.count(GiveUp)) == (31, 4, 1)
    stats = executor.stats()
    assert (stats.succeeded, stats.failed, stats.attempts, stats.running) == (31, 1, 36, 0)


@pytest.mark.parametrize(
    ("marker", "attempts", "outcome", "reason"),
    [
        ("permanent", 1, OSError, StopReason.PERMANENT),
        ("permanent cause", 1, Boom, StopReason.PERMANENT),
        ("retry after", 2, OSError, StopReason.MAX_ATTEMPTS),
        ("retry after from", 2, OSError, StopReason.MAX_ATTEMPTS),
    ],
)
def test_exceptions_that_steer(
    marker: str, attempts: int, outcome: type[Exception], reason: StopReason
) -> None:
    clock = VirtualClock()
    policy = RetryPolicy(max_attempts=2, backoff=ConstantBackoff(1))
    with RetryingExecutor(policy=policy, clock=clock, attempts_on=processes(1)) as executor:
        future = executor.submit(remote.saves, "locked", marker)
        clock.run_until(future.done)
        assert type(future.exception()) is outcome
    assert (future.attempts, future.stop_reason) == (attempts, reason)
    if attempts == 2:
        assert clock.now() == 60


def test_a_schedule_on_a_virtual_clock_is_exact() -> None:
    """Time waits for what is away."""
    clock = VirtualClock()
    policy = RetryPolicy(backoff=ConstantBackoff(3600), max_elapsed=None)
    with RetryingExecutor(policy=policy, clock=clock, attempts_on=processes(2)) as executor:
        futures = [executor.submit(remote.fails_until, attempt) for attempt in (1, 2, 3)]
        clock.advance(0)
        assert [future.done() for future in futures] == [True, False, False]
        assert futures[1].next_attempt_at == 3600
        clock.advance(3600)
        assert [future.done() for future in futures] == [True, True, False]
        clock.advance(3600)
        assert futures[2].result() == 3


def test_current_attempt_on_the_other_side(engine: Any) -> None:
    policy = AT_ONCE.replace(attempt_timeout=30)
    with RetryingExecutor(policy=policy, attempts_on=engine) as executor:
        future = executor.submit(remote.told)
        number, job_id, left, previous, cancelled = future.result(30)
        assert (number, job_id, previous, cancelled) == (1, future.job_id, "None", False)
        assert 0 < left <= 30
        assert "the first" in executor.submit(remote.tells_previous).result(30)


def test_token_counts_for_remaining() -> None:
    with RetryingExecutor(attempts_on=processes(1)) as executor:
        view = executor.using(cancel=CancelToken(timeout=20))
        left = view.submit(remote.told).result(30)[2]
    assert left is not None
    assert 0 < left <= 20


def test_attempt_that_outlasts_its_timeout_counts() -> None:
    policy = AT_ONCE.replace(attempt_timeout=0.001)
    with RetryingExecutor(policy=policy, attempts_on=processes(1)) as executor:
        future = executor.submit(remote.outlasts_its_time)
        assert (future.result(30), future.attempts) == (0.0, 1)


def test_no_thread_is_held_by_what_is_away(tmp_path: Path) -> None:
    gates = [remote.Gate(tmp_path) for _ in range(4)]
    before = threading.active_count()
    with RetryingExecutor(attempts_on=processes(4)) as executor:
        futures = [executor.submit(gate) for gate in gates]
        for gate in gates:
            gate.reached()
        assert executor.stats().running == 4
        assert threading.active_count() - before == 2  # a worker, and the pool's reader
        for gate in gates:
            gate.open()
        assert [future.result(30) for future in futures] == ["through"] * 4


def test_what_waits_for_the_engine_is_queued_and_can_be_cancelled(tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path)
    with RetryingExecutor(attempts_on=processes(1)) as executor:
        held = executor.submit(gate)
        gate.reached()
        queued = [executor.submit(remote.double, i) for i in range(500)]
        assert (executor.stats().running, executor.stats().queued) == (1, 500)
        assert (held.running(), held.cancel()) == (True, False)
        assert all(future.cancel() for future in queued[:-1])
        assert executor._pool.queue.qsize() < 500, "the ended ones pile up"
        gate.open()
        assert queued[-1].result(30) == 998
        assert held.result(30) == "through"  # a running attempt counts, as ever


def test_cancel_during_an_attempt_lets_no_other_follow(tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path, result=None)
    policy = AT_ONCE.replace(retry_on_result=lambda value: value is None)
    with RetryingExecutor(policy=policy, attempts_on=processes(1)) as executor:
        future = executor.submit(gate)
        gate.reached()
        assert not future.cancel()
        gate.open()
        assert future.result(30) is None
        assert (future.attempts, future.stop_reason) == (1, StopReason.CANCELLED)


def test_at_most_max_workers_are_away(tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path)
    with RetryingExecutor(1, attempts_on=processes(2)) as executor:
        held, queued = executor.submit(gate), executor.submit(remote.double, 1)
        gate.reached()
        assert (executor.stats().running, queued.running()) == (1, False)
        gate.open()
        assert (held.result(30), queued.result(30)) == ("through", 2)


@pytest.fixture
def _variable() -> Iterator[None]:
    token = remote.VARIABLE.set("submitted")
    yield
    remote.VARIABLE.reset(token)


@pytest.mark.usefixtures("_variable")
def test_attempts_of_threads_have_the_context_of_the_submitter() -> None:
    with RetryingExecutor(attempts_on=ThreadPoolExecutor) as executor:
        futures = [executor.submit(remote.swap_variable, "set") for _ in range(3)]
        assert {future.result(30) for future in futures} == {"submitted"}


@pytest.mark.usefixtures("_variable")
def test_context_does_not_travel_to_processes() -> None:
    with RetryingExecutor(attempts_on=processes(1)) as executor:
        futures = [executor.submit(remote.swap_variable, "set") for _ in range(3)]
        assert {future.result(30) for future in futures} == {"unset"}


# ---- what cannot be sent


def test_function_that_cannot_be_sent_is_final() -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=processes(1)) as executor:
        future = executor.submit(lambda: None)
        failure = future.exception(30)
        assert executor.submit(remote.double, 1).result(30) == 2
    assert isinstance(failure, pickle.PicklingError)
    assert "it is defined within a function" in str(failure)
    assert (future.stop_reason, future.attempts) == (StopReason.PERMANENT, 1)


@pytest.mark.parametrize("name", sorted(ENGINES.keys() - {"threads"}))
def test_outcomes_that_cannot_be_sent_back_are_named(name: str) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=ENGINES[name]()) as executor:
        value = executor.submit(remote.nothing_to_pickle)
        assert "['lock'], a lock" in str(value.exception(30))
        assert value.attempts == 1
        assert isinstance(executor.submit(remote.raises_picky).exception(30), remote.Picky)
        assert isinstance(executor.submit(remote.raises_holding).exception(30), remote.Holding)
        local = executor.submit(remote.raises_local)
        assert "Local: of nowhere" in str(local.exception(30))
        assert local.attempts == 3
        assert executor.submit(remote.double, 2).result(30) == 4


# ---- shutdown, and what is whose


def test_executor_that_was_given_is_not_shut_down() -> None:
    with ThreadPoolExecutor(1) as own:
        with RetryingExecutor(attempts_on=own) as executor:
            assert executor.submit(remote.double, 1).result(30) == 2
        assert own.submit(remote.double, 2).result(30) == 4


def test_executor_that_was_made_is_shut_down() -> None:
    made: list[ThreadPoolExecutor] = []

    def make() -> Executor:
        made.append(ThreadPoolExecutor(1))
        return made[-1]

    with RetryingExecutor(attempts_on=make) as executor:
        assert made == []
        assert executor.submit(remote.double, 1).result(30) == 2
    assert len(made) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(remote.double, 1)


def test_executor_shut_down_by_its_owner_ends_the_jobs() -> None:
    own = ThreadPoolExecutor(1)
    own.shutdown()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=own) as executor:
        future = executor.submit(remote.double, 1)
        assert "after shutdown" in str(future.exception(30))
        assert (future.attempts, future.stop_reason) == (1, StopReason.PERMANENT)


def test_factory_that_makes_something_else() -> None:
    with RetryingExecutor(attempts_on=lambda: 7) as executor:  # type: ignore[arg-type,return-value]
        failure = executor.submit(remote.double, 1).exception(30)
    assert "must make an Executor (it made 7)" in str(failure)


def test_factory_that_fails_is_tried_again_by_the_policy() -> None:
    tries = iter([OSError("no file descriptors left"), OSError("still none")])

    def make() -> Executor:
        for error in tries:
            raise error
        return ThreadPoolExecutor(1)

    with RetryingExecutor(policy=AT_ONCE, attempts_on=make) as executor:
        future = executor.submit(remote.double, 1)
        assert (future.result(30), future.attempts) == (2, 3)


def test_shutdown_finishes_what_is_away_queued_and_waiting() -> None:
    policy = RetryPolicy(backoff=ConstantBackoff(0.05))
    executor = RetryingExecutor(policy=policy, attempts_on=processes(2))
    futures = [executor.submit(remote.fails_until, 1 + i % 3) for i in range(20)]
    report = executor.shutdown()
    assert (report.done, report.unfinished) == (20, 0)
    assert all(future.result(0) for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(remote.double, 1)


def test_shutdown_with_a_timeout_does_not_wait_for_what_is_away(tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path)
    executor = RetryingExecutor(attempts_on=processes(1))
    held, queued = executor.submit(gate), executor.submit(remote.double, 1)
    gate.reached()
    report = executor.shutdown(timeout=0.01)
    assert (report.abandoned, report.unfinished) == (1, 1)
    assert isinstance(queued.exception(0), ShutdownError)
    gate.open()
    assert held.result(30) == "through"
    executor.shutdown()


def test_shutdown_that_cancels(tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path)
    executor = RetryingExecutor(attempts_on=processes(1))
    held, queued = executor.submit(gate), executor.submit(remote.double, 1)
    gate.reached()
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    gate.open()
    assert held.result(30) == "through"
    executor.shutdown()


def test_forgotten_executor_ends_its_processes() -> None:
    executor = RetryingExecutor(attempts_on=processes(1))
    process = executor.submit(remote.pid).result(30)
    threads = executor._threads
    del executor
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_hook_that_takes_long_keeps_no_other_job() -> None:
    release, entered = threading.Event(), threading.Event()

    def hook(event: Success) -> None:
        if event.result == 0:
            entered.set()
            assert release.wait(20)

    with RetryingExecutor(attempts_on=processes(1), on_success=hook) as executor:
        executor.submit(remote.double, 0)
        assert entered.wait(20)
        assert executor.submit(remote.double, 1).result(30) == 2
        release.set()


def test_callback_may_wait_for_another_job() -> None:
    results: SimpleQueue[int] = SimpleQueue()
    with RetryingExecutor(attempts_on=processes(1)) as executor:

        def wait_for_another(_: Any) -> None:
            results.put(executor.submit(remote.double, 5).result(30))

        executor.submit(remote.double, 1).add_done_callback(wait_for_another)
        assert results.get(timeout=30) == 10


def test_what_attempts_on_takes() -> None:
    with pytest.raises(TypeError, match=r"attempts_on takes an Executor.*\(got 'processes'\)"):
        RetryingExecutor(attempts_on="processes")  # type: ignore[arg-type]
