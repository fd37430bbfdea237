"""What is done to the exceptions of jobs, which are the users' own objects."""

import inspect
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Any, TypeVar

NOTE_PREFIX = "retryexec: "
"""How the note begins that a final exception carries."""

E = TypeVar("E", bound=BaseException)
F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("retryexec")


# Gives an error a traceback, and returns it, even if its class is frozen or has a method of that
# name.
with_traceback = BaseException.with_traceback


def calls_jobs(function: F) -> F:
    """Mark *function* as one that calls jobs: where its frame ends, an attempt begins."""
    _callers.add(inspect.unwrap(function).__code__)
    return function


def trim(error: E) -> E:
    """Leave of *error*'s traceback, and of those it came from, what belongs to this attempt.

    Neither the frame of ours that called the job, which nobody is looking for, nor what is
    there from an earlier attempt that raised the same object.
    """
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_frame.f_code in _callers:
        with_traceback(error, traceback.tb_next)
    link: BaseException | None = error
    seen = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if link.__traceback__ is not None:
            _cut(link.__traceback__)
        link = link.__context__ if link.__cause__ is None else link.__cause__
    return error


def _cut(entry: TracebackType) -> None:
    """End the traceback of *entry* where an earlier attempt's begins."""
    while (following := entry.tb_next) is not None:
        caller = following.tb_frame.f_back
        begins = caller is not None and caller.f_code in _callers
        # Another job's failure, met through its future, is part of the story.
        if begins and entry.tb_frame.f_code not in _readers:
            entry.tb_next = None
            return
        entry = following


def reads_futures(function: F) -> F:
    """Mark *function* as one that raises what a job in another thread has raised."""
    _readers.add(inspect.unwrap(function).__code__)
    return function


_callers: set[CodeType] = set()
_readers: set[CodeType] = set()


def annotate(exception: BaseException, note: str) -> None:
    """Give *exception* our note (PEP 678), instead of one it may have from an earlier job."""
    try:
        notes = getattr(exception, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not (type(n) is str and n.startswith(NOTE_PREFIX))]
        exception.add_note(NOTE_PREFIX + note)
    except Exception:
        logger.debug("cannot add a note to %s", type(exception).__name__)


def report(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log *error*, or the one being handled; a log handler that raises costs the line, no more."""
    info = sys.exc_info() if error is None else (type(error), error, error.__traceback__)
    with suppress(Exception):
        logger.error(message, *args, exc_info=info)
