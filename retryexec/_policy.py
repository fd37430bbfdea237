"""Whether to try again: the policy, and the one place that decides."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import timedelta
from numbers import Number
from typing import Any, NamedTuple, TypeAlias

from retryexec._backoff import Delays, ExponentialBackoff, reiterable
from retryexec._cancel import CancelToken
from retryexec._clock import Clock
from retryexec._errors import PermanentError, RetryAfter
from retryexec._exceptions import report, with_traceback
from retryexec._outcome import Failure, StopReason, text_of
from retryexec._validate import Seconds, function, seconds, seconds_or_none, whole

Predicate: TypeAlias = Callable[[Exception], bool | float | timedelta | None]
RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Predicate

HISTORY_LENGTH = 5
"""How many failures a history keeps, the latest ones."""

# A tenth of a microsecond: sums of decimal fractions are off by less, and "exactly at the limit
# still counts" is meant for them too.
ROUNDING = 1e-7


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """When a failed job is tried again, after what wait, and when it is given up.

    A frozen value, shared by any number of jobs and threads.

    Args:
        max_attempts: the most attempts, the first try included; None for no limit.
        max_elapsed: seconds (or a timedelta) from the start of the first attempt; no retry
            starts later, and one that would is not waited for: the job fails at once. None for
            no limit.
        backoff: the delays between attempts: any re-iterable of seconds or timedeltas.
        retry_on: which errors are worth another try: an exception type, a tuple of types, or a
            callable ``exception -> bool | seconds | timedelta`` (a number is the delay to use).
            Control flow (`KeyboardInterrupt`, `SystemExit`, `CancelledError`) never is.
        retry_on_result: ``value -> bool``, asked of returned values: True tries again. When
            attempts run out on such a value, that value is the result.
        attempt_timeout: seconds (or a timedelta) that an attempt may take, which it can read
            as ``current_attempt().remaining()``. Nothing interrupts a thread: an attempt that
            ends late still counts.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """

    max_attempts: int | None
    max_elapsed: float | None
    backoff: Iterable[Any]
    retry_on: RetryOn
    retry_on_result: Callable[[Any], object] | None
    attempt_timeout: float | None

    def __init__(
        self,
        *,
        max_attempts: int | None = 10,
        max_elapsed: Seconds | None = 900.0,
        backoff: Delays = ExponentialBackoff(),
        retry_on: RetryOn = Exception,
        retry_on_result: Callable[[Any], object] | None = None,
        attempt_timeout: Seconds | None = None,
    ) -> None:
        fill = object.__setattr__
        if max_attempts is not None:
            max_attempts = whole("max_attempts counts the first try; it", max_attempts, least=1)
        fill(self, "max_attempts", max_attempts)
        fill(self, "max_elapsed", seconds_or_none("max_elapsed", max_elapsed))
        fill(self, "backoff", reiterable("backoff", backoff))
        fill(self, "retry_on", _error_filter(retry_on))
        fill(self, "retry_on_result", function("retry_on_result", retry_on_result))
        fill(self, "attempt_timeout", seconds_or_none("attempt_timeout", attempt_timeout))

    @classmethod
    def never(cls) -> "RetryPolicy":
        """Return the policy that tries once."""
        return cls(max_attempts=1)

    def replace(self, **changes: Any) -> "RetryPolicy":
        """Return this policy with *changes*, by the names of the constructor.

        Raises:
            TypeError: a name is not one of them.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                msg = f"a RetryPolicy has no {name!r}; it has {', '.join(names)}"
                raise TypeError(msg)
        return dataclasses.replace(self, **changes)


def checked_policy(value: Any) -> RetryPolicy:
    """Return *value*, which is a policy; raise TypeError for anything else."""
    if not isinstance(value, RetryPolicy):
        msg = f"policy takes a RetryPolicy, such as RetryPolicy(max_attempts=5) (got {value!r})"
        raise TypeError(msg)
    return value


@dataclass(frozen=True, slots=True)
class Terms:
    """What a job was accepted under; one value serves many jobs."""

    policy: RetryPolicy
    clock: Clock
    cancel: CancelToken | None


class Progress:
    """How far one job has come: all that the policy judges by.

    Only the thread that runs the job's attempt writes here, and a job has one at a time.
    The defaults are on the class, so that a job that never fails stores next to nothing.
    """

    attempts: int = 0
    """Attempts begun so far."""

    _began: float = 0.0  # when the first attempt began, in the clock's seconds
    _started: float = 0.0  # when the latest attempt began
    _seconds: float = 0.0  # how long the latest failed attempt took
    _delays: Iterator[Any] | None = None  # the job's own run through the backoff
    _previous: BaseException | None = None  # what the latest failed attempt raised
    _unrecorded: bool = False  # whether that failure is still to be added to _recorded
    _recorded: tuple[Failure, ...] = ()
    _terms: Any = None  # the Terms it was accepted under

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        if not self._unrecorded or (self._recorded and self._recorded[-1][0] == self.attempts):
            return self._recorded
        exception = self._previous
        latest = Failure(
            self.attempts,
            self._started,
            self._seconds,
            None if exception is None else type(exception),
            "refused result" if exception is None else text_of(exception),
        )
        return (*self._recorded, latest)[-HISTORY_LENGTH:]

    def _begin_attempt(self, now: float) -> None:
        # The latest failure becomes a record only now: a waiting job is lighter without one.
        if self._unrecorded:
            self._recorded = self.history
            self._unrecorded = False
        self.attempts += 1
        self._started = now
        if self.attempts == 1:
            self._began = now

    def _failed(self, exception: BaseException | None, now: float) -> None:
        """Note that the attempt begun last has failed, with *exception* or a refused value."""
        self._previous = exception
        self._seconds = now - self._started
        self._unrecorded = True

    def _too_late(self, policy: RetryPolicy, start: float) -> bool:
        """Return whether an attempt starting at *start* would start after the limit."""
        limit = policy.max_elapsed
        return limit is not None and start - self._began > limit + ROUNDING

    def _deadline(self, policy: RetryPolicy) -> float | None:
        """Return when the attempt's or the job's limit passes, whichever is sooner."""
        limits = (self._started, policy.attempt_timeout), (self._began, policy.max_elapsed)
        return min((start + limit for start, limit in limits if limit is not None), default=None)

    def _is_cancelled(self) -> bool:
        """Return whether somebody wants the job to stop."""
        cancel = self._terms.cancel
        return cancel is not None and cancel.cancelled


