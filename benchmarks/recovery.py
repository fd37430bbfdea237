"""What does it cost to go on with the jobs that a dead process has left?

An executor is made on a journal with unfinished jobs: their rows are read, jobs are made of them
and queued, and then it is there. The floor is a SELECT of the same rows, whose values are dropped.
Both are processor time of the thread that does it, with a file that is in memory already. The jobs
themselves begin to run meanwhile, on other threads.
"""

import gc
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from harness import OURS, Row, find, run
from journal import Idle, Save, directory, job
from peers import WORKERS

from retryexec import RetryingExecutor
from retryexec.journal import Journal

FLOOR = "SQLite, SELECT of the rows"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds for each job, each measured in a process of its own."""
    for jobs in [2_000] if quick else [10_000, 100_000, 1_000_000]:
        command = [sys.executable, __file__, "--measure", str(jobs)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        floor, ours = found["floor"], found["ours"]
        what = "a job of a dead process, read, made and queued"
        yield Row(what, FLOOR, jobs, floor, "µs", 1.0)
        note = f"{found['seconds']:.3g} s in all; {found['bytes']:,.0f} B of memory for each"
        yield Row(what, OURS, jobs, ours, "µs", ours / floor, note=note)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    row = find(found, "a job of")
    return (
        f"{row.jobs:,} jobs of a dead process are taken over with {row.value:.1f} µs of processor "
        f"time each, {row.ratio:.1f} times that of a SELECT of their rows."
    )


def _leave(place: Path, jobs: int) -> None:
    """Leave unfinished jobs in *place*."""
    with Journal(place, jobs={"save": Save}, accept="async") as journal:
        journal.open(Idle())
        for number in range(jobs):
            journal.accept(job(number))
        journal.flush()


def _recover(jobs: int) -> None:
    with directory() as place:
        if os.fork() == 0:
            _leave(place, jobs)
            os._exit(0)
        os.wait()
        floor = _select(place)
        gc.collect()
        resident, start, own = _resident(), time.perf_counter(), time.thread_time()
        executor = RetryingExecutor(WORKERS, journal=Journal(place, jobs={"save": Save}))
        ours, seconds = time.thread_time() - own, time.perf_counter() - start
        assert len(executor.recovered) == jobs
        found = {"floor": floor, "ours": ours, "bytes": _resident() - resident}
        each = {name: value / jobs for name, value in found.items()}
        each["floor"] *= 1e6
        each["ours"] *= 1e6
        print(json.dumps({**each, "seconds": seconds}), flush=True)
        executor.shutdown(cancel_futures=True)


def _select(place: Path) -> float:
    (file,) = (file for file in place.glob("*.db") if file.name != "dead.db")
    with closing(sqlite3.connect(file)) as sql:
        start = time.thread_time()
        for _ in sql.execute("SELECT * FROM job ORDER BY seq"):
            pass
        return time.thread_time() - start


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        _recover(int(sys.argv[2]))
    else:
        run(measure, answer, __doc__)
