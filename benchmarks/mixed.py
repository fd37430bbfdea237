"""How long does a batch of slow saves take, when every tenth fails and waits before its retry?

Each save is 5 ms of waiting for something else (a sleep), on 8 workers; every tenth fails twice,
and waits 0.5 s each time. The work alone bounds it, as in life; what differs is whether the waits
add to it. asyncio runs 8 saves at a time, as the pools do, in one thread. All of the saves are
there from the start, so a wait can hide behind the work of the others.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from peers import STDLIB, WORKERS, Failed, Job, Run, peers, seconds

WORK, FAILURES = 0.005, 2


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of seconds."""
    rounds = 1 if quick else 2
    sizes = [100] if quick else [500, 1_000]
    delay = 0.05 if quick else 0.5
    for jobs in sizes:
        able = peers()
        able.pop("tenacity on asyncio", None)
        able["asyncio"] = _asyncio
        makespans = {name: partial(_makespan, peer, jobs, delay) for name, peer in able.items()}
        bound = (jobs + jobs // 10 * FAILURES) * WORK / WORKERS
        notes = dict.fromkeys(makespans, f"the work alone: {bound:.3g} s")
        what = "slow saves, a tenth of which fail twice"
        yield from rows(what, "s", jobs, makespans, rounds=rounds, notes=notes)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    ours, pool = (find(found, "slow saves", peer) for peer in (OURS, STDLIB))
    return (
        f"{ours.jobs:,} saves of 5 ms, a tenth of which fail twice, take {ours.value:.1f} s "
        f"({ours.note}); where workers sleep through the waits, {pool.value:.1f} s."
    )


def _makespan(peer: Run, count: int, delay: float) -> float:
    jobs = [Job(FAILURES if i % 10 == 0 else 0, WORK) for i in range(count)]
    return seconds(peer, jobs, delay)


def _asyncio(jobs: Sequence[Job], delay: float) -> None:
    async def main() -> None:
        at_a_time = asyncio.Semaphore(WORKERS)

        async def save(job: Job) -> None:
            while True:
                try:
                    async with at_a_time:
                        return await job.attempt()
                except Failed:
                    await asyncio.sleep(delay)

        await asyncio.gather(*map(save, jobs))

    asyncio.run(main())


if __name__ == "__main__":
    run(measure, answer, __doc__)
