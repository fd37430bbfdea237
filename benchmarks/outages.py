"""How soon is a journal on PostgreSQL as fast as before, after the server was in trouble?

Sixty-four threads submit, each waits until its job is accepted, and eight workers run the jobs.
Three times the server is in trouble: its sessions are ended, again and again; it crashes and starts
again; it is stopped for longer than the lease. The rate before is the median of half seconds. What
counts is the time from the end of the trouble to the end of the first half second with 0.95 of it,
and how many jobs that were accepted have not ended afterwards.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import psycopg
from harness import OURS, Row, find, run
from peers import WORKERS

from retryexec import RetryingExecutor, RetryPolicy
from retryexec.journal import Journal, JournalError

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.postgres import Server, serving

THREADS = 64
BUCKET = 0.5  # seconds for which a rate is taken
BACK = 0.95  # of the rate before
EACH = 0.4  # seconds after which sessions are ended again


@dataclass(frozen=True)
class Counted:
    """A job that says when it ran."""

    number: int
    times: ClassVar[list[float]] = []

    def exec(self) -> None:
        """Say it."""
        self.times.append(time.perf_counter())


class Load:
    """Threads that submit, and what has become of it."""

    def __init__(self, executor: RetryingExecutor) -> None:
        self._executor = executor
        self._stopped = threading.Event()
        self.accepted: list[int] = []  # of each thread, in the end
        self._threads = [threading.Thread(target=self._submit) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _submit(self) -> None:
        accepted = 0
        while not self._stopped.is_set():
            try:
                self._executor.submit(Counted(accepted))
                accepted += 1
            except JournalError:  # not accepted, for now
                self._stopped.wait(0.1)
        self.accepted.append(accepted)

    def stop(self) -> None:
        """Submit no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def measure(quick: bool) -> Iterator[Row]:
    """Yield the rows of all tables."""
    seconds, after, lease = (1.0, 2.0, 2.0) if quick else (8.0, 12.0, 4.0)
    troubles: dict[str, Callable[[Server], None]] = {
        f"sessions are ended each {EACH} s": lambda server: _terminate(server, seconds),
        "the server crashes, and starts again": lambda server: server.restart(),
        "the server is stopped for 1.5 leases": lambda server: _hang(server, lease * 1.5),
    }
    with serving(durable=True) as server:
        for number, (what, trouble) in enumerate(troubles.items()):
            journal = Journal(
                server.url, schema=f"trouble_{number}", jobs={"counted": Counted}, lease=lease
            )
            yield from _through(what, partial(trouble, server), journal, seconds, after)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    back = [row for row in found if row.unit == "s"]
    lost = sum(row.value for row in found if row.unit == "lost")
    meanwhile = find(found, "sessions are ended", "meanwhile")
    return (
        f"After {' / '.join(f'{row.value:.1f} s' for row in back)} a journal on PostgreSQL has "
        f"{BACK} of its rate again when {'; '.join(row.what for row in back)}; while sessions are "
        f"ended it has {meanwhile.value:.2f} of it; {lost:.0f} jobs are lost."
    )


def _through(
    what: str, trouble: Callable[[], None], journal: Journal, seconds: float, after: float
) -> Iterator[Row]:
    """Yield the rows of one trouble, with so many seconds without any before it and after it."""
    Counted.times.clear()
    policy = RetryPolicy.never()
    with RetryingExecutor(WORKERS, journal=journal, policy=policy) as executor:
        load = Load(executor)
        time.sleep(1.0)  # until it is under way
        start = time.perf_counter()
        time.sleep(seconds)
        begins = time.perf_counter()
        trouble()
        ends = time.perf_counter()
        time.sleep(after)
        stops = time.perf_counter()
        load.stop()
    ran = sorted(Counted.times)
    before = statistics.median(_rates(ran, start, begins))
    rates = _rates(ran, ends, stops)
    first = next((n for n, rate in enumerate(rates, 1) if rate >= BACK * before), None)
    jobs = sum(load.accepted)
    yield Row(what, "before", jobs, before, "jobs/s")
    meanwhile = sum(begins <= at < ends for at in ran) / (ends - begins)
    yield Row(what, "meanwhile", jobs, meanwhile / before, "of the rate before")
    note = "" if first is not None else f"not within {stops - ends:.0f} s"
    back = stops - ends if first is None else first * BUCKET
    yield Row(what, OURS, jobs, back, "s", note=note)
    yield Row(what, "accepted, and not run", jobs, max(0, jobs - len(ran)), "lost")


def _rates(times: Sequence[float], start: float, end: float) -> list[float]:
    """Return the rates of the whole buckets between two moments."""
    counts = [0] * int((end - start) / BUCKET)
    for at in times:
        bucket = int((at - start) // BUCKET)
        if 0 <= bucket < len(counts):
            counts[bucket] += 1
    return [count / BUCKET for count in counts]


def _terminate(server: Server, seconds: float) -> None:
    query = (
        b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='retryexec'"
    )
    with psycopg.connect(server.url, autocommit=True) as sql:
        for _ in range(int(seconds / EACH)):
            sql.execute(query)
            time.sleep(EACH)


def _hang(server: Server, seconds: float) -> None:
    with server.hung():
        time.sleep(seconds)


if __name__ == "__main__":
    run(measure, answer, __doc__)
