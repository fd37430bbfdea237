"""What a job failed of, in one line, and without what differs from job to job."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from retryexec._shapes import text_shape
from retryexec.journal import ErrorText
from retryexec.journal._rows import without_trace

_TAIL = 1200  # characters of a traceback in which its last line is looked for
_OUR_NOTE = "retryexec: gave up after "  # follows what the exception said, in its traceback
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


_decoder = msgspec.json.Decoder(tuple[ErrorText, ...])


def cause_of_json(errors: Any, reason: Any) -> Cause:
    """Return the cause that a record tells of, whose columns may hold anything."""
    found: Sequence[ErrorText] = ()
    if isinstance(errors, str):
        try:
            found = _decoder.decode(errors)
        except (ValueError, RecursionError, MemoryError):
            found = ()
    return cause_of(found, str(reason))


def cause_of(errors: Sequence[ErrorText], reason: str) -> Cause:
    """Return what the latest of *errors* says, or the *reason* if it does not name a type."""
    errors = without_trace(errors)
    if not errors or not errors[-1].type:
        return Cause(f"({reason})" if reason else "", "", "")
    latest = errors[-1]
    text = _message(latest.text, latest.type)[:_LINE_LIMIT]
    return Cause(latest.type, text, text_shape(text[:_SHAPE_LIMIT]))


def _message(text: str, name: str) -> str:
    """Return what the exception said; of a traceback, what its last line says."""
    if not text.startswith("Traceback ") and "\n" not in text:
        return " ".join(text.split())
    lines = text[-_TAIL:].strip().splitlines()
    short = name.rpartition(".")[2]
    for number in range(len(lines) - 1, -1, -1):
        kind, colon, said = lines[number].partition(": ")
        if kind.rstrip(":").rpartition(".")[2] == short:
            rest = [said, *lines[number + 1 :]] if colon else lines[number + 1 :]
            rest = [line for line in rest if not line.startswith(_OUR_NOTE)]
            return " ".join(" ".join(rest).split())
    return " ".join((lines[-1] if text.startswith("Traceback ") else " ".join(lines)).split())
