"""What tests of guards in executors share: work and a service on a virtual clock."""

import threading
from typing import Any

from retryexec import ConstantBackoff, RetryFuture, RetryPolicy
from retryexec.guards import AttemptRequest, Guard, Outcome
from retryexec.testing import VirtualClock

FOR_EVER = RetryPolicy(backoff=ConstantBackoff(1.0), max_attempts=None, max_elapsed=None)


def work(clock: VirtualClock, seconds: float) -> None:
    """Take so many virtual seconds of a worker's time."""
    changed = threading.Condition()
    until = clock.now() + seconds
    with changed:
        while clock.now() < until:
            clock.wait(changed, until)


class Service:
    """What is called: it is down for a time, and keeps a ledger of the attempts."""

    def __init__(self, clock: VirtualClock, *, down: tuple[float, float] = (0.0, 0.0)) -> None:
        self.clock = clock
        self.down = down
        self.attempts: list[float] = []

    def call(self) -> float:
        now = self.clock.now()
        self.attempts.append(now)
        if self.down[0] <= now < self.down[1]:
            raise ConnectionError("down")
        return now

    def between(self, begin: float, end: float) -> int:
        """Return how many attempts there were from *begin* until *end*."""
        return sum(begin <= time < end for time in self.attempts)


def finish(clock: VirtualClock, futures: list[RetryFuture[Any]]) -> None:
    clock.run_until(lambda: all(future.done() for future in futures))


class Counting:
    """A guard that counts how often another one is asked."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.asked = 0

    def admit(self, request: AttemptRequest) -> float | None:
        self.asked += 1
        return self.guard.admit(request)

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        self.guard.release(request, outcome)
