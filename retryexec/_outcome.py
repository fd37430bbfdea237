"""How attempts end: stop reasons, records of failures, and the text of exceptions."""

from collections import Counter
from contextlib import suppress
from enum import StrEnum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple

TEXT_LIMIT = 500
"""Characters kept of an exception's text; some errors carry a whole page."""


class StopReason(StrEnum):
    """Why a job's attempts ended."""

    SUCCEEDED = "succeeded"
    PERMANENT = "permanent"
    NOT_RETRIABLE = "not_retriable"
    MAX_ATTEMPTS = "max_attempts"
    MAX_ELAPSED = "max_elapsed"
    BACKOFF_EXHAUSTED = "backoff_exhausted"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"
    CRASHED = "crashed"
    MOVED = "moved"


class Failure(NamedTuple):
    """One failed attempt, as `RetryFuture.history` keeps it.

    Attributes:
        number: the attempt's number, from 1.
        started: when it began, in the clock's seconds.
        seconds: how long it ran.
        exception_type: the type it raised; None if a refused value was returned.
        text: what the exception said, at most `TEXT_LIMIT` characters.
    """

    number: int
    started: float
    seconds: float
    exception_type: type[BaseException] | None
    text: str


def text_of(exception: BaseException, limit: int | None = TEXT_LIMIT) -> str:
    """Return what *exception* says, in at most *limit* characters that can be stored and printed.

    Never raises, whatever the exception's ``__str__`` does.
    """
    try:
        text = str(exception)
        if type(text) is not str:
            text = str.__str__(text)  # the text alone: a subclass may have code of its own
    except BaseException as broken:
        return f"<str() raised {type_name(type(broken))}>"
    # Shortened before it is escaped, since it may be huge, and after, since escapes are longer.
    if text.isascii() and (limit is None or len(text) <= limit):
        return text  # as most are, without a further call
    return _shortened(encodable(_shortened(text, limit)), limit)


def _shortened(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def type_name(kind: type) -> str:
    """Return the name of *kind*, in characters that can be stored and printed; never raises."""
    # Read as `type` does: a metaclass may have code of its own for it.
    return encodable(type.__dict__["__name__"].__get__(kind))


def qualified_name(kind: type) -> str:
    """Return the qualified name of *kind*, as `type_name` does."""
    return encodable(type.__dict__["__qualname__"].__get__(kind))


def encodable(text: str) -> str:
    """Return *text* as a plain str, its lone surrogates written as backslash escapes.

    A file name that is not UTF-8 has some, and no file, database or socket takes them.
    """
    text = str.__str__(text)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def gave_up(attempts: int, elapsed: float, reason: StopReason) -> str:
    """Return the text of the note that a final failure gets."""
    plural = "" if attempts == 1 else "s"
    return f"gave up after {attempts} attempt{plural} over {elapsed:.3f} s: {reason}"


def name_of(job: Any) -> str:
    """Return what to call *job* in logs: its type's or function's name.

    Not its repr, which is the user's code and may show what logs must not.
    """
    while isinstance(job, partial):
        job = job.func
    if isinstance(job, (FunctionType, MethodType, BuiltinFunctionType)):
        # Any other object may have code of its own for it; so may the function of a method.
        with suppress(Exception):
            return encodable(job.__qualname__)
    return qualified_name(job if isinstance(job, type) else type(job))


def summarize_names(names: list[str]) -> str:
    """Return *names* for a log line: each once, with its count, the ten most common first."""
    counted = Counter(names).most_common()
    shown = [name if n == 1 else f"{n} × {name}" for name, n in counted[:10]]
    return ", ".join(shown + ["…"] * (len(counted) > 10)) or "none"
