"""How attempts end: the reasons, and what is kept of a failure."""

from collections import Counter
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


def text_of(exception: BaseException) -> str:
    """Return what *exception* says, shortened; never raises, whatever its ``__str__`` does."""
    try:
        text = str(exception)
        if type(text) is not str:
            text = str.__str__(text)  # of a subclass the text alone
    except BaseException as broken:
        return f"<str() raised {type(broken).__name__}>"
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def gave_up(attempts: int, elapsed: float, reason: StopReason) -> str:
    """Return the words that a final failure carries as its note."""
    plural = "" if attempts == 1 else "s"
    return f"gave up after {attempts} attempt{plural} over {elapsed:.3f} s: {reason}"


def name_of(job: Any) -> str:
    """Return what to call *job* in logs: its type's or function's name.

    Not its repr, which is the user's code and may show what logs must not.
    """
    while isinstance(job, partial):
        job = job.func
    return job.__qualname__ if isinstance(job, _NAMED) else type(job).__qualname__


# Asking only these for their name: any other object could answer with code of its own.
_NAMED = (FunctionType, MethodType, BuiltinFunctionType, type)


def summarize_names(names: list[str]) -> str:
    """Return *names* for a line of log: how often each, the commonest first, at most ten."""
    counted = Counter(names).most_common()
    words = [name if n == 1 else f"{n} × {name}" for name, n in counted[:10]]
    return ", ".join(words + ["…"] * (len(counted) > 10)) or "none"
