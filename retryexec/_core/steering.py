"""Steering: what is pending in a pool, told; and tried sooner, or later, or not for a while."""

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from retryexec._core.controlled import ControlledJob
from retryexec._core.job import Job
from retryexec._core.retry_future import RetryFuture
from retryexec._core.signals import in_one_call
from retryexec._outcome import name_of, type_name

if TYPE_CHECKING:
    from collections.abc import Hashable

    from retryexec._core.pool import Pool


@dataclass(frozen=True, slots=True)
class PendingJob:
    """An unfinished job, as `RetryingExecutor.pending` found it.

    Attributes:
        future: its future, by which it can be steered: `RetryFuture.retry_now`, for one.
        name: what it is called in logs: the name of its class or function.
        key: its key; None if it has none.
        state: "queued", "running", "waiting" (for its next attempt) or "held" (by its key, by a
            guard, or by a pause).
        attempts: how many attempts have begun.
        due_in: seconds until its next attempt is due, at least 0.0; None if it waits for no time.
        last_error: the error of the latest failed attempt, as "TimeoutError: read timed out"; None
            if none has failed.
        held_by: what holds it, as `RetryFuture.held_by`; None if nothing does.
    """

    future: RetryFuture[Any]
    name: str
    key: "Hashable"
    state: str
    attempts: int
    due_in: float | None
    last_error: str | None
    held_by: str | None


_ORDER = {"running": 0, "queued": 1, "held": 2, "waiting": 3}


def pending(pool: "Pool") -> list[PendingJob]:
    """Return the unfinished jobs: those that run first, those that wait last, soonest first."""
    now = pool.now()
    found = [one for job in list(pool.unfinished) if (one := _describe(job, now)) is not None]
    return sorted(found, key=lambda one: (_ORDER[one.state], one.due_in or 0.0))


def _describe(job: Job[Any], now: float) -> PendingJob | None:
    """Describe *job*; return None if it has ended meanwhile."""
    held_by, due, submitted = job.held_by, job.due, job.submitted
    if submitted is None:
        return None
    state = (
        "running"
        if job.running()
        else "held"
        if held_by is not None
        else "queued"
        if due is None
        else "waiting"
    )
    history = job.history
    last = history[-1] if history else None
    return PendingJob(
        future=job,
        name=name_of(submitted),
        key=job.key if isinstance(job, ControlledJob) else None,
        state=state,
        attempts=job.attempts,
        due_in=None if due is None or state == "running" else max(0.0, due - now),
        last_error=last
        and (
            last.text
            if last.exception_type is None
            else f"{type_name(last.exception_type)}: {last.text}"
        ),
        held_by=held_by,
    )


class Steering:
    """Tries the jobs of a pool sooner or later than they would be, or none for a while.

    Attributes:
        paused: whether no attempt may start for the time being. The pool's lock guards it.
        set_aside: jobs that were drawn from the queue during a pause, in that order.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.paused = False
        # By their seats, which are numbered, so that a newer job can have the seat of an older one.
        self.set_aside: dict[int, Job[Any]] = {}
        self._seats: dict[Job[Any], int] = {}
        self._next_seat = count().__next__

    def holds(self, job: Job[Any]) -> bool:
        """Return whether *job* was set aside during a pause that has not ended."""
        return job in self._seats

    def pass_on_seat(self, job: Job[Any], newer: Job[Any]) -> None:
        """Let *newer* have the place of *job*, which it has replaced; lock held."""
        seat = self._seats.pop(job, None)
        if seat is not None:
            self._seats[newer], self.set_aside[seat] = seat, newer

    def give_up_seat(self, job: Job[Any]) -> None:
        """Set *job* aside no longer: it has ended, or waits for a time."""
        seat = self._seats.pop(job, None)
        if seat is not None:
            self.set_aside.pop(seat, None)

    def retry_now(self, job: Job[Any]) -> bool:
        """Queue *job* if it waits for its next attempt; return whether it did."""
        pool = self._pool
        if job.held_by is not None:
            return False
        with pool.resuming(job):
            if not pool.end_wait(job):
                return False
            pool.enqueue(job)
        return True

    def postpone(self, job: Job[Any], seconds: float) -> bool:
        """Let *job* wait *seconds* from now if it is pending; return whether it is."""
        pool = self._pool
        due = pool.now() + seconds
        with pool.resuming(job):
            if isinstance(job, ControlledJob) and job.postpone_turn(due):
                return True
            waited = pool.end_wait(job)
            while not pool.let_wait(job, due):
                if not (pool.timekeeper.ready() and pool.end_wait(job)):
                    if waited:
                        pool.enqueue(job)  # it is being ended, or replaced
                    return False
                # Else it was put off by another thread meanwhile.
            with pool.lock:
                # Not if it has come due by now: it may have been set aside, or held, after that.
                if job.due is not None:
                    self.give_up_seat(job)
            if isinstance(job, ControlledJob):
                job.leave_guards()
        return True

    def pause(self) -> None:
        """Let no attempt start until `resume`; nothing if the pool takes no more jobs."""
        pool = self._pool
        with pool.lock:
            if pool.refusal is None:
                self.paused = pool.halted = True

    def resume(self) -> None:
        """Let attempts start again, those of the jobs that were set aside first."""
        pool = self._pool
        # Under the lock, so that no job is set aside in the midst of it, for another pause.
        with pool.lock:
            self.paused = False
            pool.halted = pool.stopping
            if self.set_aside:
                with pool.resuming(None):
                    in_one_call(map(pool.queue.put, list(self.set_aside.values())))
                    self.set_aside.clear()
                    self._seats.clear()
                    pool.grow()

    def set_aside_if_paused(self, job: Job[Any]) -> None:
        """Keep *job*, which a worker has drawn, for the end of the pause."""
        pool = self._pool
        if isinstance(job, ControlledJob):
            job.leave_guards_in_pause()
        with pool.lock:
            if self.paused:
                newest = job.superseded_by or job
                assert isinstance(newest, Job)
                if newest not in self._seats and newest.is_pending() and newest.due is None:
                    if isinstance(newest, ControlledJob):
                        pool.control.parked.pop(newest, None)
                    self._seats[newest] = seat = self._next_seat()
                    self.set_aside[seat] = newest
                return
        if not pool.stopping:
            pool.queue.put(job)  # the pause has just ended
