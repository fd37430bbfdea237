"""Spans of attempts, seen by the real SDK: names, parents, links, events, and logs within."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import TESTS, remote
from helpers.jobs import Fails, Gate
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from retryexec import (
    CircuitBreaker,
    GiveUp,
    PermanentError,
    RateLimit,
    Retry,
    RetryingExecutor,
    RetryPolicy,
    Success,
    ZeroBackoff,
)
from retryexec._core.pool import Pool
from retryexec._core.process import pool_of
from retryexec.engines import processes
from retryexec.journal import Journal, MemoryJournal
from retryexec.telemetry.opentelemetry import instrument, uninstrument
from retryexec.telemetry.prometheus import Collector
from retryexec.testing import VirtualClock

AT_ONCE = RetryPolicy(max_attempts=3, backoff=ZeroBackoff())


class Spans:
    """A provider of the SDK, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def attempts(self) -> list[ReadableSpan]:
        ended = self._exporter.get_finished_spans()
        return [span for span in ended if span.kind is SpanKind.CONSUMER]


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def executor(spans: Spans) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(2, policy=AT_ONCE) as executor:
        instrument(executor, tracer_provider=spans.provider)
        yield executor
        executor.shutdown(cancel_futures=True)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def trace_id() -> int:
    return trace.get_current_span().get_span_context().trace_id


def test_a_span_of_an_attempt_that_succeeds(executor: RetryingExecutor, spans: Spans) -> None:
    future = executor.submit(len, "four")
    assert future.result(10) == 4
    (span,) = spans.attempts
    assert span.name == "process len"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert not span.events
    assert not span.links
    assert attributes(span) == {
        "messaging.system": "retryexec",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "len",
        "messaging.message.id": future.job_id,
        "retryexec.attempt": 1,
        "retryexec.stop_reason": "succeeded",
    }


def test_each_attempt_is_a_child_of_the_submitters_span(
    executor: RetryingExecutor, spans: Spans
) -> None:
    with spans.tracer.start_as_current_span("request") as request:
        future = executor.submit(Fails(2, VirtualClock()))
    future.result(10)
    assert [attributes(span)["retryexec.attempt"] for span in spans.attempts] == [1, 2, 3]
    assert {attributes(span)["messaging.message.id"] for span in spans.attempts} == {future.job_id}
    parent = request.get_span_context()
    for span in spans.attempts:
        assert span.name == "process Fails"
        assert span.parent is not None
        assert span.parent.span_id == parent.span_id
        assert span.context is not None
        assert span.context.trace_id == parent.trace_id


def test_a_failed_attempt_has_its_error_and_its_wait(spans: Spans) -> None:
    clock = VirtualClock()
    policy = RetryPolicy(max_attempts=2, backoff=[2.5])
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        instrument(executor, tracer_provider=spans.provider)
        future = executor.submit(Fails(9, clock))
        clock.run_until(future.done)
    first, last = spans.attempts
    for span in (first, last):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "Boom"
    assert first.status.description == "Boom: 1"
    recorded, wait = first.events
    assert recorded.name == "exception"
    told = dict(recorded.attributes or {})
    assert told["exception.message"] == "1"
    assert "in exec" in str(told["exception.stacktrace"])
    assert (wait.name, dict(wait.attributes or {})) == ("retry", {"retryexec.delay": 2.5})
    assert "retryexec.stop_reason" not in attributes(first)
    assert [event.name for event in last.events] == ["exception"]
    assert attributes(last)["retryexec.stop_reason"] == "max_attempts"


def test_the_exception_is_the_one_that_counts(executor: RetryingExecutor, spans: Spans) -> None:
    def permanent() -> None:
        raise PermanentError(OSError("read-only"))

    assert isinstance(executor.submit(permanent).exception(10), OSError)
    (span,) = spans.attempts
    assert attributes(span)["error.type"] == "OSError"
    assert attributes(span)["retryexec.stop_reason"] == "permanent"


