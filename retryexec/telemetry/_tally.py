"""Tally: what the jobs of one executor did, by name; counted as they run, since stats() has none.

Only collectors that were asked for more than `stats()` knows have one.
"""

from bisect import bisect_left
from collections.abc import Sequence
from threading import RLock
from types import FunctionType
from typing import Any, TypeAlias

from retryexec._core.holds import Hold
from retryexec._core.job import Job
from retryexec._core.observed import AttemptEnd
from retryexec._outcome import StopReason, name_of

AnyJob: TypeAlias = Job[Any]

NAMES_MAX = 100
"""How many names of jobs have series of their own; a program may go on making types for ever."""

OTHER = "other"
"""The name that all further ones share."""


class Histogram:
    """How many values came to at most so much."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def cumulated(self) -> tuple[list[tuple[float, int]], float]:
        """Return the bounds, each with how many values it is not below, and the sum of all."""
        total, found = 0, list[tuple[float, int]]()
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found, self._sum


class Tally:
    """Counts the attempts and jobs of one pool.

    Args:
        lock: the pool's, since a fork finds that in order.
        by_name: whether to tell jobs of different names apart; else all have the name "".
        seconds, delays: whether to keep how long attempts ran, and how late they began.
        bounds: of the histograms.
    """

    wants_traces = False

    def __init__(
        self, lock: RLock, *, by_name: bool, seconds: bool, delays: bool, bounds: Sequence[float]
    ) -> None:
        # Guards all below, but for the two dicts by job, of which each use is one operation.
        self._lock = lock
        self._by_name, self._seconds, self._delays = by_name, seconds, delays
        self._bounds = bounds
        self._names: dict[AnyJob, str] = {}  # of unfinished jobs
        self._ready: dict[AnyJob, float] = {}  # when their next attempts were due
        self._shown: set[str] = set()  # the names that have series
        self._known: dict[Any, str] = {}  # some of them, by what they are made of
        self.jobs: dict[tuple[str, str], int] = {}  # by name and outcome
        self.attempts: dict[tuple[str, str], int] = {}
        self.seconds: dict[str, Histogram] = {}  # by name
        self.delays: dict[str, Histogram] = {}

    def accepted(self, job: AnyJob) -> None:
        """Note *job*, and since when it could run."""
        if self._by_name:
            self._names[job] = self._name(job)
        # One that is found unfinished may wait, for a time that is not known here.
        if self._delays and job.started is None and job.due is None and job.progress is None:
            self._ready[job] = job.settings.pool.now()

    def left(self, job: AnyJob, outcome: str | None) -> None:
        """Count *job*, the first time that it is said to have ended."""
        self._ready.pop(job, None)
        name = self._names.pop(job, None)
        if name is not None and outcome is not None:
            with self._lock:
                self.jobs[name, outcome] = self.jobs.get((name, outcome), 0) + 1

    def started(self, job: AnyJob, number: int, ago: float) -> object:  # noqa: ARG002  Observer's
        """Count how late the attempt begins; return its job's name."""
        name = self._names.get(job, "")
        if self._delays and (ready := self._ready.pop(job, None)) is not None:
            late = max(0.0, job.settings.pool.now() - ready)
            with self._lock:
                self._add(self.delays, name, late)
        return name

    def held(self, told: Any, holds: Sequence[Hold]) -> None:
        """Hear what has held an attempt; not told, since it wants no traces."""

    def ended(self, told: Any, job: AnyJob, end: AttemptEnd) -> None:
        """Count the attempt, unless it was lost with its engine and so was none."""
        if end.delay is not None and self._delays:
            self._ready[job] = job.settings.pool.now() + end.delay
        if end.crashed:
            return
        outcome = "succeeded" if end.reason is StopReason.SUCCEEDED else "failed"
        with self._lock:
            self.attempts[told, outcome] = self.attempts.get((told, outcome), 0) + 1
            if self._seconds:
                self._add(self.seconds, told, end.seconds)

    def _add(self, kept: dict[str, Histogram], name: str, value: float) -> None:
        histogram = kept.get(name)
        if histogram is None:
            histogram = kept[name] = Histogram(self._bounds)
        histogram.add(value)

    def _name(self, job: AnyJob) -> str:
        submitted = job.submitted
        # Most jobs are functions, or of a class with exec(): their names are made once.
        source: Any = None
        if type(submitted) is FunctionType:
            source = submitted.__qualname__
        elif job.by_exec:
            source = type(submitted)
        known = self._known.get(source)
        if known is not None:
            return known
        name = name_of(submitted)
        with self._lock:
            if name not in self._shown and len(self._shown) >= NAMES_MAX:
                return OTHER
            self._shown.add(name)
            if source is not None and len(self._known) < NAMES_MAX:
                self._known[source] = name
        return name
