"""CancelToken: stop this, wherever it is."""

import heapq
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

from retryexec._clock import SYSTEM_CLOCK, Clock, left
from retryexec._validate import Seconds, seconds_or_none

logger = logging.getLogger("retryexec")


class CancelToken:
    """A word that may be given once, and that any number of threads and coroutines hear.

    Args:
        timeout: seconds (or a timedelta) from now, after which the token cancels itself.
        parent: a token whose cancelling cancels this one too.
        clock: what *timeout* is measured by; the parent's, or the system's, by default.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """

    def __init__(
        self,
        *,
        timeout: Seconds | None = None,
        parent: "CancelToken | None" = None,
        clock: Clock | None = None,
    ) -> None:
        if parent is not None and not isinstance(parent, CancelToken):
            msg = f"parent takes a CancelToken or None (got {parent!r})"
            raise TypeError(msg)
        self.clock: Clock = clock or (SYSTEM_CLOCK if parent is None else parent.clock)
        limit = seconds_or_none("timeout", timeout)
        self._deadline = math.inf if limit is None else self.clock.now() + limit
        self._parent = parent
        # Guards the rest; released before a callback runs. Reentrant, for signal handlers.
        self._lock = threading.RLock()
        self._cancelled = False
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._keys = count()
        # While there are callbacks: takes this token out of what its parent, or the thread that
        # minds the deadlines, is to tell.
        self._unhook: list[Callable[[], object]] = []
        self._minded = False  # whether somebody minds the deadline

    def cancel(self) -> None:
        """Cancel the token and its children, and run the callbacks; a second call does nothing."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = list(self._callbacks.values()), {}
        self._hook()
        for callback in callbacks:
            _run(callback)

    @property
    def cancelled(self) -> bool:
        """Whether the token, or one above it, is cancelled or out of time."""
        if self._cancelled:
            return True
        if self._deadline != math.inf and self.clock.now() >= self._deadline:
            return True
        return self._parent is not None and self._parent.cancelled

    def remaining(self) -> float | None:
        """Return the seconds until the token's time is up; None if it has no limit.

        0.0 once it is cancelled.
        """
        if self.cancelled:
            return 0.0
        own = None if self._deadline == math.inf else self._deadline - self.clock.now()
        above = None if self._parent is None else self._parent.remaining()
        return min((r for r in (own, above) if r is not None), default=None)

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Block until the token is cancelled.

        Args:
            timeout: the most seconds to wait; None for no limit.

        Returns:
            whether the token is cancelled.
        """
        limit = seconds_or_none("timeout", timeout)
        until = math.inf if limit is None else self.clock.now() + limit
        changed = threading.Condition()
        unregister = self.on_change(_notifier(changed))
        try:
            with changed:
                while not self.cancelled and (now := self.clock.now()) < until:
                    span = self.remaining()
                    self.clock.wait(changed, until if span is None else min(until, now + span))
        finally:
            unregister()
            left(self.clock)
        return self.cancelled

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* once the token is cancelled, or at once if it is.

        It runs in the thread that cancels; when the token's time is up, in one of ours. What it
        raises is logged.

        Returns:
            a function that unregisters the callback; calling it twice does no harm.
        """
        if not callable(callback):
            msg = f"callback takes a callable (got {callback!r})"
            raise TypeError(msg)
        return self.on_change(callback, at_deadline=True)

    def on_change(
        self, callback: Callable[[], object], *, at_deadline: bool = False
    ) -> Callable[[], None]:
        """Do as `on_cancel`; without *at_deadline*, for those who mind the time themselves."""
        with self._lock:
            key = None if self.cancelled else next(self._keys)
            first = not self._callbacks
            if key is not None:
                self._callbacks[key] = callback
        if key is None:
            _run(callback)
            return _nothing
        # After the callback has its place: either may turn out to be over, and cancel at once.
        if first and self._parent is not None:
            self._hook(self._parent.on_change(self.cancel))
        if at_deadline and (time_left := self.remaining()) is not None:
            self._mind_deadline(time_left)
        return lambda: self._unregister(key)

    def _mind_deadline(self, span: float) -> None:
        with self._lock:
            minded, self._minded = self._minded, True
        if minded:
            return
        clock: Any = self.clock
        due = clock.now() + span
        if hasattr(clock, "attach"):  # one that tests move, which calls when it comes to a time
            self._hook(clock.call_at(due, self.cancel))
        else:
            self._hook(_watch_for(clock).add(self, due))

    def _hook(self, *leave: Callable[[], object]) -> None:
        """Keep *leave* while there are callbacks; without any, take the token out everywhere."""
        with self._lock:
            self._unhook += leave
            if self._callbacks:
                return
            unhook, self._unhook, self._minded = self._unhook, [], False
        for leave_now in unhook:
            leave_now()

    def _unregister(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)
        self._hook()

    def __repr__(self) -> str:
        left = self.remaining()
        word = "cancelled" if self.cancelled else "open" if left is None else f"{left:g} s left"
        return f"<CancelToken {word}>"


class _DeadlineWatch:
    """Cancels the tokens of one clock when their time is up, on a thread that lives as long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Guards all below; released before a token is cancelled.
        self._lock = threading.RLock()
        # Notified when the thread must look again: an earlier deadline, or none left.
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[float, int, CancelToken]] = []
        self._arrivals = count()
        self._minded: set[CancelToken] = set()  # entries of others are dead
        self._running = False

    def add(self, token: CancelToken, due: float) -> Callable[[], None]:
        """Cancel *token* when it is *due*; return what takes that back."""
        with self._lock:
            self._minded.add(token)
            heapq.heappush(self._heap, (due, next(self._arrivals), token))
            if not self._running:
                # A daemon: a deadline that nobody will live to see keeps no process alive.
                threading.Thread(target=self._mind, name="retryexec-deadlines", daemon=True).start()
                self._running = True
            self._changed.notify()
        return lambda: self._discard(token)

    def _discard(self, token: CancelToken) -> None:
        with self._lock:
            self._minded.discard(token)
            if len(self._heap) > 2 * len(self._minded):
                self._heap = [entry for entry in self._heap if entry[2] in self._minded]
                heapq.heapify(self._heap)
                self._changed.notify()

    def _mind(self) -> None:
        while (token := self._next_up()) is not None:
            token.cancel()
            del token

    def _next_up(self) -> CancelToken | None:
        """Wait for a token whose time is up; return None, and stop running, if none is left."""
        with self._lock:
            while self._heap:
                due, _, token = self._heap[0]
                if token not in self._minded:
                    heapq.heappop(self._heap)
                elif due > self._clock.now():
                    self._clock.wait(self._changed, due)
                else:
                    heapq.heappop(self._heap)
                    self._minded.discard(token)
                    return token
            self._running = False
            return None


# By the id of the clock, which lives as long as its watch does; a watch lives by its tokens.
_watches: "weakref.WeakValueDictionary[int, _DeadlineWatch]" = weakref.WeakValueDictionary()
_watches_lock = threading.RLock()


def _in_child() -> None:
    _watches.clear()  # their threads are the parent's alone
    _watches_lock.release()


if hasattr(os, "register_at_fork"):  # pragma: no branch  no forks on Windows
    os.register_at_fork(
        before=_watches_lock.acquire,
        after_in_parent=_watches_lock.release,
        after_in_child=_in_child,
    )


def _watch_for(clock: Clock) -> _DeadlineWatch:
    with _watches_lock:
        return _watches.setdefault(id(clock), _DeadlineWatch(clock))


def _notifier(changed: threading.Condition) -> Callable[[], None]:
    def notify() -> None:
        with changed:
            changed.notify_all()

    return notify


def _run(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback of a CancelToken failed")


def _nothing() -> None:
    """Unregister what was never registered."""
