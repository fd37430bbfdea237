"""Ticker, which ticks after each delay of a backoff, and the timers that it waits by."""

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from retryexec._async import AsyncEvent, in_thread
from retryexec._backoff import Delays
from retryexec._cancel import CancelToken
from retryexec._clock import Clock, engine_clock
from retryexec._typing import override
from retryexec._validate import Seconds, as_float, reiterable, seconds, seconds_or_none

logger = logging.getLogger("retryexec")


class Timer(Protocol):
    """Fires once after each start; what a `Ticker` waits by."""

    def start(self, seconds: float) -> None:
        """Begin anew: fire *seconds* from now."""
        ...

    def stop(self) -> None:
        """Do not fire; whoever waits returns at once."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the timer fires or stops, or *timeout* seconds pass; True if it fired.

        Fired once, it answers True until it is started again.
        """
        ...


class EventTimer:
    """The default timer, which waits by a clock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = engine_clock(clock)
        # Guards the two below; notified by start() and stop().
        self._changed = threading.Condition()
        self._due = math.inf
        self._stopped = threading.Event()

    def start(self, seconds: float) -> None:
        """Begin anew: fire *seconds* from now."""
        with self._changed:
            self._due = self.clock.now() + seconds
            self._stopped.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """Do not fire; whoever waits returns at once."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the timer fires or stops, or *timeout* seconds pass; True if it fired."""
        with self._changed:
            until = math.inf if timeout is None else self.clock.now() + as_float(timeout)
            while not self._stopped.is_set():
                now = self.clock.now()
                if now >= self._due:
                    return True
                if now >= until:
                    return False
                self.clock.wait(self._changed, min(self._due, until))
            return False


