"""The peers, all behind one call: run these jobs, each retried after the same delay.

A peer that is not installed is left out.
"""

import asyncio
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy

WORKERS = 8

Run: TypeAlias = Callable[[Sequence["Job"], float], None]
"""Runs jobs, each retried after a delay in seconds, and returns when all have succeeded."""


class Failed(Exception):
    """What jobs fail with."""


class Job:
    """Fails a number of times, then succeeds; each attempt works (sleeps) for some seconds."""

    __slots__ = ("failures", "work")

    def __init__(self, failures: int = 0, work: float = 0.0) -> None:
        self.failures = failures
        self.work = work

    def __call__(self) -> None:
        """Make one attempt."""
        if self.work:
            time.sleep(self.work)
        self._end()

    async def attempt(self) -> None:
        """Make one attempt, as a coroutine."""
        if self.work:
            await asyncio.sleep(self.work)
        self._end()

    def _end(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Failed


def noop() -> None:
    """Do nothing."""


def retrying_executor(delay: float = 0.0) -> RetryingExecutor:
    """Return our executor, with a policy that never gives up."""
    logging.getLogger("retryexec").setLevel(logging.ERROR)  # it logs the first retry
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(delay))
    return RetryingExecutor(WORKERS, policy=policy)


def retryexec(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* on a RetryingExecutor."""
    with retrying_executor(delay) as executor:
        _submit_all(executor, jobs)


def stdlib(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* on a ThreadPoolExecutor, each in a loop of its own making."""
    with ThreadPoolExecutor(WORKERS) as executor:
        _submit_all(executor, [partial(_loop, job, delay) for job in jobs])


def tenacity_in_pool(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* on a ThreadPoolExecutor, each retried by tenacity."""
    import tenacity

    retrying = tenacity.Retrying(wait=tenacity.wait_fixed(delay))
    with ThreadPoolExecutor(WORKERS) as executor:
        _submit_all(executor, [partial(retrying, job) for job in jobs])


def stamina_in_pool(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* on a ThreadPoolExecutor, each retried by stamina."""
    import stamina

    # It logs every retry to structlog or logging if told to; nobody else here does.
    stamina.instrumentation.set_on_retry_hooks([])
    caller = stamina.RetryingCaller(
        attempts=None, timeout=None, wait_initial=delay, wait_max=delay, wait_jitter=0
    )
    with ThreadPoolExecutor(WORKERS) as executor:
        _submit_all(executor, [partial(caller, Failed, job) for job in jobs])


def more_executors(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* on a retrying pool of more-executors."""
    with more_executors_pool(delay) as executor:
        _submit_all(executor, jobs)


def more_executors_pool(delay: float = 0.0) -> Any:
    """Return a retrying pool of more-executors that never gives up."""
    from more_executors import Executors

    logging.getLogger("RetryExecutor").setLevel(logging.CRITICAL)  # it logs every retry
    return Executors.thread_pool(max_workers=WORKERS).with_retry(
        max_attempts=1_000_000, sleep=delay, max_sleep=delay, exponent=1.0
    )


def bare_asyncio(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* as one asyncio task each, in a loop of its own making."""

    async def retried(job: Job) -> None:
        while True:
            try:
                return await job.attempt()
            except Failed:
                await asyncio.sleep(delay)

    asyncio.run(_gather([retried(job) for job in jobs]))


def tenacity_on_asyncio(jobs: Sequence[Job], delay: float) -> None:
    """Run *jobs* as one asyncio task each, retried by tenacity."""
    import tenacity

    async def retried(job: Job) -> None:
        await tenacity.AsyncRetrying(wait=tenacity.wait_fixed(delay))(job.attempt)

    asyncio.run(_gather([retried(job) for job in jobs]))


def installed(runs: dict[str, Run]) -> dict[str, Run]:
    """Return those of *runs* whose packages are there."""
    return {name: run for name, run in runs.items() if _has(run)}


STDLIB = "ThreadPoolExecutor"
ALL: dict[str, Run] = {
    STDLIB: stdlib,
    "retryexec": retryexec,
    "tenacity in a pool": tenacity_in_pool,
    "stamina in a pool": stamina_in_pool,
    "more-executors": more_executors,
    "asyncio": bare_asyncio,
    "tenacity on asyncio": tenacity_on_asyncio,
}
"""Every peer by name, the baseline first."""

NEEDS: dict[Run, str] = {
    tenacity_in_pool: "tenacity",
    stamina_in_pool: "stamina",
    more_executors: "more_executors",
    tenacity_on_asyncio: "tenacity",
}


def peers(*names: str) -> dict[str, Run]:
    """Return the peers of these *names* (all if none is given) that are installed."""
    return installed({name: ALL[name] for name in names or ALL})


def seconds(run: Run, jobs: Sequence[Job], delay: float = 0.0) -> float:
    """Return how long *run* takes for *jobs*."""
    start = time.perf_counter()
    run(jobs, delay)
    return time.perf_counter() - start


@contextmanager
def blocked(executor: Executor) -> Iterator[None]:
    """Keep all workers of *executor* busy with nothing."""
    gate, busy = threading.Event(), threading.Barrier(WORKERS + 1)

    def wait() -> None:
        busy.wait()
        gate.wait()

    for _ in range(WORKERS):
        executor.submit(wait)
    busy.wait()
    try:
        yield
    finally:
        gate.set()


def _has(run: Run) -> bool:
    return run not in NEEDS or importlib.util.find_spec(NEEDS[run]) is not None


def _submit_all(executor: Executor, jobs: Sequence[Callable[[], None]]) -> None:
    futures = [executor.submit(job) for job in jobs]
    for future in futures:
        future.result()


def _loop(job: Job, delay: float) -> None:
    while True:
        try:
            return job()
        except Failed:
            if delay:  # to sleep for no time would take longer than the attempt
                time.sleep(delay)


async def _gather(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*coroutines)
