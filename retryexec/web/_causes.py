"""What a job failed of, in one line, and without what differs from job to job."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from retryexec._shapes import text_shape
from retryexec.journal import ErrorText
from retryexec.journal._last_error import message_of
from retryexec.journal._rows import errors_of, without_trace

_LINE_LIMIT, _SHAPE_LIMIT = 300, 200  # characters


class Cause(NamedTuple):
    """What a job failed of.

    Attributes:
        type: of the exception, or the reason where there was none, as ``(crashes)``.
        text: what it said, on one line.
        shape: *text* without what differs between errors of one kind.
    """

    type: str
    text: str
    shape: str


def cause_of_json(errors: Any, reason: Any) -> Cause:
    """Return the cause that a record tells of, whose columns may hold anything."""
    return cause_of(errors_of(errors if isinstance(errors, str) else None), str(reason))


def cause_of(errors: Sequence[ErrorText], reason: str) -> Cause:
    """Return what the latest of *errors* says, or the *reason* if it does not name a type."""
    errors = without_trace(errors)
    if not errors or not errors[-1].type:
        return Cause(f"({reason})" if reason else "", "", "")
    text = message_of(errors[-1])[:_LINE_LIMIT]
    return Cause(errors[-1].type, text, text_shape(text[:_SHAPE_LIMIT]))