class Ticker:
    """Ticks at once, and then again after each delay of a backoff.

    The next tick is due its delay after the one before was taken, whether or not the work it
    triggered is done; a slow consumer finds one tick waiting, never more. It ends with the
    sequence, by `stop`, or when *cancel* is cancelled, and ending wakes whoever waits. The first
    tick comes in any case, even from a ticker that is cancelled already.

    Any number of threads may wait for the same ticker: each tick goes to one of them. It has no
    thread of its own unless it is fed, so an abandoned one leaks nothing.

    Args:
        backoff: the delays: any re-iterable of seconds or timedeltas.
        timer: what to wait by, for tests and exotic clocks.
        cancel: a token that ends the ticker.
        clock: what a tick's time is read from, and what the default timer waits by.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """

    def __init__(
        self,
        backoff: Delays,
        *,
        timer: Timer | None = None,
        cancel: CancelToken | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = engine_clock(clock)
        self._timer = EventTimer(self._clock) if timer is None else timer
        self._cancel = cancel
        self._delays: Iterator[Any] = iter(reiterable("backoff", backoff))
        # Guards the rest; released before the timer, the backoff or a consumer runs.
        # Notified when a tick has been taken, and at the end.
        self._changed = threading.Condition()
        self._ready = True  # a tick is there to be taken: the first one, or the timer has fired
        self._first = True
        # Whether a consumer waits for the timer, or asks the backoff for the next delay. Only one
        # at a time does, the leader; the others wait for that one.
        self._has_leader = False
        self._due = -math.inf  # when the next tick is
        self._ended = False
        self._broken: Exception | None = None  # what the backoff raised, for the next to wait
        self._watchers: list[Callable[[], None]] = []  # wake the coroutines that wait, at the end
        if cancel is not None:
            # Weakly: a token that lives long must not keep alive all tickers it was given to.
            weakref.finalize(self, cancel.on_change(weak_callback(self._wake_all))).atexit = False

    def stop(self) -> None:
        """End the ticker; any number of times, from any thread, also from inside the loop."""
        with self._changed:
            self._ended = True
        self._wake_all()

    def wait(self, timeout: Seconds | None = None) -> float | None:
        """Block until the next tick and take it.

        Args:
            timeout: the most seconds to wait; None for no limit.

        Returns:
            the clock's time at the tick; None once the ticker has ended.

        Raises:
            TimeoutError: *timeout* passed first.
            Exception: what the backoff raised instead of a delay.
        """
        limit = seconds_or_none("timeout", timeout)
        until = math.inf if limit is None else self._clock.now() + limit
        while True:
            with self._changed:
                while self._has_leader and not self._is_over() and self._clock.now() < until:
                    self._clock.wait(self._changed, until)
                if self._is_over():
                    self._clock.thread_idle()
                    self._raise_broken()
                    return None
                if self._has_leader:
                    raise _timeout_error(limit)
                self._has_leader = True
            try:
                if (
                    self._ready or self._timer.wait(self._timeout_until(until))
                ) and not self._is_over():
                    return self._take()
            finally:
                self._stop_leading()
            if self._clock.now() >= until and not self._is_over():
                raise _timeout_error(limit)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> float:
        tick = self.wait()
        if tick is None:
            raise StopIteration
        return tick

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> float:
        """Wait for the next tick in a coroutine, without holding its thread."""
        if isinstance(self._timer, EventTimer) and self._timer.clock is self._clock:
            tick = await self._wait_on_loop()
        else:
            tick = await in_thread(self.wait)  # such a timer can only be waited for
        if tick is None:
            raise StopAsyncIteration
        return tick

    async def _wait_on_loop(self) -> float | None:
        while True:
            event = AsyncEvent()
            with self._changed:
                self._watchers.append(event.set)
            try:
                with self._changed:
                    if self._is_over():
                        self._raise_broken()
                        return None
                    is_leader = not self._has_leader
                    self._has_leader = True
                if is_leader:
                    try:
                        if self._ready or self._timer.wait(0.0):
                            return self._take()
                    finally:
                        self._stop_leading()
                await self._clock.wait_async(event, min(self._due, self._deadline()))
            finally:
                with self._changed:
                    self._watchers.remove(event.set)

    def feed(self, consumer: Callable[[float], object]) -> None:
        """Give every tick to *consumer*, from a thread of the ticker's own; return at once.

        So a ticker can be one of several sources: ``ticker.feed(queue.put)``. The thread ends with
        the ticker, or when *consumer* raises, which is logged.
        """
        if not callable(consumer):
            msg = f"consumer takes a callable (got {consumer!r})"
            raise TypeError(msg)
        begun = threading.Event()
        threading.Thread(
            target=self._feed, args=(consumer, begun), name="retryexec-ticker", daemon=True
        ).start()
        begun.wait()

    def _feed(self, consumer: Callable[[float], object], begun: threading.Event) -> None:
        # A clock that tests move must know of this thread before the test can move it.
        self._clock.thread_busy()
        begun.set()
        try:
            for tick in self:
                consumer(tick)
        except Exception:
            logger.exception("feeding a ticker failed, and it has ended")
            self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.stop()

    @override
    def __repr__(self) -> str:
        return f"<Ticker {'ended' if self._is_over() else 'ticking'}>"

    # ---- the leader

    def _take(self) -> float:
        """Take the tick that is there, and set the timer for the next one."""
        self._first = self._ready = False
        now = self._clock.now()
        try:
            delay = seconds("a delay of the backoff", next(self._delays))
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._broken, self._ended = error, True
        else:
            self._due = now + delay
            self._timer.start(delay)
            if self._ended:  # stop() came before the start, which has undone it
                self._timer.stop()
        return now

    def _stop_leading(self) -> None:
        """Let another consumer be the leader."""
        with self._changed:
            self._has_leader = False
            self._changed.notify_all()

    def _wake_all(self) -> None:
        """Wake all who wait, so that they check whether the ticker has ended."""
        self._timer.stop()
        with self._changed:
            self._changed.notify_all()
            watchers = self._watchers.copy()
        for watcher in watchers:
            watcher()

    def _is_over(self) -> bool:
        cancelled = self._cancel is not None and self._cancel.cancelled
        return self._ended or (cancelled and not self._first)

    def _raise_broken(self) -> None:
        """At the end, raise what the backoff raised, once."""
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken

    def _deadline(self) -> float:
        """Return when the token's time is up, if it has a limit."""
        left = None if self._cancel is None else self._cancel.remaining()
        return math.inf if left is None else self._clock.now() + left

    def _timeout_until(self, until: float) -> float | None:
        """Return for how long to wait for the timer at most; None for as long as it takes."""
        until = min(until, self._deadline())
        return None if until == math.inf else max(0.0, until - self._clock.now())


def _timeout_error(limit: float | None) -> TimeoutError:
    return TimeoutError(f"no tick within {limit} s")


def weak_callback(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls *method* as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call
