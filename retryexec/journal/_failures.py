"""What is kept of failed attempts: as text, a few of them, and each of bounded length."""

import traceback
from collections.abc import Sequence

from retryexec._outcome import qualified_name, text_of
from retryexec.journal._entry import Entry, FailureRecord, Outcome
from retryexec.journal._rows import TRACE, ErrorText, bounded, printable, trace_of

ERRORS_KEPT = 10
_TRACEBACK_LIMIT, _TYPE_LIMIT = 8000, 500  # characters


def error_text(
    attempt: int, at: float, error: BaseException | None, *, whole: bool = False
) -> ErrorText:
    """Return a failed attempt as text, with the *whole* of its traceback or without."""
    if error is None:
        return ErrorText(attempt, at, "", "")
    text = text_of(error)
    if whole:
        try:
            lines = traceback.format_exception(error)
            text = "".join(lines)[-_TRACEBACK_LIMIT:]
        except BaseException:  # noqa: S110  of the user's own making; the text will do
            pass
    return ErrorText(
        attempt, at, printable(qualified_name(type(error)), _TYPE_LIMIT), printable(text)
    )


def failed(
    entry: Entry,
    attempts: int,
    delay: float,
    error: BaseException | None,
    *,
    elapsed: float,
    now: float,
) -> FailureRecord:
    """Return what is kept of *entry*'s failures, the latest one included."""
    errors = _latest((*entry.errors, error_text(attempts, now, error)))
    first_at = None if entry.failures is None else entry.failures.first_at
    if first_at is None:
        first_at = now - elapsed
    delay = bounded(delay)
    return FailureRecord(attempts, first_at, now + delay, delay, errors)


def death(
    entry: Entry, reason: str, attempts: int, error: BaseException | None, now: float
) -> Outcome:
    """Return the outcome of an *entry* that has finally failed."""
    errors = [e for e in entry.errors if e.attempt != attempts or error is None or e.type == TRACE]
    if error is not None or len(errors) == (trace_of(errors) is not None):
        errors.append(error_text(attempts, now, error, whole=True))
    return Outcome(str(reason), _latest(errors), attempts)


def _latest(errors: Sequence[ErrorText]) -> tuple[ErrorText, ...]:
    """Return the latest of *errors*, and the trace that the job was submitted in, if any."""
    first = errors[:1] if len(errors) > ERRORS_KEPT and trace_of(errors) is not None else ()
    return (*first, *errors[-ERRORS_KEPT:])
