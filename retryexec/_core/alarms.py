"""Alarms: callbacks at given times, by a clock whose time passes by itself."""

import logging
import os
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING

from retryexec._core.timekeeper import Timekeeper
from retryexec._exceptions import report

if TYPE_CHECKING:
    from retryexec._clock import Clock

logger = logging.getLogger("retryexec")


class _Alarm:
    """A callback that waits for its time."""

    __slots__ = ("callback", "due")

    def __init__(self, callback: Callable[[], object]) -> None:
        # None once it was called or taken back, so that its place in the queue keeps nothing alive.
        self.callback: Callable[[], object] | None = callback
        self.due: float | None = None


class Alarms:
    """Calls callbacks at given times, on a thread that exists while there are any to call."""

    def __init__(self, clock: "Clock") -> None:
        self.process = os.getpid()  # the one that has the thread; a forked child has none
        self._clock = clock
        # Guards all below, and is the keeper's; not held while a callback runs. Reentrant, since
        # a signal handler or a finalizer may take an alarm back while this thread is in here.
        self._lock = RLock()
        self._keeper: Timekeeper[_Alarm] | None = None  # None while nothing waits

    def add(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* when it is *time*; return what takes that back."""
        alarm = _Alarm(callback)
        with self._lock:
            keeper = self._keeper
            if keeper is None:
                # A daemon: a deadline that nobody will live to see keeps no process alive.
                keeper = Timekeeper(
                    self._clock, self._lock, self._call, name="retryexec-deadlines", daemon=True
                )
                self._keeper = keeper
            if keeper.ready():
                alarm.due = time
                keeper.schedule(alarm, time)
            else:
                self._keeper = None
                logger.warning("cannot start a thread for deadlines: nothing is called at this one")
        return lambda: self._take_back(alarm)

    def _take_back(self, alarm: _Alarm) -> None:
        with self._lock:
            alarm.callback = None
            if self._keeper is not None:
                self._keeper.discard(alarm)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Let the thread end if nothing waits; the next alarm starts another one."""
        with self._lock:
            keeper = self._keeper
            if keeper is not None and not len(keeper):
                self._keeper = None
                keeper.close()

    def _call(self, due: deque[_Alarm]) -> None:
        """Call back those that are *due*, in the keeper's thread."""
        while due:
            callback, due[0].callback = due[0].callback, None
            due.popleft()
            if callback is not None:
                try:
                    callback()
                except Exception:
                    report("a callback at a deadline failed")
                del callback  # or this frame would keep alive whatever it leads to
        self._close_if_idle()
