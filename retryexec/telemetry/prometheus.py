"""Metrics for Prometheus: a collector that reads what executors know when it is scraped."""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

try:
    __import__("prometheus_client")  # here, so that one message says what to do
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    msg = f"{__name__} needs prometheus_client: pip install 'retryexec[prometheus]'"
    raise ImportError(msg, name="prometheus_client") from error

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from retryexec._core import counts
from retryexec._core.observed import observe
from retryexec._core.pool import Pool
from retryexec._core.process import all_settings, pool_of, settings_of
from retryexec._events import Stats
from retryexec._exceptions import report
from retryexec._executor import RetryingExecutor
from retryexec._journal_api import JournalLink
from retryexec._validate import number_between
from retryexec.guards import BreakerState
from retryexec.telemetry._tally import Histogram, Tally

__all__ = ["Collector"]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""The bounds of the histograms, in seconds, if a `Collector` is not given others."""

_STATES = ("queued", "running", "waiting", "held")
_OUTCOMES = ("succeeded", "failed", "cancelled", "superseded")
_BREAKER_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class _Source(NamedTuple):
    """An executor that is collected from; this keeps neither it nor its pool alive."""

    label: str
    owner: "weakref.ref[RetryingExecutor]"
    pool: "weakref.ref[Pool]"
    tally: Tally | None
    before: Stats  # what had been counted when the tally began

    def current_pool(self) -> Pool | None:
        """Return the executor's pool; None if neither it nor a view of it is there any more."""
        owner = self.owner()
        settings = None if owner is None else settings_of(owner)  # another one after a fork
        pool = self.pool() if settings is None else settings.pool
        return pool if pool is not None and all_settings(pool) else None


