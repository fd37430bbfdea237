"""The package's exceptions: those a job raises to steer its retries, and those users catch."""

import concurrent.futures
from concurrent.futures import CancelledError
from datetime import timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, Self

from retryexec._outcome import text_of, type_name
from retryexec._retry_after import named_delay
from retryexec._typing import override
from retryexec._validate import Seconds, real


class PermanentError(Exception):
    """Raised by a job to say that trying again is pointless: the job ends at once.

    What fails the job is *exception*, the error behind this wrapper. Raised as the cause of
    another error (``raise ServiceError("saving") from PermanentError(error)``) it stops the
    retries too, and that other error is what the job fails with.

    Raises:
        TypeError: *exception* is not an exception instance.
    """

    def __init__(self, exception: BaseException) -> None:
        if not isinstance(exception, BaseException):
            msg = f"PermanentError wraps the exception that is final (got {exception!r})"
            raise TypeError(msg)
        super().__init__(exception)
        self.exception = exception

    @override
    def __str__(self) -> str:
        text = text_of(self.exception, limit=None)
        return f"permanent: {type_name(type(self.exception))}: {text}"


class RetryAfter(Exception):
    """Raised by a job to name the wait before its next attempt, as a server's Retry-After does.

    The wait replaces the policy's own, whatever `retry_on` says of other errors; it uses up no
    delay of the backoff, and still obeys the limits of attempts and elapsed time. When the job
    fails for good, it fails with *cause* if there is one (``raise RetryAfter(5) from error``
    names it too).

    Args:
        seconds: the wait, in seconds or as a timedelta; less than 0 is 0. None, and a number that
            is not finite, name no wait: the job is tried again after the policy's own delay. The
            text of a header is understood as well (see `from_header`).
        cause: the error that made the attempt fail.

    Attributes:
        seconds: the wait in seconds; None if none was named.

    Raises:
        TypeError: *seconds* is of another type, or *cause* is not an exception instance.
    """

    def __init__(self, seconds: Seconds | None, cause: BaseException | None = None) -> None:
        value: Any = seconds  # text as well, though type checkers are told of numbers only
        if not isinstance(value, _NAMES_A_DELAY) and real(value) is None:
            msg = (
                "RetryAfter takes seconds as a number, a timedelta, the text of a header "
                f"Retry-After, or None for the policy's own delay (got {value!r})"
            )
            raise TypeError(msg)
        if cause is not None and not isinstance(cause, BaseException):
            msg = f"RetryAfter takes an exception instance as its cause (got {cause!r})"
            raise TypeError(msg)
        self.seconds = named_delay(value)
        # Not a date: a copy of this error would read it again, later, and get another wait.
        super().__init__(self.seconds if isinstance(value, (str, bytes)) else value, cause)
        if cause is not None:
            # Not when it is None: that would hide the context, what is being handled here.
            self.__cause__ = cause

    @classmethod
    def from_header(cls, value: object, cause: BaseException | None = None) -> Self:
        """Return the error to raise for a response whose header Retry-After is *value*.

        Servers send seconds or a date, in one of three formats; a date is compared with this
        machine's time of day, and one that has passed means 0 seconds. Whatever names no time
        (None for a header that is missing, other text, an impossible date) leaves the wait to the
        policy: ``raise RetryAfter.from_header(headers.get("Retry-After"), error)`` is right for
        any response that is worth another try.

        Args:
            value: the header's value: text, bytes, a number, or None.
            cause: the error that made the attempt fail.

        Raises:
            TypeError: *cause* is not an exception instance.
        """
        return cls(named_delay(value), cause)

    @override
    def __str__(self) -> str:
        if self.seconds is None:
            return "retry after the policy's own delay"
        return f"retry after {self.seconds:g} s"


_NAMES_A_DELAY = (timedelta, str, bytes, NoneType)  # and real numbers


class Cancelled(CancelledError):
    """A token was cancelled before the work was done; ``__cause__`` is the last failure, if any."""


if TYPE_CHECKING:
    _StandardError = RuntimeError
else:
    # The standard library's own exception of that name, in a Python that has one.
    _StandardError = getattr(concurrent.futures, "ExecutorShutdownError", RuntimeError)


class ExecutorShutdownError(_StandardError):
    """A job was submitted to an executor that is shut down, or while the interpreter exits.

    Where `concurrent.futures` has an exception of that name, this is a subclass of it.
    """


class ShutdownError(RuntimeError):
    """The executor shut down before this job could succeed.

    ``__cause__`` is the exception of the job's last attempt, or None if it never ran.
    """


class MovedError(RuntimeError):
    """Another process has taken this job over, and runs it: this one lost its lease.

    Only with a journal on a server. ``__cause__`` is the exception of the job's last attempt here,
    or None if it never ran here.
    """


class PendingLimitError(RuntimeError):
    """A job submitted to its own full executor, where waiting for room could last for ever."""
