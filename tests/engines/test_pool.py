"""The pool of processes: who runs what, and whose call it was that ended a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from helpers.remote import (
    Gate,
    begins_process,
    double,
    exits,
    fails_to_begin,
    kills_itself,
    pid,
)

from retryexec.engines._pool import ProcessPool

TESTS = str(Path(__file__).parents[1])

MakePool = Callable[..., ProcessPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools = []

    def make(max_workers: int = 1, *args: Any) -> ProcessPool:
        pools.append(ProcessPool(max_workers, get_context("forkserver"), *args))
        return pools[-1]

    yield make
    for pool in pools:
        pool.kill()
        pool.shutdown()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_runs_calls_in_one_process(make_pool: MakePool) -> None:
    pool = make_pool(1)
    assert [future.result(30) for future in [pool.submit(double, i) for i in range(20)]] == [
        2 * i for i in range(20)
    ]
    assert {pool.submit(pid).result(30) for _ in range(3)} != {os.getpid()}


def test_starts_a_process_only_if_none_is_idle(make_pool: MakePool) -> None:
    pool = make_pool(8)
    assert len({pool.submit(pid).result(30) for _ in range(5)}) == 1


def test_a_process_runs_one_call_at_a_time(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2)
    gates = [Gate(tmp_path) for _ in range(2)]
    held = [pool.submit(gate.exec) for gate in gates]
    pids = {gate.reached() for gate in gates}
    waiting = pool.submit(pid)
    gates[0].open()
    assert held[0].result(30) == "through"
    assert waiting.result(30) in pids
    assert not held[1].done()
    gates[1].open()
    assert held[1].result(30) == "through"


def test_large_arguments_and_results(make_pool: MakePool) -> None:
    pool = make_pool(1)
    data = os.urandom(5_000_000)
    assert pool.submit(bytes, data).result(30) == data


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_signal_that_ended_a_process_is_named(make_pool: MakePool, by: signal.Signals) -> None:
    failure = make_pool().submit(kills_itself, None, by).exception(30)
    assert isinstance(failure, BrokenProcessPool)
    assert f"was ended by {by.name}" in str(failure)


def test_exit_code_is_named(make_pool: MakePool) -> None:
    failure = make_pool().submit(exits, 3).exception(30)
    assert isinstance(failure, BrokenProcessPool)
    assert "was ended with exit code 3" in str(failure)


def test_end_of_a_process_costs_its_own_call_only(make_pool: MakePool, tmp_path: Path) -> None:
    pool, gate = make_pool(2), Gate(tmp_path)
    held = pool.submit(gate.exec)
    gate.reached()
    killer, others = pool.submit(kills_itself), [pool.submit(double, i) for i in range(5)]
    assert isinstance(killer.exception(30), BrokenProcessPool)
    assert [future.result(30) for future in others] == [0, 2, 4, 6, 8]
    gate.open()
    assert held.result(30) == "through"


def test_process_that_ends_while_idle_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(1)
    first = pool.submit(pid).result(30)
    os.kill(first, signal.SIGKILL)
    while pool._children:
        time.sleep(0.001)
    assert pool.submit(pid).result(30) != first


def test_process_makes_way_after_so_many_calls(make_pool: MakePool) -> None:
    pool = make_pool(1, (None, ()), 2)
    pids = [future.result(30) for future in [pool.submit(pid) for _ in range(6)]]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)


def test_initializer_comes_first_in_each_process(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(1, (begins_process, (str(tmp_path),)))
    process = pool.submit(pid).result(30)
    assert [path.name for path in tmp_path.iterdir()] == [str(process)]


def test_initializer_that_fails_ends_the_process(make_pool: MakePool) -> None:
    failure = make_pool(1, (fails_to_begin, ())).submit(pid).exception(30)
    assert isinstance(failure, BrokenProcessPool)


def test_shutdown_waits_for_calls_and_processes(make_pool: MakePool, tmp_path: Path) -> None:
    pool, gate = make_pool(1), Gate(tmp_path)
    held, waiting = pool.submit(gate.exec), pool.submit(pid)
    process = gate.reached()
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pid)
    gate.open()
    pool.shutdown()
    assert (held.result(0), waiting.result(0)) == ("through", process)
    assert not is_alive(process)


def test_shutdown_that_cancels(make_pool: MakePool, tmp_path: Path) -> None:
    pool, gate = make_pool(1), Gate(tmp_path)
    held, waiting = pool.submit(gate.exec), pool.submit(pid)
    gate.reached()
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    gate.open()
    assert held.result(30) == "through"


def test_shutdown_of_a_pool_that_did_nothing(make_pool: MakePool) -> None:
    make_pool().shutdown()


def test_kill(make_pool: MakePool, tmp_path: Path) -> None:
    pool, gate = make_pool(1), Gate(tmp_path)
    held = pool.submit(gate.exec)
    process = gate.reached()
    pool.kill()
    assert isinstance(held.exception(30), BrokenProcessPool)
    assert not is_alive(process)


def test_interrupt_of_the_terminal_does_not_reach_a_call(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool, gate = make_pool(1), Gate(tmp_path)
    held = pool.submit(gate.exec)
    os.kill(gate.reached(), signal.SIGINT)
    gate.open()
    assert held.result(30) == "through"


NO_FORK = """
import atexit, os, time
from pathlib import Path

