"""interpreters(): attempts in other interpreters, which Python has from 3.14 on."""

import os
import pickle
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from helpers import remote

from retryexec import RetryingExecutor, RetryPolicy, StopReason, ZeroBackoff
from retryexec.engines import interpreters

needs_interpreters = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python has InterpreterPoolExecutor from 3.14 on"
)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there are interpreters")
def test_they_are_refused_where_there_are_none() -> None:
    with pytest.raises(RuntimeError, match=r"interpreters\(\) needs Python 3.14, and this is 3"):
        interpreters()


@needs_interpreters
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_workers": 0}, r"max_workers takes a whole number from 1 up \(got 0\)"),
        ({"max_crashes": 0}, r"max_crashes takes a whole number from 1 up \(got 0\)"),
        ({"initializer": 7}, r"initializer takes a callable"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        interpreters(**arguments)


@needs_interpreters
def test_attempts_run_in_interpreters_of_this_process() -> None:
    with RetryingExecutor(attempts_on=interpreters(2)) as executor:
        assert executor.submit(remote.pid).result(30) == os.getpid()
        context = copy_context()
        context.run(remote.VARIABLE.set, "only here")
        future = context.run(executor.submit, remote.swap_variable, "there")
        assert future.result(30) == "unset"


@needs_interpreters
def test_the_initializer_runs_in_each_interpreter(tmp_path: Path) -> None:
    engine = interpreters(1, initializer=remote.begins_process, initargs=(str(tmp_path),))
    with RetryingExecutor(attempts_on=engine) as executor:
        assert executor.submit(remote.double, 2).result(30) == 4
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


@needs_interpreters
def test_an_initializer_that_cannot_be_sent_fails_the_jobs_at_once() -> None:
    with RetryingExecutor(attempts_on=interpreters(1, initializer=lambda: None)) as executor:
        future = executor.submit(remote.double, 2)
        assert isinstance(future.exception(30), pickle.PicklingError)
    assert (future.attempts, future.stop_reason) == (1, StopReason.PERMANENT)


@needs_interpreters
def test_an_initializer_that_fails_crashes_the_interpreter() -> None:
    engine = interpreters(1, initializer=remote.fails_to_begin, max_crashes=2)
    with RetryingExecutor(attempts_on=engine) as executor:
        future = executor.submit(remote.double, 2)
        assert future.exception(30) is not None
    assert future.stop_reason is StopReason.CRASHED


@needs_interpreters
def test_a_job_that_exits_fails_and_the_interpreter_stays() -> None:
    policy = RetryPolicy(backoff=ZeroBackoff())
    with RetryingExecutor(policy=policy, attempts_on=interpreters(1)) as executor:
        assert isinstance(executor.submit(sys.exit, 3).exception(30), SystemExit)
        assert executor.submit(remote.double, 2).result(30) == 4


# ---- the main script, in a process of its own

SCRIPT = """\
from retryexec import RetryingExecutor, RetryPolicy, ZeroBackoff, current_attempt
from retryexec.engines import interpreters
import beside

print("loaded", flush=True)

class Broken(Exception):
    pass

def fails_once(word):
    if current_attempt().number == 1:
        raise Broken(word)
    return word

def main():
    policy = RetryPolicy(retry_on=Broken, backoff=ZeroBackoff())
    with RetryingExecutor(policy=policy, attempts_on=interpreters(1)) as executor:
        print([executor.submit(beside.double, n).result(30) for n in range(3)])
        for word in ("one", "two"):
            print(executor.submit(fails_once, word).result(30))
"""


def run(tmp_path: Path, end: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + end)
    (tmp_path / "beside.py").write_text("def double(n): return 2 * n\n")
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@needs_interpreters
def test_functions_and_exceptions_of_the_main_script_and_of_modules_beside_it(
    tmp_path: Path,
) -> None:
    """The interpreter runs the script only when it needs something of it, and once."""
    done = run(tmp_path, 'if __name__ == "__main__":\n    main()\n')
    assert done.stdout.splitlines() == ["loaded", "[0, 2, 4]", "loaded", "one", "two"], done.stderr
    assert done.returncode == 0


@needs_interpreters
def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    done = run(tmp_path, "main()\n")
    assert done.returncode == 1
    assert 'put that under if __name__ == "__main__":' in done.stderr
