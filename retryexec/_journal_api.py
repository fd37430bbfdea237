"""The seam between an executor and its journal: what each asks of the other, described once.

The executor runs its jobs as ever, and tells `JournalLink` of four moments in the life of each: it
is accepted, an attempt is about to start, another attempt follows, it has ended. The link tells the
journal, which it knows as a `JobJournal`. To the journal the link is the host that runs what dead
processes have left.
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
    """What an executor asks of its journal; `retryexec.journal.Journal` is one."""

    def open(self, host: Any) -> None:
        """Begin to write, and hand over to *host* what dead processes have left."""
        ...

    def close(self, timeout: float | None = None) -> bool:
        """Write down what has ended, within *timeout* seconds; the rest is the next process's."""
        ...

    def accept(self, job: Any) -> Any:
        """Take *job*, and return its entry; raise if that cannot be."""
        ...

    def starting(self, entry: Any) -> None:
        """Note that an attempt is about to start; return once it may."""
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

    def add(self, jobs: int) -> None:
        """Count *jobs* that are taken over."""
        with self._changed:
            self._count += jobs
            self._unfinished += jobs

    def count_end(self, _: object) -> None:
        """Count one that has ended."""
        with self._changed:
            self._unfinished -= 1
            if self._unfinished == 0:
                self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._count}, {self._unfinished} unfinished>"


class JournalLink:
    """An executor's link to its journal; to the journal, its host."""

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
        pool.at_the_end = self.close
        pool.expect_to_take_over()

    def open(self) -> None:
        """Open the journal, and take over what dead processes have left."""
        self._journal.open(self)

    def close(self, timeout: float | None = None) -> bool:
        """Close the journal; False if that took longer than *timeout* seconds, and goes on."""
        return self._journal.close(timeout)

    # ---- moments in the life of a job

    def accept(self, job: Job) -> None:
        """Write *job* down.

        Raises:
            TypeError: it has arguments, or is not of a class that the journal knows.
            retryexec.journal.JournalError: it could not be written down.
        """
        if job._args or job._kwargs:
            msg = (
                f"a journal keeps a job, and no arguments beside it (got {job._submitted!r} with "
                "some): make them its fields"
            )
            raise TypeError(msg)
        self._follow(job, self._journal.accept(job._submitted))

    def refused(self, job: Job) -> None:
        """Take back *job*, which the pool refuses."""
        self._journal.cancelled(job.__dict__["_entry"])

    def note_start(self, job: Job) -> None:
        """Note that an attempt of *job* is about to start; return once it may.

        That is at once, but for a job that was at work when a process died: it is marked on disk
        first, so that the next death is held against it and nobody else.
        """
        entry = job.__dict__["_entry"]
        if entry.suspect:
            self._journal.starting(entry)

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

    def note_end(self, job: Any) -> None:
        """Write down how *job* has ended; its first end counts."""
        entry, reason = job._entry, job.stop_reason
        if reason is StopReason.SUCCEEDED:  # first, as the most common
            self._journal.succeeded(entry)
        elif reason is StopReason.CANCELLED:
            self._journal.cancelled(entry)
        elif reason is not StopReason.SHUTDOWN:  # which leaves the job to the next process
            self._journal.died(entry, reason, job.attempts, job._exception)

    def _follow(self, job: Job, entry: Entry) -> None:
        # In the future's dictionary, which a job without a journal does not have.
        job.__dict__["_entry"] = entry
        job._done_callbacks = [self.note_end, *job._done_callbacks]

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
            job._done_callbacks.append(self.recovered.count_end)
            due = now + entry.due_in if entry.due_in > 0 else None
            if entry.attempts:
                job._started = now - entry.elapsed
                job._progress = progress = JobProgress(job._started)
                progress.attempts = entry.attempts
            elif due is not None:
                job._in_trouble().started = now
            jobs.append((job, due))
        self.recovered.add(len(jobs))
        pool.take_over(jobs)

    def running(self) -> Iterator[Entry]:
        """Return the entries of the jobs that workers run."""
        for worker in self._pool.threads():
            entry = getattr(worker.job, "_entry", None)
            if entry is not None:
                yield entry
