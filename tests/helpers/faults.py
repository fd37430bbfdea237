"""Faults for jobs, policies, hooks and results; each drawn from a random source given to it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from retryexec import ExponentialBackoff, PermanentError, RetryAfter, RetryPolicy


class Fault(Exception):
    """What is raised on purpose."""


def no(*_: Any) -> NoReturn:
    raise Fault


class Hostile:
    """A result that answers no question."""

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __getattr__ = no
    __hash__ = no


class HostileError(Exception):
    """An exception that answers no question, and takes no note."""

    __repr__ = __str__ = __eq__ = __bool__ = add_note = no
    __hash__ = no


SHARED = Fault("one object, raised by many jobs")


class Job:
    """Fails, dawdles or ends as chance has it."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd

    def exec(self) -> Any:
        x = self.rnd.random()
        if x < 0.02:
            time.sleep(self.rnd.random() * 0.001)
        for limit, make in FAILURES:
            if x < limit:
                raise make(self.rnd)
        return Hostile() if x > 0.95 else x


FAILURES: list[tuple[float, Callable[[random.Random], BaseException]]] = [
    (0.25, lambda rnd: ValueError(rnd.random())),
    (0.28, lambda rnd: RetryAfter(rnd.random() * 0.003)),
    (0.30, lambda rnd: PermanentError(Fault())),
    (0.31, lambda rnd: SystemExit()),
    (0.32, lambda rnd: MemoryError()),
    (0.33, lambda rnd: SHARED),
    (0.36, lambda rnd: HostileError()),
    (0.37, lambda rnd: GeneratorExit()),
]


class Delays:
    """A backoff that may break, or lie."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd

    def __iter__(self) -> Any:
        for _ in range(8):
            x = self.rnd.random()
            if x < 0.03:
                raise Fault
            yield float("inf") if x < 0.05 else -1 if x < 0.06 else x * 0.002


def policy(rnd: random.Random) -> RetryPolicy:
    def retry_on(_: Exception) -> Any:
        x = rnd.random()
        if x < 0.02:
            raise Fault
        return (
            float("inf") if x < 0.04 else x * 0.01 if x < 0.2 else Hostile() if x < 0.22 else True
        )

    def retry_on_result(_: Any) -> Any:
        x = rnd.random()
        if x < 0.02:
            raise Fault
        return Hostile() if x < 0.03 else x < 0.1

    return RetryPolicy(
        max_attempts=rnd.choice([1, 2, 4, None]),
        max_elapsed=rnd.choice([None, 0.005]),
        backoff=rnd.choice(
            [
                [0.0] * 6,
                [0.0005] * 8,
                ExponentialBackoff(0.0002, max_interval=0.002).take(9),
                Delays(rnd),
            ]
        ),
        retry_on=rnd.choice([Exception, retry_on]),
        retry_on_result=rnd.choice([None, None, retry_on_result]),
    )


def hook(rnd: random.Random) -> Callable[[Any], None]:
    def told(event: Any) -> None:
        x = rnd.random()
        if x < 0.05:
            raise rnd.choice([Fault, HostileError, SystemExit, MemoryError])
        if x < 0.08:
            event.future.cancel()

    return told


class Starts:
    """Threads that cannot be started at times, and some that start and say that they did not."""

    def __init__(self, rnd: random.Random, share: float) -> None:
        self.rnd, self.share = rnd, share
        self.start = threading.Thread.start

    def __call__(self, thread: threading.Thread) -> None:
        x = self.rnd.random()
        if "RetryingExecutor" in thread.name and x < self.share:
            raise MemoryError if x < self.share / 2 else RuntimeError("can't start new thread")
        self.start(thread)


def quietly(fn: Callable[[], object]) -> None:
    """Call *fn*, whatever comes of it."""
    with suppress(BaseException):
        fn()
