"""How long from submit() to the result, one job at a time?

Two threads take turns here, so most of it is the operating system waking one and then the other,
and says little about the executor; whoever submits many at once pays far less for each.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from harness import Row, find, percentile, run
from peers import STDLIB, WORKERS, more_executors_pool, noop, peers, retrying_executor


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds."""
    rounds, trips = (1, 200) if quick else (9, 3_000)
    pools: dict[str, Callable[[], Any]] = {
        STDLIB: partial(ThreadPoolExecutor, WORKERS),
        "retryexec": retrying_executor,
    }
    jobs: dict[str, Callable[[], object]] = dict.fromkeys(pools, noop)
    if "tenacity in a pool" in peers():
        import tenacity

        pools["tenacity in a pool"] = pools[STDLIB]
        jobs["tenacity in a pool"] = partial(tenacity.Retrying(), noop)
    if "more-executors" in peers():
        pools["more-executors"] = more_executors_pool
        jobs["more-executors"] = noop
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in pools}
    with ExitStack() as stack:
        executors = {name: stack.enter_context(make()) for name, make in pools.items()}
        for _ in range(rounds):
            for name, executor in executors.items():
                figures[name].append(_trips(executor, jobs[name], trips))
    base = [p50 for p50, _ in figures[STDLIB]]
    base99 = statistics.median(p99 for _, p99 in figures[STDLIB])
    for name, taken in figures.items():
        ratio = statistics.median(own / std for (own, _), std in zip(taken, base, strict=True))
        p99 = statistics.median(p99 for _, p99 in taken)
        note = f"p99 ratio {p99 / base99:.2f}"
        p50 = statistics.median(p50 for p50, _ in taken)
        yield Row("round trip of a no-op job", name, trips, p50, "µs", ratio, p99, note)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    row = find(found, "round trip")
    return (
        f"From submit() to the result it takes {row.value:.0f} µs, which is {row.ratio:.2f} of "
        "what it takes in ThreadPoolExecutor."
    )


def _trips(executor: Any, job: Callable[[], object], trips: int) -> tuple[float, float]:
    for _ in range(trips // 20):
        executor.submit(job).result()
    taken = []
    for _ in range(trips):
        start = time.perf_counter()
        executor.submit(job).result()
        taken.append(time.perf_counter() - start)
    return percentile(taken, 50) * 1e6, percentile(taken, 99) * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
