"""The collector: what a scrape shows, in both formats, and that it keeps nothing alive."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, busy_for
from helpers.journal_kit import JOBS, Save
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_strictly
from prometheus_client.parser import text_string_to_metric_families as parse

from retryexec import RetryingExecutor, RetryPolicy, ZeroBackoff
from retryexec.guards import CircuitBreaker, RateLimit
from retryexec.journal import Journal
from retryexec.telemetry._tally import NAMES_MAX
from retryexec.telemetry.prometheus import Collector
from retryexec.testing import VirtualClock


@dataclass
class AlwaysFails:
    def exec(self) -> None:
        raise Boom


AT_ONCE = RetryPolicy(max_attempts=3, backoff=ZeroBackoff())

Labels = tuple[tuple[str, str], ...]


class Scrape:
    """What one scrape has shown, the same in both formats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        classic = list(parse(generate_latest(registry).decode()))
        strict = list(parse_strictly(openmetrics.generate_latest(registry).decode()))
        names = [family.name for family in strict]
        assert len(names) == len(set(names))
        self.types = {family.name: family.type for family in classic}
        self.help = {family.name: family.documentation for family in classic}
        self.samples: dict[str, dict[Labels, float]] = {}
        for family in classic:
            for sample in family.samples:
                series = self.samples.setdefault(sample.name, {})
                labels = tuple(sorted(sample.labels.items()))
                assert labels not in series, "a series is there twice"
                series[labels] = sample.value
        # Those of a histogram come with the first attempt, which may be between the two scrapes.
        found = {sample.name for family in strict for sample in family.samples}
        assert set(self.samples) <= found

    def __getitem__(self, name: str) -> dict[Labels, float]:
        return self.samples.get(name, {})

    def value(self, name: str, **labels: str) -> float | None:
        return self[name].get(tuple(sorted(labels.items())))

    def label_names(self, name: str) -> set[str]:
        return {label for labels in self[name] for label, _ in labels}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(2, "saver", policy=AT_ONCE) as executor:
        yield executor


LABELS: Mapping[str, set[str]] = {
    "retryexec_jobs_total": {"executor", "job", "outcome"},
    "retryexec_attempts_total": {"executor", "job", "outcome"},
    "retryexec_attempt_seconds_bucket": {"executor", "job", "le"},
    "retryexec_attempt_seconds_sum": {"executor", "job"},
    "retryexec_attempt_seconds_count": {"executor", "job"},
    "retryexec_jobs": {"executor", "state"},
    "retryexec_oldest_wait_seconds": {"executor"},
    "retryexec_start_delay_seconds_bucket": {"executor", "job", "le"},
    "retryexec_start_delay_seconds_sum": {"executor", "job"},
    "retryexec_start_delay_seconds_count": {"executor", "job"},
    "retryexec_guard_state": {"guard"},
    "retryexec_journal_dead": {"executor"},
    "retryexec_journal_unfinished": {"executor"},
}


def test_all_metrics_have_the_names_and_labels_that_are_documented(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, jobs=JOBS, durability="process")
    with RetryingExecutor(1, journal=journal, guards=[CircuitBreaker()]) as executor:
        everything = Collector(executor, per_job=True, attempt_seconds=True, start_delay=True)
        registry.register(everything)
        executor.submit(Save("")).result(10)
        scrape = Scrape(registry)
    assert {name: scrape.label_names(name) for name in scrape.samples} == LABELS
    assert scrape.types == {
        "retryexec_jobs_total": "untyped" if "untyped" in scrape.types.values() else "unknown",
        "retryexec_attempts": "counter",
        "retryexec_attempt_seconds": "histogram",
        "retryexec_jobs": "gauge",
        "retryexec_oldest_wait_seconds": "gauge",
        "retryexec_start_delay_seconds": "histogram",
        "retryexec_guard_state": "gauge",
        "retryexec_journal_dead": "gauge",
        "retryexec_journal_unfinished": "gauge",
    }
    assert all(scrape.help.values())