class Decision(NamedTuple):
    """What follows an attempt: either a `delay` or a `reason`, never both."""

    exception: BaseException | None
    """What the attempt failed with, taken out of `PermanentError` and `RetryAfter`."""
    delay: float | None
    """Seconds until the next attempt."""
    reason: StopReason | None
    """Why there is none."""


def decide(
    policy: RetryPolicy, progress: Progress, raised: BaseException | None, value: Any, now: float
) -> Decision:
    """Decide what follows an attempt that raised *raised*, or returned *value* if that is None.

    Asks the policy's own callables and backoff, so never call it under a lock. One that raises
    ends the job with the job's own outcome, and is logged.
    """
    exception, named = raised, None
    if raised is None:
        if not _refuses(policy, value):
            return Decision(None, None, StopReason.SUCCEEDED)
    elif not isinstance(raised, Exception) or isinstance(raised, CancelledError):
        return Decision(raised, None, StopReason.NOT_RETRIABLE)  # control flow
    elif (permanent := _permanent(raised)) is not None:
        return Decision(permanent, None, StopReason.PERMANENT)
    elif isinstance(raised, RetryAfter):
        exception, named = _behind(raised, raised.__cause__), raised.seconds
    else:
        wanted, named = _wants(policy, raised)
        if not wanted:
            return Decision(raised, None, StopReason.NOT_RETRIABLE)
    if policy.max_attempts is not None and progress.attempts >= policy.max_attempts:
        return Decision(exception, None, StopReason.MAX_ATTEMPTS)
    delay = named if named is not None else _next_delay(policy, progress)
    if delay is None:
        return Decision(exception, None, StopReason.BACKOFF_EXHAUSTED)
    if progress._too_late(policy, now + delay):
        return Decision(exception, None, StopReason.MAX_ELAPSED)
    return Decision(exception, delay, None)


def _permanent(raised: Exception) -> BaseException | None:
    """Return what the job fails with if *raised*, or a cause it names, is a PermanentError."""
    if isinstance(raised, PermanentError):
        return _behind(raised, raised.exception)
    cause, seen = raised.__cause__, {id(raised)}
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, PermanentError):
            return raised
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def _behind(marker: Exception, exception: BaseException | None) -> BaseException:
    """Return the error behind *marker*, which lends it a traceback if it was never raised."""
    if exception is None:
        return marker
    if isinstance(exception, PermanentError):
        return _behind(marker, exception.exception)
    if exception.__traceback__ is None:
        with_traceback(exception, marker.__traceback__)
    return exception


def _wants(policy: RetryPolicy, raised: Exception) -> tuple[bool, float | None]:
    """Return whether `retry_on` wants another try, and the delay if it names one."""
    wanted = policy.retry_on
    if isinstance(wanted, (type, tuple)):
        return isinstance(raised, wanted), None
    try:
        answer = wanted(raised)
        if isinstance(answer, bool):
            return answer, None
        if isinstance(answer, (Number, timedelta)):
            return True, seconds("the delay that retry_on returned", answer)
        return bool(answer), None
    except Exception:
        report("retry_on failed: the job ends with its own exception")
        return False, None


def _refuses(policy: RetryPolicy, value: Any) -> bool:
    """Return whether `retry_on_result` wants another try for *value*."""
    if policy.retry_on_result is None:
        return False
    try:
        return bool(policy.retry_on_result(value))
    except Exception:
        report("retry_on_result failed: the job ends with its own result")
        return False


def _next_delay(policy: RetryPolicy, progress: Progress) -> float | None:
    """Return the next delay of the job's own run through the backoff; None at its end."""
    try:
        if progress._delays is None:
            progress._delays = iter(policy.backoff)
        for delay in progress._delays:
            return seconds("a delay of the backoff", delay)
    except Exception:
        report("the backoff failed: the job ends with its own exception")
    return None


def _error_filter(value: Any) -> RetryOn:
    kinds = value if isinstance(value, tuple) else (value,) if isinstance(value, type) else ()
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            msg = f"retry_on takes exception types, and {kind!r} is none"
            raise TypeError(msg)
    if not kinds and not callable(value) and value != ():
        msg = (
            "retry_on takes an exception type, a tuple of types, or a callable "
            f"exception -> bool | seconds (got {value!r})"
        )
        raise TypeError(msg)
    return value  # type: ignore[no-any-return]
