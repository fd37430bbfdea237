"""Progress of one job: its attempts and failures, and when each was."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

from retryexec._cancel import CancelToken
from retryexec._clock import EngineClock
from retryexec._outcome import Failure, text_of

if TYPE_CHECKING:
    from retryexec._policy import RetryPolicy

HISTORY_LENGTH = 5
"""How many failures a history keeps, the latest ones."""

# What is kept of when a failed attempt was: its number, its start, and its end. Packed into bytes,
# since each float of its own would take 32 of them.
_TIMES = Struct("=qdd")
_pack_times = _TIMES.pack
_KEPT = (HISTORY_LENGTH - 1) * _TIMES.size  # of the failures before the latest

# The number, type and text of the latest failure that was a job's first. In an outage thousands of
# jobs fail with the same one, and share it.
_shared: list[tuple[int, type[BaseException] | None, str]] = [(0, None, "")]


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

    __slots__ = ("_errors", "_times", "attempts", "began", "delays", "previous", "started")

    def __init__(self, started: float = 0.0, attempts: int = 0) -> None:
        self.attempts = attempts  # how many have begun
        # When the first of them began, and when the latest did, in the clock's seconds.
        self.began = self.started = started
        self.delays: Iterator[Any] | None = None  # the job's own run through the backoff
        self.previous: BaseException | None = None  # what the latest failed attempt raised
        # The history: few are ever read, so it is kept in as few and as small objects as can be.
        self._times = b""  # _TIMES of each failure, oldest first
        # The number, type and text of each failure that is not of the type and text of the one
        # before it, latest first: in an outage they all are.
        self._errors: tuple[Any, ...] = ()

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        errors, times = self._errors, self._times
        while errors is not self._errors:  # the job has failed meanwhile, in another thread
            errors, times = self._errors, self._times
        return tuple(
            [
                Failure(number, started, ended - started, *_error_of(number, errors))
                for number, started, ended in _TIMES.iter_unpack(times)
            ]
        )

    def begin(self, now: float) -> None:
        """Note the start of an attempt."""
        if self.attempts == 0:
            self.began = now
        self.attempts += 1
        self.started = now

    def fail(self, exception: BaseException | None, now: float) -> None:
        """Record that the attempt begun last has failed, with *exception* or a refused value."""
        self.previous = exception
        kind = None if exception is None else type(exception)
        text = "refused result" if exception is None else text_of(exception)
        errors, times = self._errors, self._times
        # Before its time, which a thread that reads both must find an error for. So there is one
        # more of them kept.
        if not errors:
            same = _shared[0]
            if same[0] != self.attempts or same[1] is not kind or same[2] != text:
                same = _shared[0] = (self.attempts, kind, text)
            self._errors = same
        elif errors[1] is not kind or errors[2] != text:
            self._errors = (self.attempts, kind, text, *errors[: 3 * HISTORY_LENGTH])
        latest = _pack_times(self.attempts, self.started, now)
        self._times = (times if len(times) <= _KEPT else times[_TIMES.size :]) + latest

    @property
    def failed(self) -> bool:
        """Whether the attempt begun last is on record as failed."""
        return bool(self._times) and self._latest()[0] == self.attempts

    @property
    def failed_at(self) -> float:
        """When the latest failed attempt ended."""
        return self._latest()[2] if self._times else self.started

    def _latest(self) -> tuple[int, float, float]:
        return _TIMES.unpack_from(self._times, len(self._times) - _TIMES.size)

    def deadline(self, policy: "RetryPolicy") -> float | None:
        """Return when the attempt's or the job's limit passes, whichever is sooner."""
        timeout, elapsed = policy.attempt_timeout, policy.max_elapsed
        deadline = None if timeout is None else self.started + timeout
        if elapsed is not None and (deadline is None or self.began + elapsed < deadline):
            deadline = self.began + elapsed
        return deadline

    def is_cancelled(self, settings: Settings) -> bool:
        """Return whether somebody wants the job, which has these *settings*, to stop."""
        return settings.cancel is not None and settings.cancel.cancelled


def seconds_left(settings: Settings, deadline: float | None) -> float | None:
    """Return the seconds until *deadline*, or until a token's time is up if that is sooner.

    0.0 once that has passed; None if there is neither.
    """
    own = None if deadline is None else max(0.0, deadline - settings.clock.now())
    token = None if settings.cancel is None else settings.cancel.remaining()
    if own is None or token is None:
        return token if own is None else own
    return min(own, token)


def _error_of(number: int, errors: tuple[Any, ...]) -> tuple[type[BaseException] | None, str]:
    """Return type and text of the failure *number*, of those that `Progress` keeps."""
    first = next(i for i in range(0, len(errors), 3) if errors[i] <= number)
    return errors[first + 1], errors[first + 2]
