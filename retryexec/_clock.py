"""What time it is, and waiting until then."""

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Where everything here gets its time from; `retryexec.testing` has one that tests move."""

    def now(self) -> float:
        """Return the time in seconds, from any fixed point in the past."""
        ...

    def wait(self, changed: threading.Condition, until: float) -> None:
        """Block until *changed* is notified or `now()` reaches *until*, which may be infinite.

        The caller holds *changed*, and looks again after the return: it may come early.
        """
        ...


class SystemClock:
    """The machine's monotonic clock: it never jumps when somebody sets the time of day."""

    # A static method, so that reading it costs no frame of ours.
    now = staticmethod(time.monotonic)

    def wait(self, changed: threading.Condition, until: float) -> None:
        if until == math.inf:
            changed.wait()
        else:
            # Condition.wait refuses more than TIMEOUT_MAX, some 292 years.
            changed.wait(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))

    def __repr__(self) -> str:
        return "SystemClock()"


def left(clock: Clock) -> None:
    """Tell *clock*, if it waits for those it has woken, that this thread will not wait again."""
    tell: Callable[[], None] | None = getattr(clock, "left", None)
    if tell is not None:
        tell()


SYSTEM_CLOCK = SystemClock()
