"""The end of the process, and its forks. In processes of their own: few, and quick."""

import os
import subprocess
import sys
import textwrap

import pytest

START = """\
import logging, os, sys, threading, time
from concurrent.futures import wait
from retryexec import *

logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout, force=True)
# That a job is tried again is told elsewhere, and not what is looked for here.
logging.getLogger("retryexec").addFilter(lambda record: "logged once" not in record.getMessage())

def say(word):
    os.write(1, f"{word}\\n".encode())  # in one piece, as print does not

def fails_once(word):
    if current_attempt().number == 1:
        raise OSError("busy")
    say(word)

def at_gate(gate, word):
    gate.wait(10)
    say(word)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run(script: str) -> tuple[int, list[str], str]:
    """Run *script* after START; return its status, its lines of output, and its errors."""
    source = START + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


# ---- exit


def test_exit_finishes_queued_and_waiting_jobs() -> None:
    """Nobody keeps a future, nobody shuts down: fire and forget."""
    status, lines, errors = run("""
        executor = RetryingExecutor(1, policy=RetryPolicy(backoff=[0.3]))
        executor.submit(fails_once, "retried")
        for n in range(3):
            executor.submit(say, n)
        say("main ends")
    """)
    assert (status, errors) == (0, "")
    assert sorted(lines) == ["0", "1", "2", "main ends", "retried"]


def test_exit_finishes_the_jobs_of_a_forgotten_executor() -> None:
    status, lines, errors = run("""
        RetryingExecutor(1, policy=RetryPolicy(backoff=[0.05])).submit(fails_once, "retried")
    """)
    assert (status, lines, errors) == (0, ["retried"], "")


def test_ctrl_c_during_the_exit_names_what_is_left() -> None:
    """And it ends what would wait for a minute."""
    _, lines, errors = run("""
        import signal
        import sys

        signal.signal(signal.SIGINT, signal.default_int_handler)  # unset in a background job
        executor = RetryingExecutor(1, policy=RetryPolicy(backoff=[60]))
        executor.submit(fails_once, "")

        def functions(frame):
            while frame is not None:
                yield frame.f_code.co_name
                frame = frame.f_back

        def interrupt():
            main = threading.main_thread().ident
            while "_finish" not in functions(sys._current_frames()[main]):
                time.sleep(0.01)  # until the exit waits for the job
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        while not executor.stats().waiting:
            time.sleep(0.01)
    """)
    assert "KeyboardInterrupt" in errors
    words = "jobs abandoned: 1 (fails_once); cut off while running: 0 (none)"
    assert f"ERROR the interpreter exits; {words}" in lines


def test_exit_timeout_names_what_it_abandons() -> None:
    """One line for all: two jobs in an hour's backoff, one in the queue, one that runs on."""
    status, lines, errors = run("""
        class Save:
            def exec(self):
                raise OSError("busy")

        policy = RetryPolicy(max_elapsed=None, backoff=ConstantBackoff(3600))
        executor = RetryingExecutor(1, policy=policy, exit_timeout=0.05)
        futures = [executor.submit(Save()), executor.submit(Save())]
        begun, never = threading.Event(), threading.Event()

        def stuck():
            begun.set()
            never.wait()

        executor.submit(stuck)
        executor.submit(say, "never said")
        begun.wait()
    """)
    assert (status, errors) == (0, "")
    (line,) = lines
    assert line.startswith("ERROR ")
    for words in ("2 × Save", "say", "stuck", "0.05 s"):
        assert words in line


def test_exit_within_the_timeout_says_nothing() -> None:
    status, lines, errors = run("""
        executor = RetryingExecutor(1, policy=RetryPolicy(backoff=[0.05]), exit_timeout=20)
        executor.submit(fails_once, "retried")
    """)
    assert (status, lines, errors) == (0, ["retried"], "")


def test_submit_during_exit_says_so() -> None:
    """From a job that runs on while the interpreter ends, and to an executor made by then."""
    status, lines, errors = run("""
        executor = RetryingExecutor(1)

        def job():
            try:
                for _ in range(5000):
                    executor.submit(len, "")
                    time.sleep(0.001)  # until the exit has begun
            except RuntimeError as error:
                say(error)
            try:
                RetryingExecutor(1).submit(len, "")
            except RuntimeError as error:
                say(error)

        executor.submit(job)
    """)
    assert (status, errors) == (0, "")
    assert lines == ["cannot schedule new futures after interpreter shutdown"] * 2


def test_a_job_in_backoff_at_exit_may_still_fail() -> None:
    status, lines, _ = run("""
        executor = RetryingExecutor(1, policy=RetryPolicy(max_attempts=2, backoff=[0.02]))
        executor.submit(int, "no number")
    """)
    assert status == 0
    assert any(line.startswith("ERROR int failed and nobody read its future") for line in lines)


# ---- fork

