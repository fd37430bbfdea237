"""What does it cost to cancel everything at once?

All waiting jobs cancelled one by one, by the thread that submitted them; and shutdown with
cancel_futures, from the call to its return. The stdlib's pool has no waiting jobs, so its are
queued behind a blocked worker; asyncio's tasks are cancelled by task.cancel() and have ended when
all are gathered. Nobody waits for these futures and none has a callback, which would cost more. The
last table is about the processor's time, of all threads, and its baseline is the other end that a
job may come to: one that does nothing is submitted, run, and its result read.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import process_time

from harness import OURS, Row, find, rows, run
from peers import STDLIB, WORKERS, Failed, blocked, noop, retrying_executor

LONG = 3600.0  # seconds of backoff
RUN = "retryexec, run"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds per job."""
    rounds = 1 if quick else 5
    for jobs in [1_000] if quick else [10_000, 100_000]:
        one_by_one = {
            STDLIB: partial(_stdlib, jobs, shutdown=False),
            "retryexec": partial(_retryexec, jobs, shutdown=False),
            "asyncio": partial(_asyncio, jobs),
        }
        yield from rows("cancel() of all, one by one", "µs/job", jobs, one_by_one, rounds=rounds)
    for jobs in [1_000] if quick else [100_000]:
        at_once: dict[str, Callable[[], float]] = {
            STDLIB: partial(_stdlib, jobs, shutdown=True),
            "retryexec": partial(_retryexec, jobs, shutdown=True),
        }
        yield from rows("shutdown(cancel_futures=True)", "µs/job", jobs, at_once, rounds=rounds)
    for jobs in [1_000] if quick else [10_000, 100_000]:
        ends: dict[str, Callable[[], float]] = {
            RUN: partial(_run_all, jobs),
            f"{OURS}, cancel()": partial(_retryexec, jobs, shutdown=False, clock=process_time),
            f"{OURS}, shutdown": partial(_retryexec, jobs, shutdown=True, clock=process_time),
        }
        yield from rows("processor time of an end", "µs/job", jobs, ends, rounds=rounds)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    one, all_ = (find(found, "processor", f"{OURS}, {how}") for how in ("cancel()", "shutdown"))
    return (
        f"To cancel a waiting job takes {one.ratio:.2f} of the processor time of a job that is run "
        f"and does nothing, and {all_.ratio:.2f} where a shutdown cancels all of them."
    )


def _fail() -> None:
    raise Failed


def _run_all(jobs: int) -> float:
    with retrying_executor() as executor:
        start = process_time()
        for future in [executor.submit(noop) for _ in range(jobs)]:
            future.result()
        return (process_time() - start) / jobs * 1e6


def _retryexec(
    jobs: int, *, shutdown: bool, clock: Callable[[], float] = time.perf_counter
) -> float:
    with retrying_executor(LONG) as executor:
        futures = [executor.submit(_fail) for _ in range(jobs)]
        while executor.stats().waiting < jobs:
            time.sleep(0.02)
        start = clock()
        if shutdown:
            executor.shutdown(cancel_futures=True)
        else:
            for future in futures:
                future.cancel()
        taken = clock() - start
        assert all(future.cancelled() for future in futures)
    return taken / jobs * 1e6


def _stdlib(jobs: int, *, shutdown: bool) -> float:
    executor = ThreadPoolExecutor(WORKERS)
    with blocked(executor):
        futures = [executor.submit(noop) for _ in range(jobs)]
        start = time.perf_counter()
        if shutdown:
            executor.shutdown(wait=False, cancel_futures=True)
        else:
            for future in futures:
                future.cancel()
        taken = time.perf_counter() - start
        assert all(future.cancelled() for future in futures)
    # Its workers still pass over the cancelled jobs, for which nobody waits here.
    executor.shutdown()
    return taken / jobs * 1e6


def _asyncio(jobs: int) -> float:
    async def main() -> float:
        tasks = [asyncio.create_task(asyncio.sleep(LONG)) for _ in range(jobs)]
        await asyncio.sleep(0)
        start = time.perf_counter()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return time.perf_counter() - start

    return asyncio.run(main()) / jobs * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
