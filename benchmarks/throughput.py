"""How many jobs that do nothing get through 8 workers in a second?

So this is the overhead of a job and nothing else. All are submitted, then all results read, by
one thread and by four. Real jobs do something, and hide most of this; a caller who submits from
one thread and a machine with few cores make the GIL's hand-overs cheap. asyncio runs its tasks on
the caller's own thread, without a pool, which is less work; more-executors slows down as its
backlog grows, so it gets fewer jobs.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from threading import Thread

from harness import Row, find, rows, run
from peers import (
    STDLIB,
    WORKERS,
    Job,
    Run,
    noop,
    peers,
    retrying_executor,
    seconds,
)


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of jobs per second."""
    sizes = [500] if quick else [1_000, 10_000, 200_000]
    rounds = 1 if quick else 5
    pools = {STDLIB: partial(ThreadPoolExecutor, WORKERS), "retryexec": retrying_executor}
    for threads in (1, 4):
        what = f"no-op jobs, submitted by {threads} thread{'s' * (threads > 1)}"
        for jobs in sizes:
            rates = {name: partial(_rate, make, jobs, threads) for name, make in pools.items()}
            yield from rows(what, "jobs/s", jobs, rates, rounds=rounds)
    for jobs in (min(size, 10_000) for size in sizes[-1:]):
        rates = {name: partial(_run_rate, peer, jobs) for name, peer in peers().items()}
        yield from rows(
            "no-op jobs, all peers, each with retries", "jobs/s", jobs, rates, rounds=rounds
        )


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    one, four = (find(found, f"no-op jobs, submitted by {threads}") for threads in (1, 4))
    return (
        f"Of jobs that do nothing, {one.ratio:.1f} times as many a second as in "
        f"ThreadPoolExecutor, and {four.ratio:.1f} times as many from four threads."
    )


def _rate(make: "partial[Executor]", jobs: int, threads: int) -> float:
    def submit_and_read() -> None:
        futures = [executor.submit(noop) for _ in range(jobs // threads)]
        for future in futures:
            future.result()

    with make() as executor:
        submitters = [Thread(target=submit_and_read) for _ in range(threads)]
        start = time.perf_counter()
        for submitter in submitters:
            submitter.start()
        for submitter in submitters:
            submitter.join()
        return jobs / (time.perf_counter() - start)


def _run_rate(peer: Run, count: int) -> float:
    jobs: Sequence[Job] = [Job() for _ in range(count)]
    return count / seconds(peer, jobs)


if __name__ == "__main__":
    run(measure, answer, __doc__)
