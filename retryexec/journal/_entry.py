"""An accepted job, as executor, writer and store share it."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from enum import Enum
from threading import Lock
from typing import Any, NamedTuple, Protocol

from retryexec._typing import override
from retryexec.journal._errors import JournalError
from retryexec.journal._keys import EntryKey
from retryexec.journal._rows import (
    TRACE,
    ErrorText,
    JobRow,
    LetterRow,
    errors_json,
    errors_of,
    printable,
    trace_of,
)


class EntryState(Enum):
    """Where an entry is, as far as the writer knows."""

    NEW = "new"  # shown to the writer, or about to be; on no disk
    WRITING = "being written"  # in a transaction that has not been committed
    STORED = "on disk"  # on disk, as `row` of `lane`
    DETACHED = "detached"  # its lane is lost, and it is to be written to another one
    ENDED = "ended"  # nothing of it is on disk, or has to be


class FailureRecord(NamedTuple):
    """What the failed attempts of a job have left, to be on disk as a whole.

    Attributes:
        attempts: how many failed.
        first_at: when the first one began, by the wall clock; None while none has, as in a dead
            letter's second life.
        due_at: when the next is due, by the wall clock.
        delay: seconds that were asked for; whatever the clock does, no more are waited.
        errors: the latest failures, oldest first, as text.
    """

    attempts: int
    first_at: float | None
    due_at: float
    delay: float
    errors: tuple[ErrorText, ...]

    @classmethod
    def of_row(cls, row: JobRow) -> "FailureRecord | None":
        """Return what a record says of failed attempts; None if there were none."""
        if row.attempts == 0 and row.errors is None:
            return None
        due_at = row.accepted_at if row.due_at is None else row.due_at
        return cls(row.attempts, row.first_at, due_at, row.delay or 0.0, errors_of(row.errors))

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the first attempt to the end of the latest that failed."""
        if self.first_at is None:
            return 0.0
        return max(0.0, self.due_at - self.delay - self.first_at)


class Outcome(NamedTuple):
    """How a job ended.

    Attributes:
        reason: why it is a dead letter. None if it is not, and nothing is to be done but to remove
            it; for what else there is, see `SUCCEEDED` and `superseded`.
        errors, attempts: of a dead letter, its latest failures, and how many there were.
        by: the newer job of its key that has replaced it.
    """

    reason: str | None
    errors: tuple[ErrorText, ...] = ()
    attempts: int = 0
    by: "Entry | None" = None


DONE = Outcome(None)
SUCCEEDED = Outcome("succeeded")
"""Of a job with a key: older dead letters of that key are stale from then on."""


def superseded(by: "Entry") -> Outcome:
    """Return the end of a job that *by* has replaced, which may not be on disk yet."""
    return Outcome("superseded", by=by)


_NEW = EntryState.NEW  # by this name, for each job

# Guards the making of `Entry.accepted`; never held while a future is resolved.
_making = Lock()