def test_a_refused_value_is_an_error_without_an_exception(
    executor: RetryingExecutor, spans: Spans
) -> None:
    executor.using(retry_on_result=lambda value: value == 4).submit(len, "four").result(10)
    assert [attributes(span)["error.type"] for span in spans.attempts] == ["refused_result"] * 3
    assert [[event.name for event in span.events] for span in spans.attempts] == [
        ["retry"],
        ["retry"],
        [],
    ]


def test_an_attempt_runs_in_its_span(executor: RetryingExecutor, spans: Spans) -> None:
    """So logs within carry the trace, and spans made within are its children."""

    def outer() -> int:
        found: int = trace.get_current_span().get_span_context().span_id
        return found

    def nested() -> int:
        current = outer()
        with spans.tracer.start_as_current_span("inner") as inner:
            assert inner.parent.span_id == current  # type: ignore[attr-defined]
        return current

    assert executor.submit(nested).result(10) == spans.attempts[0].context.span_id  # type: ignore[union-attr]
    assert outer() == 0, "the submitter's own context is as it was"


def test_logs_within_an_attempt_carry_the_trace(executor: RetryingExecutor, spans: Spans) -> None:
    seen: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.getMessage() == "saving"
            seen.append(trace_id())

    logger = logging.getLogger("tests.telemetry")
    logger.addHandler(handler := Handler())
    try:
        with spans.tracer.start_as_current_span("request") as request:
            executor.submit(logger.warning, "saving").result(10)
    finally:
        logger.removeHandler(handler)
    assert seen == [request.get_span_context().trace_id]


def test_hooks_run_in_the_span_that_they_are_told_of(spans: Spans) -> None:
    seen: list[int] = []

    def hook(_: Retry | GiveUp | Success) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    clock = VirtualClock()
    with RetryingExecutor(
        1, policy=AT_ONCE, on_retry=hook, on_give_up=hook, on_success=hook
    ) as executor:
        instrument(executor, tracer_provider=spans.provider)
        executor.submit(Fails(1, clock)).result(10)
        executor.submit(Fails(9, clock)).exception(10)
    assert seen == [span.context.span_id for span in spans.attempts if span.context]


def held_events(span: ReadableSpan) -> list[tuple[Any, Any]]:
    """Return what held the attempt back, and for how long."""
    found = [dict(event.attributes or {}) for event in span.events if event.name == "held"]
    return [(told["retryexec.held_by"], told["retryexec.delay"]) for told in found]


def test_a_wait_behind_a_key_is_an_event(spans: Spans) -> None:
    clock = VirtualClock()
    policy = RetryPolicy(max_attempts=2, backoff=[2.5])
    with RetryingExecutor(2, policy=policy, clock=clock, key="one") as executor:
        instrument(executor, tracer_provider=spans.provider)
        executor.submit(Fails(1, clock))
        last = executor.submit(int)
        clock.run_until(last.done)
    assert [held_events(span) for span in spans.attempts] == [[], [], [("key", 2.5)]]


def test_a_wait_behind_a_guard_is_an_event(spans: Spans) -> None:
    clock = VirtualClock()
    limit = RateLimit(1, per=4.0)
    with RetryingExecutor(1, clock=clock, guards=[limit]) as executor:
        instrument(executor, tracer_provider=spans.provider)
        executor.submit(int)
        last = executor.submit(int)
        cancelled = executor.submit(int)
        while cancelled.held_by is None:
            clock.advance(0)
        assert cancelled.cancel()
        clock.run_until(last.done)
        assert not vars(pool_of(executor))["holds"]._of
    (first, second) = map(held_events, spans.attempts)
    assert (first, [seconds for _, seconds in second]) == ([], [4.0])
    assert "RateLimit" in second[0][0]