CHILD = """
    policy = RetryPolicy(backoff=[0.5])
    executor = RetryingExecutor(1, policy=policy, max_pending=8)
    gate, retried = threading.Event(), threading.Event()
    waiting = executor.submit(fails_once, "parent: waiting")
    executor.submit(len, "").result()       # so the one before waits by now
    running = executor.submit(at_gate, gate, "parent: running")
    queued = executor.submit(say, "parent: queued")
    done = RetryFuture()
    done.set_result("done")
    while not running.running():
        time.sleep(0.001)
    called = []
    for future in (waiting, running, queued):
        future.add_done_callback(called.append)
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        gate.set()
        wait([waiting, running, queued])
        say(f"parent: {status} {len(called)} {executor.submit(len, 'four').result()}")
        executor.shutdown()
    else:
        pass
"""


@forks
def test_inherited_futures_fail_fast_and_the_parent_goes_on() -> None:
    status, lines, errors = run(
        CHILD
        + """
        say(f"child: {[future.done() for future in (waiting, running, queued)]}")
        for future in (waiting, running, queued):
            error = future.exception(timeout=10)
            say(f"child: {type(error).__name__} {future.stop_reason} {'forked' in str(error)}")
        say(f"child: {len(wait([waiting, running, queued], timeout=10).done)} {done.result()}")
        say(f"child: {len(called)} callbacks")
        os._exit(0)
    """
    )
    assert (status, errors) == (0, "")
    assert [line for line in lines if line.startswith("child")] == [
        "child: [True, True, True]",
        *["child: ShutdownError shutdown True"] * 3,
        "child: 3 done",
        "child: 0 callbacks",
    ]
    assert sorted(line for line in lines if line.startswith("parent")) == [
        "parent: 0 3 4",
        "parent: queued",
        "parent: running",
        "parent: waiting",
    ]


@forks
def test_a_fork_as_a_job_ends_leaves_its_future_usable_in_the_child() -> None:
    """It is not among the unfinished jobs any more, and has no result yet."""
    status, lines, errors = run("""
        from retryexec._core.job import Job
        succeed = Job.succeed

        def fork_before(job, value):
            Job.succeed = succeed
            if pid := os.fork():
                os.waitpid(pid, 0)
                return succeed(job, value)
            say(f"child: {type(job.exception(timeout=10)).__name__}")
            os._exit(0)

        Job.succeed = fork_before
        with RetryingExecutor(1) as executor:
            say(f"parent: {executor.submit(len, 'four').result()}")
    """)
    assert (status, lines, errors) == (0, ["child: ShutdownError", "parent: 4"], "")


@forks
def test_the_executor_works_in_the_child_and_drains_at_its_exit() -> None:
    status, lines, errors = run(
        CHILD
        + """
        view = executor.using(backoff=[0.01])
        view.submit(fails_once, "child: now").result(10)
        say(f"child: {executor.stats()}")
        executor.submit(fails_once, "child: at exit")
    """
    )
    assert (status, errors) == (0, "")
    child = [line for line in lines if line.startswith("child")]
    assert child[0] == "child: now"
    assert "succeeded=1" in child[1]
    assert child[2:] == ["child: at exit"]
    assert "parent: 0 3 4" in lines


@forks
def test_a_fork_while_another_thread_is_busy_with_the_executor() -> None:
    """No lock is inherited from a thread that the child does not have."""
    status, lines, errors = run("""
        executor = RetryingExecutor(2, policy=RetryPolicy(backoff=[0.0001, 0.0001]))
        stop = threading.Event()

        def hammer():
            while not stop.is_set():
                executor.submit(fails_once, "").cancel()
                executor.stats()

        say = lambda word: None
        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            if pid := os.fork():
                assert os.waitpid(pid, 0)[1] == 0
            else:
                executor.submit(len, "").result(10)
                os._exit(0)
        stop.set()
        for thread in threads:
            thread.join()  # before the exit, which takes no more jobs
    """)
    assert (status, lines, errors) == (0, [], "")


@forks
def test_executor_that_is_shut_down_is_shut_down_in_the_child() -> None:
    status, lines, errors = run("""
        executor = RetryingExecutor(1)
        executor.submit(len, "").result()
        executor.shutdown()
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
        else:
            try:
                executor.submit(say, "works").result(10)
            except RuntimeError as error:
                say(error)
    """)
    assert (status, lines, errors) == (0, ["cannot schedule new futures after shutdown"], "")


@forks
def test_after_a_fork_other_threads_go_on_making_executors() -> None:
    """The lock that the fork takes is given back, in the parent and in the child."""
    status, lines, errors = run("""
        RetryingExecutor(1).shutdown()
        child = os.fork() == 0

        def work():
            with RetryingExecutor(1) as executor:
                executor.submit(say, "child" if child else "parent").result(10)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        if not child:
            assert os.wait()[1] == 0
    """)
    assert (status, sorted(lines), errors) == (0, ["child", "parent"], "")


def test_program_ended_by_ctrl_c_says_what_its_exit_waits_for() -> None:
    _, lines, errors = run("""
        executor = RetryingExecutor(1, policy=RetryPolicy(backoff=[0.3]))
        executor.submit(fails_once, "retried")
        while not executor.stats().waiting:
            time.sleep(0.01)
        raise KeyboardInterrupt
    """)
    assert errors.endswith("KeyboardInterrupt\n")
    (line,) = [line for line in lines if "interrupted" in line]
    assert "0 running, 0 queued, 1 between two attempts" in line
    assert lines[-1] == "retried"
