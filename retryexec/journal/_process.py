"""What becomes of this process's journals when it forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retryexec.journal._engine import Engine
    from retryexec.journal._journal import Journal

_journals: weakref.WeakSet[Journal] = weakref.WeakSet()
_held: list[Journal] = []  # those whose locks a fork under way holds
_forgotten: list[Engine] = []  # the parent's, in a child


def register(journal: Journal) -> None:
    """Have *journal* told of forks, and closed at the process's end at the latest."""
    _journals.add(journal)


def never_finalize(engine: Engine) -> None:
    """In a forked child: keep the parent's *engine*, of which nothing may be finalized here."""
    _forgotten.append(engine)


def _before_fork() -> None:
    _held[:] = _journals
    for journal in _held:
        journal.before_fork()


def _after_fork() -> None:
    for journal in _held:
        journal.after_fork()
    _held.clear()


def _in_child() -> None:
    for journal in _held:
        journal.in_child()
    _held.clear()


def _close_all() -> None:
    for journal in list(_journals):
        journal.close()


# For journals that nobody closes: what has ended is written down all the same.
atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
