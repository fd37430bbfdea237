"""How soon does another process go on with a job, and do years of running make a server slow?

A job that is put in a transaction is begun by a process that has nothing else to do: how long after
the commit? It is told by the server, as anybody may be, so the floor is a bare LISTEN. Then a
process is killed that has accepted many jobs, and another one waits for its lease to run out.
Last, somebody leaves a transaction open, so that no vacuum can remove what jobs leave behind: the
rate then is compared with that in a database where nobody has. It had been open for so many jobs as
the note says before the first round, at full speed, and not for hours at a thousand a second.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import ClassVar

import psycopg
from harness import OURS, Row, find, percentile, rows, run
from peers import WORKERS
from postgres import Save, job

from retryexec import RetryingExecutor
from retryexec.journal import Journal

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.postgres import Server, serving

LISTEN, NONE, OPEN = "a bare LISTEN", "no transaction open", "one open"
LEASE = 4.0
CHANNEL = "benchmark"


@dataclass(frozen=True)
class Begun:
    """A job that says when it has begun."""

    number: int
    times: ClassVar[SimpleQueue[float]] = SimpleQueue()

    def exec(self) -> None:
        """Say it."""
        self.times.put(time.perf_counter())


def measure(quick: bool) -> Iterator[Row]:
    """Yield the rows of all tables."""
    with serving(durable=True) as server:
        yield from _pickups(server.url, 20 if quick else 500)
        yield _takeover(server, 500 if quick else 10_000)
        yield from _open_transaction(
            server.url, *((1_000, 2_000, 1) if quick else (20_000, 100_000, 5))
        )


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    picked, taken = find(found, "put in a transaction"), find(found, "all jobs of a killed")
    ratios = [row.ratio for row in found if row.peer == OPEN and row.ratio is not None]
    return (
        f"A job that is put is begun {picked.p99:.0f} ms after the commit at most, in 99 of 100; "
        f"those of a killed process {taken.value - LEASE:.1f} s after its lease of {LEASE:.0f} s; "
        f"and a transaction that stays open leaves {min(ratios):.2f} of the rate."
    )


# ---- picked up


def _pickups(url: str, jobs: int) -> Iterator[Row]:
    what = "put in a transaction, until another process begins it"
    ours, bare = _ours(url, jobs), _bare(url, jobs)
    middle = percentile(bare, 50)
    for peer, times in ((LISTEN, bare), (OURS, ours)):
        value = percentile(times, 50)
        # The one that listens may hear before the commit returns here.
        ratio = value / middle if middle else None
        yield Row(what, peer, jobs, value, "ms", ratio, percentile(times, 99))


def _ours(url: str, jobs: int) -> list[float]:
    kinds = {"begun": Begun}
    producer = Journal(url, schema="pickups", jobs=kinds)
    times = []
    with (
        RetryingExecutor(WORKERS, journal=Journal(url, schema="pickups", jobs=kinds)),
        psycopg.connect(url) as connection,
    ):
        for number in range(jobs):
            producer.put(Begun(number), connection=connection)
            connection.commit()
            start = time.perf_counter()
            times.append(max(0.0, Begun.times.get() - start) * 1000)
            time.sleep(0.02)  # it has nothing else to do
    producer.close()
    return times


def _bare(url: str, jobs: int) -> list[float]:
    """Return the milliseconds from a commit until one that does nothing else hears of it."""
    heard: SimpleQueue[float] = SimpleQueue()
    listening: SimpleQueue[None] = SimpleQueue()

    def listen() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}".encode())
            listening.put(None)
            for number, _ in enumerate(connection.notifies(), 1):
                heard.put(time.perf_counter())
                if number == jobs:
                    return

    thread = Thread(target=listen)
    thread.start()
    listening.get()
    times = []
    with psycopg.connect(url) as connection:
        for _ in range(jobs):
            connection.execute(f"NOTIFY {CHANNEL}".encode())
            connection.commit()
            start = time.perf_counter()
            times.append(max(0.0, heard.get() - start) * 1000)
            time.sleep(0.02)
    thread.join()
    return times


# ---- taken over


def _takeover(server: Server, jobs: int) -> Row:
    """Return how long it takes until another process has all jobs of a killed one."""
    command = [sys.executable, __file__, "--accept", server.url, str(jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Save.gate.set()
        journal = Journal(server.url, schema="taken", jobs={"save": Save}, lease=LEASE)
        with RetryingExecutor(WORKERS, journal=journal) as executor:
            process.send_signal(signal.SIGKILL)
            start = time.perf_counter()
            while len(executor.recovered) < jobs:
                time.sleep(0.001)
            taken = time.perf_counter() - start
    return Row(
        "all jobs of a killed process are taken over",
        *(OURS, jobs, taken, "s"),
        note=f"of which the lease is {LEASE:.0f} s",
    )


def _accept(url: str, jobs: int) -> None:
    """Be the process that is killed."""
    journal = Journal(url, schema="taken", jobs={"save": Save}, lease=LEASE, accept="async")
    executor = RetryingExecutor(WORKERS, journal=journal)
    for number in range(jobs):
        executor.submit(job(number))
    journal.flush()
    os.write(1, b"ready\n")
    time.sleep(600)


# ---- a transaction that stays open


def _open_transaction(url: str, jobs: int, before: int, rounds: int) -> Iterator[Row]:
    urls = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for peer, name in ((NONE, "calm"), (OPEN, "held")):
            connection.execute(f"CREATE DATABASE {name}".encode())
            urls[peer] = url.replace("/postgres?", f"/{name}?")
    for peer in (NONE, OPEN):
        Journal(urls[peer], jobs={"save": Save}).close()  # which makes the tables
    with psycopg.connect(urls[OPEN]) as held:
        held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        held.execute("SELECT txid_current()")
        for words, through in (("accepted and run", _submitted), ("put, taken and run", _put)):
            for _ in range(before // jobs):
                through(urls[OPEN], jobs)
            measures: dict[str, Callable[[], float]] = {
                peer: lambda to=urls[peer], through=through: through(to, jobs)  # type: ignore[misc]
                for peer in (NONE, OPEN)
            }
            yield from rows(
                f"{words} while somebody has a transaction open",
                "jobs/s",
                jobs,
                measures,
                rounds=rounds,
                notes={OPEN: f"since {before:,} jobs of this kind"},
            )


def _submitted(url: str, jobs: int) -> float:
    made = [job(n) for n in range(jobs)]
    journal = Journal(url, jobs={"save": Save}, accept="async")
    with RetryingExecutor(WORKERS, journal=journal) as executor:
        Save.gate.clear()
        start = time.perf_counter()
        for one in made:
            executor.submit(one)
        journal.flush()
        Save.gate.set()
        executor.shutdown()
        return jobs / (time.perf_counter() - start)


def _put(url: str, jobs: int) -> float:
    Save.gate.set()
    producer = Journal(url, jobs={"save": Save})
    with RetryingExecutor(WORKERS, journal=Journal(url, jobs={"save": Save})) as executor:
        start = time.perf_counter()
        for first in range(0, jobs, 500):
            producer.put_many([job(n) for n in range(first, first + 500)])
        while len(executor.recovered) < jobs:
            time.sleep(0.001)
        executor.recovered.wait()
        executor.shutdown()
        taken = time.perf_counter() - start
    producer.close()
    return jobs / taken


if __name__ == "__main__":
    if sys.argv[1:2] == ["--accept"]:
        _accept(sys.argv[2], int(sys.argv[3]))
    else:
        run(measure, answer, __doc__)
