"""processes(): the engine that runs attempts in other processes of this machine."""

import os
import sys
from collections.abc import Callable
from concurrent.futures.process import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import Any

from retryexec._core.away import Isolation
from retryexec._core.settings import cpu_count
from retryexec._validate import callable_or_none, whole_number
from retryexec.engines._engine import Engine
from retryexec.engines._pool import ProcessPool


def processes(
    max_workers: int | None = None,
    *,
    mp_context: BaseContext | str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    max_tasks_per_child: int | None = None,
    max_crashes: int = 3,
) -> Engine:
    """Run attempts in other processes.

    The job, its arguments and its outcome are pickled. A process that dies costs the job that ran
    there no attempt, and the other jobs nothing. Ctrl-C does not reach the processes, and they end
    when this process does, however that ends.

    Args:
        max_workers: how many processes; by default one for each CPU.
        mp_context: how they are started, as a context of `multiprocessing` or the name of a start
            method. By default "forkserver" where there is one, or else "spawn": a program that has
            threads should not fork. With both, a script needs ``if __name__ == "__main__":``.
        initializer, initargs: called as ``initializer(*initargs)`` in each new process.
        max_tasks_per_child: after how many attempts a process makes way for a new one.
        max_crashes: how often its process may die before a job fails with `StopReason.CRASHED`.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """
    most = workers(max_workers)
    if mp_context is None:
        methods = get_all_start_methods()
        mp_context = "forkserver" if "forkserver" in methods else "spawn"
    context = get_context(mp_context) if isinstance(mp_context, str) else mp_context
    callable_or_none("initializer", initializer)
    if max_tasks_per_child is not None:
        whole_number("max_tasks_per_child", max_tasks_per_child, least=1)
    if sys.platform == "win32":  # pragma: no cover  where pipes cannot be waited for as here
        pool = partial(
            ProcessPoolExecutor,
            most,
            mp_context=context,
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=max_tasks_per_child,
        )
        return Engine(make=pool, max_workers=most, max_crashes=max_crashes, same_host=True)
    begin = initializer, tuple(initargs)
    make = partial(_make_pool, os.getpid(), most, context, begin, max_tasks_per_child)
    return Engine(
        make=make,
        max_workers=most,
        max_crashes=max_crashes,
        same_host=True,
        isolation=Isolation.EXACT,
    )


def _make_pool(home: int, workers: int, context: BaseContext, *others: Any) -> ProcessPool:
    """Make a pool; *home* is the process in which the engine was made."""
    if os.getpid() != home and context.get_start_method() == "forkserver":
        # This one was forked from there, and is not the parent of the server that it knows of.
        context = get_context("spawn")
    return ProcessPool(workers, context, *others)


def workers(max_workers: int | None) -> int:
    """Return how many workers an engine on this machine has; by default one for each CPU."""
    return whole_number("max_workers", cpu_count() if max_workers is None else max_workers, least=1)
