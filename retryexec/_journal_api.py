"""What keeps an executor's jobs in a journal, and takes over what a dead process has left there.

The executor runs its jobs as ever. The journal hears of each from three sides: from `submit`, of
each failed attempt from a hook, and of the end from the future's first callback.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextvars import Context
from threading import Condition
from typing import Any, Protocol

from retryexec._core.job import Job, JobProgress
from retryexec._outcome import StopReason

logger = logging.getLogger("retryexec")


class JournalEntry(Protocol):
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


class JournalLink:
    """What connects an executor with its journal; to the journal, its host."""

    def __init__(self, journal: JobJournal) -> None:
        self._journal = journal
        self.recovered = Recovered()
        self._pool: Any = None
        self._settings: Any = None

    def serve(self, pool: Any, settings: Any) -> None:
        """Put jobs that are taken over into *pool*, with these *settings*; anew in a forked child."""
        if self._pool is not None:
            self.recovered = Recovered()  # those before are the parent's
        self._pool, self._settings = pool, settings
        pool.on_drained = self._close

    def _close(self, timeout: float | None) -> None:
        self._journal.close()

    def open(self) -> None:
        """Open the journal, and take over what dead processes have left."""
        self._journal.open(self)

    def accept(self, job: Job[Any]) -> None:
        """Write *job* down.

        Raises:
            TypeError: it has arguments, or is of no class that the journal knows.
            retryexec.journal.JournalError: it could not be written down.
        """
        if job.args or job.kwargs:
            msg = (
                f"a journal keeps a job, and no arguments beside it (got {job.submitted!r} with "
                "some): make them its fields"
            )
            raise TypeError(msg)
        job.entry = self._journal.accept(job.submitted)

    def refused(self, job: Job[Any]) -> None:
        """Take back *job*, which the pool has refused."""
        self._journal.cancelled(job.entry)

    def note_retry(self, job: Job[Any], delay: float) -> None:
        """Write down that another attempt follows in *delay* seconds."""
        progress = job.ensure_progress()
        self._journal.retrying(
            job.entry,
            progress.attempts,
            delay,
            progress.previous,
            elapsed=progress.failed_at - progress.began,
        )

    def note_end(self, job: Job[Any], reason: StopReason, exception: BaseException | None) -> None:
        """Write down how *job* ends."""
        if reason is StopReason.SUCCEEDED:  # first, as the most common
            self._journal.succeeded(job.entry)
        elif reason is StopReason.CANCELLED:
            self._journal.cancelled(job.entry)
        elif reason is not StopReason.SHUTDOWN:  # which leaves the job to the next process
            self._journal.died(job.entry, reason, job.attempts, exception)

    # ---- for the journal

    def recover(self, entries: Sequence[JournalEntry]) -> None:
        """Run the jobs of *entries*, on the executor's own settings and in no context."""
        pool, now, context = self._pool, self._pool.now(), Context()
        jobs: list[tuple[Job[Any], float | None]] = []
        for entry in entries:
            job: Job[Any] = Job(self._settings, entry.job, True, (), {}, context)
            job.entry = entry
            job.add_done_callback(self.recovered._ended)
            due = now + entry.due_in if entry.due_in > 0 else None
            if entry.attempts:
                job.started = now - entry.elapsed
                job.progress = progress = JobProgress(job.started)
                progress.attempts = entry.attempts
            elif due is not None:
                job.ensure_progress().started = now
            jobs.append((job, due))
        self.recovered._add(len(jobs))
        pool.take_over(jobs)

    def running(self) -> Iterator[JournalEntry]:
        """Return the entries of the jobs in the workers' hands."""
        for worker in self._pool.threads():
            job = worker.job
            if job is not None and job.entry is not None:
                yield job.entry
