"""What does a key cost a job that does nothing, where each job has a key of its own?

CPU time of a whole executor, from its first job to its end, for each of its jobs. The baseline is
the same executor without keys.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from peers import WORKERS

from retryexec import RetryingExecutor


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of CPU time per job."""
    jobs = 2_000 if quick else 100_000
    each = {
        "without keys": partial(_microseconds, jobs, keyed=False),
        OURS: partial(_microseconds, jobs, keyed=True),
    }
    yield from rows("CPU of a job", "µs", jobs, each, rounds=1 if quick else 7)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    ours = find(found, "CPU of a job")
    return (
        f"A key of its own costs a job {ours.value:.1f} µs of CPU in all, {ours.ratio:.2f} times."
    )


def nothing(_: int) -> None:
    """Do nothing."""


def own(n: int) -> int:
    """Return a key that no other job has."""
    return n


def _microseconds(jobs: int, *, keyed: bool) -> float:
    gc.collect()
    before = time.process_time()
    with RetryingExecutor(WORKERS, key=own if keyed else None) as executor:
        for n in range(jobs):
            executor.submit(nothing, n)
    return (time.process_time() - before) / jobs * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
