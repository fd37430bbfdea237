"""Attempts on a cluster of Dask: a real one, of two processes."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask as dask_settings
import distributed
import pytest
from helpers import remote

from retryexec import RetryingExecutor, RetryPolicy, StopReason, ZeroBackoff
from retryexec.engines import dask

AT_ONCE = RetryPolicy(backoff=ZeroBackoff(), max_attempts=2)
LEAKS = pytest.mark.leaks("distributed keeps threads of its own")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    settings = {
        # A worker that dies counts at once, so that a test need not end four of them.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.comm.timeouts.connect": "5s",
        "temporary-directory": str(tmp_path),
    }
    with (
        dask_settings.config.set(settings),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


@LEAKS
def test_outcomes_of_functions_defined_anywhere(cluster: Any) -> None:
    class Local(Exception):
        pass

    def fails() -> None:
        raise Local("here")

    factor = 3
    with (
        distributed.Client(cluster) as client,
        RetryingExecutor(policy=AT_ONCE, attempts_on=dask(client)) as executor,
    ):
        futures = [executor.submit(lambda i: factor * i, i) for i in range(20)]
        assert [future.result(30) for future in futures] == [3 * i for i in range(20)]
        failed = executor.submit(fails)
        assert type(failed.exception(30)) is Local
        assert failed.attempts == 2
        assert "in fails" in str(failed.exception().__cause__)  # type: ignore[union-attr]
        assert executor.submit(remote.told).result(30)[0] == 1
        same = [executor.submit(remote.pid) for _ in range(6)]
        assert os.getpid() not in {future.result(30) for future in same}
        executor.shutdown()
        assert client.status == "running"  # it is not ours to close


@LEAKS
def test_one_killer_among_40(cluster: Any) -> None:
    engine = dask(cluster.scheduler_address)
    with RetryingExecutor(policy=AT_ONCE, attempts_on=engine) as executor:
        futures = [executor.submit(remote.double, i) for i in range(20)]
        killer = executor.submit(remote.kills_itself)
        futures += [executor.submit(remote.double, i) for i in range(20, 40)]
        assert [future.result(50) for future in futures] == [2 * i for i in range(40)]
        assert isinstance(killer.exception(50), distributed.scheduler.KilledWorker)
    assert (killer.stop_reason, killer.attempts) == (StopReason.CRASHED, 0)


@LEAKS
def test_worker_that_disappears_costs_no_attempt(cluster: Any, tmp_path: Path) -> None:
    gate = remote.Gate(tmp_path)
    policy = AT_ONCE.replace(max_attempts=1)
    with RetryingExecutor(policy=policy, attempts_on=dask(cluster)) as executor:
        future = executor.submit(gate)
        os.kill(gate.reached(), signal.SIGKILL)
        gate.reached()
        gate.open()
        assert (future.result(50), future.attempts) == ("through", 1)


@LEAKS
def test_cluster_that_cannot_be_reached_is_an_error_for_the_policy() -> None:
    settings = {"distributed.comm.timeouts.connect": "0.1s"}
    with (
        dask_settings.config.set(settings),
        RetryingExecutor(policy=AT_ONCE, attempts_on=dask("tcp://127.0.0.1:9")) as executor,
    ):
        future = executor.submit(remote.double, 1)
        assert isinstance(future.exception(30), OSError)
        assert (future.attempts, future.stop_reason) == (2, StopReason.MAX_ATTEMPTS)


def test_what_dask_takes() -> None:
    with pytest.raises(TypeError, match=r"dask\(\) takes a distributed.Client.*\(got 8786\)"):
        dask(8786)
