"""The interface between an executor and its journal: what each asks of the other.

The executor runs its jobs as ever, and tells `JournalLink` of four moments in the life of each: it
is accepted, an attempt is about to start, another attempt follows, it has ended. The link tells the
journal, which it knows as a `JobJournal`. To the journal the link is the host that runs what dead
processes have left.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import Context
from dataclasses import replace
from functools import partial
from threading import Condition
from typing import TYPE_CHECKING, Any, Protocol

from retryexec._collector import BATCH, collector_off
from retryexec._core.controlled import ControlledJob
from retryexec._core.job import Job, JobProgress
from retryexec._core.settings import JobSettings
from retryexec._core.worker import give_up
from retryexec._errors import MovedError
from retryexec._outcome import StopReason
from retryexec._typing import override
from retryexec._validate import as_float

if TYPE_CHECKING:
    from retryexec._core.pool import Pool

logger = logging.getLogger("retryexec")


LAST_FLUSH = 3.0
"""Seconds that the journal's last transaction has, even where a shutdown's timeout has passed."""


class JournalKey(Protocol):
    """The key of a job, as the journal keeps it.

    Attributes:
        value: the key.
        latest: whether a newer job of the key replaces this one while it waits.
        held: whether the job is not to start yet: it may have ended its process, and is handed over
            once more when its turn has come.
    """

    value: Hashable
    latest: bool
    held: bool


class JournalEntry(Protocol):
    """A job, as the journal describes it to the executor."""

    id: str
    job: Any
    attempts: int
    due_in: float
    elapsed: float
    suspect: bool

    @property
    def moved(self) -> bool:
        """Whether another process has taken the job over, and runs it."""
        ...

    @property
    def key(self) -> JournalKey | None:
        """The job's key; None if it has none."""
        ...

    @property
    def trace(self) -> str | None:
        """The ``traceparent`` of the span in which the job was submitted; None if unknown."""
        ...

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the job is on disk."""
        ...


class JobJournal(Protocol):
    """What an executor asks of its journal; `retryexec.journal.Journal` is one.

    Attributes:
        may_start: None if an accepted job is this process's until it ends, come what may. Else it
            is called before each attempt with the entry, and what tells that no attempt starts any
            more. It waits, and returns False if another process has the job by now.
    """

    @property
    def may_start(self) -> "Callable[[Any, Callable[[], bool]], bool] | None": ...

    def open(self, host: Any) -> None:
        """Begin to write, and hand over to *host* what dead processes have left."""
        ...

    def close(self, timeout: float | None = None) -> bool:
        """Write down what has ended, within *timeout* seconds; the rest is the next process's."""
        ...

    def accept(self, job: Any, *, key: Hashable = None, latest: bool = False) -> Any:
        """Take *job*, and return its entry; raise if that cannot be.

        Args:
            key: its key; None if it has none.
            latest: whether a newer job of the key replaces this one while it waits.
        """
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

    def superseded(self, entry: Any, by: Any) -> None:
        """Note that the job of *by*, which is newer and of the same key, has replaced the job."""
        ...

    def cancelled(self, entry: Any) -> None:
        """Note that the job was cancelled."""
        ...

    def died(
        self, entry: Any, reason: str, attempts: int, error: BaseException | None = None
    ) -> None:
        """Note that the job has finally failed."""
        ...


def checked_journal(value: Any) -> JobJournal:
    """Return *value* if it is a journal; raise TypeError for anything else."""
    if not all(callable(getattr(value, name, None)) for name in ("open", "accept", "retrying")):
        msg = f"journal takes a retryexec.journal.Journal (got {value!r})"
        raise TypeError(msg)
    return value  # type: ignore[no-any-return]  # checked above


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
            limit = None if timeout is None else as_float(timeout)
            return self._changed.wait_for(lambda: self._unfinished == 0, limit)

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

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._count}, {self._unfinished} unfinished>"


