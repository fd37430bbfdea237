"""What is done to the exceptions of jobs, which are the users' own objects."""

import logging
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

logger = logging.getLogger("retryexec")

NOTE_PREFIX = "retryexec: "
"""How the note begins that a final exception carries."""


def trim(error: E) -> E:
    """Take the frame that called the job off *error*'s traceback: nobody looks for us in it."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def drop_tracebacks(exception: BaseException | None, outer: BaseException | None = None) -> None:
    """Let go of the tracebacks of *exception* and of those it came from, but not of *outer*.

    They keep the variables of every frame alive, for as long as the job waits; and an exception
    that is raised again would add its new traceback to the old one. *outer* is what the caller
    was handling all along.
    """
    seen = set() if outer is None else {id(outer)}
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        exception.__traceback__ = None
        exception = exception.__cause__ or exception.__context__


def annotate(exception: BaseException, note: str) -> None:
    """Give *exception* our note (PEP 678), instead of one it may have from an earlier job."""
    try:
        notes = getattr(exception, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not str(n).startswith(NOTE_PREFIX)]
        exception.add_note(NOTE_PREFIX + note)
    except Exception:
        logger.debug("cannot add a note to %s", type(exception).__name__, exc_info=True)
