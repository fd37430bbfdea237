"""What a key costs: CPU seconds for each job of an executor with one key per job, and without keys.

The two take turns, so that whatever else the machine does meets both. With ``--leak N``, also what
is left of N keys once their jobs have ended.
"""

import argparse
import gc
import resource
import statistics
import time

from retryexec import RetryingExecutor


def nothing(_: int) -> None:
    """Do nothing."""


def own(n: int) -> int:
    """Return a key that no other job has."""
    return n


def seconds_per_job(jobs: int, workers: int, *, keyed: bool) -> float:
    """Return the CPU seconds that each of *jobs* takes that do nothing."""
    before = time.process_time()
    with RetryingExecutor(workers, key=own if keyed else None) as executor:
        for n in range(jobs):
            executor.submit(nothing, n)
    return (time.process_time() - before) / jobs


def show_costs(jobs: int, workers: int, rounds: int) -> None:
    """Measure both in turn, and print their medians."""
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for keyed, times in took.items():
            gc.collect()
            times.append(seconds_per_job(jobs, workers, keyed=keyed))
    plain, with_key = (statistics.median(times) * 1e6 for times in took.values())
    print(f"{jobs:,} jobs that do nothing, {workers} workers, median of {rounds}, in turn:")
    print(f"  without keys         {plain:6.2f} µs of CPU a job")
    print(f"  one key for each job {with_key:6.2f} µs of CPU a job, {with_key / plain:.2f} times")


def show_leak(jobs: int, workers: int) -> None:
    """Run jobs with a key each, twice, and print how much memory the second time has added."""
    with RetryingExecutor(workers, key=own, max_pending=10_000) as executor:
        sizes = []
        for start in (0, jobs):
            for n in range(start, start + jobs):
                executor.submit(nothing, n)
            while executor.stats().succeeded < start + jobs:
                time.sleep(0.05)
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        stats = executor.stats()
    print(f"{2 * jobs:,} keys: {sizes[1] - sizes[0]:,} kB more after the second half; {stats}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--leak", type=int, default=0, metavar="N")
    given = parser.parse_args()
    show_costs(given.jobs, given.workers, given.rounds)
    if given.leak:
        show_leak(given.leak, given.workers)
