"""The seam: an accepted job as executor and journal share it, and what each asks of the other."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, Protocol

from retryexec.journal._errors import JournalError

# An entry's `_row` while it has none: its story is over; the writer has not seen it; the file
# that it was in is lost, and there is no other yet.
OVER = 0
UNSEEN = -1
HOMELESS = -2


class Past(NamedTuple):
    """What failed attempts have left: to be on disk as a whole.

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
    errors: tuple["ErrorText", ...]

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the first attempt to the end of the latest that failed."""
        if self.first_at is None:
            return 0.0
        return max(0.0, self.due_at - self.delay - self.first_at)


class ErrorText(NamedTuple):
    """A failed attempt in words: its number, when, the exception's type and text."""

    attempt: int
    at: float
    type: str
    text: str


class End(NamedTuple):
    """How an entry ended: dead with a reason, or well (None), and the traceback's text."""

    reason: str | None
    errors: tuple[ErrorText, ...] = ()
    attempts: int = 0


DONE = End(None)

# Guards the birth of `Entry.accepted`; never held while a future is resolved.
_birth = Lock()


class Entry:
    """One accepted job.

    Attributes:
        id: its name through all attempts and crashes: a UUID (version 7) in hexadecimal.
        job: the job object.
        kind: what its class is registered as.
        attempts: failed attempts so far, before any crash included.
        crashes: how often a process ended while this job was at work.
        due_in: of a recovered entry, seconds until its next attempt is due.
        elapsed: of a recovered entry, seconds from its first attempt to the end of the latest;
            time in which nobody ran it does not count.
    """

    # What begins with an underscore is the writer thread's, except: _past and _end are set
    # by the thread that has the job, before the entry goes into the writer's queue.
    __slots__ = (
        "_data",
        "_end",
        "_file",
        "_future",
        "_marked",
        "_past",
        "_row",
        "_version",
        "_waiter",
        "accepted_at",
        "attempts",
        "crashes",
        "due_in",
        "elapsed",
        "id",
        "job",
        "kind",
        "refusal",
    )

    def __init__(  # noqa: PLR0917  for each job, and keywords take time
        self, name: str, job: Any, kind: str, version: int, data: bytes | str, accepted_at: float, /
    ) -> None:
        self.id = name
        self.job = job
        self.kind = kind
        self.attempts = 0
        self.crashes = 0
        self.due_in = 0.0
        self.elapsed = 0.0
        self.accepted_at = accepted_at
        # Why the journal has not taken it after all; None while it has, or may.
        self.refusal: JournalError | None = None
        self._version = version
        self._data = data
        self._row = UNSEEN
        self._file: Any = None
        self._past: Past | None = None
        self._end: End | None = None
        self._marked = False
        self._waiter: Any = None
        self._future: Future[None] | None = None

    @property
    def errors(self) -> tuple[ErrorText, ...]:
        """The latest failures, in words."""
        return () if self._past is None else self._past.errors

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the entry is on disk; made when first asked for."""
        if self._future is None:
            future: Future[None] = Future()
            future.set_running_or_notify_cancel()
            with _birth:
                if self._future is None:
                    self._future = future
            self._tell()
        return self._future

    def _tell(self) -> None:
        """Resolve the future, if there is one and the answer is known; harmless if it was."""
        future = self._future
        if future is None or self._row < OVER or (self._file is None and self._row > OVER):
            return
        # Asked for and answered at the same moment, both sides may find each other.
        with suppress(InvalidStateError):
            if self.refusal is None:
                future.set_result(None)
            else:
                future.set_exception(self.refusal)

    def __repr__(self) -> str:
        where = "accepting" if self._row < OVER else "over" if self._row == OVER else "on disk"
        return f"<Entry {self.id} of {self.kind!r}: {self.attempts} failed attempts, {where}>"


class Host(Protocol):
    """What a journal has of its executor."""

    def recover(self, entries: Sequence[Entry]) -> None:
        """Run the jobs of *entries*, which a dead process left; called outside all locks."""
        ...

    def running(self) -> Iterable[Entry]:
        """Return the entries in a worker's hand at this moment; quick, and takes no lock long."""
        ...
