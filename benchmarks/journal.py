"""What does it cost that no accepted job is lost?

All is at full durability, where each commit is synced to the disk, unless a table says otherwise.
Jobs do nothing, eight workers run them, and a figure counts when the last end is on disk. The
floor is what SQLite takes to insert as many rows and delete them again, a thousand for each
transaction, with nobody to wait for anything. Peers are given all jobs first, and then work on
them: neither can do both with one connection. What a sync takes differs from disk to disk and
from minute to minute; the table with a sync of 2 ms (a shim that sleeps in front of it) is nearer
to a disk that one can buy than a virtual one that is cached.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

from harness import OURS, Row, find, rows, run
from peers import WORKERS

from retryexec import RetryingExecutor
from retryexec.journal import Journal

BATCH = 1000
FLOOR = "SQLite, batches of 1,000"
HUEY, PERSIST = "huey", "persist-queue"
Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Save:
    """A job of five fields, as one that saves something has."""

    user: str
    activity: str
    number: int
    tags: list[str]
    at: float

    def exec(self) -> None:
        """Do nothing."""


def job(number: int) -> Save:
    """Return one job."""
    return Save("john@example.com", "Login Success", number, ["web", "eu"], 1_700_000_000.0)


def measure(quick: bool) -> Iterator[Row]:
    """Yield the rows of all tables."""
    yield from _against_the_floor(quick)
    yield from _against_peers(quick)
    yield from _with_slow_syncs(quick)
    yield from _with_history(quick)
    yield from _idle(quick)


# ---- accept, run, acknowledge


def _against_the_floor(quick: bool) -> Iterator[Row]:
    jobs, rounds = (2_000, 1) if quick else (50_000, 7)
    clocks = {"by the clock": time.perf_counter, "by processor time": time.process_time}
    for words, clock in clocks.items():
        rates = {FLOOR: partial(_raw, jobs, clock), OURS: partial(_ours, jobs, 1, "async", clock)}
        what = f"accepted, run and acknowledged, {words}"
        yield from rows(what, "jobs/s", jobs, rates, rounds=rounds)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    wall, own = (
        find(found, f"accepted, run and acknowledged, by {clock}") for clock in ("the", "processor")
    )
    text = (
        f'With accept="async", {wall.value:,.0f} jobs a second are accepted, run and acknowledged, '
        f"which is {own.ratio:.2f} of what SQLite alone inserts and deletes in the same processor "
        "time"
    )
    waiting = [row for row in found if row.peer == OURS and "64 threads" in row.what]
    peers = [row for row in found if row.peer in {HUEY, PERSIST} and "64 threads" in row.what]
    if not (waiting and peers):
        return f"{text}."
    best = max(peers, key=lambda row: row.value)
    return (
        f"{text}; where 64 threads wait for the disk, {waiting[0].value / best.value:.0f} times as "
        f"many a second as {best.peer}."
    )


def _raw(jobs: int, clock: Clock) -> float:
    """Return the rows that SQLite alone inserts and deletes in a second of *clock*."""
    text = '{"user":"john@example.com","activity":"Login Success","number":1,"tags":["web","eu"]}'
    with (
        directory() as place,
        closing(sqlite3.connect(place / "raw.db", isolation_level=None)) as sql,
    ):
        sql.execute("PRAGMA journal_mode=WAL")
        sql.execute("PRAGMA synchronous=FULL")
        sql.execute("CREATE TABLE job(seq INTEGER PRIMARY KEY, id, kind, ver, data, at)")
        start = clock()
        for first in range(0, jobs, BATCH):
            new = [(n, f"{n:032x}", "save", 1, text, 0.0) for n in range(first, first + BATCH)]
            sql.execute("BEGIN IMMEDIATE")
            sql.executemany("INSERT INTO job VALUES(?,?,?,?,?,?)", new)
            sql.execute("COMMIT")
            sql.execute("BEGIN IMMEDIATE")
            sql.executemany("DELETE FROM job WHERE seq=?", [row[:1] for row in new])
            sql.execute("COMMIT")
        return jobs / (clock() - start)


def _ours(
    jobs: int,
    threads: int,
    accept: Any,
    clock: Clock = time.perf_counter,
    before: Callable[[Path], object] = bool,
) -> float:
    """Return the jobs that get through in a second of *clock*, submitted by some threads."""
    with directory() as place:
        before(place)
        journal = Journal(place, jobs={"save": Save}, accept=accept)
        made = [job(n) for n in range(jobs)]
        with RetryingExecutor(WORKERS, journal=journal) as executor:
            executor.submit(job(0)).result()  # the file is there
            start = clock()
            _by_threads(threads, made, executor.submit)
        return jobs / (clock() - start)  # closed: the ends are on disk


def _by_threads(threads: int, jobs: list[Any], submit: Callable[[Any], object]) -> None:
    def work(part: list[Any]) -> None:
        for one in part:
            submit(one)

    workers = [Thread(target=work, args=(jobs[n::threads],)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# ---- peers


def _against_peers(quick: bool) -> Iterator[Row]:
    rounds = 1 if quick else 5
    peers = {HUEY: _huey, PERSIST: _persist_queue}
    for threads in (1, 8, 64, 0):
        jobs = 128 if quick else 3_200 if threads == 64 else 2_000
        words = "submitted by one that does not wait"
        if threads:
            words = "submitted by one thread that waits for the disk"
        if threads > 1:
            words = f"submitted by {threads} threads that wait for the disk"
        what = f"accepted, run and acknowledged, {words}"
        many = jobs if quick else max(jobs, 20_000 if threads in (0, 64) else 4_000)
        rates: dict[str, Callable[[], float]] = {}
        for name, peer in peers.items():
            if _installed(name):
                rates[name] = partial(peer, jobs, threads or 1)
        rates[OURS] = partial(_ours, many, threads or 1, "wait" if threads else "async")
        yield from rows(what, "jobs/s", jobs, rates, rounds=rounds, notes={OURS: f"{many} jobs"})


def _installed(name: str) -> bool:
    from importlib import util

    return util.find_spec({HUEY: "huey", PERSIST: "persistqueue"}[name]) is not None


def _huey(jobs: int, threads: int) -> float:
    from huey import SqliteHuey

    with directory() as place:
        huey = SqliteHuey(filename=str(place / "huey.db"), fsync=True, results=False)

        @huey.task()
        def save(*_: object) -> None:
            pass

        made = [job(n) for n in range(jobs)]
        start = time.perf_counter()
        _by_threads(threads, made, lambda one: save(one.user, one.activity, one.number, one.at))
        while (task := huey.dequeue()) is not None:
            huey.execute(task)
        return jobs / (time.perf_counter() - start)


def _persist_queue(jobs: int, threads: int) -> float:
    import persistqueue

    with directory() as place:
        queue = persistqueue.SQLiteAckQueue(str(place), multithreading=True, auto_commit=True)
        made = [job(n) for n in range(jobs)]
        start = time.perf_counter()
        _by_threads(threads, made, lambda one: queue.put((one.user, one.activity, one.number)))
        for _ in range(jobs):
            queue.ack(queue.get())
        taken = time.perf_counter() - start
        queue.close()
        return jobs / taken


# ---- a disk as one can buy


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    usleep(2000);
    return real(fd);
}
int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


def _with_slow_syncs(quick: bool) -> Iterator[Row]:
    what = "accepted on a disk that takes 2 ms for a sync"
    compiler = shutil.which("cc")
    if compiler is None:
        print("(no C compiler: nothing is said of slow disks)")
        return
    with directory() as place:
        source, shim = place / "shim.c", place / "shim.so"
        source.write_text(SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        names = {"1 thread": 1, "8 threads": 8, "64 threads": 64}
        rates = {
            name: partial(_in_process, "accept", threads * (8 if quick else 200), threads, shim)
            for name, threads in names.items()
        }
        yield from rows(what, "jobs/s", 200, rates, rounds=1 if quick else 3)


def _in_process(kind: str, jobs: int, threads: int, shim: Path | None = None) -> Any:
    environment = {**os.environ, **({} if shim is None else {"LD_PRELOAD": str(shim)})}
    command = [sys.executable, __file__, "--measure", kind, str(jobs), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(done.stdout)


def _accept(jobs: int, threads: int) -> float:
    """Return the jobs that some threads have accepted in a second."""
    with directory() as place, Journal(place, jobs={"save": Save}) as journal:
        journal.open(Idle())
        journal.accept(job(0))
        made = [job(n) for n in range(jobs)]
        start = time.perf_counter()
        _by_threads(threads, made, journal.accept)
        return jobs / (time.perf_counter() - start)


class Idle:
    """A host that runs nothing."""

    def recover(self, entries: Any) -> None:
        """Keep them."""
        self.entries = entries

    def running(self) -> tuple[()]:
        """Return nothing."""
        return ()


# ---- history


def _with_history(quick: bool) -> Iterator[Row]:
    dead = 2_000 if quick else 1_000_000
    jobs = 500 if quick else 20_000
    with directory() as place:
        _make_letters(place, dead)
        rates = {
            "no dead letters": partial(_ours, jobs, 1, "async"),
            f"{dead:,} dead letters": partial(
                _ours, jobs, 1, "async", before=lambda to: _copy(place / "dead.db", to)
            ),
        }
        what = "accepted, run and acknowledged, beside dead letters"
        yield from rows(what, "jobs/s", jobs, rates, rounds=1 if quick else 5)


def _copy(source: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    (to / "dead.db").hardlink_to(source)


def _make_letters(place: Path, count: int) -> None:
    with Journal(place, jobs={"save": Save}, accept="async") as journal:
        journal.open(Idle())
        journal.died(journal.accept(job(0)), "permanent", 1)
        journal.flush()
    with closing(sqlite3.connect(place / "dead.db")) as sql, sql:
        sql.execute(
            "INSERT INTO dead SELECT printf('%032x', value), kind, ver, data, reason, attempts, "
            "crashes, accepted_at, died_at + value, errors, source, rerun_to FROM dead, "
            "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n "
            "WHERE value < ?) SELECT value FROM n)",
            (count - 1,),
        )


# ---- idle


def _idle(quick: bool) -> Iterator[Row]:
    seconds = 1 if quick else 30
    found = _in_process("idle", seconds, 1)
    note = f"{found['written']} bytes written"
    yield Row(
        "an idle journal, with a job that waits", OURS, 1, found["wakes"], "wake-ups/5 s", note=note
    )


def _rest(seconds: int, _: int) -> dict[str, float]:
    with directory() as place:
        journal = Journal(place, jobs={"save": Save})
        journal.open(Idle())
        journal.accept(job(0))
        time.sleep(0.0 if seconds == 1 else 15.0)  # it tidies up once, and rests
        before, written = _switches(), _written()
        time.sleep(seconds)
        wakes, written = _switches() - before - 1, _written() - written
        journal.close()
    return {"wakes": wakes * 5 / seconds, "written": written}


def _switches() -> int:
    count = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count


def _written() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1])
    return 0


def directory() -> Any:
    """Return a directory on a real disk, to be entered and left."""
    return _Directory()


class _Directory:
    def __enter__(self) -> Path:
        # Not in memory, as /tmp may be.
        self._made = tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".journal-")
        return Path(self._made.name)

    def __exit__(self, *_: object) -> None:
        self._made.cleanup()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        kinds = {"accept": _accept, "idle": _rest}
        print(json.dumps(kinds[sys.argv[2]](int(sys.argv[3]), int(sys.argv[4]))))
    else:
        run(measure, answer, __doc__)