def test_a_wait_in_a_pause_is_an_event(spans: Spans) -> None:
    clock = VirtualClock()
    with RetryingExecutor(1, clock=clock) as executor:
        instrument(executor, tracer_provider=spans.provider)
        executor.pause()
        future = executor.submit(int)
        while future.held_by is None:
            clock.advance(0)
        clock.advance(7.0)
        executor.resume()
        future.result(10)
    assert [held_events(span) for span in spans.attempts] == [[("pause", 7.0)]]


def test_keys_guards_and_views(executor: RetryingExecutor, spans: Spans) -> None:
    view = executor.using(key=lambda text: text)
    for text in ("a", "a", "b"):
        view.submit(len, text)
    executor.shutdown()
    assert [span.name for span in spans.attempts] == ["process len"] * 3


def test_a_cancelled_wait_has_no_further_span(spans: Spans) -> None:
    clock = VirtualClock()
    with RetryingExecutor(1, policy=RetryPolicy(backoff=[60.0]), clock=clock) as executor:
        instrument(executor, tracer_provider=spans.provider)
        future = executor.submit(Fails(9, clock))
        clock.run_until(lambda: future.next_attempt_at is not None)
        assert future.cancel()
    assert len(spans.attempts) == 1


def test_an_attempt_that_runs_already_has_a_span(spans: Spans) -> None:
    gate = Gate()
    with RetryingExecutor(1) as executor:
        with spans.tracer.start_as_current_span("request") as request:
            future = executor.submit(gate)
        assert gate.reached()
        instrument(executor, tracer_provider=spans.provider)
        gate.open()
        future.result(10)
    (span,) = spans.attempts
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id


def test_to_instrument_again_replaces_the_tracer(executor: RetryingExecutor, spans: Spans) -> None:
    other = Spans()
    instrument(executor, tracer_provider=other.provider)
    executor.submit(len, "").result(10)
    assert (len(spans.attempts), len(other.attempts)) == (0, 1)
    uninstrument(executor)
    executor.submit(len, "").result(10)
    assert len(other.attempts) == 1


def test_spans_that_are_not_sampled(spans: Spans) -> None:
    off = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    with RetryingExecutor(1, policy=AT_ONCE) as executor:
        instrument(executor, tracer_provider=off)
        assert executor.submit(Fails(1, VirtualClock())).result(10) == "saved"
        assert executor.submit(trace_id).result(10) != 0


def test_a_tracer_that_does_nothing_is_not_even_asked() -> None:
    with RetryingExecutor(1) as executor:
        instrument(executor, tracer_provider=NoOpTracerProvider())
        assert type(pool_of(executor)) is Pool


def test_beside_a_collector(executor: RetryingExecutor, spans: Spans) -> None:
    collector = Collector(executor, per_job=True, attempt_seconds=True)
    executor.submit(len, "").result(10)
    assert len(spans.attempts) == 1
    names = {sample.name for family in collector.collect() for sample in family.samples}
    assert "retryexec_attempt_seconds_count" in names
    uninstrument(executor)
    executor.submit(len, "").result(10)
    assert len(spans.attempts) == 1


@pytest.mark.parametrize("wrong", [None, 7, RetryingExecutor])
def test_only_executors_are_instrumented(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor takes a RetryingExecutor"):
        instrument(wrong)


# ---- engines


def test_attempts_at_processes_have_spans(spans: Spans) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=processes(1)) as executor:
        instrument(executor, tracer_provider=spans.provider)
        with spans.tracer.start_as_current_span("request") as request:
            assert executor.submit(remote.Save(7)).result(30)[0] == 7
            assert executor.submit(int, "seven").exception(30) is not None
    assert [span.name for span in spans.attempts] == ["process Save"] + ["process int"] * 3
    assert {span.parent.span_id for span in spans.attempts if span.parent} == {
        request.get_span_context().span_id
    }
    assert "RemoteTraceback" in str(dict(spans.attempts[1].events[0].attributes or {}))


