"""What does an attempt in another process cost, beside a call in the standard library's pool?

Both have two processes, and calls that do nothing: so this is what sending and receiving cost, and
real work hides most of it. In retryexec each call is a job with a policy, a history and a future
that can be cancelled until its attempt begins; in the other pool it is a call. Then a process is
killed among jobs that do nothing: how long until they go on as quickly as before?
"""

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial

from harness import OURS, Row, find, rows, run

from retryexec import RetryingExecutor
from retryexec.engines import processes

WORKERS = 2
BUCKET = 0.05  # seconds for which a rate is taken
BACK = 0.9  # of the rate before


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of calls per second, and of seconds."""
    makes: dict[str, Callable[[], Executor]] = {
        "ProcessPoolExecutor": _stdlib,
        OURS: partial(RetryingExecutor, attempts_on=processes(WORKERS)),
    }
    for calls in [500] if quick else [1_000, 5_000, 20_000]:
        rates = {name: partial(_rate, make, calls) for name, make in makes.items()}
        what = "calls that do nothing, in two processes"
        yield from rows(what, "calls/s", calls, rates, rounds=1 if quick else 7)
    calls = 5_000 if quick else 40_000
    note = f"until {BACK:.0%} of the rate before"
    yield Row("a process is killed among them", OURS, calls, _outage(calls), "s", note=note)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    calls, outage = find(found, "calls that do nothing"), find(found, "a process is killed")
    return (
        f"With processes as its engine, {calls.ratio:.2f} of the calls a second of "
        f"ProcessPoolExecutor; {outage.value:.2f} s after a process was killed, all is as before."
    )


def nothing() -> None:
    """Be a call that does nothing."""


def kill_this() -> None:
    """Be a call that ends the process it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)


def _stdlib() -> Executor:
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(WORKERS, mp_context=context)


def _rate(make: Callable[[], Executor], calls: int) -> float:
    with make() as executor:
        for future in [executor.submit(nothing) for _ in range(50)]:
            future.result()  # so that the processes are there
        start = time.perf_counter()
        for future in [executor.submit(nothing) for _ in range(calls)]:
            future.result()
        return calls / (time.perf_counter() - start)


def _outage(calls: int) -> float:
    """Return for how many seconds after a crash fewer calls end than before it."""
    ends: list[float] = []
    with RetryingExecutor(attempts_on=processes(WORKERS, max_crashes=1)) as executor:
        for future in [executor.submit(nothing) for _ in range(50)]:
            future.result()
        start = time.perf_counter()
        for number in range(calls):
            job = kill_this if number == calls // 3 else nothing
            future = executor.submit(job)
            if job is kill_this:
                crashed = future
            future.add_done_callback(lambda _: ends.append(time.perf_counter()))
        crashed.exception()
        crash = time.perf_counter()
    before = [end for end in ends if end < crash]
    rate = statistics.median(_per_bucket(before, start))
    for bucket, count in enumerate(_per_bucket(ends, crash)):
        if count >= BACK * rate:
            return bucket * BUCKET
    return time.perf_counter() - crash


def _per_bucket(ends: list[float], start: float) -> list[int]:
    """Return how many of *ends* are in each whole bucket after *start*."""
    last = max(ends)
    counts = [0] * max(1, int((last - start) / BUCKET))
    for end in ends:
        bucket = int((end - start) / BUCKET)
        if end >= start and bucket < len(counts):
            counts[bucket] += 1
    return counts


if __name__ == "__main__":
    run(measure, answer, __doc__)
