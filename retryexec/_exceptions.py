"""What is done to the exceptions of jobs, which are the users' own objects."""

import logging
import sys
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

NOTE_PREFIX = "retryexec: "
"""How the note begins that a final exception carries."""

E = TypeVar("E", bound=BaseException)

logger = logging.getLogger("retryexec")


def with_traceback(error: E, traceback: TracebackType | None) -> E:
    """Give *error* this traceback, even if its class is frozen or has a method of that name."""
    BaseException.with_traceback(error, traceback)
    return error


def trim(error: E) -> E:
    """Take the frame that called the job off *error*'s traceback: nobody looks for us in it."""
    traceback = error.__traceback__
    return error if traceback is None else with_traceback(error, traceback.tb_next)


def annotate(exception: BaseException, note: str) -> None:
    """Give *exception* our note (PEP 678), instead of one it may have from an earlier job."""
    try:
        notes = getattr(exception, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not (type(n) is str and n.startswith(NOTE_PREFIX))]
        exception.add_note(NOTE_PREFIX + note)
    except Exception:
        logger.debug("cannot add a note to %s", type(exception).__name__)


def report(message: str, *args: object) -> None:
    """Log the exception being handled; a log handler that raises costs no more than the line."""
    with suppress(Exception):  # there is nowhere left to tell it
        logger.error(message, *args, exc_info=sys.exception())