def test_a_crash_of_an_engine_is_an_error_that_is_no_attempt(spans: Spans) -> None:
    with RetryingExecutor(policy=AT_ONCE, attempts_on=processes(1, max_crashes=2)) as executor:
        instrument(executor, tracer_provider=spans.provider)
        assert executor.submit(remote.exits, 1).exception(30) is not None
    told = [
        (attributes(s)["retryexec.attempt"], attributes(s).get("retryexec.stop_reason"))
        for s in spans.attempts
    ]
    assert told == [(1, None), (1, "crashed")]
    assert attributes(spans.attempts[0])["error.type"] == "crashed"


# ---- before there is a provider


def run(script: str, *arguments: str) -> Any:
    """Run *script* in a process of its own, where the global provider is its own; JSON it says."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
    )
    assert done.returncode in {0, 7}, done.stderr
    return json.loads(done.stdout)


BEFORE_A_PROVIDER = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from retryexec import RetryingExecutor
from retryexec.telemetry.opentelemetry import instrument
with RetryingExecutor(1) as executor:
    instrument(executor)
    executor.submit(len, "").result(10)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    executor.submit(sorted, "").result(10)
print(json.dumps([span.name for span in exporter.get_finished_spans()]))
"""


def test_a_provider_may_be_set_later() -> None:
    assert run(BEFORE_A_PROVIDER) == ["process sorted"]


NO_SDK = """
import json, sys
from retryexec import RetryingExecutor
from retryexec.telemetry.opentelemetry import instrument
with RetryingExecutor(1) as executor:
    instrument(executor)
    assert executor.submit(len, "").result(10) == 0
print(json.dumps([name for name in sys.modules if name.startswith("opentelemetry.sdk")]))
"""


def test_the_api_alone_will_do() -> None:
    assert run(NO_SDK) == []


# ---- after a takeover

DYING = """
import json, os, sys, time
from helpers.remote import Save
from opentelemetry.sdk.trace import TracerProvider
from retryexec import RetryingExecutor
from retryexec.journal import Journal, MemoryJournal
from retryexec.telemetry.opentelemetry import instrument
where, schema = sys.argv[1:]
journal = Journal(where, jobs={"save": Save}, schema=schema, lease=1.0, poll=0.1)
executor = RetryingExecutor(1, journal=journal)
provider = TracerProvider()
instrument(executor, tracer_provider=provider)
executor.pause()
tracer = provider.get_tracer("tests")
with tracer.start_as_current_span("request") as request:
    traced = executor.submit(Save(1))
    keyed = executor.using(key="k").submit(Save(3))
executor.submit(Save(2))
context = request.get_span_context()
ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
print(json.dumps([traced.job_id, keyed.job_id, *ids]))
sys.stdout.flush()
os._exit(7)
"""


class Place(NamedTuple):
    """Where a journal is: a directory or a URL, and a schema; and what opens it."""

    where: str
    schema: str
    open: Callable[..., Journal]


