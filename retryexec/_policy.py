"""RetryPolicy, and `decide`, which says whether an attempt is followed by another."""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from numbers import Number
from typing import Any, TypeAlias, TypedDict, cast

from retryexec._backoff import Delays, ExponentialBackoff, fixed_delay
from retryexec._errors import PermanentError, RetryAfter
from retryexec._exceptions import report, with_traceback
from retryexec._groups import (
    all_match,
    asks_for_retry,
    is_control_flow,
    longest_named_delay,
    names_permanent,
)
from retryexec._outcome import StopReason
from retryexec._progress import Progress
from retryexec._suggest import suggests_names, unknown_argument
from retryexec._typing import Unpack
from retryexec._validate import (
    Seconds,
    callable_or_none,
    reiterable,
    seconds,
    seconds_or_none,
    whole_number,
)

Predicate: TypeAlias = Callable[[Exception], bool | float | timedelta | None]
RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Predicate

# A tenth of a microsecond: sums of decimal fractions are off by less, and "exactly at the limit
# still counts" is meant for them too.
ROUNDING = 1e-7


class PolicyChanges(TypedDict, total=False):
    """What `RetryPolicy.replace` and `RetryingExecutor.using` take; see `RetryPolicy`."""

    max_attempts: int | None
    max_elapsed: Seconds | None
    backoff: Delays
    retry_on: RetryOn
    retry_on_result: Callable[[Any], object] | None
    attempt_timeout: Seconds | None


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """When a failed job is tried again, after what wait, and when it is given up.

    A frozen value, which any number of jobs and threads may share.

    Args:
        max_attempts: the most attempts, including the first; None for no limit.
        max_elapsed: seconds (or a timedelta) from the start of the first attempt, after which no
            retry starts. If the next retry would start later, the job fails at once. None for
            no limit.
        backoff: the delays between attempts: any re-iterable of seconds or timedeltas.
        retry_on: which errors to retry: an exception type, a tuple of types, or a callable
            ``exception -> bool | seconds | timedelta`` (a number is the delay to use). Control
            flow (`KeyboardInterrupt`, `SystemExit`, `CancelledError`) is never retried. An
            ExceptionGroup is retried if it is of such a type itself, or if all its members are
            (see "Groups of exceptions" in the docs); a callable is given the group.
        retry_on_result: ``value -> bool``, called with each returned value; True means retry. If
            attempts run out on such a value, that value is the result.
        attempt_timeout: seconds (or a timedelta) that an attempt may take. The attempt can read
            the rest as ``current_attempt().remaining()``. Nothing interrupts a thread: an attempt
            that ends late still counts.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    max_attempts: int | None
    max_elapsed: float | None
    backoff: Iterable[Any]
    retry_on: RetryOn
    retry_on_result: Callable[[Any], object] | None
    attempt_timeout: float | None
    # The same in the form that decisions read quickly: limits as numbers, infinity for none; the
    # types in retry_on, none if it is a callable; and the delay, if it is always the same. No
    # attempt may start when more than elapsed_limit has passed since the first one started.
    attempt_limit: float = field(init=False, repr=False, compare=False)
    elapsed_limit: float = field(init=False, repr=False, compare=False)
    retried_types: tuple[type[Exception], ...] = field(init=False, repr=False, compare=False)
    fixed_delay: float | None = field(init=False, repr=False, compare=False)

    @suggests_names
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
            max_attempts = whole_number(
                "max_attempts counts the first try; it", max_attempts, least=1
            )
        fill(self, "max_attempts", max_attempts)
        fill(self, "max_elapsed", seconds_or_none("max_elapsed", max_elapsed))
        fill(self, "backoff", reiterable("backoff", backoff))
        fill(self, "retry_on", _error_filter(retry_on))
        fill(self, "retry_on_result", callable_or_none("retry_on_result", retry_on_result))
        fill(self, "attempt_timeout", seconds_or_none("attempt_timeout", attempt_timeout))
        fill(self, "attempt_limit", inf if self.max_attempts is None else self.max_attempts)
        fill(
            self, "elapsed_limit", inf if self.max_elapsed is None else self.max_elapsed + ROUNDING
        )
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        plain = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
        fill(self, "retried_types", tuple(plain))
        fill(self, "fixed_delay", fixed_delay(self.backoff))

    @classmethod
    def never(cls) -> "RetryPolicy":
        """Return a policy that never retries: each job has one attempt."""
        return cls(max_attempts=1)

    def replace(self, **changes: Unpack[PolicyChanges]) -> "RetryPolicy":
        """Return this policy with *changes*, named like the arguments of the constructor.

        Raises:
            TypeError: an argument has another name.
        """
        names = [f.name for f in dataclasses.fields(self) if f.init]
        for name in changes:
            if name not in names:
                raise TypeError(unknown_argument("RetryPolicy", name, names))
        return dataclasses.replace(self, **cast("dict[str, Any]", changes))


def checked_policy(value: Any) -> RetryPolicy:
    """Return *value* if it is a RetryPolicy; raise TypeError for anything else."""
    if not isinstance(value, RetryPolicy):
        msg = f"policy takes a RetryPolicy, such as RetryPolicy(max_attempts=5) (got {value!r})"
        raise TypeError(msg)
    return value


Verdict: TypeAlias = tuple[BaseException | None, float | None, StopReason | None]
"""What follows an attempt: a plain tuple, since one is made for each.