def test_ends_and_attempts_are_those_of_stats(
    executor: RetryingExecutor, registry: CollectorRegistry
) -> None:
    registry.register(Collector(executor))
    clock = VirtualClock()
    assert executor.submit(Fails(1, clock)).result(10) == "saved"
    assert executor.submit(Fails(3, clock)).exception(10) is not None
    scrape = Scrape(registry)
    ends = {dict(labels)["outcome"]: n for labels, n in scrape["retryexec_jobs_total"].items()}
    assert ends == {"succeeded": 1, "failed": 1, "cancelled": 0, "superseded": 0}
    attempts = {dict(k)["outcome"]: n for k, n in scrape["retryexec_attempts_total"].items()}
    assert attempts == {"succeeded": 1, "failed": 4}
    assert scrape.value("retryexec_jobs_total", executor="saver", job="", outcome="failed") == 1
    assert "retryexec_attempt_seconds_count" not in scrape.samples


def test_states_and_the_oldest_wait(registry: CollectorRegistry) -> None:
    clock, gate = VirtualClock(), Gate()
    policy = RetryPolicy(backoff=[60.0])
    with RetryingExecutor(1, "saver", policy=policy, clock=clock) as executor:
        registry.register(Collector(executor))
        waiting = executor.submit(Fails(1, clock))
        clock.run_until(lambda: waiting.next_attempt_at is not None)
        clock.advance(10)
        executor.submit(gate)
        assert gate.reached()
        executor.submit(len, "")
        scrape = Scrape(registry)
        gate.open()
        assert {dict(k)["state"]: n for k, n in scrape["retryexec_jobs"].items()} == {
            "queued": 1,
            "running": 1,
            "waiting": 1,
            "held": 0,
        }
        assert scrape.value("retryexec_oldest_wait_seconds", executor="saver") == 10.0
        executor.shutdown(cancel_futures=True)
        assert sum(Scrape(registry)["retryexec_jobs"].values()) == 0


def test_jobs_are_told_apart_on_request(
    executor: RetryingExecutor, registry: CollectorRegistry
) -> None:
    """What had ended before has no name; what is unfinished has one."""
    executor.submit(len, "").result(10)
    gate = Gate()
    running = executor.submit(gate)
    assert gate.reached()
    registry.register(Collector(executor, per_job=True))
    assert executor.submit(Fails(3, VirtualClock())).exception(10) is not None
    gate.open()
    running.result(10)
    executor.submit(sorted, []).result(10)
    scrape = Scrape(registry)
    ends = {
        (dict(labels)["job"], dict(labels)["outcome"]): n
        for labels, n in scrape["retryexec_jobs_total"].items()
        if n
    }
    assert ends == {
        ("", "succeeded"): 1,
        ("Gate", "succeeded"): 1,
        ("Fails", "failed"): 1,
        ("sorted", "succeeded"): 1,
    }
    attempts = {
        (dict(labels)["job"], dict(labels)["outcome"]): n
        for labels, n in scrape["retryexec_attempts_total"].items()
        if n
    }
    assert attempts == {
        ("", "succeeded"): 1,
        ("Gate", "succeeded"): 1,
        ("Fails", "failed"): 3,
        ("sorted", "succeeded"): 1,
    }


def test_every_end_has_a_name(registry: CollectorRegistry) -> None:
    gate = Gate(Boom())
    with RetryingExecutor(1, policy=AT_ONCE, key="k", keep="latest") as executor:
        registry.register(Collector(executor, per_job=True))
        executor.submit(gate)
        assert gate.reached()
        executor.submit(len, "")
        executor.submit(sorted, "").cancel()
        gate.open()
    stats = executor.stats()
    ends = Scrape(registry)["retryexec_jobs_total"]
    for outcome in ("succeeded", "failed", "cancelled", "superseded"):
        told = sum(n for labels, n in ends.items() if dict(labels)["outcome"] == outcome)
        assert told == getattr(stats, outcome), outcome
    assert sum(ends.values()) == 3


