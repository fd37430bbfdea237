"""Counts: where the jobs of a pool are, and what became of the others."""

import math
from typing import TYPE_CHECKING

from retryexec._events import ShutdownReport, Stats

if TYPE_CHECKING:
    from retryexec._core.pool import Pool


def stats(pool: "Pool") -> Stats:
    """Return how many jobs are in which state, and how long one has waited at most."""
    waiting = pool.timekeeper.waiting()
    held = sum(job.held_by is not None for job in waiting) if pool.control.used else 0
    since = (
        progress.failed_at
        for job in waiting
        if (progress := job.progress) is not None and (progress.attempts or job.entry is not None)
    )
    oldest = max(0.0, pool.now() - min(since, default=math.inf))
    return snapshot(pool, oldest_wait=oldest, held_for_a_time=held)


def snapshot(pool: "Pool", oldest_wait: float = 0.0, held_for_a_time: int = 0) -> Stats:
    """Return how many jobs are in which state; quickly, without looking at each.

    Jobs that a guard holds until a certain time count as waiting, but for so many of them.
    """
    with pool.lock:
        workers = pool.threads()
        # A worker still has its job for a moment after it has put it off, or before it begins it.
        running = sum(job.running() for job in pool.unfinished.intersection(pool.running()))
        waiting = len(pool.timekeeper)
        held = len(pool.control.parked) + len(pool.steering.set_aside)
        return Stats(
            queued=max(0, len(pool.unfinished) - running - waiting - held),
            running=running,
            waiting=max(0, waiting - held_for_a_time),
            held=held + held_for_a_time,
            succeeded=sum(worker.succeeded for worker in workers),
            failed=sum(worker.failed for worker in workers) + _abandoned(pool),
            cancelled=pool.cancelled,
            superseded=pool.control.superseded,
            attempts=sum(worker.succeeded + worker.failures for worker in workers),
            oldest_wait=oldest_wait,
        )


def report(pool: "Pool") -> ShutdownReport:
    """Return what became of all jobs."""
    with pool.lock:
        workers = pool.threads()
        return ShutdownReport(
            done=sum(worker.succeeded for worker in workers),
            failed=sum(worker.failed for worker in workers),
            cancelled=pool.cancelled,
            abandoned=_abandoned(pool),
            superseded=pool.control.superseded,
            unfinished=len(pool.unfinished),
        )


def _abandoned(pool: "Pool") -> int:
    return sum(worker.abandoned for worker in pool.threads()) + pool.abandoned
