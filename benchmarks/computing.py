"""From how much computing on does it pay to run attempts in other processes?

Each attempt computes for as long as is said, in Python, and so holds the interpreter's lock: on
threads, one of them computes at a time. What is measured is the processor time of an attempt, in
all processes together; what it is more than the computing is what the executor costs, and sending
the call to another process and its outcome back. Two processes do more than one thread from where
they take less than twice the time of a loop.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from harness import OURS, Row, find, rows, run

from retryexec import RetryingExecutor
from retryexec.engines import processes

WORKERS = 2
LOOP, THREADS, PROCESSES = "a loop", "on threads", OURS
WHAT = "an attempt that computes, by processor time"

Ended = tuple[int, float]  # a process, and the processor time that it had taken by then


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds for each attempt."""
    turns = _turns_a_microsecond()
    for micros in (50, 2_000) if quick else (20, 50, 100, 200, 500, 2_000):
        attempts = 200 if quick else 100 + 300_000 // (micros + 100)
        work = partial(compute, max(1, int(micros * turns)))
        measures: dict[str, Callable[[], float]] = {
            LOOP: partial(_loop, work, attempts),
            THREADS: partial(_taken, None, work, attempts),
            PROCESSES: partial(_taken, processes(WORKERS), work, attempts),
        }
        for row in rows(WHAT, "µs", micros, measures, rounds=1 if quick else 5):
            yield replace(row, over="µs of computing")


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    loop, ours = find(found, WHAT, LOOP), find(found, WHAT)
    pays = [row.jobs for row in found if row.peer == PROCESSES and (row.ratio or 9.0) < WORKERS]
    begins = f"do more than one thread from {min(pays):,} µs on" if pays else "never pay"
    return (
        f"Two processes {begins}; of {loop.jobs:,} µs of computing, an attempt there takes "
        f"{ours.ratio:.2f} times the processor time."
    )


def compute(turns: int) -> Ended:
    """Compute, in Python."""
    total = 0
    for n in range(turns):
        total += n & 7
    return os.getpid(), time.process_time()


def _turns_a_microsecond() -> float:
    turns = 200_000
    taken = []
    for _ in range(5):
        start = time.thread_time()
        compute(turns)
        taken.append(time.thread_time() - start)
    return turns / (min(taken) * 1e6)


def _loop(work: Callable[[], Ended], attempts: int) -> float:
    start = time.process_time()
    for _ in range(attempts):
        work()
    return (time.process_time() - start) * 1e6 / attempts


def _taken(engine: object, work: Callable[[], Ended], attempts: int) -> float:
    with RetryingExecutor(None if engine else WORKERS, attempts_on=engine) as executor:  # type: ignore[arg-type]
        # So that threads and processes are there.
        before = _latest(future.result() for future in [executor.submit(work) for _ in range(50)])
        start = time.process_time()
        after = _latest(
            future.result() for future in [executor.submit(work) for _ in range(attempts)]
        )
        own = time.process_time() - start
    others = [at - before[pid] for pid, at in after.items() if pid != os.getpid()]
    return (own + sum(others)) * 1e6 / attempts


def _latest(ends: Iterable[Ended]) -> dict[int, float]:
    """Return the most processor time that each process has told of."""
    found: dict[int, float] = {}
    for pid, at in ends:
        found[pid] = max(at, found.get(pid, 0.0))
    return found


if __name__ == "__main__":
    run(measure, answer, __doc__)
