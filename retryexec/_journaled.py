"""What keeps an executor's jobs in a journal, and takes over what a dead process has left there.

The executor runs its jobs as ever. The journal hears of each from three sides: from `submit`, of
each failed attempt from a hook, and of the end from the future's first callback.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from threading import Condition
from typing import Any, Protocol

from retryexec._events import Retry, Success
from retryexec._future import JobProgress, RetryFuture
from retryexec._outcome import StopReason
from retryexec._timekeeper import Job
from retryexec._worker import tell_success

logger = logging.getLogger("retryexec")


class Entry(Protocol):
    """A job as the journal has it."""

    id: str
    job: Any
    attempts: int
    due_in: float
    elapsed: float

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the job is on disk."""
        ...


class JobJournal(Protocol):
    """What an executor has of its journal; `retryexec.journal.Journal` is one."""

    def open(self, host: Any) -> None:
        """Begin to write, and hand over to *host* what dead processes have left."""
        ...

    def close(self) -> None:
        """Write down what has ended, and leave the rest to whoever opens the journal next."""
        ...

    def accept(self, job: Any) -> Any:
        """Take *job*, and return its entry; raise if that cannot be."""
        ...

    def retrying(
        self,
        entry: Any,
        attempts: int,
        delay: float,
        error: BaseException | None,
        *,
        elapsed: float = 0.0,
    ) -> None:
        """Note that an attempt failed, and that the next one follows in *delay* seconds."""
        ...

    def succeeded(self, entry: Any) -> None:
        """Note that the job has done its work."""
        ...

    def cancelled(self, entry: Any) -> None:
        """Note that the job is not wanted any more."""
        ...

    def died(
        self, entry: Any, reason: str, attempts: int, error: BaseException | None = None
    ) -> None:
        """Note that the job has finally failed."""
        ...


class Recovered:
    """The jobs that dead processes left in the journal, and an executor has taken over.

    ``len()`` is how many there were so far; `unfinished` how many of them have not ended.
    """

    def __init__(self) -> None:
        # Guards the counts; notified when the last one has ended.
        self._changed = Condition()
        self._count = 0
        self._unfinished = 0

    def __len__(self) -> int:
        return self._count

    @property
    def unfinished(self) -> int:
        """How many have not ended yet."""
        return self._unfinished

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all have ended that were taken over; False if *timeout* seconds passed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unfinished == 0, timeout)

    def _add(self, jobs: int) -> None:
        with self._changed:
            self._count += jobs
            self._unfinished += jobs

    def _ended(self, _: object) -> None:
        with self._changed:
            self._unfinished -= 1
            if self._unfinished == 0:
                self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._count}, {self._unfinished} unfinished>"


class Journaled:
    """The way of an executor's jobs through its journal; to the journal, its host."""

    def __init__(self, journal: JobJournal, on_success: Callable[[Success], object] | None) -> None:
        self._journal = journal
        self._on_success = on_success
        self.recovered = Recovered()
        self._pool: Any = None
        self._terms: Any = None

    def serve(self, pool: Any, terms: Any) -> None:
        """Put jobs that are taken over into *pool*, on these *terms*; anew in a forked child."""
        if self._pool is not None:
            self.recovered = Recovered()  # those before are the parent's
        self._pool, self._terms = pool, terms
        pool.at_the_end = self._journal.close
        pool.expect_to_take_over()

    def open(self) -> None:
        """Open the journal, and take over what dead processes have left."""
        self._journal.open(self)

    def accept(self, job: Job, pool: Any) -> None:
        """Write *job* down, and give it to *pool*.

        Raises:
            TypeError: it has arguments, or is of no class that the journal knows.
            retryexec.journal.JournalError: it could not be written down.
            RuntimeError: the pool takes no more jobs.
        """
        if pool.closed:
            pool.refuse_if_closed()  # before anything is written
        if job._args or job._kwargs:
            msg = (
                f"a journal keeps a job, and no arguments beside it (got {job._submitted!r} with "
                "some): make them its fields"
            )
            raise TypeError(msg)
        entry = self._journal.accept(job._submitted)
        self._follow(job, entry)
        try:
            pool.accept(job)
        except BaseException:
            self._journal.cancelled(entry)
            raise

    def _follow(self, job: Job, entry: Entry) -> None:
        # In the future's dictionary, which a job without a journal does not have.
        job.__dict__["_entry"] = entry
        job._done_callbacks = [self._note_end, *job._done_callbacks]

    def note_retry(self, then: Callable[[Retry], object] | None, event: Retry) -> None:
        """Write down that another attempt follows, and *then* tell the user's hook."""
        future: Any = event.future
        progress = future._progress
        self._journal.retrying(
            future._entry,
            event.attempt,
            event.delay,
            event.exception,
            elapsed=progress.failed_at - progress.began,
        )
        if then is not None:
            then(event)

    def _note_end(self, future: Any) -> None:
        entry, reason = future._entry, future.stop_reason
        if reason is StopReason.SUCCEEDED:  # first, as the most common
            self._journal.succeeded(entry)
        elif reason is StopReason.CANCELLED:
            self._journal.cancelled(entry)
        elif reason is not StopReason.SHUTDOWN:  # which leaves the job to the next process
            self._journal.died(entry, reason, future.attempts, future._exception)

    # ---- for the journal

    def recover(self, entries: Sequence[Entry]) -> None:
        """Run the jobs of *entries*, on the executor's own terms and in no context."""
        pool, now, context = self._pool, self._pool.now(), Context()
        jobs: list[tuple[Job, float | None]] = []
        for entry in entries:
            job: Job = RetryFuture(self._terms, entry.job, True, (), {}, context)
            self._follow(job, entry)
            if self._on_success is not None:
                hook = partial(tell_success, self._on_success, entry.job, context)
                job._done_callbacks.append(hook)
            job._done_callbacks.append(self.recovered._ended)
            due = now + entry.due_in if entry.due_in > 0 else None
            if entry.attempts:
                job._started = now - entry.elapsed
                job._progress = progress = JobProgress(job._started)
                progress.attempts = entry.attempts
            elif due is not None:
                job._in_trouble().started = now
            jobs.append((job, due))
        self.recovered._add(len(jobs))
        pool.take_over(jobs)

    def running(self) -> Iterator[Entry]:
        """Return the entries of the jobs in the workers' hands."""
        for worker in self._pool.threads():
            entry = getattr(worker.job, "_entry", None)
            if entry is not None:
                yield entry
