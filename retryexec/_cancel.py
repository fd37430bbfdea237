"""CancelToken: a one-shot flag that cancels whatever was given it, even while that waits."""

import logging
import math
import threading
from collections.abc import Callable
from itertools import count

from retryexec._clock import Clock, EngineClock, engine_clock
from retryexec._typing import override
from retryexec._validate import Seconds, seconds_or_none

logger = logging.getLogger("retryexec")


class CancelToken:
    """A one-shot cancellation flag that threads and coroutines can wait for.

    Args:
        timeout: seconds (or a timedelta) from now, after which the token cancels itself.
        parent: a token whose cancelling cancels this one too.
        clock: what *timeout* is measured by; the parent's by default, and without a parent the
            system's.

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
        inherited = parent.clock if clock is None and parent is not None else None
        self.clock: EngineClock = inherited or engine_clock(clock)
        limit = seconds_or_none("timeout", timeout)
        self._deadline = math.inf if limit is None else self.clock.now() + limit
        self._parent = parent
        # Guards the rest; released before a callback runs. Reentrant, for signal handlers.
        self._lock = threading.RLock()
        self._cancelled = False
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._keys = count()
        # While there are callbacks, the token is registered with its parent and, for its deadline,
        # with its clock. These undo that.
        self._registrations: list[Callable[[], object]] = []
        self._has_alarm = False  # whether it is registered with its clock

    def cancel(self) -> None:
        """Cancel the token and its children, and run the callbacks; a second call does nothing."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = list(self._callbacks.values()), {}
        self._unregister_if_idle()
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
            self.clock.thread_idle()
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
        """Do as `on_cancel`, but without *at_deadline* not when the token's time is up.

        That is for a caller who waits by a clock of its own, for no longer than `remaining`.
        """
        with self._lock:
            key = None if self.cancelled else next(self._keys)
            first = not self._callbacks
            if key is not None:
                self._callbacks[key] = callback
        if key is None:
            _run(callback)
            return _nothing
        # Only after the callback was added: if the parent is cancelled, or the time is up, this
        # cancels the token at once.
        if first and self._parent is not None:
            self._register(self._parent.on_change(self.cancel))
        if at_deadline and (time_left := self.remaining()) is not None:
            self._set_alarm(time_left)
        return lambda: self._remove(key)

    def _set_alarm(self, span: float) -> None:
        """Have the clock cancel this token in *span* seconds, unless that is arranged already."""
        with self._lock:
            had_alarm, self._has_alarm = self._has_alarm, True
        if not had_alarm:
            self._register(self.clock.call_at(self.clock.now() + span, self.cancel))

    def _register(self, undo: Callable[[], object]) -> None:
        with self._lock:
            self._registrations.append(undo)
        self._unregister_if_idle()  # the last callback may have gone meanwhile

    def _unregister_if_idle(self) -> None:
        """Unregister from parent and clock, which may live long, once there are no callbacks."""
        with self._lock:
            if self._callbacks:
                return
            registrations, self._registrations, self._has_alarm = self._registrations, [], False
        for undo in registrations:
            undo()

    def _remove(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)
        self._unregister_if_idle()

    @override
    def __repr__(self) -> str:
        left = self.remaining()
        state = "cancelled" if self.cancelled else "open" if left is None else f"{left:g} s left"
        return f"<CancelToken {state}>"


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
    """Do nothing: the callback ran at once, and there is nothing to unregister."""
