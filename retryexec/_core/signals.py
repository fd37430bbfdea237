"""Steps that an interrupt cannot divide, and a thread whose start it cannot break.

Python runs signal handlers in the main thread alone, and there only as a function begins, as a
call returns, and as a loop goes back. What a handler raises (KeyboardInterrupt, as a rule) comes
out of that place. So two things happen wholly or not at all:

* a single call into code that is written in C;
* stores to attributes and variables, one after the other, with no call between them.

Most of the engine need not care: a job that an interrupt leaves half done is put into
`Pool.interrupted`, and a worker, which is never the main thread, goes on with it. Only what would
lose a job before it gets there is done in one of these two ways.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import Event, Lock, Thread
from typing import Any

from retryexec._typing import override

in_one_call: Callable[[Iterable[object]], object] = partial(deque, maxlen=0)
"""Goes through an iterator of C code all the way down, in a single call.

It is C code itself: a function would begin with a look for signals, before the call.
"""


class Resuming:
    """Lets a worker go on with *item* where this thread is interrupted in a ``with`` block.

    Args:
        interrupted: `Pool.interrupted`, which gets *item*.
        item: a job, or None for all that are unfinished.
        wake: makes a worker look there.
    """

    __slots__ = ("_interrupted", "_item", "_wake")

    def __init__(self, interrupted: "deque[Any]", item: object, wake: Callable[[], object]) -> None:
        self._interrupted = interrupted
        self._item = item
        self._wake = wake

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._interrupted.append(self._item)
            self._wake()


class _Started(Event):
    """Tells that a thread has started.

    `Thread.start` waits for it. An Event's own wait goes through a lock by several calls, and an
    interrupt between them can leave that lock taken, with the new thread waiting for it for ever.
    Here the wait is one call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._not_yet = Lock()
        self._not_yet.acquire()

    @override
    def set(self) -> None:
        super().set()
        self._not_yet.release()

    @override
    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002  start() gives none
        with self._not_yet:
            return True


class StartableThread(Thread):
    """A thread whose `start` may be interrupted without harm to the thread."""

    def __init__(
        self,
        target: Callable[..., object] | None = None,
        *,
        name: str,
        args: tuple[object, ...] = (),
        daemon: bool | None = None,
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=daemon)
        self._started = _Started()
