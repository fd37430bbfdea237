"""What an executor has set: for its threads, and for the jobs submitted to it, or a view of it."""

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retryexec._clock import EngineClock
from retryexec._progress import Settings

if TYPE_CHECKING:
    from retryexec._core.away import Runner
    from retryexec._core.pool import Pool
    from retryexec._events import GiveUp, Retry, Success
    from retryexec._journal_api import JournalLink
    from retryexec.guards import Guard


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class JobSettings(Settings):
    """The settings of all jobs that were submitted to one executor, or to one view of it.

    The hooks are here and not in the pool. The pool's threads would keep them alive, and with
    them what they refer to: often the executor itself, which then could never be collected.
    """

    pool: "Pool"
    on_retry: "Callable[[Retry], object] | None"
    on_give_up: "Callable[[GiveUp], object] | None"
    on_success: "Callable[[Success], object] | None"
    journal: "JournalLink | None"
    # Where the user has no hook that hears of failures, they are logged. Of retries, only the
    # first after each of these types is, for a whole executor. None where there is a hook.
    logged_types: set[type] | None
    # What keys jobs have: a callable that is asked, or one key for all; None for no keys.
    key: "Callable[..., Hashable] | Hashable"
    latest: bool  # whether a newer job of a key replaces one that waits
    guards: "tuple[Guard, ...]"
    controlled: bool  # whether a key or guards may hold jobs back


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Setup:
    """What a pool is made from; kept, since a forked child makes another one."""

    max_workers: int
    thread_name_prefix: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_pending: int | None
    exit_timeout: float | None
    clock: EngineClock
    make_runner: "Callable[[], Runner] | None" = None  # where attempts run, if not on workers


def cpu_count() -> int:
    """Return how many CPUs there are for this process, or how many there are."""
    # From 3.13 on the standard library asks for the CPUs of this process.
    count_cpus: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count_cpus() or 1