class Collector:
    """A collector of the metrics of executors, for ``prometheus_client``'s registries.

    ``REGISTRY.register(Collector(executor))``. It reads ``stats()`` when it is scraped, which costs
    jobs nothing; what it counts beyond that, on request, costs each job some time. It does not keep
    executors alive: one that has been collected has no series any more.

    Args:
        executors: one or several; more can be given to `add`.
        name: what a single executor is called in the label ``executor``; by default, its
            *thread_name_prefix*.
        per_job: whether jobs and attempts are counted by the name of their class or function, as
            the label ``job``. There are at most 100; the jobs of further ones are called "other".
        attempt_seconds: whether ``retryexec_attempt_seconds`` is kept.
        start_delay: whether ``retryexec_start_delay_seconds`` is kept.
        buckets: the upper bounds of the histograms, in seconds.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """

    def __init__(
        self,
        *executors: RetryingExecutor,
        name: str | None = None,
        per_job: bool = False,
        attempt_seconds: bool = False,
        start_delay: bool = False,
        buckets: Sequence[float] = BUCKETS,
    ) -> None:
        if name is not None and len(executors) != 1:
            msg = f"name is for one executor (got {len(executors)}): give each its own by add()"
            raise ValueError(msg)
        self._per_job = per_job
        self._attempt_seconds = attempt_seconds
        self._start_delay = start_delay
        self._bounds = _checked_bounds(buckets)
        # Replaced as a whole, so that a scrape sees all of it or nothing.
        self._sources: tuple[_Source, ...] = ()
        # The labels of guards by their ids; a guard may not have a weak reference.
        self._guard_labels: dict[int, str] = {}
        for executor in executors:
            self.add(executor, name=name)

    def add(self, executor: RetryingExecutor, *, name: str | None = None) -> None:
        """Collect from *executor*, too; with *name* as its label.

        Raises:
            TypeError: it is not a RetryingExecutor.
            ValueError: another executor has this label.
        """
        pool = pool_of(executor)
        label = pool.setup.thread_name_prefix if name is None else name
        alive = [(source, known) for source in self._sources if (known := source.current_pool())]
        if any(known is pool for _, known in alive):
            msg = f"this Collector has {executor!r} already"
            raise ValueError(msg)
        if any(source.label == label for source, _ in alive):
            msg = f"two executors would be {label!r}: call this one otherwise, by add(…, name=…)"
            raise ValueError(msg)
        tally = None
        if self._per_job or self._attempt_seconds or self._start_delay:
            tally = Tally(
                pool.lock,
                by_name=self._per_job,
                seconds=self._attempt_seconds,
                delays=self._start_delay,
                bounds=self._bounds,
            )
        before = counts.snapshot(pool)
        if tally is not None:
            observe(pool, [tally], [tally] if self._per_job or self._start_delay else ())
        source = _Source(label, weakref.ref(executor), weakref.ref(pool), tally, before)
        self._sources = (*(known for known, _ in alive), source)

    def describe(self) -> Iterable[Metric]:
        """Claim no names, so that a registry takes several collectors."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called by the registry when it is scraped."""
        families = _Families()
        guards: dict[int, Any] = {}
        for source in self._sources:
            pool = source.current_pool()
            if pool is None:
                self._sources = tuple(s for s in self._sources if s is not source)
                continue
            self._collect_stats(families, source, pool)
            settings = all_settings(pool)
            guards.update((id(guard), guard) for each in settings for guard in each.guards)
            journal = next((each.journal for each in settings if each.journal is not None), None)
            if journal is not None:
                families.add_journal(source.label, journal)
        self._collect_guards(families, guards)
        yield from families.all()

    def _collect_stats(self, families: "_Families", source: _Source, pool: Pool) -> None:
        label, tally = source.label, source.tally
        # By name, what had ended before there was a tally has none.
        stats, counted = counts.stats(pool), source.before
        if tally is None or not self._per_job:
            counted = stats
        with pool.lock:
            by_name = tally is not None and self._per_job
            jobs = dict(tally.jobs) if tally is not None and by_name else {}
            attempts = dict(tally.attempts) if tally is not None and by_name else {}
            seconds = {} if tally is None else _cumulated(tally.seconds)
            delays = {} if tally is None else _cumulated(tally.delays)
        for outcome in _OUTCOMES:
            jobs["", outcome] = getattr(counted, outcome)
        attempts["", "succeeded"] = counted.succeeded
        attempts["", "failed"] = counted.attempts - counted.succeeded
        for (name, outcome), number in sorted(jobs.items()):
            families.jobs_total.add_metric([label, name, outcome], number)
        for (name, outcome), number in sorted(attempts.items()):
            families.attempts_total.add_metric([label, name, outcome], number)
        for state in _STATES:
            families.jobs.add_metric([label, state], getattr(stats, state))
        families.oldest_wait.add_metric([label], stats.oldest_wait)
        for name, (buckets, total) in seconds.items():
            families.attempt_seconds.add_metric([label, name], buckets, total)
        for name, (buckets, total) in delays.items():
            families.start_delay.add_metric([label, name], buckets, total)

    def _collect_guards(self, families: "_Families", guards: Mapping[int, Any]) -> None:
        self._guard_labels = {
            key: self._guard_labels[key] for key in self._guard_labels if key in guards
        }
        for key, guard in guards.items():
            state: Any = getattr(guard, "state", None)
            if isinstance(state, BreakerState):
                label = self._guard_labels.get(key) or self._new_guard_label(guard.name)
                self._guard_labels[key] = label
                families.guard_state.add_metric([label], _BREAKER_STATES[state])

    def _new_guard_label(self, name: str) -> str:
        """Return *name*, with a number if another guard has it."""
        taken = set(self._guard_labels.values())
        names = (name if n == 1 else f"{name}-{n}" for n in count(1))
        return next(one for one in names if one not in taken)


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        by_job = ("executor", "job", "outcome")
        gauge, histogram = GaugeMetricFamily, HistogramMetricFamily
        # Of the type "unknown", because in OpenMetrics a counter of this name would be of the same
        # family as the gauge below. To Prometheus it is as good as a counter.
        self.jobs_total = UnknownMetricFamily(
            "retryexec_jobs_total", "How many jobs have ended so, a counter.", labels=by_job
        )
        self.attempts_total = CounterMetricFamily(
            "retryexec_attempts", "How many attempts have ended so.", labels=by_job
        )
        self.jobs = gauge(
            "retryexec_jobs", "Jobs that have not ended.", labels=("executor", "state")
        )
        self.oldest_wait = gauge(
            "retryexec_oldest_wait_seconds",
            "Since the last attempt of the job that has been in backoff longest; 0 if none is.",
            labels=("executor",),
        )
        self.attempt_seconds = histogram(
            "retryexec_attempt_seconds", "How long attempts ran.", labels=("executor", "job")
        )
        self.start_delay = histogram(
            "retryexec_start_delay_seconds",
            "How late attempts began: after their jobs were accepted, or after they were due.",
            labels=("executor", "job"),
        )
        self.guard_state = gauge(
            "retryexec_guard_state",
            "Of a circuit breaker: 0 closed, 1 half open, 2 open.",
            labels=("guard",),
        )
        self.journal_dead = gauge(
            "retryexec_journal_dead", "Dead letters in the journal.", labels=("executor",)
        )
        self.journal_unfinished = gauge(
            "retryexec_journal_unfinished",
            "Jobs in the journal that have not ended, in this process's hands.",
            labels=("executor",),
        )

    def add_journal(self, label: str, journal: JournalLink) -> None:
        """Add how many jobs *journal* has, unless it cannot be read now."""
        try:
            stats = journal.stats()
        except Exception:
            report("the journal of %s cannot be read for its metrics", label)
            return
        if stats is not None:
            self.journal_dead.add_metric((label,), stats.dead)
            self.journal_unfinished.add_metric((label,), stats.unfinished)

    def all(self) -> Iterator[Metric]:
        """Yield those that have any samples."""
        families: list[Metric] = [*vars(self).values()]
        yield from (family for family in families if family.samples)


def _cumulated(kept: Mapping[str, Histogram]) -> dict[str, tuple[list[tuple[str, float]], float]]:
    """Return the histograms as `HistogramMetricFamily` takes them."""
    found = {name: histogram.cumulated() for name, histogram in kept.items()}
    return {
        name: ([(_le(bound), number) for bound, number in buckets], total)
        for name, (buckets, total) in found.items()
    }


def _le(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(bound)


def _checked_bounds(buckets: Any) -> tuple[float, ...]:
    bounds = tuple(number_between("buckets", bound, 0.0, math.inf) for bound in buckets)
    bounds = tuple(bound for bound in bounds if bound != math.inf)
    if not bounds or list(bounds) != sorted(set(bounds)):
        msg = f"buckets takes upper bounds in seconds, each above the one before (got {buckets!r})"
        raise ValueError(msg)
    return bounds
