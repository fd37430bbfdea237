"""Progress of one job: its attempts and failures, and when each was."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from retryexec._cancel import CancelToken
from retryexec._clock import EngineClock
from retryexec._outcome import Failure, text_of

if TYPE_CHECKING:
    from retryexec._policy import RetryPolicy

HISTORY_LENGTH = 5
"""How many failures a history keeps, the latest ones."""


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

    __slots__ = (
        "_recorded",
        "attempts",
        "began",
        "delays",
        "previous",
        "seconds",
        "started",
        "unrecorded",
    )

    def __init__(self, started: float = 0.0, attempts: int = 0) -> None:
        self.attempts = attempts  # how many have begun
        # When the first of them began, and when the latest did, in the clock's seconds.
        self.began = self.started = started
        self.seconds = 0.0  # how long the latest failed attempt took
        self.delays: Iterator[Any] | None = None  # the job's own run through the backoff
        self.previous: BaseException | None = None  # what the latest failed attempt raised
        self.unrecorded = False  # whether that failure is still to be recorded
        self._recorded: tuple[_Record, ...] = ()

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        recorded = self._recorded
        if self.unrecorded and not (recorded and recorded[-1][0] == self.attempts):
            recorded = self._with_latest()
        return tuple(map(Failure._make, recorded))

    def record(self) -> None:
        """Put the latest failure, which is unrecorded, on record.

        Only when the next attempt begins, or the job ends: a waiting job is lighter without.
        """
        # In one store, so that a thread that reads `history` meanwhile does not see it twice.
        self._recorded = self._with_latest()
        self.unrecorded = False

    def _with_latest(self) -> "tuple[_Record, ...]":
        exception = self.previous
        kind = None if exception is None else type(exception)
        text = "refused result" if exception is None else text_of(exception)
        latest = (self.attempts, self.started, self.seconds, kind, text)
        # Not (*recorded, latest), which takes twice as long.
        return self._recorded[1 - HISTORY_LENGTH :] + (latest,)  # noqa: RUF005

    def begin(self, now: float) -> None:
        """Note the start of an attempt."""
        if self.unrecorded:
            self.record()
        elif self.attempts == 0:
            self.began = now
        self.attempts += 1
        self.started = now

    def fail(self, exception: BaseException | None, now: float) -> None:
        """Note that the attempt begun last has failed, with *exception* or a refused value."""
        self.previous = exception
        self.seconds = now - self.started
        self.unrecorded = True

    def end(self) -> None:
        """Put the latest failure on record, and drop what only further attempts need."""
        if self.unrecorded:
            self.record()
        self.delays = self.previous = None

    @property
    def failed_at(self) -> float:
        """When the latest failed attempt ended."""
        return self.started + self.seconds

    def deadline(self, policy: "RetryPolicy") -> float | None:
        """Return when the attempt's or the job's limit passes, whichever is sooner."""
        limits = (self.started, policy.attempt_timeout), (self.began, policy.max_elapsed)
        return min((start + limit for start, limit in limits if limit is not None), default=None)

    def is_cancelled(self, settings: Settings) -> bool:
        """Return whether somebody wants the job, which has these *settings*, to stop."""
        return settings.cancel is not None and settings.cancel.cancelled


# The fields of a Failure. A plain tuple, since few of them are ever read.
_Record: TypeAlias = tuple[int, float, float, type[BaseException] | None, str]
