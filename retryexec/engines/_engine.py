"""Engine: a value that says where attempts run, from which each executor makes a runner."""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias

from retryexec._core.away import Isolation
from retryexec._validate import whole_number

MakesExecutor: TypeAlias = Callable[[], Executor]
AttemptsOn: TypeAlias = "Engine | Executor | MakesExecutor"
"""What an executor's `attempts_on` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where attempts run: what `processes`, `interpreters` and `dask` return.

    A frozen value. Each executor that is given it makes executors of its own by it, with the first
    attempt, and another one when one has broken.

    Args:
        make: makes the executor, which is shut down when nothing will be sent to it any more. None
            if *executor* is given.
        executor: an executor that somebody else shuts down, and nobody replaces.
        max_workers: how many attempts run at a time; by default what the executor says of itself.
        max_crashes: how often it may break with a job before that job fails with
            `StopReason.CRASHED`.
        size: asked now and then for how many attempts it can run at a time.
        crash_types: with what a future fails, beside `BrokenExecutor`, if its attempt was lost.
        crashes: how many crashes one such failure stands for.
        same_host: whether the other side has this one's monotonic clock.
        cloud: whether jobs and outcomes are pickled by cloudpickle.
        isolation: how it becomes known which attempt the executor broke with.
    """

    make: MakesExecutor | None = None
    executor: Executor | None = None
    max_workers: int | None = None
    max_crashes: int = 3
    size: Callable[[Any], int] | None = None
    crash_types: tuple[type[Exception], ...] = ()
    crashes: Callable[[BaseException], int] | None = None
    same_host: bool = False
    cloud: bool = False
    isolation: Isolation = Isolation.SECLUDED

    def __post_init__(self) -> None:
        if self.max_workers is not None:
            whole_number("max_workers", self.max_workers, least=1)
        whole_number("max_crashes", self.max_crashes, least=1)


def as_engine(value: Any) -> Engine:
    """Return what `attempts_on` was given as an `Engine`.

    Raises:
        TypeError: it is neither an executor nor a callable that makes one.
    """
    if isinstance(value, Engine):
        return value
    if isinstance(value, Executor):
        return Engine(executor=value, isolation=Isolation.EXCLUSIVE)
    if callable(value):
        make: Any = value
        return Engine(make=make)
    msg = (
        "attempts_on takes an Executor, a callable that makes one, or one of retryexec.engines, "
        f"such as processes() (got {value!r})"
    )
    raise TypeError(msg)


def default_size(executor: Executor) -> int:
    """Return how many calls *executor* runs at a time, if it says so, or the number of CPUs."""
    size = getattr(executor, "_max_workers", None)
    return size if isinstance(size, int) and size > 0 else os.cpu_count() or 1
