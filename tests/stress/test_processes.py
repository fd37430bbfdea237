"""Interrupts, exits and forks at random moments, in processes of their own.

Each script plays until its share of `RETRYEXEC_STRESS` has passed, and ends with the count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

SECONDS = float(os.environ.get("RETRYEXEC_STRESS", "12"))
SEED = int(os.environ.get("RETRYEXEC_SEED", "1"))

pytestmark = pytest.mark.timeout(SECONDS * 2 + 60)

START = """\
import concurrent.futures as cf, faulthandler, itertools, logging, os, random, signal, sys
import threading, time
from retryexec import *

SECONDS, SEED = float(sys.argv[1]), int(sys.argv[2])
faulthandler.dump_traceback_later(SECONDS + 25, exit=True)
logging.disable(logging.CRITICAL)
sys.setswitchinterval(1e-6)
rnd = random.Random(SEED)
until = time.monotonic() + SECONDS

def fails(times):
    if current_attempt().number <= times:
        raise OSError("busy")
    return times

def count(futures):
    return [sum(f.cancelled() for f in futures),
            sum(not f.cancelled() and f.exception() is not None for f in futures),
            sum(not f.cancelled() and f.exception() is None for f in futures)]
"""


def run(script: str, seconds: float, seed: int = SEED) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            START + textwrap.dedent(script),
            str(seconds),
            str(seed),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 40,
        check=False,
    )
    # An interrupt may strike within a callback of a weak reference, which Python then tells of.
    errors = done.stderr if "KeyboardInterrupt" not in done.stderr else ""
    assert (done.returncode, errors) == (0, ""), f"{done.stdout}\n{done.stderr[-4000:]}"
    return done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_while_busy() -> None:
    """In the child futures fail fast and the executor works; in the parent nothing is lost."""
    done = run(
        """
        rounds, ends = 0, [0, 0, 0]
        while time.monotonic() < until:
            rounds += 1
            executor = RetryingExecutor(4, policy=RetryPolicy(backoff=[0.001] * 20))
            stop, futures = threading.Event(), []

            def submit(seed):
                mine = random.Random(seed)
                while not stop.is_set() and len(futures) < 2000:
                    futures.append(executor.submit(fails, mine.choice([0, 1, 3])))
                    if mine.random() < 0.2:
                        futures[-1].cancel()
                    if len(futures) % 50 == 0:
                        time.sleep(0.002)

            threads = [threading.Thread(target=submit, args=(rnd.random(),)) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(rnd.random() * 0.02)
            child = os.fork()
            if child == 0:
                signal.alarm(15)  # faulthandler's own watchdog does not survive a fork
                assert not cf.wait(futures, timeout=5).not_done
                assert executor.submit(fails, 2).result(5) == 2
                executor.shutdown()
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            stop.set()
            for thread in threads:
                thread.join()
            assert status == 0, (rounds, status)
            assert not cf.wait(futures, timeout=10).not_done
            executor.shutdown()
            ends = [a + b for a, b in zip(ends, count(futures))]
        print(f"forks: {rounds} rounds, {sum(ends)} accepted = "
              f"{ends[0]} cancelled, {ends[1]} failed, {ends[2]} succeeded")
        """,
        SECONDS * 0.3,
    )
    print("\n" + done.stdout)  # noqa: T201


def test_exits_with_jobs_in_backoff() -> None:
    """The main program ends in some way, and each job it has submitted is told of."""
    ends: Counter[str] = Counter()
    for seed in range(SEED, SEED + max(3, int(SECONDS / 3))):
        done = run(
            """
            say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())

            def told(future):
                end = "cancelled" if future.cancelled() else (
                    "failed" if future.exception() else "succeeded")
                say(end)

            policy = RetryPolicy(max_attempts=5, backoff=[0.001, 0.02, 0.05, 0.05])
            executor = RetryingExecutor(
                2, policy=policy, exit_timeout=rnd.choice([None, None, 0.03]))
            executor.submit(time.sleep, 0.001)
            for n in range(200):
                future = executor.submit(fails, rnd.choice([0, 1, 2, 4, 9]))
                say("accepted")
                future.add_done_callback(told)
                if rnd.random() < 0.1:
                    future.cancel()
                del future
            time.sleep(rnd.random() * 0.02)
            rnd.choice([
                lambda: None,
                lambda: globals().pop("executor"),
                lambda: executor.shutdown(wait=False),
                lambda: executor.shutdown(wait=False, cancel_futures=True),
                lambda: executor.shutdown(timeout=0.01),
                lambda: sys.exit(0),
            ])()
            """,
            5,
            seed,
        )
        told = Counter(done.stdout.split())
        accepted = told.pop("accepted")
        assert accepted == told.total() == 200, (seed, accepted, told)
        ends += told
    words = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
    print(f"\nexits: {ends.total()} accepted = {words}")  # noqa: T201


def test_interrupts_in_the_main_thread() -> None:
    """Whatever they cut short, the next shutdown returns and each future handed out has ended."""
    done = run(
        """
        import _thread
        armed, main = False, threading.get_ident()

        def strike(*_):
            if armed:
                raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, strike)
        signal.signal(signal.SIGINT, strike)
        sys.unraisablehook = lambda _: None  # one may strike within a finalizer

        def by_timer(mine):
            signal.setitimer(signal.ITIMER_REAL, mine.random() * 0.003 + 1e-6)

        def by_thread(send):
            def start(mine):
                delay = mine.random() * 0.003
                def later():
                    time.sleep(delay)
                    send()
                thread = threading.Thread(target=later)
                thread.start()
                return thread
            return start

        ways = [by_timer, by_thread(_thread.interrupt_main),
                by_thread(lambda: signal.pthread_kill(main, signal.SIGINT))]

        def play(executor, mine, futures):
            for _ in range(60):
                x = mine.random()
                if x < 0.6:
                    futures.append(executor.submit(fails, mine.choice([0, 0, 1, 2])))
                elif x < 0.8 and futures:
                    mine.choice(futures).cancel()
                elif x < 0.95 and futures:
                    try:
                        mine.choice(futures).result(0.001)
                    except (cf.CancelledError, TimeoutError, OSError):
                        pass
                elif x < 0.97:
                    executor.stats()
            executor.shutdown(**mine.choice([
                {}, {"cancel_futures": True}, {"timeout": 0.001}, {"wait": False},
                {"wait": False, "cancel_futures": True}]))

        rounds, struck, ends, unseen = 0, 0, [0, 0, 0], 0
        for seed in itertools.count(SEED * 1_000_000):
            if time.monotonic() > until:
                break
            mine = random.Random(seed)
            faulthandler.dump_traceback_later(20, exit=True)
            executor = RetryingExecutor(mine.choice([1, 2, 4]), max_pending=mine.choice([None, 3]),
                                        policy=RetryPolicy(max_attempts=2, backoff=[0.0005]))
            futures, helpers = [], []
            try:
                armed = True
                helpers.append(mine.choice(ways)(mine))
                play(executor, mine, futures)
                armed = False
            except KeyboardInterrupt:
                armed = False
                struck += 1
            except RuntimeError as error:
                armed = False
                if " lock" not in str(error):  # a Condition that forgets that it let go
                    raise
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            for helper in helpers:
                if helper is not None:
                    helper.join()
            report = executor.shutdown()
            assert all(future.done() for future in futures), seed
            mine_ends = count(futures)
            ended = report.done + report.failed + report.cancelled + report.abandoned
            # A job may be accepted by a submit that was struck, and returned to nobody.
            assert sum(mine_ends) <= ended <= sum(mine_ends) + 1, (seed, report, mine_ends)
            assert report.unfinished == 0, (seed, report)
            ends = [a + b for a, b in zip(ends, mine_ends)]
            unseen += ended - sum(mine_ends)
            rounds += 1
        print(f"interrupts: {rounds} rounds, {struck} struck, {sum(ends) + unseen} accepted = "
              f"{ends[0]} cancelled, {ends[1]} failed, {ends[2]} succeeded, {unseen} unseen")
        os._exit(0 if sys.stdout.flush() is None else 1)
        """,
        SECONDS * 0.3,
    )
    print("\n" + done.stdout)  # noqa: T201
