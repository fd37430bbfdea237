"""A crash is not an attempt: whoever was there runs again, and who does it again fails."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import remote
from helpers.jobs import Boom
from helpers.scripted import Factory, Scripted
from helpers.threads import until

from retryexec import RetryingExecutor, RetryPolicy, ShutdownError, StopReason, ZeroBackoff
from retryexec.engines import Engine, processes

FORKSERVER = multiprocessing.get_context("forkserver")
AT_ONCE = RetryPolicy(backoff=ZeroBackoff())

# The standard library's pool loses all that is in it. That is where suspects come from.
POOLS: dict[str, Callable[[], Any]] = {
    "processes": lambda: processes(2),
    "the standard library's pool": lambda: partial(ProcessPoolExecutor, 2, mp_context=FORKSERVER),
}


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def pool(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.mark.parametrize("place", [0, 60, 120, "any"])
def test_one_killer_among_120(pool: Any, place: int | str, tmp_path: Path) -> None:
    at = random.Random(5).randrange(121) if isinstance(place, str) else place
    runs = tmp_path / "runs"
    with RetryingExecutor(policy=AT_ONCE, attempts_on=pool) as executor:
        futures: list[Future[Any]] = [executor.submit(remote.double, i) for i in range(at)]
        killer = executor.submit(remote.kills_itself, str(runs))
        futures += [executor.submit(remote.double, i) for i in range(at, 120)]
        assert [future.result(50) for future in futures] == [2 * i for i in range(120)]
        assert isinstance(killer.exception(50), BrokenProcessPool)
    assert killer.stop_reason is StopReason.CRASHED
    assert killer.attempts == 0
    assert [future.attempts for future in futures] == [1] * 120
    assert len(runs.read_text().splitlines()) == 3
    assert executor.stats().failed == 1


def test_several_killers(pool: Any) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=pool) as executor:
        futures: list[Any] = []
        for i in range(40):
            futures.append(executor.submit(remote.double, i))
            if i % 13 == 0:
                futures.append(executor.submit(remote.kills_itself))
        ends = [future.exception(50) for future in futures]
    assert sum(isinstance(end, BrokenProcessPool) for end in ends) == 4
    assert ends.count(None) == 40


def test_job_that_survives_its_suspicion(pool: Any, tmp_path: Path) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=pool) as executor:
        future = executor.submit(remote.kills_unless, str(tmp_path / "tried"))
        assert (future.result(50), future.attempts) == ("survived", 1)


def test_crash_between_failures_is_no_attempt(pool: Any, tmp_path: Path) -> None:
    policy = AT_ONCE.replace(max_attempts=2)
    with RetryingExecutor(policy=policy, attempts_on=pool) as executor:
        future = executor.submit(remote.fails_then_kills_then_succeeds, str(tmp_path))
        assert (future.result(50), future.attempts) == (2, 2)
        assert [failure.number for failure in future.history] == [1]


@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGKILL])
def test_process_ended_from_outside(by: signal.Signals, pool: Any, tmp_path: Path) -> None:
    """As the kernel does when memory runs out."""
    gate = remote.Gate(tmp_path)
    with RetryingExecutor(policy=AT_ONCE, attempts_on=pool) as executor:
        future = executor.submit(gate)
        for _ in range(2):
            os.kill(gate.reached(), by)
        assert gate.reached() > 0
        gate.open()
        assert (future.result(50), future.attempts) == ("through", 1)


def test_exit_of_the_process_is_a_crash(pool: Any) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=pool) as executor:
        future = executor.submit(remote.exits, 3)
        assert isinstance(future.exception(50), BrokenProcessPool)
        assert future.stop_reason is StopReason.CRASHED


@pytest.mark.parametrize("max_crashes", [1, 2])
def test_max_crashes(max_crashes: int, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with RetryingExecutor(attempts_on=processes(1, max_crashes=max_crashes)) as executor:
        future = executor.submit(remote.kills_itself, str(runs))
        assert isinstance(future.exception(50), BrokenProcessPool)
    assert len(runs.read_text().splitlines()) == max_crashes


def test_initializer_that_fails_ends_every_job() -> None:
    engine = processes(1, initializer=remote.fails_to_begin)
    with RetryingExecutor(attempts_on=engine) as executor:
        futures = [executor.submit(remote.double, i) for i in range(2)]
        assert all(isinstance(future.exception(50), BrokenProcessPool) for future in futures)


def test_shutdown_in_the_middle_of_crashes(pool: Any) -> None:
    executor = RetryingExecutor(policy=AT_ONCE, attempts_on=pool)
    futures: list[Any] = [executor.submit(remote.kills_itself) for _ in range(3)]
    futures += [executor.submit(remote.double, i) for i in range(30)]
    futures[0].exception(50)
    report = executor.shutdown(timeout=0)
    executor.shutdown()
    assert all(future.done() for future in futures)
    for future in futures:
        error = future.exception(0)
        assert error is None or isinstance(error, (BrokenProcessPool, ShutdownError))
    assert report.done + report.failed + report.abandoned + report.unfinished == 33


def test_shutdown_that_waits_runs_suspects_too(pool: Any, tmp_path: Path) -> None:
    executor = RetryingExecutor(policy=AT_ONCE, attempts_on=pool)
    survivors = [executor.submit(remote.kills_unless, str(tmp_path / str(i))) for i in range(3)]
    report = executor.shutdown()
    assert (report.done, report.unfinished) == (3, 0)
    assert [future.result(0) for future in survivors] == ["survived"] * 3


# ---- engines of which a test decides what happens, and when


def test_suspects_run_alone_and_others_go_on_meanwhile() -> None:
    make = Factory()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=make) as executor:
        futures = [executor.submit(remote.double, i) for i in range(5)]
        until(lambda: make.made and len(make.made[0].calls) == 3)
        make.made[0].crash()
        # A new executor for the two others, and one where the three suspects run one by one.
        until(lambda: sum(len(each.calls) for each in make.made) == 3)
        secluded, renewed = sorted(make.made[1:], key=lambda each: len(each.calls))
        assert (len(secluded.calls), len(renewed.calls)) == (1, 2)
        for _ in range(3):
            until(lambda: secluded.calls)
            assert len(secluded.calls) == 1
            secluded.run(0)
        renewed.run(1)
        renewed.run(0)
        assert [future.result(30) for future in futures] == [0, 2, 4, 6, 8]
        until(lambda: secluded.closed)
        assert not renewed.closed
    assert renewed.closed


def test_suspect_can_be_cancelled_while_it_waits_for_its_turn() -> None:
    make = Factory()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=make) as executor:
        first, second = executor.submit(remote.double, 1), executor.submit(remote.double, 2)
        until(lambda: make.made and len(make.made[0].calls) == 2)
        make.made[0].crash()
        until(lambda: len(make.made) == 2 and make.made[1].calls)
        assert second.cancel()
        make.made[1].run(0)
        assert first.result(30) == 2


def test_suspect_that_fails_is_none_any_more() -> None:
    make = Factory()
    policy = AT_ONCE.replace(max_attempts=2)
    with RetryingExecutor(policy=policy, attempts_on=make) as executor:
        future = executor.submit(remote.boom)
        for _ in range(2):  # crash, fail; crash, fail: never twice in a row
            until(lambda: make.made and make.made[-1].calls)
            make.made[-1].crash()
            until(lambda: make.made[-1].calls)
            make.made[-1].run(0)
        assert type(future.exception(30)) is Boom
        assert future.attempts == 2


def test_executor_found_broken_as_an_attempt_is_sent_blames_nobody() -> None:
    make = Factory()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=make) as executor:
        first = executor.submit(remote.double, 1)
        until(lambda: make.made and make.made[0].calls)
        make.made[0].run(0)
        make.made[0].closed = True
        second = executor.submit(remote.double, 2)
        until(lambda: len(make.made) == 2 and make.made[1].calls)
        make.made[1].run(0)
        assert (first.result(30), second.result(30)) == (2, 4)


def test_executor_that_is_always_broken_ends_the_job() -> None:
    class Broken(Scripted):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise BrokenProcessPool("broken from the start")

    policy = AT_ONCE.replace(max_attempts=2)
    with RetryingExecutor(policy=policy, attempts_on=Broken) as executor:
        future = executor.submit(remote.double, 1)
        assert isinstance(future.exception(30), BrokenProcessPool)


def test_executor_that_was_given_is_not_replaced_when_it_breaks() -> None:
    own = Scripted()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=own) as executor:
        futures = [executor.submit(remote.double, i) for i in range(4)]
        until(lambda: len(own.calls) == 3)
        own.crash()
        failures = [future.exception(30) for future in futures]
    assert all(isinstance(failure, BrokenExecutor) for failure in failures)
    reasons = [future.stop_reason for future in futures]
    assert reasons == [StopReason.CRASHED] * 3 + [StopReason.PERMANENT]


def test_attempt_that_the_engine_cancels_was_none() -> None:
    make = Factory()
    with RetryingExecutor(attempts_on=Engine(make=make, max_crashes=1)) as executor:
        future = executor.submit(remote.double, 1)
        until(lambda: make.made and make.made[0].calls)
        make.made[0].calls[0][1].cancel()
        until(lambda: len(make.made) == 2 and make.made[1].calls)
        make.made[1].calls[0][1].cancel()
        failure = future.exception(30)
    assert isinstance(failure, BrokenExecutor)
    assert "it was cancelled" in str(failure)
    assert future.stop_reason is StopReason.CRASHED


def test_accident_of_the_engine_is_final() -> None:
    make = Factory()
    with RetryingExecutor(policy=AT_ONCE, attempts_on=make) as executor:
        future = executor.submit(remote.double, 1)
        until(lambda: make.made and make.made[0].calls)
        make.made[0].calls.pop()[1].set_exception(OSError("cannot be sent"))
        assert isinstance(future.exception(30), OSError)
        assert future.stop_reason is StopReason.PERMANENT
