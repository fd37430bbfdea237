"""How late does a retry start, with 1,000 or 10,000 jobs waiting?

Due times are spread evenly over some seconds, or all at one instant, when the last of them must
be late by the work of all the others. Jobs do nothing, so this is the cost of scheduling; on a
busy machine it is that of the operating system. There is no baseline: the stdlib's pool has none.
The delay is counted from where the first attempt raises.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from harness import Row, figure, find, percentile, run
from peers import Failed, peers

from retryexec import RetryAfter, RetryingExecutor


class Due:
    """A job that fails once, and notes how much later than at its due time it runs again."""

    __slots__ = ("after", "at", "late")

    def __init__(self, after: float) -> None:
        self.after = after
        self.at: float | None = None
        self.late = 0.0

    def __call__(self) -> None:
        """Ask for the retry, or note how late it comes."""
        if (left := self.step()) is not None:
            raise RetryAfter(left)

    def step(self) -> float | None:
        """Return in how many seconds to come again; None at the second time."""
        now = time.monotonic()
        if self.at is None:
            self.at = self.after
            return max(0.0, self.at - now)
        self.late = now - self.at
        return None


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of milliseconds."""
    sizes = [100] if quick else [1_000, 10_000]
    rounds = 1 if quick else 3
    # Seconds: from the first due time to the last; and before it, for all jobs to fail in.
    span, lead = (0.2, 0.1) if quick else (2.0, 1.0)
    for jobs in sizes:
        for name, peer in _peers(jobs).items():
            late = [_late(peer, jobs, lead, span) for _ in range(rounds)]
            yield _row(f"due times spread over {span:g} s", name, jobs, late)
    for name, peer in _peers(sizes[0]).items():
        late = [_late(peer, sizes[0], lead, 0.0) for _ in range(rounds)]
        yield _row("due at one instant", name, sizes[0], late)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    row = find(found, "due times")
    assert row.p99 is not None
    return (
        f"With {row.jobs:,} jobs waiting, a retry starts {figure(row.value)} ms after it is due, "
        f"and 99 of 100 within {figure(row.p99)} ms."
    )


def _late(
    peer: Callable[[Sequence[Due]], None], count: int, lead: float, span: float
) -> list[float]:
    """Return by how many milliseconds each of *count* jobs was late."""
    first = time.monotonic() + lead
    jobs = [Due(first + span * i / count) for i in range(count)]
    peer(jobs)
    return [job.late * 1e3 for job in jobs]


def _row(what: str, name: str, jobs: int, late: list[list[float]]) -> Row:
    # The medians of the rounds' percentiles: one noisy second must not speak for all.
    p50, p99 = (statistics.median(percentile(r, p) for r in late) for p in (50, 99))
    worst = max(chain.from_iterable(late))
    return Row(what, name, jobs, p50, "ms", None, p99, f"latest {worst:.3g} ms")


def _peers(jobs: int) -> dict[str, Callable[[Sequence[Due]], None]]:
    able: dict[str, Callable[[Sequence[Due]], None]] = {
        "retryexec": _retryexec,
        "asyncio": _asyncio,
    }
    if "tenacity on asyncio" in peers() and jobs <= 1_000:  # it is busy with 10,000 for seconds
        able["tenacity on asyncio"] = _tenacity
    if "more-executors" in peers() and jobs <= 1_000:  # it looks at every job for each
        able["more-executors"] = _more_executors
    return able


def _retryexec(jobs: Sequence[Due]) -> None:
    with RetryingExecutor(8) as executor:
        for job in jobs:
            executor.submit(job)


def _asyncio(jobs: Sequence[Due]) -> None:
    async def twice(job: Due) -> None:
        left = job.step()
        assert left is not None
        await asyncio.sleep(left)
        job.step()

    async def main() -> None:
        await asyncio.gather(*map(twice, jobs))

    asyncio.run(main())


def _tenacity(jobs: Sequence[Due]) -> None:
    import tenacity

    def left(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        return float(str(state.outcome.exception()))

    async def attempt(job: Due) -> None:
        if (seconds := job.step()) is not None:
            raise Failed(seconds)

    async def main() -> None:
        await asyncio.gather(*(tenacity.AsyncRetrying(wait=left)(attempt, job) for job in jobs))

    asyncio.run(main())


def _more_executors(jobs: Sequence[Due]) -> None:
    from more_executors import Executors
    from more_executors.retry import RetryPolicy

    class Named(RetryPolicy):
        """The delay is the one that the job has asked for."""

        def should_retry(self, _attempt: int, future: "asyncio.Future[None]") -> bool:
            return future.exception() is not None

        def sleep_time(self, _attempt: int, future: "asyncio.Future[None]") -> float:
            error = future.exception()
            assert isinstance(error, RetryAfter)
            return error.seconds

    pool = Executors.thread_pool(max_workers=8).with_retry(retry_policy=Named())
    with pool as executor:
        for future in [executor.submit(job) for job in jobs]:
            future.result()


if __name__ == "__main__":
    run(measure, answer, __doc__)
