"""How many bytes does a job cost that has failed three times, and waits for its next attempt?

Resident memory of a fresh process, as in `memory`, after the jobs are there, less what it was
before, for each job. The first two retries come without a delay; the third is an hour away, so all
jobs wait. Each raises an exception of its own class, without a text. The baseline is a bare loop in
an asyncio task, which keeps the traceback of no exception and no history. Linux only.
"""

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from harness import OURS, Row, find, rows, run
from peers import WORKERS, Failed

from retryexec import RetryingExecutor, RetryPolicy

DELAYS = (0.0, 0.0, 3600.0)
BARE = "asyncio"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of bytes per job, each round in a process of its own."""
    for jobs in [2_000] if quick else [10_000, 100_000]:
        each = {name: partial(_in_process, name, jobs) for name in (BARE, OURS)}
        what = "bytes per job in backoff, after three failures"
        yield from rows(what, "B", jobs, each, rounds=1 if quick else 5)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    ours, task = (find(found, "bytes per job", peer) for peer in (OURS, BARE))
    return (
        f"A job that waits after three failures takes {ours.value:.0f} bytes; a bare loop in an "
        f"asyncio task, which keeps no history, {task.value:,.0f}."
    )


def _in_process(name: str, jobs: int) -> float:
    command = [sys.executable, __file__, "--measure", name, str(jobs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return float(json.loads(done.stdout))


def count_bytes(name: str, jobs: int) -> None:
    """Print what *jobs* cost each, and end the process with them."""
    if name == BARE:
        asyncio.run(_on_asyncio(jobs))
        return
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=DELAYS)
    executor = RetryingExecutor(WORKERS, policy=policy, on_retry=lambda _: None)
    before = _resident()
    futures = [executor.submit(_fail) for _ in range(jobs)]
    while executor.stats().waiting < jobs:
        time.sleep(0.05)
    _report(before, futures)


async def _on_asyncio(jobs: int) -> None:
    async def bare() -> None:
        for delay in DELAYS:
            try:
                _fail()
            except Failed:
                await asyncio.sleep(delay)

    before = _resident()
    tasks = [asyncio.create_task(bare()) for _ in range(jobs)]
    for _ in DELAYS:
        await asyncio.sleep(0)  # all of them run, up to the next wait
    _report(before, tasks)


def _fail() -> None:
    raise Failed


def _report(before: int, alive: list[object]) -> None:
    gc.collect()
    print(json.dumps((_resident() - before) / len(alive)), flush=True)
    os._exit(0)  # nobody waits for an hour


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        count_bytes(sys.argv[2], int(sys.argv[3]))
    else:
        run(measure, answer, __doc__)
