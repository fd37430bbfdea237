"""`current_attempt`: what a running job can ask about its own attempt."""

import threading
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeAlias

from retryexec._core.job import Job
from retryexec._errors import Cancelled
from retryexec._progress import Progress, Settings, seconds_left
from retryexec._typing import override

# A retry that runs in this thread or coroutine: its progress, its settings, the object that has
# its job_id, and the executor's job that it runs in, if any. A job runs in a copy of the
# submitter's context, so it may find the retry of another job here.
_Here: TypeAlias = tuple[Progress, Settings, Any, Job[Any] | None]
retrying_here: ContextVar[_Here] = ContextVar("retrying_here")


class Attempt:
    """One attempt of a job, as the job itself sees it; get it from `current_attempt`.

    Attributes:
        number: the attempt's number, from 1.
        previous: what the attempt before raised; None for a first attempt. It has given up its
            traceback, which would keep that attempt's variables alive through the wait.
    """

    __slots__ = ("_deadline", "_owner", "_progress", "_settings", "number", "previous")

    def __init__(self, progress: Progress, settings: Settings, owner: Any) -> None:
        self.number = progress.attempts
        self.previous = progress.previous
        self._progress = progress
        self._deadline = progress.deadline(settings.policy)
        self._settings = settings
        self._owner = owner

    @property
    def job_id(self) -> str:
        """What the job is called, the same in all its attempts, and after a crash if journaled.

        A save can use it as its key, so that doing it twice does no harm.
        """
        name: str = self._owner.job_id
        return name

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the journal has the job on disk, as `RetryFuture.accepted`.

        Raises:
            AttributeError: the job is in no journal.
        """
        accepted: Future[None] = self._owner.accepted
        return accepted

    def remaining(self) -> float | None:
        """Return the seconds until the attempt's or the job's limit, whichever is sooner.

        A token that the job was submitted under counts as well. 0.0 once the limit has passed;
        None if there is none.
        """
        return seconds_left(self._settings, self._deadline)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled this job, or shut its executor down for good.

        The attempt runs on all the same, and its outcome is the job's; look here, or call
        `checkpoint`, where a long attempt can stop early.
        """
        return self._progress.is_cancelled(self._settings)

    def checkpoint(self) -> None:
        """Raise `Cancelled` if the attempt is `cancelled`."""
        if self.cancelled:
            msg = f"cancelled during attempt {self.number}"
            raise Cancelled(msg) from self.previous

    @override
    def __repr__(self) -> str:
        return f"<Attempt {self.number}{', cancelled' if self.cancelled else ''}>"


def current_attempt() -> Attempt:
    """Return the attempt that this code runs in, the innermost if there are several.

    Raises:
        LookupError: no job of an executor or of `retry` is running here.
    """
    job, here = running_job(), retrying_here.get(None)
    if here is not None and (job is None or here[3] is job):
        return Attempt(*here[:3])
    if job is None:
        msg = "current_attempt() answers inside a job that an executor or retry() runs, not here"
        raise LookupError(msg)
    return Attempt(job.ensure_progress(), job.settings, job)


def running_job() -> Job[Any] | None:
    """Return the executor's job that this thread runs; None if it runs none."""
    # A worker's thread has its job as an attribute, so attempts need not set a context variable.
    job = getattr(threading.current_thread(), "job", None)
    return job if isinstance(job, Job) else None
