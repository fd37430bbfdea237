"""What does it cost to give each job a key of its own?

Jobs that do nothing, in processor time of all threads, with a key for each and without. So no job
waits for another one here, and this is what a key itself costs: to be asked for, to be looked up,
and to be forgotten when its job has ended.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from peers import WORKERS

from retryexec import RetryingExecutor

PLAIN = "retryexec, without keys"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds per job."""
    for jobs in [1_000] if quick else [10_000, 100_000]:
        times = {
            PLAIN: partial(_microseconds, jobs, keyed=False),
            OURS: partial(_microseconds, jobs, keyed=True),
        }
        yield from rows("a key for each job", "µs/job", jobs, times, rounds=1 if quick else 7)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    ratio = find(found, "a key").ratio
    return f"A job with a key of its own takes {ratio:.2f} times the processor time of one without."


def _nothing(_: int) -> None:
    pass


def _own(number: int) -> int:
    return number


def _microseconds(jobs: int, *, keyed: bool) -> float:
    start = time.process_time()
    with RetryingExecutor(WORKERS, key=_own if keyed else None) as executor:
        for number in range(jobs):
            executor.submit(_nothing, number)
    return (time.process_time() - start) / jobs * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
