"""Clocks: what time it is, and how to wait until a time."""

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

from retryexec._async import AsyncEvent
from retryexec._core.alarms import Alarms
from retryexec._typing import override


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


class Participant(Protocol):
    """Something that acts by a clock on threads of its own, as an executor's pool does."""

    def next_due(self) -> float:
        """Return when its next entry is due; infinity if there is none."""
        ...

    def busy(self, asleep: Collection[threading.Thread]) -> str | None:
        """Describe what it is still working on, or return None; threads *asleep* are idle."""
        ...

    def recheck(self) -> None:
        """Make it look at the clock again."""
        ...


class EngineClock:
    """All that the library asks of a clock: the two methods of `Clock`, and those below.

    What is here is right for a clock whose time passes by itself. One that tests move has to know
    who still acts on the time that has come, and overrides the rest as well.
    """

    # Made at the first `call_at`, which most clocks never see.
    _alarms: Alarms | None = None

    def now(self) -> float:
        """Return the time in seconds; see `Clock.now`."""
        raise NotImplementedError

    def wait(self, changed: threading.Condition, until: float) -> None:
        """Block until *changed* is notified or the time is *until*; see `Clock.wait`."""
        raise NotImplementedError

    async def wait_async(self, event: AsyncEvent, until: float) -> None:
        """Return once *event* is set or the time is *until*; it may come early."""
        await event.wait(max(0.0, until - self.now()))

    def call_at(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* in some thread when it is *time*; return what takes that back."""
        alarms = self._alarms
        if (
            alarms is None or alarms.process != os.getpid()
        ):  # a forked child does not have their thread
            alarms = self._alarms = Alarms(self)
        return alarms.add(time, callback)

    def attach(self, participant: Participant) -> Callable[[], None] | None:  # noqa: ARG002  for those that heed it
        """Learn that *participant* uses this clock.

        Returns:
            what it has to call whenever it has come to rest; None if nobody waits for that.
        """
        return None

    def before_endless_wait(self, is_over: Callable[[], bool]) -> None:
        """Learn that the calling thread will wait without a timeout, and not by this clock.

        Args:
            is_over: whether there is nothing to wait for any more.

        Raises:
            RuntimeError: it would wait for ever, because nobody else moves time.
        """

    async def until_set(self, event: AsyncEvent) -> None:
        """Return once *event* is set, which takes a time to come."""
        await event.wait(math.inf)

    @property
    def moves_while_awaited(self) -> bool:
        """Whether time stands still unless a coroutine of this thread, waiting, moves it on."""
        return False

    @contextmanager
    def as_default(self) -> Generator[Self]:
        """Make this the default clock in a ``with`` block.

        It counts for executors, tickers, timers and tokens that are made in the block, and for
        calls of `retry`, `retry_async` and decorated functions: in this context, which jobs
        submitted in the block run in, too, and other new threads do not.
        """
        token = _default.set(self)
        try:
            yield self
        finally:
            _default.reset(token)

    def thread_busy(self) -> None:
        """Learn that the calling thread is busy, until it waits by this clock or ends."""

    def thread_idle(self) -> None:
        """Learn that the calling thread will not wait again for what it has waited for."""


class SystemClock(EngineClock):
    """The machine's monotonic clock: it never jumps when somebody sets the time of day."""

    # A static method, so that reading the time runs no Python function.
    now = staticmethod(time.monotonic)  # pyright: ignore[reportAssignmentType]

    @override
    def wait(self, changed: threading.Condition, until: float) -> None:
        if until == math.inf:
            changed.wait()
        else:
            # Condition.wait refuses more than TIMEOUT_MAX, some 292 years.
            changed.wait(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))

    @override
    def __repr__(self) -> str:
        return "SystemClock()"


class _UserClock(EngineClock):
    """A user's clock, which has the two methods of `Clock` and need not have more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @override
    def now(self) -> float:
        return self._clock.now()

    @override
    def wait(self, changed: threading.Condition, until: float) -> None:
        self._clock.wait(changed, until)

    @override
    def __repr__(self) -> str:
        return repr(self._clock)


SYSTEM_CLOCK = SystemClock()

_default: ContextVar[EngineClock] = ContextVar("retryexec_clock", default=SYSTEM_CLOCK)

# By the id of the user's clock, which lives as long as its entry does: so all tokens of one clock
# share a thread. (Not by the clock itself, which need not have a hash.)
_user_clocks: "weakref.WeakValueDictionary[int, _UserClock]" = weakref.WeakValueDictionary()


def engine_clock(clock: Clock | None) -> EngineClock:
    """Return *clock* as an `EngineClock`; None stands for the default one."""
    if clock is None:
        return default_clock()
    if isinstance(clock, EngineClock):
        return clock
    # Two threads may both make one, which costs no more than a second thread for deadlines.
    known = _user_clocks.get(id(clock))
    if known is None:
        known = _user_clocks[id(clock)] = _UserClock(clock)
    return known


def default_clock() -> EngineClock:
    """Return the clock that is used in this context where none is given."""
    return _default.get()
