"""Traces for OpenTelemetry: a span for each attempt, in the trace of whoever submitted the job."""

from collections.abc import Sequence
from contextvars import Context
from functools import partial
from time import time_ns
from typing import Any, Final, NamedTuple

try:
    __import__("opentelemetry.trace")  # here, so that one message says what to do
except ModuleNotFoundError as error:
    if error.name not in {"opentelemetry", "opentelemetry.trace"}:
        raise
    msg = f"{__name__} needs opentelemetry.trace: pip install 'retryexec[opentelemetry]'"
    raise ImportError(msg, name="opentelemetry.trace") from error

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from retryexec._core.holds import Hold
from retryexec._core.job import Job
from retryexec._core.observed import AttemptEnd, forget, observe, observe_once
from retryexec._core.pool import Pool
from retryexec._core.process import all_settings, pool_of
from retryexec._executor import RetryingExecutor
from retryexec._journal_api import JournalLink
from retryexec._outcome import StopReason, name_of, qualified_name, text_of

__all__ = ["instrument", "uninstrument"]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
# The global provider; None before there is one. Asked for by its name, and in C, since to ask the
# API takes a third of the time of a whole job. Were the name gone, there would always be one.
_real_provider: Final = partial(vars(trace).get, "_TRACER_PROVIDER", True)


def instrument(
    executor: RetryingExecutor, *, tracer_provider: trace.TracerProvider | None = None
) -> None:
    """Make a span of each further attempt of *executor*, and of those that run at this moment.

    A span is named ``process`` and the job's class or function. It is a child of the span in which
    the job was submitted; where the job was taken over from a dead process, it is linked to that
    one. An attempt runs in its span, and so do the hooks that are told of it. Called again, this
    replaces the tracer.

    Args:
        executor: all its views have spans, too.
        tracer_provider: by default, the global one, even if that is set later.

    Raises:
        TypeError: *executor* is not a RetryingExecutor.
    """
    pool = pool_of(executor)
    uninstrument(executor)
    tracer = trace.get_tracer("retryexec", tracer_provider=tracer_provider)
    if type(tracer) is NoOpTracer:
        return
    for link in _links(pool):
        from retryexec.journal import _traced  # here, since it needs what an extra brings

        link.wrap_journal(partial(_traced.traced, _traceparent))
    if isinstance(tracer, trace.ProxyTracer):
        observe_once(_real_provider, pool, _Tracing(tracer))
    else:
        observe(pool, [_Tracing(tracer)])


def uninstrument(executor: RetryingExecutor) -> None:
    """Make no spans any more of attempts of *executor* that begin from now on."""
    pool = pool_of(executor)
    forget(pool, lambda observer: isinstance(observer, _Tracing))
    for link in _links(pool):
        from retryexec.journal import _traced

        link.wrap_journal(_traced.untraced)


def _links(pool: Pool) -> set[JournalLink]:
    """Return what leads to the journal of *pool*, if it has one."""
    return {each.journal for each in all_settings(pool) if each.journal is not None}


class _Attempt(NamedTuple):
    """An attempt with a span, and the context that its job had before."""

    span: Span
    context: Context


class _Tracing:
    """Makes the spans of one executor; an `AttemptObserver`."""

    wants_traces = True

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def started(self, job: Job[Any], number: int, ago: float) -> _Attempt:
        """Start a span, and let the attempt run in it."""
        before = job.context
        context = before.copy()
        span = context.run(self._start, job, number, ago)
        job.context = context
        return _Attempt(span, before)

    def _start(self, job: Job[Any], number: int, ago: float) -> Span:
        """Start a span in the current context, which is the attempt's."""
        name = name_of(job.submitted)
        links = None
        if not trace.get_current_span().get_span_context().is_valid:
            links = _links_of(job)
        span = self._tracer.start_span(
            f"process {name}",
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "retryexec",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": name,
                "messaging.message.id": job.job_id,
                "retryexec.attempt": number,
            },
            links=links,
            start_time=time_ns() - int(ago * 1e9) if ago else None,
        )
        otel_context.attach(trace.set_span_in_context(span))
        return span

    def held(self, told: Any, holds: Sequence[Hold]) -> None:
        """Add an event for each wait behind a key, a guard or a pause."""
        span, _ = told
        for hold in holds:
            told_of = {"retryexec.held_by": hold.by, "retryexec.delay": hold.seconds}
            span.add_event("held", told_of)

    def ended(self, told: Any, job: Job[Any], end: AttemptEnd) -> None:
        """End the span, and let the next attempt begin where the first did."""
        span, before = told
        if job.context is not None and end.delay is not None:
            job.context = before
        try:
            if span.is_recording():
                _describe_end(span, end)
        finally:
            span.end()


def _describe_end(span: Span, end: AttemptEnd) -> None:
    if end.reason is not None:
        span.set_attribute("retryexec.stop_reason", str(end.reason))
    if end.reason is StopReason.SUCCEEDED:
        return
    exception = end.exception
    if exception is not None:
        span.record_exception(exception)
        kind = qualified_name(type(exception))
        text = f"{kind}: {text_of(exception)}"
    else:
        kind = "crashed" if end.crashed else "refused_result"
        text = "its engine broke" if end.crashed else "refused result"
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, text))
    if end.delay is not None:
        span.add_event("retry", {"retryexec.delay": end.delay})


def _links_of(job: Job[Any]) -> list[Link] | None:
    """Return a link to the span in which *job* was submitted, in a process that has died."""
    trace_parent = None if job.entry is None else job.entry.trace
    if trace_parent is None:
        return None
    remote = _PROPAGATOR.extract({"traceparent": trace_parent}, otel_context.Context())
    span = trace.get_current_span(remote).get_span_context()
    return [Link(span)] if span.is_valid else None


def _traceparent() -> str | None:
    """Return the current span as a ``traceparent``; None if there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")
