"""Waits that tests can stage: a clock that tells who waits by it, and a timer fired by hand."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from threading import Event, Lock
from typing import TYPE_CHECKING

from retryexec._core import future as _future
from retryexec.testing import VirtualClock

if TYPE_CHECKING:
    import pytest


class TellingClock(VirtualClock):
    """A virtual clock that tells when a thread, not its owner, has begun to wait by it."""

    def __init__(self) -> None:
        super().__init__(patience=5)
        self._waits: SimpleQueue[threading.Condition] = SimpleQueue()

    def wait(self, changed: threading.Condition, until: float) -> None:
        if not self.owned_here:
            self._waits.put(changed)
        super().wait(changed, until)

    def until_waiting(self, threads: int = 1) -> None:
        """Return once so many more waits have begun."""
        for _ in range(threads):
            with self._waits.get(timeout=10):  # ours only once the wait has let go of it
                pass


class HandTimer:
    """A timer that fires when it is told to, and writes down what it was asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.started: list[float] = []
        self.stops = 0
        self._state = "new"

    def start(self, seconds: float) -> None:
        with self._changed:
            self.started.append(seconds)
            self._become("running")

    def stop(self) -> None:
        with self._changed:
            self.stops += 1
            self._become("stopped")

    def fire(self) -> None:
        with self._changed:
            self._become("fired")

    def until_started(self, times: int) -> None:
        """Return once it has been started so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.started) >= times, 10)

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._state in {"fired", "stopped"}, timeout)
            return self._state == "fired"

    def _become(self, state: str) -> None:
        self._state = state
        self._changed.notify_all()


class AtOnceTimer(HandTimer):
    """A timer that fires as soon as it is started."""

    def start(self, seconds: float) -> None:
        super().start(seconds)
        self.fire()


def tell_of_gates(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Return an event that is set whenever a thread is about to wait in `RetryFuture.result`."""
    about_to = Event()

    class Gate:
        """Closed by its first acquire, and waited at by the second, after which it tells."""

        def __init__(self) -> None:
            self.lock = Lock()

        def acquire(self, timeout: float = -1) -> bool:
            if self.lock.locked():
                about_to.set()
            return self.lock.acquire(timeout=timeout)

        def release(self) -> None:
            self.lock.release()

    monkeypatch.setattr(_future, "Lock", Gate)
    return about_to
