"""Progress of one job: its attempts and failures, and when each was."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retryexec._cancel import CancelToken
from retryexec._clock import EngineClock
from retryexec._outcome import Failure, text_of

if TYPE_CHECKING:
    from retryexec._policy import RetryPolicy

HISTORY_LENGTH = 5
"""How many failures a history keeps, the latest ones."""

_FIELDS = len(Failure._fields)
_KEPT = (HISTORY_LENGTH - 1) * _FIELDS  # of the failures before the latest


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Settings:
    """The settings that a job was accepted with; one value serves many jobs."""

    policy: "RetryPolicy"
    clock: EngineClock
    cancel: CancelToken | None


class Progress:
    """How far one job has come: what the policy decides by.

    Only the thread that runs the job's attempt writes here, and a job has one at a time.
    """

    __slots__ = ("_records", "attempts", "began", "delays", "previous", "started")

    def __init__(self, started: float = 0.0, attempts: int = 0) -> None:
        self.attempts = attempts  # how many have begun
        # When the first of them began, and when the latest did, in the clock's seconds.
        self.began = self.started = started
        self.delays: Iterator[Any] | None = None  # the job's own run through the backoff
        self.previous: BaseException | None = None  # what the latest failed attempt raised
        # The fields of each Failure, one after the other: few are ever read, and one tuple is
        # lighter than one for each. Replaced in one store, for threads that read it meanwhile.
        self._records: tuple[Any, ...] = ()

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        records = self._records
        starts = range(0, len(records), _FIELDS)
        return tuple([Failure._make(records[i : i + _FIELDS]) for i in starts])

    def begin(self, now: float) -> None:
        """Note the start of an attempt."""
        if self.attempts == 0:
            self.began = now
        self.attempts += 1
        self.started = now

    def fail(self, exception: BaseException | None, now: float) -> None:
        """Record that the attempt begun last has failed, with *exception* or a refused value."""
        self.previous = exception
        started = self.started
        kind = None if exception is None else type(exception)
        text = "refused result" if exception is None else text_of(exception)
        latest = (self.attempts, started, now - started, kind, text)
        # Not (*records, *latest), which takes twice as long.
        records = self._records
        self._records = (records if len(records) <= _KEPT else records[_FIELDS:]) + latest

    @property
    def failed(self) -> bool:
        """Whether the attempt begun last is on record as failed."""
        return self._records[-_FIELDS : 1 - _FIELDS] == (self.attempts,)

    @property
    def failed_at(self) -> float:
        """When the latest failed attempt ended."""
        return self.started + (self._records[2 - _FIELDS] if self._records else 0.0)

    def deadline(self, policy: "RetryPolicy") -> float | None:
        """Return when the attempt's or the job's limit passes, whichever is sooner."""
        limits = (self.started, policy.attempt_timeout), (self.began, policy.max_elapsed)
        return min((start + limit for start, limit in limits if limit is not None), default=None)

    def is_cancelled(self, settings: Settings) -> bool:
        """Return whether somebody wants the job, which has these *settings*, to stop."""
        return settings.cancel is not None and settings.cancel.cancelled
