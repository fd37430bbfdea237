"""What may hold a record back: others of its key, and guards; as the options of ``run`` say."""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from retryexec import RetryingExecutor
from retryexec.cli.options import UsageError, did_you_mean
from retryexec.cli.records import Record
from retryexec.cli.run_options import RunOptions
from retryexec.guards import CircuitBreaker, ConcurrencyLimit, Guard, RateLimit

_SHARE = 20  # a look at what holds each job may take one part in so many of the time


def guards_of(options: RunOptions) -> list[Guard]:
    """Return the guards that *options* ask for, outermost first."""
    guards: list[Guard] = []
    if options.breaker is not None:
        guards.append(CircuitBreaker(**options.breaker))
    if options.rate is not None:
        number, seconds = options.rate
        guards.append(RateLimit(number, seconds))
    if options.concurrency is not None:
        guards.append(ConcurrencyLimit(options.concurrency))
    return guards


def key_of_record(options: RunOptions, names: frozenset[str]) -> Callable[[Record], Hashable]:
    """Return what gives a record its key by ``--key``; None for a record without one.

    Args:
        names: of the fields that a record has.

    Raises:
        UsageError: there is no such field, or an option makes no sense without a key.
    """
    fields = options.key
    if not fields:
        if options.keep != "all":
            msg = f"--keep {options.keep} goes with --key FIELD: which records are of one key?"
            raise UsageError(msg)
        return lambda _: None
    for name in fields:
        if name not in names:
            has = ", ".join(sorted(names)) or "no fields"
            hint = did_you_mean(name, names)
            msg = f"--key: the records have no field {name!r}{hint} (they have {has})"
            raise UsageError(msg)

    def key(record: Record) -> Hashable:
        values = [getattr(record.job, name) for name in fields]
        if all(value is None for value in values):
            return None
        return tuple(map(_hashable, values))

    return key


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:  # a list, or a dict
        return repr(value)
    return value  # type: ignore[no-any-return]  # checked above


class Holds:
    """Tells what holds the jobs of an executor, now and then: it has to look at each of them."""

    def __init__(self, executor: RetryingExecutor) -> None:
        self._executor = executor
        self._next = 0.0
        self._found: tuple[tuple[str, int], ...] = ()

    def look(self, held: int) -> tuple[tuple[str, int], ...]:
        """Return what holds jobs and how many, commonest first, as it was a moment ago."""
        began = time.monotonic()
        if not held:
            self._found = ()
        elif began >= self._next:
            found = Counter(one.held_by for one in self._executor.pending() if one.held_by)
            self._found = tuple(found.most_common(3))
            now = time.monotonic()
            self._next = now + _SHARE * (now - began)
        return self._found
