"""How long do jobs take that mostly wait: three times one second, from one job to 100,000?

Nothing can take less than 3 seconds, and what needs no more has its retries for free. A pool whose
workers sleep through the delays runs 8 jobs in 3 seconds, so it gets few jobs here: 100,000 would
take ten hours. All jobs fail at nearly the same time, which is harder than real outages; and the
jobs do nothing else.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from harness import Row, find, rows, run
from peers import STDLIB, Job, Run, peers, seconds

WAITS = 3
# The most jobs that each can finish in half a minute or so.
MOST = {
    STDLIB: 40,
    "tenacity in a pool": 40,
    "stamina in a pool": 40,
    "more-executors": 1_000,
    "tenacity on asyncio": 10_000,
    "asyncio": 100_000,
    "retryexec": 100_000,
}


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of seconds."""
    sizes = [8, 100] if quick else [8, 40, 1_000, 10_000, 100_000]
    delay = 0.01 if quick else 1.0
    for jobs in sizes:
        for name, peer in peers().items():
            if jobs <= MOST[name]:
                taken = _taken(peer, jobs, delay)
                yield _row("three waits of one second", name, jobs, taken, WAITS * delay)
    pair = {
        name: partial(_taken, peer, sizes[-1], delay)
        for name, peer in peers("asyncio", "retryexec").items()
    }
    what = "against a bare asyncio loop, three waits of one second"
    yield from rows(what, "s", sizes[-1], pair, rounds=1 if quick else 2)
    jobs, delay = (1_000, 0.2) if quick else (1_000_000, 10.0)
    taken = seconds(peers("retryexec")["retryexec"], [Job(1) for _ in range(jobs)], delay)
    yield _row("one wait of ten seconds", "retryexec", jobs, taken, delay)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    three, one = find(found, "against"), find(found, "one wait")
    return (
        f"{three.jobs:,} jobs that wait three times one second are done in {three.value:.1f} s, "
        f"{three.ratio:.2f} of what a bare asyncio loop takes; {one.jobs:,} that wait ten seconds "
        f"once, in {one.value:.0f} s."
    )


def _taken(peer: Run, jobs: int, delay: float) -> float:
    return seconds(peer, [Job(WAITS) for _ in range(jobs)], delay)


def _row(what: str, name: str, jobs: int, taken: float, bound: float) -> Row:
    return Row(what, name, jobs, taken, "s", taken / bound, note=f"of at least {bound:g} s")


if __name__ == "__main__":
    run(measure, answer, __doc__)
