"""What an executor, or a view of it, has set for all jobs that are submitted to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retryexec._progress import Settings

if TYPE_CHECKING:
    from retryexec._core.pool import Pool
    from retryexec._events import GiveUp, Retry, Success
    from retryexec._journal_api import JournalLink


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
