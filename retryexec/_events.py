"""Frozen records that an executor gives to hooks, and returns from `stats` and `shutdown`."""

from dataclasses import dataclass
from typing import Any

from retryexec._core.retry_future import RetryFuture
from retryexec._outcome import StopReason
from retryexec._values import Value


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Retry(Value):
    """An attempt failed and another will follow.

    Attributes:
        attempt: the number of the attempt that failed, from 1.
        exception: what it raised; None if it returned a value that `retry_on_result` refused.
        delay: seconds until the next attempt.
        job: what was submitted; None outside an executor.
        future: the job's future; None outside an executor.
    """

    attempt: int
    exception: BaseException | None
    delay: float
    job: Any = None
    future: RetryFuture[Any] | None = None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Success(Value):
    """A job has succeeded, and its future has ended; or a call under `retry` has succeeded.

    Attributes:
        attempt: how many attempts it took.
        result: what it returned.
        job: what was submitted; None outside an executor.
        future: the job's future; None outside an executor.
    """

    attempt: int
    result: Any
    job: Any = None
    # Its type is that in an executor, whose hooks need not ask whether there is one.
    future: RetryFuture[Any] = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GiveUp(Value):
    """A job failed for good; its future is about to say so.

    Attributes:
        attempt: how many attempts were made.
        exception: what the job fails with; None if it ends with a value that
            `retry_on_result` refused.
        stop_reason: why no further attempt follows.
        job: what was submitted.
        future: the job's future, resolved right after this event.
    """

    attempt: int
    exception: BaseException | None
    stop_reason: StopReason
    job: Any = None
    future: RetryFuture[Any] | None = None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Stats(Value):
    """A snapshot of an executor: where its jobs are, and what became of the others.

    Attributes:
        queued: jobs ready to run, with no worker free yet.
        running: jobs that a worker is running.
        waiting: jobs in backoff, or put off by `RetryFuture.postpone`.
        succeeded, failed, cancelled: jobs ended so; a job that ended with a value
            `retry_on_result` refused counts as failed, as does one that a shutdown ended.
        attempts: attempts ended, of all jobs.
        oldest_wait: seconds since the last attempt of the job longest in backoff; 0.0 if none
            is. Finding it looks at every waiting job once.
        held: jobs that may not start for the time being: another job of their key goes first, a
            guard holds them, or the executor is paused.
        superseded: jobs that a newer one of their key has replaced.
    """

    queued: int
    running: int
    waiting: int
    succeeded: int
    failed: int
    cancelled: int
    attempts: int
    oldest_wait: float
    held: int = 0
    superseded: int = 0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ShutdownReport(Value):
    """What became of all the jobs an executor ever accepted.

    Attributes:
        done: jobs that succeeded.
        failed: jobs that failed on their own account.
        cancelled: jobs that were cancelled.
        abandoned: jobs that the shutdown ended before they could succeed.
        unfinished: jobs still going on when `shutdown` returned: attempts that outlasted its
            timeout, or, with ``wait=False``, everything that is yet to come.
        journaled: of those two, how many are in the journal, for the next process to run.
        superseded: jobs that a newer one of their key has replaced.
    """

    done: int
    failed: int
    cancelled: int
    abandoned: int
    unfinished: int = 0
    journaled: int = 0
    superseded: int = 0