def test_histograms(registry: CollectorRegistry) -> None:
    """Attempts of 3 and 0 s; one retry is late by what the one worker was busy with."""
    clock = VirtualClock()
    policy = RetryPolicy(backoff=[1.0])
    with RetryingExecutor(1, "saver", policy=policy, clock=clock) as executor:
        collector = Collector(
            executor, attempt_seconds=True, start_delay=True, buckets=[0.5, 2.0, 5.0]
        )
        registry.register(collector)
        retried = executor.submit(Fails(1, clock))
        clock.run_until(lambda: retried.next_attempt_at is not None)
        busy = executor.submit(busy_for, clock, 3.0)
        clock.run_until(lambda: busy.done() and retried.done())
    scrape = Scrape(registry)
    seconds = {
        dict(labels)["le"]: n for labels, n in scrape["retryexec_attempt_seconds_bucket"].items()
    }
    assert seconds == {"0.5": 2, "2.0": 2, "5.0": 3, "+Inf": 3}
    assert scrape.value("retryexec_attempt_seconds_sum", executor="saver", job="") == 3.0
    delays = {
        dict(labels)["le"]: n
        for labels, n in scrape["retryexec_start_delay_seconds_bucket"].items()
    }
    assert delays == {"0.5": 2, "2.0": 3, "5.0": 3, "+Inf": 3}
    assert scrape.value("retryexec_start_delay_seconds_sum", executor="saver", job="") == 2.0


def test_names_of_jobs_are_bounded(executor: RetryingExecutor, registry: CollectorRegistry) -> None:
    registry.register(Collector(executor, per_job=True))
    for n in range(NAMES_MAX + 20):
        kind = type(f"Job{n}", (), {"exec": lambda self: None})
        executor.submit(kind()).result(10)
    ends = Scrape(registry)["retryexec_jobs_total"]
    names = {dict(labels)["job"] for labels in ends}
    assert len(names) == NAMES_MAX + 2
    assert {"", "other"} < names
    assert sum(ends.values()) == NAMES_MAX + 20


def odd() -> None:
    pass


odd.__qualname__ = "\udce4\n"  # as of a file that is not UTF-8


def test_a_name_may_be_anything(registry: CollectorRegistry) -> None:
    with RetryingExecutor(1, 'a "quoted"\n\\name') as executor:
        registry.register(Collector(executor, per_job=True))
        executor.submit(odd).result(10)
        scrape = Scrape(registry)
    assert 'a "quoted"\n\\name' in {dict(labels)["executor"] for labels in scrape["retryexec_jobs"]}


# ---- several executors, and those that are gone


def test_one_collector_takes_several_executors(registry: CollectorRegistry) -> None:
    with RetryingExecutor(1, "one") as one, RetryingExecutor(1, "two") as two:
        collector = Collector(one, two)
        registry.register(collector)
        two.submit(len, "").result(10)
        with RetryingExecutor(1) as three:
            collector.add(three, name="three")
            scrape = Scrape(registry)
    succeeded = {
        dict(labels)["executor"]: n
        for labels, n in scrape["retryexec_jobs_total"].items()
        if dict(labels)["outcome"] == "succeeded"
    }
    assert succeeded == {"one": 0, "two": 1, "three": 0}


def test_two_executors_cannot_be_called_the_same(executor: RetryingExecutor) -> None:
    collector = Collector(executor)
    with RetryingExecutor(1, "saver") as twin:
        with pytest.raises(ValueError, match="two executors would be 'saver'"):
            collector.add(twin)
        collector.add(twin, name="other")
    with pytest.raises(ValueError, match=r"has .* already"):
        collector.add(executor.using(max_attempts=1), name="view")


def test_a_registry_takes_several_collectors(registry: CollectorRegistry) -> None:
    with RetryingExecutor(1, "one") as one, RetryingExecutor(1, "two") as two:
        for executor in (one, two):
            registry.register(Collector(executor))
            REGISTRY.register(collector := Collector(executor))
            REGISTRY.unregister(collector)
        text = generate_latest(registry).decode()
        assert {
            sample.labels["executor"] for family in parse(text) for sample in family.samples
        } == {"one", "two"}


def test_an_executor_that_was_collected_has_no_series(registry: CollectorRegistry) -> None:
    executor = RetryingExecutor(1, "gone")
    collector = Collector(executor, per_job=True, attempt_seconds=True, start_delay=True)
    registry.register(collector)
    future = executor.submit(len, "")
    future.result(10)
    executor.shutdown()
    assert Scrape(registry)["retryexec_jobs"]
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert Scrape(registry).samples == {}, "its future does not keep its series"
    with RetryingExecutor(1, "gone") as another:
        collector.add(another)  # the name is free again


