"""Line: the jobs of one key, of which the first has its turn."""

from collections import deque
from collections.abc import Hashable
from itertools import cycle
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from retryexec._core.controlled import ControlledJob

KeyedJob: TypeAlias = "ControlledJob[Any]"

# The locks of all lines, each line's for good. Whoever holds one may take a job's lock, and no
# other: not another line's, and not a pool's.
LINE_LOCKS = tuple(RLock() for _ in range(64))
_next_lock = cycle(LINE_LOCKS).__next__


class Line:
    """The unfinished jobs of one key, in the order they were accepted.

    Attributes:
        key: as it stands in `Keys`.
        lock: guards the others.
        head: the job whose turn it is; None in a line that is new, or has been dropped.
        behind: those behind it. Some may have ended.
        ended: how many of those behind have ended, about.
        let_go: the latest head that has been queued.
        dropped: the line has no job any more, and is not the key's line any more.
        editing: a signal handler or a finalizer that finds this set runs in the midst of a change
            of the line, in the same thread. It may append to `behind`, and nothing else.
    """

    __slots__ = ("behind", "dropped", "editing", "ended", "head", "key", "let_go", "lock")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.lock = _next_lock()
        self.head: KeyedJob | None = None
        self.let_go: KeyedJob | None = None
        self.behind: deque[KeyedJob] | None = None  # made for the second job
        self.ended = 0
        self.dropped = False
        self.editing = False


LEFT = Line(None)
"""Stands for the line of a job that has ended, and was alone with its key."""
LEFT.dropped = True
