"""What is told of a job: frozen records for hooks, histories and logs."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from retryexec._future import RetryFuture

TEXT_LIMIT = 500
"""Characters kept of an exception's text; some errors carry a whole page."""


class StopReason(StrEnum):
    """Why a job's attempts ended."""

    SUCCEEDED = "succeeded"
    PERMANENT = "permanent"
    NOT_RETRIABLE = "not_retriable"
    MAX_ATTEMPTS = "max_attempts"
    MAX_ELAPSED = "max_elapsed"
    BACKOFF_EXHAUSTED = "backoff_exhausted"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Retry:
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
    future: "RetryFuture[Any] | None" = None


@dataclass(frozen=True, slots=True)
class GiveUp:
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
    future: "RetryFuture[Any] | None" = None


class Failure(NamedTuple):
    """One failed attempt, as `RetryFuture.history` keeps it.

    Attributes:
        number: the attempt's number, from 1.
        started: when it began, in the clock's seconds.
        seconds: how long it ran.
        exception_type: the type it raised; None if a refused value was returned.
        text: what the exception said, at most `TEXT_LIMIT` characters.
    """

    number: int
    started: float
    seconds: float
    exception_type: type[BaseException] | None
    text: str


def text_of(exception: BaseException) -> str:
    """Return what *exception* says, shortened; never raises, whatever its ``__str__`` does."""
    try:
        text = str(exception)
    except Exception as broken:  # noqa: BLE001  the user's code, which may raise anything
        return f"<str() raised {type(broken).__name__}>"
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def name_of(job: Any) -> str:
    """Return what to call *job* in logs: its type's or function's name.

    Not its repr, which is the user's code and may show what logs must not.
    """
    while isinstance(job, partial):
        job = job.func
    return job.__qualname__ if isinstance(job, _NAMED) else type(job).__qualname__


# Asking only these for their name: any other object could answer with code of its own.
_NAMED = (FunctionType, MethodType, BuiltinFunctionType, type)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of an executor: where its jobs are, and what became of the others.

    Attributes:
        queued: jobs ready to run, with no worker free yet.
        running: jobs in a worker's hands.
        waiting: jobs in backoff.
        succeeded, failed, cancelled: jobs ended so; a job that ended with a value
            `retry_on_result` refused counts as failed, as does one that a shutdown ended.
        attempts: attempts ended, of all jobs.
        oldest_wait: seconds since the last attempt of the job longest in backoff; 0.0 if none
            is. Finding it looks at every waiting job once.
    """

    queued: int
    running: int
    waiting: int
    succeeded: int
    failed: int
    cancelled: int
    attempts: int
    oldest_wait: float


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What became of all the jobs an executor ever accepted.

    Attributes:
        done: jobs that succeeded.
        failed: jobs that failed on their own account.
        cancelled: jobs that were cancelled.
        abandoned: jobs that the shutdown ended before they could succeed.
        unfinished: jobs still going on when `shutdown` returned: attempts that outlasted its
            timeout, or, with ``wait=False``, everything that is yet to come.
    """

    done: int
    failed: int
    cancelled: int
    abandoned: int
    unfinished: int = 0