def test_a_view_counts_as_its_executor(
    executor: RetryingExecutor, registry: CollectorRegistry
) -> None:
    registry.register(Collector(executor.using(max_attempts=1)))  # which is gone at once
    executor.submit(len, "").result(10)
    scrape = Scrape(registry)
    assert scrape.value("retryexec_jobs_total", executor="saver", job="", outcome="succeeded") == 1


def test_scrapes_while_jobs_run_and_while_it_is_shut_down(registry: CollectorRegistry) -> None:
    """A counter never falls, whatever goes on meanwhile."""
    over = threading.Event()
    seen: list[float] = []

    def scrape() -> None:
        while not over.is_set():
            ends = Scrape(registry)["retryexec_jobs_total"]
            seen.append(sum(ends.values()))

    with RetryingExecutor(4, policy=AT_ONCE) as executor:
        registry.register(Collector(executor, per_job=True, attempt_seconds=True))
        scraper = threading.Thread(target=scrape)
        scraper.start()
        futures = [executor.submit(len, "") for _ in range(3000)]
        executor.shutdown()
        over.set()
        scraper.join(10)
    assert all(future.done() for future in futures)
    assert seen == sorted(seen)
    assert sum(Scrape(registry)["retryexec_jobs_total"].values()) == 3000


# ---- guards and journals


def test_states_of_breakers(registry: CollectorRegistry) -> None:
    """A shared one is there once; two of a name get numbers; other guards have no state."""
    shared, own = CircuitBreaker(), CircuitBreaker()
    named = CircuitBreaker()
    named.name = "database"
    with (
        RetryingExecutor(1, "a", guards=[shared, RateLimit(1)]) as a,
        RetryingExecutor(1, "b", guards=[shared, own]) as b,
    ):
        b.using(guards=[named])  # which is gone at once
        view = a.using(guards=[named])
        registry.register(Collector(a, b))
        own.open()
        assert {
            dict(k)["guard"]: n for k, n in Scrape(registry)["retryexec_guard_state"].items()
        } == {
            "CircuitBreaker": 0,
            "CircuitBreaker-2": 2,
            "database": 0,
        }
        del view
        gc.collect()
        assert len(Scrape(registry)["retryexec_guard_state"]) == 2


def test_numbers_of_a_journal(registry: CollectorRegistry, tmp_path: Path) -> None:
    journal = Journal(tmp_path, jobs={**JOBS, "fails": AlwaysFails}, durability="process")
    with RetryingExecutor(1, "saver", policy=AT_ONCE, journal=journal) as executor:
        registry.register(Collector(executor))
        assert executor.submit(AlwaysFails()).exception(10) is not None
        executor.pause()
        executor.submit(Save(""))
        assert journal.flush(10)
        scrape = Scrape(registry)
        assert scrape.value("retryexec_journal_dead", executor="saver") == 1
        assert scrape.value("retryexec_journal_unfinished", executor="saver") == 1
        executor.resume()
    assert Scrape(registry).value("retryexec_journal_dead", executor="saver") == 1


def test_a_journal_that_cannot_be_read_spoils_no_scrape(
    registry: CollectorRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal(tmp_path, jobs=JOBS, durability="process")
    with RetryingExecutor(1, "saver", journal=journal) as executor:
        registry.register(Collector(executor))

        def fail() -> Any:
            raise Boom

        monkeypatch.setattr(journal, "stats", fail)
        scrape = Scrape(registry)
    assert not scrape["retryexec_journal_dead"]
    assert scrape["retryexec_jobs"]
    assert "the journal of saver cannot be read for its metrics" in caplog.text


# ---- arguments


@pytest.mark.parametrize("wrong", [None, 7, "saver", RetryingExecutor])
def test_only_executors_are_collected_from(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor takes a RetryingExecutor"):
        Collector(wrong)


def test_a_name_is_for_one_executor(executor: RetryingExecutor) -> None:
    with pytest.raises(ValueError, match="name is for one executor"):
        Collector(name="saver")
    with pytest.raises(ValueError, match="name is for one executor"):
        Collector(executor, executor, name="saver")


@pytest.mark.parametrize("wrong", [[], [1.0, 1.0], [2.0, 1.0], [-1.0], ["1"], [float("nan")]])
def test_buckets_rise(executor: RetryingExecutor, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="buckets takes"):
        Collector(executor, buckets=wrong)
