"""The end of a process whose attempts run elsewhere, and its forks: in processes of their own."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from retryexec import RetryingExecutor
from retryexec.engines import processes

START = """\
import logging, multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from helpers import remote
from retryexec import *
from retryexec.engines import processes

def pool(workers):
    context = multiprocessing.get_context("forkserver")
    return partial(ProcessPoolExecutor, workers, mp_context=context)

def say(word):
    os.write(1, f"{word}\\n".encode())

def fails_once(word):
    if current_attempt().number == 1:
        raise OSError("busy")
    say(word)

def main():
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout, force=True)
    logging.getLogger("retryexec").addFilter(lambda r: "logged once" not in r.getMessage())
"""


def run(tmp_path: Path, body: str) -> tuple[int, list[str], str]:
    """Run *body* in main() of a script; return its status, its lines of output, and its errors."""
    script = tmp_path / "script.py"
    end = '\nif __name__ == "__main__":\n    main()\n'
    script.write_text(START + textwrap.indent(textwrap.dedent(body), "    ") + end)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("engine", ["processes(1)", "pool(1)"])
def test_exit_finishes_queued_and_waiting_jobs(engine: str, tmp_path: Path) -> None:
    """Though the standard library would have shut its pool down before."""
    status, lines, errors = run(
        tmp_path,
        f"""
        executor = RetryingExecutor(policy=RetryPolicy(backoff=[0.3]), attempts_on={engine})
        executor.submit(say, "first").result()
        executor.submit(fails_once, "retried")
        for n in range(3):
            executor.submit(say, n)
        say("main ends")
        """,
    )
    assert (status, errors) == (0, "")
    assert sorted(lines) == ["0", "1", "2", "first", "main ends", "retried"]


@pytest.mark.skipif(
    (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 1),
    reason="CPython 3.12.0 and 3.12.1 start no thread then, so these jobs fail; see the next test",
)
def test_processes_that_start_as_the_script_ends(tmp_path: Path) -> None:
    """Python forgets where the script is just then."""
    status, lines, errors = run(
        tmp_path,
        """
        for _ in range(5):
            RetryingExecutor(attempts_on=processes(1)).submit(say, "done")
        """,
    )
    assert (status, errors) == (0, "")
    assert lines == ["done"] * 5


def test_where_no_thread_can_be_started_the_job_fails_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "retryexec_pool":
            msg = "can't create new thread at interpreter shutdown"
            raise RuntimeError(msg)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    with RetryingExecutor(attempts_on=processes(1)) as executor:
        future = executor.submit(len, "abc")
        error = future.exception(30)
    assert isinstance(error, RuntimeError)
    assert "can't create new thread" in str(error)


def test_exit_timeout_ends_the_processes(tmp_path: Path) -> None:
    status, lines, errors = run(
        tmp_path,
        """
        gate = remote.Gate(Path(sys.argv[0]).parent)
        executor = RetryingExecutor(exit_timeout=0.2, attempts_on=processes(1))
        executor.submit(gate)
        executor.submit(say, "never")
        say(gate.reached())
        """,
    )
    assert (status, errors) == (0, "")
    assert len(lines) == 2
    assert "abandoned: 1 (say); cut off while running: 1 (Gate)" in lines[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)


def test_executor_works_in_a_forked_child(tmp_path: Path) -> None:
    status, lines, errors = run(
        tmp_path,
        """
        executor = RetryingExecutor(attempts_on=processes(1))
        say(executor.submit(remote.double, 1).result(30))
        gate = remote.Gate(Path(sys.argv[0]).parent)
        held = executor.submit(gate)
        gate.reached()
        child = os.fork()
        if child == 0:
            say(type(held.exception(5)).__name__)
            say(executor.submit(remote.double, 2).result(30))
            executor.shutdown()
            sys.exit()
        say(os.waitpid(child, 0)[1])
        gate.open()
        say(held.result(30))
        """,
    )
    assert (status, errors) == (0, "")
    assert lines == ["2", "ShutdownError", "4", "0", "through"]


def test_executor_that_was_given_is_not_there_in_a_forked_child(tmp_path: Path) -> None:
    status, lines, errors = run(
        tmp_path,
        """
        own = pool(1)()
        executor = RetryingExecutor(attempts_on=own)
        say(executor.submit(remote.double, 1).result(30))
        child = os.fork()
        if child == 0:
            say(executor.submit(remote.double, 2).exception(30))
            executor.shutdown()
            os._exit(0)
        say(os.waitpid(child, 0)[1])
        """,
    )
    assert (status, errors) == (0, "")
    assert "belongs to the process that this one was forked from" in lines[1]
    assert lines[2] == "0"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_other_ways_to_start_processes(context: str, tmp_path: Path) -> None:
    status, lines, errors = run(
        tmp_path,
        f"""
        engine = processes(2, mp_context="{context}")
        with RetryingExecutor(attempts_on=engine) as executor:
            futures = [executor.submit(remote.double, i) for i in range(20)]
            killer = executor.submit(remote.kills_itself)
            say(sum(future.result(30) for future in futures))
            say(killer.stop_reason if killer.exception(30) else None)
        """,
    )
    assert (status, errors) == (0, "")
    assert lines[-2:] == ["380", "crashed"]


def test_script_without_a_guard_comes_to_an_end(tmp_path: Path) -> None:
    """Each process imports it, and so gets to the same place, where it must not start others."""
    script = tmp_path / "script.py"
    script.write_text(
        START.partition("def main")[0]
        + textwrap.dedent("""
        with RetryingExecutor(attempts_on=processes(1)) as executor:
            say(executor.submit(remote.double, 1).result(30))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False, env=environment)
    assert done.returncode == 1
    assert b"if __name__ == '__main__':" in done.stderr
    assert b"BrokenProcessPool" in done.stderr


def test_interrupt_ends_no_attempt(tmp_path: Path) -> None:
    """Ctrl-C comes to all processes of a terminal."""
    status, lines, errors = run(
        tmp_path,
        """
        gate = remote.Gate(Path(sys.argv[0]).parent)
        with RetryingExecutor(attempts_on=processes(1)) as executor:
            future = executor.submit(gate)
            process = gate.reached()
            try:
                for pid in (process, os.getpid()):
                    os.kill(pid, signal.SIGINT)
                time.sleep(10)
            except KeyboardInterrupt:
                say("interrupted")
            gate.open()
            say(future.result(30))
        """,
    )
    assert (status, errors) == (0, "")
    assert lines == ["interrupted", "through"]
