"""How many attempts a second, when each job fails three times and is retried at once?

The baseline is the stdlib's pool with jobs that succeed, since it has no retries: its figure is
jobs, and so attempts, per second. "ThreadPoolExecutor, own loop" is a try in a while inside the
job, the least that retrying can cost; it has no policy, history, hooks or cancelling, and no
other job gets a turn between two attempts. Few services survive retries without any delay.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from peers import STDLIB, Job, Run, peers, seconds

FAILURES = 3
OWN_LOOP = f"{STDLIB}, own loop"


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of attempts per second."""
    rounds = 1 if quick else 5
    sizes = [200] if quick else [1_000, 10_000, 100_000]
    for jobs in sizes:
        able = peers()
        if jobs > 10_000:  # the others take minutes
            able = peers(STDLIB, OURS, "asyncio")
        elif jobs > 1_000:
            able.pop("more-executors", None)  # which is quadratic
        rates = {STDLIB: partial(_rate, able[STDLIB], jobs, 0)}
        for name, peer in able.items():
            label = f"{name}, own loop" if name in (STDLIB, "asyncio") else name
            rates[label] = partial(_rate, peer, jobs, FAILURES)
        yield from rows("three failures each, no delay", "attempts/s", jobs, rates, rounds=rounds)
    for jobs in sizes[:2]:
        rates = {name: partial(_rate, peer, jobs, FAILURES) for name, peer in able.items()}
        pair = {OWN_LOOP: rates[STDLIB], OURS: rates[OURS]}
        yield from rows(
            "three failures each, against a bare try in a while",
            "attempts/s",
            jobs,
            pair,
            rounds=rounds + 2,
        )


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    loop, noop = (find(found, f"three failures each, {words}") for words in ("against", "no"))
    return (
        f"Where each job fails three times, there are {noop.ratio:.1f} times as many attempts a "
        f"second as ThreadPoolExecutor runs jobs that do nothing, and {loop.ratio:.2f} of those "
        "of a bare try in a while."
    )


def _rate(peer: Run, count: int, failures: int) -> float:
    jobs = [Job(failures) for _ in range(count)]
    return count * (failures + 1) / seconds(peer, jobs)


if __name__ == "__main__":
    run(measure, answer, __doc__)
