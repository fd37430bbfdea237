"""What does a journal on PostgreSQL cost, beside another queue in the same server?

The server is started for this, on a real disk, and syncs each commit. Jobs do nothing, eight
workers run them, and a figure counts when the last end is committed. Each job is inserted, run and
deleted: none ends so early that it never needs the server, since no worker starts before all are
written down. The peer, pgqueuer, is given all jobs first, in batches of a thousand unless it has to
wait for each, and then drains them in batches of a hundred.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from harness import OURS, Row, find, rows, run
from peers import WORKERS

from retryexec import RetryingExecutor
from retryexec.journal import Journal

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.postgres import Server, serving

ASYNCPG, PSYCOPG = "pgqueuer on asyncpg", "pgqueuer on psycopg"
FLOOR, COMMITS = "INSERT and DELETE by 500", "INSERT and COMMIT in a loop"
SQLITE = "retryexec, in a directory"
TEXT = '{"user":"john@example.com","activity":"Login","number":1,"tags":["web","eu"]}'
BULK, BATCH = 1000, 100


@dataclass(frozen=True)
class Save:
    """A job as one that saves something has; it waits until all may begin."""

    user: str
    activity: str
    number: int
    tags: list[str]
    gate: ClassVar[threading.Event] = threading.Event()

    def exec(self) -> None:
        """Do nothing."""
        self.gate.wait()


def job(number: int) -> Save:
    """Return one job."""
    return Save("john@example.com", "Login Success", number, ["web", "eu"])


def measure(quick: bool) -> Iterator[Row]:
    """Yield the rows of all tables."""
    rounds = 1 if quick else 5
    with serving(durable=True) as server:
        bench = Bench(server)
        few, many = (200, 1_000) if quick else (3_000, 30_000)
        yield from rows(
            "accepted, run and ended, by one that does not wait",
            "jobs/s",
            many,
            bench.peers(few, 0) | {OURS: partial(bench.ours, many, 0)},
            rounds=rounds,
            notes={OURS: f"{many} jobs"},
        )
        yield from rows(
            "the same, against one thread that inserts and deletes rows",
            "jobs/s",
            many,
            {FLOOR: partial(bench.floor, many), OURS: partial(bench.ours, many, 0)},
            rounds=rounds,
        )
        waiting = 640 if quick else 6_400
        yield from rows(
            "accepted, run and ended, by 64 that wait",
            "jobs/s",
            waiting,
            bench.peers(640, 64)
            | {OURS: partial(bench.ours, waiting, 64), SQLITE: partial(bench.directory, waiting)},
            rounds=rounds,
        )
        yield from rows(
            "accepted by one that waits",
            "jobs/s",
            few // 3,
            {COMMITS: partial(bench.commits, few // 3), OURS: partial(bench.waits, few // 3)},
            rounds=rounds,
        )
        yield from rows(
            "put in bulk by another process, claimed and run",
            "jobs/s",
            many // 3,
            bench.peers(few, 0) | {OURS: partial(bench.put, many // 3)},
            rounds=rounds,
            notes={OURS: f"{many // 3} jobs"},
        )


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    least = find(found, "the same, against")
    return (
        f"{least.value:,.0f} jobs a second are accepted, run and ended, {least.ratio:.2f} of what "
        "one thread does that only inserts and deletes their rows."
    )


class Bench:
    """The measures, all on one server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.count = 0

    # ---- ours

    def journal(self, **options: Any) -> Journal:
        """Return a journal in a schema of its own."""
        return Journal(self.url, schema=f"bench_{self.count}", jobs={"save": Save}, **options)

    def ours(self, jobs: int, threads: int) -> float:
        """Return the jobs that get through in a second, submitted by so many that wait."""
        self.count += 1
        return self._through(self.journal(accept="wait" if threads else "async"), jobs, threads)

    def directory(self, jobs: int) -> float:
        """Return the same for a journal in a directory, and 64 that wait."""
        import tempfile

        # Not in memory, as /tmp may be.
        with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".journal-") as place:
            return self._through(Journal(place, jobs={"save": Save}), jobs, 64)

    def _through(self, journal: Journal, jobs: int, threads: int) -> float:
        made = [job(n) for n in range(jobs)]
        Save.gate.set()
        with RetryingExecutor(WORKERS, journal=journal) as executor:
            executor.submit(job(0)).result()
            if threads == 0:
                Save.gate.clear()
            start = time.perf_counter()
            by_threads(threads or 1, made, executor.submit)
            if threads == 0:
                journal.flush()
                Save.gate.set()
            executor.shutdown()
            return jobs / (time.perf_counter() - start)

    def waits(self, jobs: int) -> float:
        """Return how many one thread submits in a second that waits for each."""
        self.count += 1
        Save.gate.set()
        with RetryingExecutor(WORKERS, journal=self.journal()) as executor:
            executor.submit(job(0)).result()
            start = time.perf_counter()
            for n in range(jobs):
                executor.submit(job(n))
            return jobs / (time.perf_counter() - start)

    def put(self, jobs: int) -> float:
        """Return how many get through that are put by one journal and run by another."""
        self.count += 1
        Save.gate.set()
        producer = self.journal()
        with RetryingExecutor(WORKERS, journal=self.journal()) as executor:
            start = time.perf_counter()
            for first in range(0, jobs, 500):
                producer.put_many([job(n) for n in range(first, min(jobs, first + 500))])
            while len(executor.recovered) < jobs:
                time.sleep(0.001)
            executor.recovered.wait()
            executor.shutdown()
            taken = time.perf_counter() - start
        producer.close()
        return jobs / taken

    # ---- the server alone

    def floor(self, jobs: int) -> float:
        """Return the rows that one thread inserts and deletes in a second, 500 at a time."""
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=0) as sql:
            sql.execute("DROP TABLE IF EXISTS floor")
            sql.execute("CREATE TABLE floor(seq int8 PRIMARY KEY, id uuid, kind text, data text)")
            start = time.perf_counter()
            for first in range(0, jobs, 500):
                sql.execute(
                    "INSERT INTO floor SELECT n, gen_random_uuid(), 'save', %s "
                    "FROM generate_series(%s::int8, %s::int8) n",
                    [TEXT, first, first + 499],
                )
                sql.execute("DELETE FROM floor WHERE seq BETWEEN %s AND %s", [first, first + 499])
            return jobs / (time.perf_counter() - start)

    def commits(self, jobs: int) -> float:
        """Return the rows that one thread inserts in a second, each in a transaction."""
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=0) as sql:
            sql.execute("DROP TABLE IF EXISTS floor")
            sql.execute("CREATE TABLE floor(seq int8 PRIMARY KEY, data text)")
            start = time.perf_counter()
            for n in range(jobs):
                sql.execute("INSERT INTO floor VALUES(%s::int8, %s)", [n, TEXT])
            return jobs / (time.perf_counter() - start)

    # ---- peers

    def peers(self, jobs: int, waiting: int) -> dict[str, Callable[[], float]]:
        """Return the peers that are installed, the baseline first."""
        if util.find_spec("pgqueuer") is None:
            print("(pgqueuer is not installed: there is nobody to compare with)")
            return {}
        found = {PSYCOPG: "psycopg"}
        if util.find_spec("asyncpg") is not None:
            found = {ASYNCPG: "asyncpg", **found}
        return {
            name: partial(lambda kind: asyncio.run(self._pgqueuer(kind, jobs, waiting)), kind)
            for name, kind in found.items()
        }

    async def _pgqueuer(self, kind: str, jobs: int, waiting: int) -> float:
        """Return the jobs that get through pgqueuer in a second."""
        from pgqueuer import PgQueuer
        from pgqueuer.queries import Queries
        from pgqueuer.types import QueueExecutionMode

        self.count += 1
        with psycopg.connect(self.url, autocommit=True) as sql:
            sql.execute(f"CREATE DATABASE peer_{self.count}".encode())
        url = self.url.replace("/postgres?", f"/peer_{self.count}?")
        drivers = [await _driver(kind, url) for _ in range(1 + min(waiting, 8))]
        await Queries(drivers[0]).install()
        queues = [Queries(driver) for driver in drivers[1:] or drivers]
        start = time.perf_counter()
        if waiting:

            async def submit(number: int) -> None:
                for _ in range(jobs // waiting):
                    await queues[number % len(queues)].enqueue("save", TEXT.encode())

            await asyncio.gather(*(submit(number) for number in range(waiting)))
        else:
            for first in range(0, jobs, BULK):
                count = min(BULK, jobs - first)
                await queues[0].enqueue(["save"] * count, [TEXT.encode()] * count, [0] * count)
        queuer = PgQueuer(drivers[0])

        @queuer.entrypoint("save")
        async def save(_: Any) -> None:
            pass

        await queuer.run(batch_size=BATCH, mode=QueueExecutionMode.drain)
        taken = time.perf_counter() - start
        for driver in drivers:
            await driver._connection.close()
        return jobs / taken


async def _driver(kind: str, url: str) -> Any:
    if kind == "asyncpg":
        import asyncpg
        from pgqueuer.db import AsyncpgDriver

        return AsyncpgDriver(await asyncpg.connect(url))
    from pgqueuer.db import PsycopgDriver

    return PsycopgDriver(await psycopg.AsyncConnection.connect(url, autocommit=True))


def by_threads(threads: int, jobs: Sequence[Any], submit: Callable[[Any], object]) -> None:
    """Let so many threads submit *jobs*."""

    def work(part: Sequence[Any]) -> None:
        for one in part:
            submit(one)

    workers = [threading.Thread(target=work, args=(jobs[n::threads],)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    run(measure, answer, __doc__)
