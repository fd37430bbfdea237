"""Jobs for tests: they fail as often as they are told, or stand still until they are let go."""

import threading
from threading import Condition, Event
from typing import Any

from retryexec import Clock, PermanentError, RetryFuture
from retryexec.testing import VirtualClock


class Boom(Exception):
    """What the jobs here fail with."""


class Fails:
    """A job that fails a number of times and writes down when each attempt began."""

    def __init__(self, times: float, clock: Clock, result: Any = "saved") -> None:
        self.times = times
        self.clock = clock
        self.result = result
        self.started_at: list[float] = []

    def exec(self) -> Any:
        self.started_at.append(self.clock.now())
        if len(self.started_at) <= self.times:
            raise Boom(len(self.started_at))
        return self.result


class Gate:
    """A job that says when it has begun, and ends once the gate is opened, in its own way."""

    def __init__(self, outcome: Any = "through") -> None:
        self.begun = Event()
        self.opened = Event()
        self.outcome = outcome

    def exec(self) -> Any:
        self.begun.set()
        if not self.opened.wait(10):
            raise PermanentError(TimeoutError("nobody opened the gate"))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def reached(self) -> bool:
        """Wait until the attempt stands at the gate."""
        return self.begun.wait(10)

    def open(self) -> None:
        self.opened.set()


def busy_for(clock: VirtualClock, seconds: float) -> None:
    """Keep the calling worker busy for so many seconds of the virtual clock."""
    until = clock.now() + seconds
    with (changed := Condition()):
        while clock.now() < until:
            clock.wait(changed, until)
    clock.thread_idle()


class InThread(threading.Thread):
    """Calls a function in a thread of its own, and returns or raises what that did."""

    def __init__(self, fn: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self.fn, self.args = fn, args
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.fn(*self.args)
        except BaseException as error:
            self.error = error
        finally:
            del self.fn, self.args

    def result(self) -> Any:
        self.join(10)
        assert not self.is_alive(), "it is still waiting"
        if self.error is not None:
            raise self.error
        return self.value


def raise_(error: BaseException) -> Any:
    """Raise *error*, where only an expression will do."""
    raise error


# Futures that have ended, in nobody's executor.


def succeeded(value: Any = "saved") -> RetryFuture[Any]:
    future: RetryFuture[Any] = RetryFuture()
    future.set_result(value)
    return future


def failed() -> RetryFuture[Any]:
    future: RetryFuture[Any] = RetryFuture()
    future.set_exception(Boom())
    return future


def cancelled() -> RetryFuture[Any]:
    future: RetryFuture[Any] = RetryFuture()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future
