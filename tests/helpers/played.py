"""A job that goes by a script, played through on a clock that moves by itself."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from retryexec import RetryFuture, RetryingExecutor, RetryPolicy
from retryexec.testing import VirtualClock


class Script:
    """A job whose attempts end as *outcomes* say, the last of them again and again.

    An exception is raised; a callable, exception types included, is called first; anything else
    is returned.
    """

    def __init__(self, clock: VirtualClock, *outcomes: Any) -> None:
        self.clock = clock
        self.outcomes = outcomes
        self.started: list[float] = []

    def exec(self) -> Any:
        self.started.append(self.clock.now())
        outcome = self.outcomes[min(len(self.started), len(self.outcomes)) - 1]
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Played(NamedTuple):
    """What became of a job."""

    future: RetryFuture[Any]
    started: list[float]
    ended: float

    @property
    def reason(self) -> Any:
        return self.future.stop_reason

    @property
    def exception(self) -> BaseException | None:
        return self.future.exception(0)


def play(policy: RetryPolicy, *outcomes: Any, clock: VirtualClock | None = None) -> Played:
    """Run one job by *policy*, its attempts ending in *outcomes*, until it has ended."""
    clock = clock or VirtualClock()
    script = Script(clock, *outcomes)
    with RetryingExecutor(max_workers=1, policy=policy, clock=clock) as executor:
        future = executor.submit(script)
        clock.run_until(future.done)
        ended = clock.now()
    return Played(future, script.started, ended)


def asleep(
    clock: VirtualClock, until: float, *, then: Callable[[], object] = list
) -> threading.Thread:
    """Return a thread that already waits by *clock*, until *until*, and then calls *then*."""
    changed, begun = threading.Condition(), threading.Event()

    def sleep() -> None:
        with changed:
            begun.set()
            clock.wait(changed, until)
        then()

    thread = threading.Thread(target=sleep)
    thread.start()
    begun.wait()
    with changed:  # ours only once wait() has let go of it
        return thread