fork = os.fork

def refused():
    if Path("refused").exists():
        if Path("ending").exists():
            os.closerange(3, 256)  # as at the end of the process
        raise BlockingIOError("there are too many processes")
    return fork()

def wait():
    deadline = time.monotonic() + 20
    while Path("ending").exists() and time.monotonic() < deadline:
        time.sleep(0.001)

os.fork = refused
atexit.register(wait)
"""

START = """
import os, sys, time
from multiprocessing import get_context
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path
from helpers.remote import double
from retryexec.engines._pool import ProcessPool

def main():
    set_forkserver_preload(["no_fork"])
    pool = ProcessPool(1, get_context("forkserver"))
    Path("refused").touch()
    {}
    print(pool.submit(double, 2).result(30))
    pool.shutdown()

if __name__ == "__main__":
    main()
"""

FOR_NOW = """
    try:
        pool.submit(double, 2)
    except OSError as error:
        print(error)
    Path("refused").unlink()
"""

LATE = """
    Path("ending").touch()
    def sleep(seconds, sleep=time.sleep):
        Path("refused").unlink(missing_ok=True)
        Path("ending").unlink(missing_ok=True)
        sleep(seconds)
    time.sleep = sleep
"""


def printed_without_fork(directory: Path, script: str) -> list[str]:
    """Return the lines that START prints with *script* in it, where the server cannot fork."""
    (directory / "start.py").write_text(START.format(script))
    (directory / "no_fork.py").write_text(NO_FORK)
    done = subprocess.run(
        [sys.executable, "start.py"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), TESTS])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_fork_that_is_refused_for_now_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The server that forks ends by it, as it does by a script that must not be imported."""
    message = "the server that starts processes ended when it was to fork"
    assert printed_without_fork(tmp_path, FOR_NOW) == [message, "4"]


def test_a_server_that_takes_its_time_to_end_costs_no_call(tmp_path: Path) -> None:
    assert printed_without_fork(tmp_path, LATE) == ["4"]


STUCK = """
    from retryexec.engines import _pool
    _pool.SERVER_GRACE = 0.0
    Path("ending").touch()
    try:
        pool.submit(double, 2)
    except OSError as error:
        print(error)
    _pool.SERVER_GRACE = 30.0
    Path("refused").unlink()
    Path("ending").unlink()
"""


def test_a_server_that_neither_answers_nor_ends_is_an_error_of_the_system(tmp_path: Path) -> None:
    message = "the server that starts processes answers nobody, and does not end"
    assert printed_without_fork(tmp_path, STUCK) == [message, "4"]


ORPHAN = """
import os, signal, sys
from multiprocessing import get_context
from pathlib import Path
from helpers.remote import Gate
from retryexec.engines._pool import ProcessPool

if __name__ == "__main__":
    gate = Gate(Path(sys.argv[1]))
    ProcessPool(1, get_context("forkserver")).submit(gate.exec)
    print(gate.reached(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": TESTS},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    process = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_alive(process):
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.01)
