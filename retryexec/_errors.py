"""Every exception of ours: what a job may raise to steer its retries, and what it may meet."""

from concurrent.futures import CancelledError

from retryexec._validate import Seconds, seconds


class PermanentError(Exception):
    """Raised by a job to say that trying again is pointless: the job ends at once.

    What fails the job is *exception*, the error behind this wrapper. Raised as the cause of
    another error (``raise ServiceError("saving") from PermanentError(error)``) it stops the
    retries too, and that other error, with its own words, is what the job fails with.

    Raises:
        TypeError: *exception* is not an exception instance.
    """

    def __init__(self, exception: BaseException) -> None:
        if not isinstance(exception, BaseException):
            msg = f"PermanentError wraps the exception that is final (got {exception!r})"
            raise TypeError(msg)
        super().__init__(exception)
        self.exception = exception

    def __str__(self) -> str:
        return f"permanent: {type(self.exception).__name__}: {self.exception}"


class RetryAfter(Exception):
    """Raised by a job to name the wait before its next attempt, as a server's Retry-After does.

    The wait replaces the policy's own, whatever `retry_on` says of other errors; it uses up no
    delay of the backoff, and still obeys the limits of attempts and elapsed time. When the job
    fails for good, it fails with *cause* if there is one (``raise RetryAfter(5) from error``
    names it too).

    Args:
        seconds: the wait, in seconds or as a timedelta.
        cause: the error that made the attempt fail.

    Raises:
        TypeError, ValueError: *seconds* is no finite span of time from 0 up.
    """

    def __init__(self, seconds: Seconds, cause: BaseException | None = None) -> None:
        if cause is not None and not isinstance(cause, BaseException):
            msg = f"RetryAfter takes an exception instance as its cause (got {cause!r})"
            raise TypeError(msg)
        super().__init__(seconds, cause)
        self.seconds = _seconds("RetryAfter", seconds)
        if cause is not None:  # even None would hide what was being handled
            self.__cause__ = cause

    def __str__(self) -> str:
        return f"retry after {self.seconds:g} s"


_seconds = seconds  # RetryAfter's own argument has the name that its callers read


class Cancelled(CancelledError):
    """What was asked for has been cancelled; ``__cause__`` is the last failure, if any."""


class ShutdownError(RuntimeError):
    """The executor shut down before this job could succeed.

    ``__cause__`` is the exception of the job's last attempt, or None if it never ran.
    """


class PendingLimitError(RuntimeError):
    """A job submitted to its own full executor, where waiting for room could last for ever."""