@pytest.fixture(params=["directory", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return Place(str(tmp_path), "retryexec", partial(Journal, tmp_path))
    schema = request.getfixturevalue("schema")
    return Place(schema.url, schema.name, schema)


def test_what_was_taken_over_is_linked_to_its_submitters_span(
    place: Place, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retryexec.journal._takeover.TRACE_PAUSE", 60.0)  # for a slow machine
    traced, keyed, trace_of_request, span_of_request = run(DYING, place.where, place.schema)
    journal = place.open(jobs={"save": remote.Save}, poll=0.1)
    with RetryingExecutor(1, journal=journal) as executor:
        instrument(executor, tracer_provider=spans.provider)
        assert wait_for(lambda: len(executor.recovered) == 3)
        assert executor.recovered.wait(20)
    found = {attributes(span)["messaging.message.id"]: span for span in spans.attempts}
    for name in (traced, keyed):
        (link,) = found.pop(name).links
        assert f"{link.context.trace_id:032x}" == trace_of_request
        assert f"{link.context.span_id:016x}" == span_of_request
    # The third was submitted in no span, and may have run before there was a tracer.
    assert not [span for span in found.values() if span.links]


def wait_for(condition: Callable[[], bool]) -> bool:
    """Wait until another process's lease has run out and its jobs were taken."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def left_behind(journal: Journal, spans: Spans) -> None:
    """Leave a job in *journal* that was submitted in a span, by an executor that has gone."""
    breaker = CircuitBreaker()
    breaker.open()  # nothing paused: a shutdown resumes that, and a worker may be quick
    with RetryingExecutor(1, journal=journal, guards=[breaker]) as executor:
        instrument(executor, tracer_provider=spans.provider)
        with spans.tracer.start_as_current_span("request"):
            executor.submit(remote.Save(1))
        executor.shutdown(timeout=0)


def test_a_job_with_a_trace_waits_until_it_is_instrumented(spans: Spans) -> None:
    """By a clock that nobody moves, so it would wait for ever."""
    journal = MemoryJournal(jobs={"save": remote.Save})
    left_behind(journal, spans)
    with RetryingExecutor(1, journal=journal, clock=VirtualClock()) as executor:
        assert executor.stats().waiting == 1
        instrument(executor, tracer_provider=spans.provider)
        assert executor.recovered.wait(10)
    assert [len(span.links) for span in spans.attempts] == [1]


def test_where_nothing_is_instrumented_a_job_with_a_trace_waits_a_moment(spans: Spans) -> None:
    journal = MemoryJournal(jobs={"save": remote.Save})
    left_behind(journal, spans)
    clock = VirtualClock()
    with RetryingExecutor(1, journal=journal, clock=clock) as executor:
        clock.advance(0.99)
        assert executor.recovered.unfinished == 1
        clock.advance(0.01)
        assert executor.recovered.wait(10)
    assert not spans.attempts


def test_an_instrumented_executor_takes_over_without_a_pause(tmp_path: Path, spans: Spans) -> None:
    options: dict[str, Any] = {"jobs": {"save": remote.Save}, "poll": 3600}
    journal = Journal(tmp_path, **options)
    with RetryingExecutor(1, journal=journal, clock=VirtualClock()) as executor:
        instrument(executor, tracer_provider=spans.provider)
        left_behind(Journal(tmp_path, **options), spans)
        assert journal.poll() == 1
        assert executor.recovered.wait(10)
    assert [len(span.links) for span in spans.attempts] == [1]


def test_an_executor_may_be_instrumented_while_it_takes_over(
    tmp_path: Path, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"jobs": {"save": remote.Save}, "poll": 3600}
    journal, take_over = Journal(tmp_path, **options), Pool.take_over
    with RetryingExecutor(1, journal=journal, clock=VirtualClock()) as executor:

        def after_a_while(pool: Pool, jobs: Any) -> None:
            instrument(executor, tracer_provider=spans.provider)
            take_over(pool, jobs)

        left_behind(Journal(tmp_path, **options), spans)
        monkeypatch.setattr(Pool, "take_over", after_a_while)
        assert journal.poll() == 1
        assert executor.recovered.wait(10)
    assert [len(span.links) for span in spans.attempts] == [1]


def test_in_the_process_that_accepted_it_a_job_is_a_child_and_not_linked(
    tmp_path: Path, spans: Spans
) -> None:
    journal = Journal(tmp_path, jobs={"save": remote.Save}, durability="process")
    with RetryingExecutor(1, journal=journal) as executor:
        instrument(executor, tracer_provider=spans.provider)
        with spans.tracer.start_as_current_span("request"):
            executor.submit(remote.Save(1)).result(10)
        uninstrument(executor)
        executor.submit(remote.Save(2)).result(10)
    (span,) = spans.attempts
    assert span.parent is not None
    assert not span.links