class Entry:
    """One accepted job.

    Attributes:
        id: its name through all attempts and crashes: a UUID (version 7) in hexadecimal.
        job: the job object.
        kind: what its class is registered as.
        version, data: of its fields, and the fields as JSON.
        attempts: failed attempts so far, before any crash included.
        crashes: how often a process ended while this job was at work.
        due_in: of a recovered entry, seconds until its next attempt is due.
        elapsed: of a recovered entry, seconds from its first attempt to the end of the latest;
            time in which nobody ran it does not count.
        key: of a job that has one.
        refusal: why the journal has not taken it after all; None while it has, or may.
        failures, outcome: set by the thread that has the job, before it shows the entry to the
            writer. What follows is set by the writer's thread alone.
        state, lane, row: where it is on disk, if it is.
        marked: whether the disk says that it is at work.
        suspect: whether it was at work in a process that died, and so has to be marked on disk
            before each of its attempts.
        waiter: a lock to release once it is on disk, or refused.
        future: `accepted`, once it was asked for.
    """

    __slots__ = (
        "accepted_at",
        "attempts",
        "crashes",
        "data",
        "due_in",
        "elapsed",
        "failures",
        "future",
        "id",
        "job",
        "key",
        "kind",
        "lane",
        "marked",
        "outcome",
        "refusal",
        "row",
        "state",
        "suspect",
        "version",
        "waiter",
    )

    def __init__(  # noqa: PLR0917  for each job, and keywords take time
        self, name: str, job: Any, kind: str, version: int, data: bytes | str, accepted_at: float, /
    ) -> None:
        self.id = name
        self.job = job
        self.kind = kind
        self.version = version
        self.data = data
        self.accepted_at = accepted_at
        self.attempts = 0
        self.crashes = 0
        self.due_in = 0.0
        self.elapsed = 0.0
        self.key: EntryKey | None = None
        self.refusal: JournalError | None = None
        self.failures: FailureRecord | None = None
        self.outcome: Outcome | None = None
        self.state = _NEW
        self.lane: Any = None
        self.row: int | None = None
        self.marked = False
        self.suspect = False
        self.waiter: Any = None
        self.future: Future[None] | None = None

    @property
    def moved(self) -> bool:
        """Whether another process has taken the job over, and runs it."""
        return self.state is EntryState.ENDED and self.outcome is None and self.refusal is None

    @property
    def errors(self) -> tuple[ErrorText, ...]:
        """The latest failures, as text."""
        return () if self.failures is None else self.failures.errors

    @property
    def trace(self) -> str | None:
        """The ``traceparent`` of the span that the job was submitted in, if that is known."""
        return trace_of(self.errors)

    @property
    def text(self) -> str:
        """The fields, as JSON."""
        return self.data if isinstance(self.data, str) else self.data.decode()

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the entry is on disk; made when first asked for."""
        if self.future is None:
            future: Future[None] = Future()
            future.set_running_or_notify_cancel()
            with _making:
                if self.future is None:
                    self.future = future
            self.resolve()
        return self.future

    def resolve(self) -> None:
        """Resolve `accepted`, if it was asked for and the answer is known; harmless if it was."""
        future = self.future
        if future is None or self.state not in {EntryState.STORED, EntryState.ENDED}:
            return
        # Asked for and answered at the same moment, both sides may find each other.
        with suppress(InvalidStateError):
            if self.refusal is None:
                future.set_result(None)
            else:
                future.set_exception(self.refusal)

    def as_row(self, seq: int) -> JobRow:
        """Return it as the record of row *seq*."""
        row = JobRow(seq, self.id, self.kind, self.version, self.text)
        row.attempts, row.crashes = self.attempts, self.crashes
        row.started, row.accepted_at = int(self.marked), self.accepted_at
        if self.failures is not None:
            row.attempts, row.first_at, row.due_at, row.delay, errors = self.failures
            row.errors = errors_json(errors)
        if self.key is not None:
            row.key, row.latest = self.key.text, int(self.key.latest) or None
            row.stale = int(self.key.stale) or None
        return row

    def as_letter(self, now: float) -> LetterRow:
        """Return it, which has died, as a dead letter."""
        outcome, source = self.outcome, "" if self.lane is None else self.lane.name
        assert outcome is not None
        letter = LetterRow(self.id, self.kind, self.version, self.text, printable(outcome.reason))
        letter.attempts, letter.crashes = outcome.attempts, self.crashes
        letter.accepted_at, letter.died_at = self.accepted_at, now
        letter.errors, letter.source = errors_json(outcome.errors), source
        if self.key is not None:
            letter.key, letter.latest = self.key.text, int(self.key.latest) or None
            letter.stale = int(self.key.stale) or None
        return letter

    @override
    def __repr__(self) -> str:
        return (
            f"<Entry {self.id} of {self.kind!r}: {self.attempts} failed attempts, "
            f"{self.state.value}>"
        )


def traced_entry(  # noqa: PLR0917  as Entry's
    trace: str, name: str, job: Any, kind: str, version: int, data: bytes | str, at: float, /
) -> Entry:
    """Return an entry of a job that was submitted within a *trace*, which is to be on disk."""
    entry = Entry(name, job, kind, version, data, at)
    entry.failures = FailureRecord(0, None, at, 0.0, (ErrorText(0, at, TRACE, trace),))
    return entry


class Host(Protocol):
    """What a journal has of its executor."""

    def recover(self, entries: Sequence[Entry]) -> None:
        """Run the jobs of *entries*, which a dead process left; called outside all locks."""
        ...

    def moved(self, entries: Sequence[Entry]) -> None:
        """End the jobs of *entries*, which another process runs; called outside all locks."""
        ...

    def running(self) -> Iterable[Entry]:
        """Return the entries that workers run at this moment; quick, and takes no lock long."""
        ...
