"""What does it take to hold jobs to a rate of 1,000 a second, and is that rate kept?

Jobs that do nothing, all submitted at once, so that nearly all of them wait for their time. The
processor time is that of all threads, from the first submit to the last end. What the rate falls
short of is taken between the first start and the last.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from peers import WORKERS

from retryexec import RateLimit, RetryingExecutor

RATE = 1_000
PLAIN = "retryexec, without a limit"
BURST = "retryexec, burst=20"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds per job, and of how much slower than the rate they were."""
    for jobs in [500] if quick else [5_000, 100_000]:
        slower: dict[str, float] = {}
        times = {
            PLAIN: partial(_microseconds, jobs, None, slower),
            OURS: partial(_microseconds, jobs, 1, slower),
            BURST: partial(_microseconds, jobs, 20, slower),
        }
        rounds = 3 if jobs <= 5_000 and not quick else 1
        yield from rows("held to 1,000 a second", "µs/job", jobs, times, rounds=rounds)
        for peer in (OURS, BURST):
            yield Row("slower than 1,000 a second", peer, jobs, slower[peer] * 100, "%")


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    held, slower = find(found, "held"), find(found, "slower")
    return (
        f"A job that is held to a rate takes {held.value:.0f} µs of processor time in all, and "
        f"{slower.jobs:,} of them are {slower.value:.2f} % slower than the rate."
    )


def _microseconds(jobs: int, burst: int | None, slower: dict[str, float]) -> float:
    starts: list[float] = []
    guards = [] if burst is None else [RateLimit(RATE, burst=burst)]

    def job() -> None:
        starts.append(time.monotonic())

    begin = time.process_time()
    with RetryingExecutor(WORKERS, guards=guards) as executor:
        for _ in range(jobs):
            executor.submit(job)
    taken = time.process_time() - begin
    if burst is not None:
        expected = (jobs - burst) / RATE
        slower[OURS if burst == 1 else BURST] = (max(starts) - min(starts)) / expected - 1
    return taken / jobs * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
