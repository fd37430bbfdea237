"""How many bytes does a job cost while it is pending, or waits for its next attempt?

Resident memory of a fresh process, after the jobs are there, less what it was before, for each
job: with what malloc keeps to itself, and without what the job itself would hold, since it is one
function for all. Python's memory grows in arenas, so a thousand jobs are too few to tell much.
Linux only. Waiting jobs of a pool whose workers sleep are in its queue: they are pending.
"""

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import Row, find, run
from peers import (
    STDLIB,
    WORKERS,
    Failed,
    blocked,
    more_executors_pool,
    noop,
    peers,
    retrying_executor,
)

LONG = 3600.0  # seconds of backoff: no job is due while we count


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of bytes per job, each measured in a process of its own."""
    sizes = [2_000] if quick else [10_000, 100_000, 1_000_000]
    most = {"more-executors": 2_000, "tenacity on asyncio": 100_000}
    questions = {
        "bytes per pending job": ("pending", [STDLIB, "retryexec", "more-executors"]),
        "bytes per job in backoff": (
            "waiting",
            ["asyncio", "retryexec", "tenacity on asyncio", "more-executors"],
        ),
    }
    for what, (kind, names) in questions.items():
        for jobs in sizes:
            # more-executors looks at all jobs for each, and takes minutes for more.
            base = None
            for name in names:
                if jobs > most.get(name, jobs) or name not in peers():
                    continue
                found = _in_process(kind, name, jobs)
                base = base or found["bytes"]
                note = f"{found['threads']} threads; {found['seconds']:.3g} s to get there"
                yield Row(what, name, jobs, found["bytes"], "B", found["bytes"] / base, note=note)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    pending, waiting = find(found, "bytes per pending"), find(found, "bytes per job in")
    pool, task = (
        find(found, "bytes per pending", STDLIB),
        find(found, "bytes per job in", "asyncio"),
    )
    return (
        f"A pending job takes {pending.value:.0f} bytes, in ThreadPoolExecutor {pool.value:,.0f}; "
        f"one that waits for its next attempt {waiting.value:.0f}, and an asyncio task that does "
        f"{task.value:,.0f}."
    )


def _in_process(kind: str, name: str, jobs: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", kind, name, str(jobs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def count_bytes(kind: str, name: str, jobs: int) -> None:
    """Print what *jobs* cost, and end the process with them."""
    warm_up = noop if kind == "pending" else _fail
    if name in ("asyncio", "tenacity on asyncio"):
        asyncio.run(_on_asyncio(name, jobs))
        return
    make: dict[str, Callable[[], Executor]] = {
        STDLIB: lambda: ThreadPoolExecutor(WORKERS),
        "retryexec": lambda: retrying_executor(LONG),
        "more-executors": lambda: more_executors_pool(LONG),
    }
    executor = make[name]()
    before = _Before(jobs)
    if kind == "pending":
        with blocked(executor):
            before = _Before(jobs)
            futures = [executor.submit(warm_up) for _ in range(jobs)]
            before.report(futures)
    futures = [executor.submit(warm_up) for _ in range(jobs)]
    while not _all_wait(executor, futures):
        time.sleep(0.05)
    before.report(futures)


class _Before:
    """The state before the jobs are there."""

    def __init__(self, jobs: int) -> None:
        gc.collect()
        self._jobs = jobs
        self._start = time.perf_counter()
        self._resident = _resident()

    def report(self, _alive: object) -> None:
        """Print what the jobs that are *_alive* have cost since, and end the process."""
        taken = time.perf_counter() - self._start
        gc.collect()
        each = (_resident() - self._resident) / self._jobs
        threads = threading.active_count()
        print(json.dumps({"bytes": each, "threads": threads, "seconds": taken}), flush=True)
        os._exit(0)  # nobody waits for an hour


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _all_wait(executor: Any, futures: list[Any]) -> bool:
    if hasattr(executor, "stats"):
        return bool(executor.stats().waiting == len(futures))
    return _failures[0] >= len(futures)


_failures = [0]


def _fail() -> None:
    _failures[0] += 1
    raise Failed


async def _on_asyncio(name: str, jobs: int) -> None:
    async def bare() -> None:
        try:
            _fail()
        except Failed:
            await asyncio.sleep(LONG)

    async def attempt() -> None:
        _fail()

    async def with_tenacity() -> None:
        import tenacity

        await tenacity.AsyncRetrying(wait=tenacity.wait_fixed(LONG))(attempt)

    before = _Before(jobs)
    call = bare if name == "asyncio" else with_tenacity
    tasks = [asyncio.create_task(call()) for _ in range(jobs)]
    await asyncio.sleep(0)  # all of them run, up to the wait
    assert _failures[0] == jobs
    before.report(tasks)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        count_bytes(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        run(measure, answer, __doc__)
