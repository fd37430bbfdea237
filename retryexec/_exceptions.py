"""Tracebacks, notes and log lines of the exceptions that jobs raise.

The exceptions are the users' own objects, of any class: nothing here relies on their methods.
"""

import inspect
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Any, TypeVar

from retryexec._outcome import type_name

NOTE_PREFIX = "retryexec: "
"""How the note begins that a final exception carries."""

E = TypeVar("E", bound=BaseException)
F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("retryexec")

# Sets an exception's traceback and returns the exception. Taken from the base class, because a
# subclass may be frozen, or have a method of that name that does something else.
with_traceback = BaseException.with_traceback


# ---- letting frames go while a job waits


def release_frames(exception: BaseException) -> None:
    """Take the traceback from *exception* and from every exception that hangs on it.

    A traceback keeps the variables of all its frames alive, so a job must hold none while it
    waits. And an exception that is raised again adds its new traceback to the old one.

    An exception that is being handled here belongs to the caller, though the exceptions of the
    attempt have it as their context. It keeps its traceback, and so does all that hangs on it.
    """
    with_traceback(exception, None)
    linked = exception.__context__ is not None or exception.__cause__ is not None
    for value in exception.args:
        linked = linked or issubclass(type(value), BaseException)
    if not linked and not issubclass(type(exception), BaseExceptionGroup):
        return  # as with most exceptions
    handled = sys.exception()
    callers_own = frozenset[int]() if handled is None else frozenset(map(id, connected(handled)))
    for one in connected(exception, but=callers_own):
        with_traceback(one, None)


def connected(
    exception: BaseException, *, but: frozenset[int] = frozenset()
) -> list[BaseException]:
    """Return *exception* and every exception that hangs on it, to any depth, each once.

    An exception whose id is in *but* is left out, with what can be reached through it alone.
    """
    found = attached(exception)
    seen = {id(exception), *but}
    all_of_them = [exception]
    for one in found:  # which grows meanwhile: no recursion, since chains can be long
        if id(one) not in seen:
            seen.add(id(one))
            all_of_them.append(one)
            found += attached(one)
    return all_of_them


def attached(exception: BaseException) -> list[BaseException]:
    """Return what hangs on *exception* itself: arguments, members, its context and its cause."""
    found: list[BaseException] = []
    for value in exception.args:  # no comprehension, which costs a call in Python 3.11
        if isinstance(value, BaseException):
            found.append(value)  # noqa: PERF401  as said
    if isinstance(exception, BaseExceptionGroup):
        found += members(exception)
    if exception.__context__ is not None:
        found.append(exception.__context__)
    if exception.__cause__ is not None:
        found.append(exception.__cause__)
    return found


def members(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, ...]:
    """Return the exceptions in *group*, whose class may have an `exceptions` of its own."""
    return BaseExceptionGroup.exceptions.__get__(group)  # type: ignore[no-any-return]


# ---- the traceback of the attempt that counts


def calls_jobs(function: F) -> F:
    """Mark *function* as one that calls jobs: an attempt begins with what it calls."""
    _callers.add(inspect.unwrap(function).__code__)
    return function


def reads_futures(function: F) -> F:
    """Mark *function* as one that raises again what a job of another thread has raised."""
    _readers.add(inspect.unwrap(function).__code__)
    return function


_callers: set[CodeType] = set()
_readers: set[CodeType] = set()


def trim(error: E) -> E:
    """Cut the tracebacks of *error*, and of those connected with it, down to this attempt.

    Two things go: the library's frame that called the job; and, if the object was raised before
    (as a constant of a module may be), the frames of that earlier attempt. Python adds to the
    traceback that an exception has, so those would pile up.
    """
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_frame.f_code in _callers:
        with_traceback(error, traceback.tb_next)
    for one in connected(error) if attached(error) else (error,):
        if one.__traceback__ is not None:
            _end_at_earlier_attempt(one.__traceback__)
    return error


def _end_at_earlier_attempt(entry: TracebackType) -> None:
    """End the traceback that begins with *entry* where that of an earlier attempt begins.

    That is a frame that a function marked with `calls_jobs` has called, without that function's
    own frame before it. With it, it is part of this attempt: a job that calls `retry`. So is what
    a job finds in another job's future.
    """
    while (following := entry.tb_next) is not None:
        caller, before = following.tb_frame.f_back, entry.tb_frame
        begins = caller is not None and caller.f_code in _callers and caller is not before
        if begins and before.f_code not in _readers:
            entry.tb_next = None
            return
        entry = following


# ---- notes and log


def annotate(exception: BaseException, note: str) -> None:
    """Give *exception* our note (PEP 678), instead of one it may have from an earlier job."""
    try:
        notes = getattr(exception, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not (type(n) is str and n.startswith(NOTE_PREFIX))]
        exception.add_note(NOTE_PREFIX + note)
    except Exception:
        logger.debug("cannot add a note to %s", type_name(type(exception)))


def report(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log *error*, or the one being handled; never raises, even if a log handler does."""
    info = sys.exc_info() if error is None else (type(error), error, error.__traceback__)
    with suppress(Exception):
        logger.error(message, *args, exc_info=info)