What it failed with, taken out of `PermanentError` and `RetryAfter`; and either the seconds until
the next attempt or the reason why there is none, never both.
"""


def decide(
    policy: RetryPolicy, progress: Progress, raised: BaseException | None, value: Any, now: float
) -> Verdict:
    """Decide what follows an attempt that raised *raised*, or returned *value* if that is None.

    It calls the policy's own callables and backoff, so never call it under a lock. If one of
    those raises, that is logged, and the job ends with the outcome of this attempt.
    """
    # By type(), since isinstance may run code of the object, its __class__.
    kind = type(raised)
    plain = issubclass(kind, policy.retried_types) and not issubclass(kind, _MARKED)
    if plain and raised.__cause__ is None:  # type: ignore[union-attr]
        exception, delay = raised, None  # as most failures are
    else:
        exception, delay, reason = _worth_it(policy, raised, value)
        if reason is not None:
            return exception, None, reason
    if progress.attempts >= policy.attempt_limit:
        return exception, None, StopReason.MAX_ATTEMPTS
    if delay is None:
        delay = policy.fixed_delay
        if delay is None:
            delay = _next_delay(policy, progress)
            if delay is None:
                return exception, None, StopReason.BACKOFF_EXHAUSTED
    if now + delay - progress.began > policy.elapsed_limit:
        return exception, None, StopReason.MAX_ELAPSED
    return exception, delay, None


def _worth_it(policy: RetryPolicy, raised: BaseException | None, value: Any) -> Verdict:
    """Return the exception, the delay it names, if any, and why not to retry, if it says so."""
    if raised is None:
        return None, None, None if _refuses(policy, value) else StopReason.SUCCEEDED
    if is_control_flow(raised) or not isinstance(raised, Exception):
        return raised, None, StopReason.NOT_RETRIABLE
    if isinstance(raised, PermanentError):
        return _behind(raised, raised.exception), None, StopReason.PERMANENT
    if names_permanent(raised):
        return raised, None, StopReason.PERMANENT
    if isinstance(raised, RetryAfter):
        return _behind(raised, raised.__cause__), raised.seconds, None
    if isinstance(raised, ExceptionGroup):
        wanted, delay = _wants_group(policy.retry_on, raised)
    else:
        wanted, delay = _wants(policy.retry_on, raised)
    return raised, delay, None if wanted else StopReason.NOT_RETRIABLE


# Exceptions that say themselves whether to try again, or whose members do.
_MARKED = (CancelledError, PermanentError, RetryAfter, BaseExceptionGroup)


def _behind(marker: Exception, exception: BaseException | None) -> BaseException:
    """Return the error behind *marker*, which lends it a traceback if it was never raised."""
    if exception is None:
        return marker
    if isinstance(exception, PermanentError):
        return _behind(marker, exception.exception)
    if exception.__traceback__ is None:
        with_traceback(exception, marker.__traceback__)
    return exception


def _wants(wanted: RetryOn, raised: Exception) -> tuple[bool, float | None]:
    """Return whether `retry_on` wants another try, and the delay if it names one."""
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


def _wants_group(wanted: RetryOn, raised: ExceptionGroup[Exception]) -> tuple[bool, float | None]:
    """Do as `_wants` for a group: all members must match, and the longest wait counts."""
    if isinstance(wanted, (type, tuple)):
        answer, delay = all_match(raised, wanted), None
    elif asks_for_retry(raised):
        answer, delay = True, None
    else:
        answer, delay = _wants(wanted, raised)
    delays = (delay, longest_named_delay(raised))
    return answer, max((d for d in delays if d is not None), default=None)


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
        delays = progress.delays
        if delays is None:
            delays = progress.delays = iter(policy.backoff)
        for delay in delays:
            # The library's own backoffs give valid floats; anything else is checked below.
            if delay.__class__ is float and 0.0 <= delay < inf:
                return delay
            return seconds("a delay of the backoff", delay)
    except Exception:
        report("the backoff failed: the job ends with its own exception")
    return None


def _error_filter(value: Any) -> RetryOn:
    kinds = value if isinstance(value, tuple) else (value,) if isinstance(value, type) else ()
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            msg = f"retry_on takes exception types, which {kind!r} is not"
            raise TypeError(msg)
    if not kinds and not callable(value) and value != ():
        msg = (
            "retry_on takes an exception type, a tuple of types, or a callable "
            f"exception -> bool | seconds (got {value!r})"
        )
        raise TypeError(msg)
    return value  # type: ignore[no-any-return]  # checked above