class JournalLink:
    """An executor's link to its journal; to the journal, its host."""

    def __init__(self, journal: JobJournal) -> None:
        self._journal = journal
        self.recovered = Recovered()
        self._pool: Pool | None = None
        self._settings: JobSettings | None = None
        self._may_start = getattr(journal, "may_start", None)
        # Whether a job may become another process's before it has ended.
        self.leased = self._may_start is not None
        # As `_settings`, for jobs with keys, where the executor itself has none.
        self._controlled: JobSettings | None = None
        self._held: dict[str, ControlledJob[Any]] = {}  # by their ids, until their turn or end

    def serve(self, pool: "Pool", settings: JobSettings) -> None:
        """Put jobs that are taken over into *pool*, with *settings*; again in a forked child."""
        if self._pool is not None:
            self.recovered = Recovered()  # those before are the parent's
            self._held = {}
        self._pool, self._settings, self._controlled = pool, settings, None
        # Not by a method of this object: it leads to the user's hooks, which outlive no executor.
        pool.on_drained = partial(_close, self._journal)

    def open(self) -> None:
        """Open the journal, and take over what dead processes have left."""
        self._journal.open(self)

    def stats(self) -> Any:
        """Return how the journal is, as a `retryexec.journal.JournalStats`; None if it has none."""
        stats = getattr(self._journal, "stats", None)
        return None if stats is None else stats()

    def wrap_journal(self, wrap: Callable[[Any], Any]) -> None:
        """Tell what *wrap* makes of the journal in its place; for telemetry."""
        self._journal = wrap(self._journal)

    # ---- moments in the life of a job

    def accept(self, job: Job[Any]) -> None:
        """Write *job* down.

        Raises:
            TypeError: it has arguments, or is not of a class that the journal knows, or has a key
                that the journal cannot keep.
            retryexec.journal.JournalError: it could not be written down.
        """
        if job.args or job.kwargs:
            msg = (
                f"a journal keeps a job, and no arguments beside it (got {job.submitted!r} with "
                "some): make them its fields"
            )
            raise TypeError(msg)
        if isinstance(job, ControlledJob) and job.key is not None:
            job.entry = self._journal.accept(job.submitted, key=job.key, latest=job.latest)
        else:
            job.entry = self._journal.accept(job.submitted)

    def refused(self, job: Job[Any]) -> None:
        """Take back *job*, which the pool refuses."""
        if isinstance(job, ControlledJob) and job.followers is not None:
            return  # it goes on all the same, for those that it has replaced
        self._journal.cancelled(job.entry)

    def may_start(self, job: Job[Any]) -> bool:
        """Return whether an attempt of the queued *job* may start, which may take a while to say.

        If it may not, as another process has the job, the job has ended when this returns.
        """
        entry, pool = job.entry, job.settings.pool
        if (
            self._may_start is None
            or entry is None
            or self._may_start(entry, lambda: pool.stopping or job.done())
        ):
            return True
        self._end_moved(job)
        return False

    def note_start(self, job: Job[Any]) -> None:
        """Note that an attempt of *job* is about to start; return once it may.

        That is at once, unless the job was running when a process died. Such a job is marked on
        disk first, so that the next crash counts against it and no other job.
        """
        assert job.entry is not None
        if job.entry.suspect:
            self._journal.starting(job.entry)

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
        """Write down how *job* ends; its first end counts."""
        if reason is StopReason.SUCCEEDED:  # first, as the most common
            self._journal.succeeded(job.entry)
        elif reason is StopReason.CANCELLED:
            self._journal.cancelled(job.entry)
        elif reason is StopReason.SUPERSEDED:
            newer = job.superseded_by
            assert isinstance(newer, ControlledJob)
            self._journal.superseded(job.entry, newer.entry)
        elif reason is not StopReason.SHUTDOWN and reason is not StopReason.MOVED:
            # Those two leave the job to another process.
            self._journal.died(job.entry, reason, job.attempts, exception)

    # ---- for the journal

    def recover(self, entries: Sequence[JournalEntry]) -> None:
        """Run the jobs of *entries*, on the executor's own settings and in no context."""
        pool, jobs = self._pool, list[tuple[Job[Any], float | None]]()
        assert pool is not None
        for start in range(0, len(entries), BATCH):
            with collector_off():
                jobs += self._jobs_of(entries[start : start + BATCH], pool.now())
        self.recovered.add(len(jobs))
        pool.take_over(jobs)

    def _jobs_of(
        self, entries: Sequence[JournalEntry], now: float
    ) -> Iterator[tuple[Job[Any], float | None]]:
        """Yield the jobs of *entries*, each with when it is due, or None."""
        pool, settings, may_be_held = self._pool, self._settings, bool(self._held)
        assert pool is not None
        assert settings is not None
        context, arguments = Context(), dict[str, Any]()
        count_end, controlled = self.recovered.count_end, settings.controlled
        for entry in entries:
            if may_be_held and (held := self._held.pop(entry.id, None)) is not None:
                pool.control.release(held)
                continue
            if controlled or entry.key is not None:
                job = self._controlled_job(entry, context)
            else:
                job = Job(settings, entry.job, True, (), arguments, context)
            job.entry = entry
            job.add_done_callback(count_end)
            due = now + entry.due_in if entry.due_in > 0 else None
            if entry.attempts:
                job.started = now - entry.elapsed
                job.progress = progress = JobProgress(job.started)
                progress.attempts = entry.attempts
            elif due is not None:
                job.ensure_progress().started = now
            yield job, due

    def _controlled_job(self, entry: JournalEntry, context: Context) -> Job[Any]:
        """Return a job of *entry* with the key that it was accepted with."""
        settings, key = self._settings, entry.key
        assert settings is not None
        if not settings.controlled:
            settings = self._controlled = self._controlled or replace(settings, controlled=True)
        job: ControlledJob[Any] = ControlledJob(settings, entry.job, True, (), {}, context)
        if key is not None:
            job.key, job.latest = key.value, key.latest
            if key.held:
                job.held_back = True
                # Before any of them may end, since the next turn comes with that.
                held = self._held
                held[entry.id] = job
                job.add_done_callback(lambda _: held.pop(entry.id, None))
        return job

    def moved(self, entries: Sequence[JournalEntry]) -> None:
        """End the jobs of *entries*, which another process runs; a running attempt is the last."""
        pool = self._pool
        assert pool is not None
        moved = {entry.id for entry in entries}
        for job in list(pool.unfinished):
            if job.entry is not None and job.entry.id in moved:
                self._end_moved(job)

    def _end_moved(self, job: Job[Any]) -> None:
        error = MovedError(
            "another process has taken this job over and runs it: this one could not renew its "
            "lease in time"
        )
        if job.expire(error):
            give_up(job.settings.pool, job, error, StopReason.MOVED)

    def running(self) -> Iterator[JournalEntry]:
        """Return the entries of the jobs that run, here or elsewhere."""
        assert self._pool is not None
        for job in self._pool.running():
            if job.entry is not None:
                yield job.entry


def _close(journal: JobJournal, timeout: float | None) -> None:
    """Close *journal*, for whose last transaction there is always some time."""
    journal.close(None if timeout is None else max(timeout, LAST_FLUSH))
