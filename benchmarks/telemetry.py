"""What does it cost a job that does nothing to be counted, or to have a span?

In processor time of all threads. A collector that only reads `stats()` should cost nothing. What it
counts on request, and spans, cost something for each attempt, and here that is compared with the
least that an attempt can be. With OpenTelemetry's API alone, no tracer provider is ever set; the
SDK makes spans and drops them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from harness import OURS, Row, find, rows, run
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest

from retryexec import RetryingExecutor
from retryexec.telemetry.opentelemetry import instrument
from retryexec.telemetry.prometheus import Collector

PLAIN = "retryexec, without telemetry"
API = f"{OURS}, OpenTelemetry's API"
SDK = f"{OURS}, OpenTelemetry's SDK"

Watch = Callable[[RetryingExecutor], object]


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of microseconds per job."""
    all_of_it = {"per_job": True, "attempt_seconds": True, "start_delay": True}
    watches: dict[str, Watch] = {
        PLAIN: lambda _: None,
        OURS: _collector,
        **{
            f"{OURS}, {name}": partial(_collector, **{name: True})
            for name in ("per_job", "attempt_seconds", "start_delay")
        },
        f"{OURS}, all three": partial(_collector, **all_of_it),
        API: instrument,
        SDK: partial(instrument, tracer_provider=TracerProvider(shutdown_on_exit=False)),
    }
    notes = {OURS: "a collector that reads stats(), scraped ten times"}
    for jobs in [1_000] if quick else [50_000]:
        times = {name: partial(_microseconds, jobs, watch) for name, watch in watches.items()}
        rounds = 1 if quick else 7
        yield from rows("a job that is watched", "µs/job", jobs, times, rounds=rounds, notes=notes)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    counted = find(found, "a job", f"{OURS}, all three")
    return (
        f"With a Prometheus collector a job takes {find(found, 'a job').ratio:.2f} of its "
        f"processor time without, and {counted.ratio:.2f} with all that it counts on request; with "
        f"OpenTelemetry's API alone {find(found, 'a job', API).ratio:.2f}, and with its SDK "
        f"{find(found, 'a job', SDK).value:.0f} µs."
    )


def _collector(executor: RetryingExecutor, **options: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collector(executor, **options))
    return registry


def _nothing() -> None:
    pass


def _microseconds(jobs: int, watch: Watch) -> float:
    with RetryingExecutor(1) as executor:
        watched = watch(executor)
        start = time.process_time()
        for _ in range(10):
            for _ in range(jobs // 10):
                executor.submit(_nothing)
            if isinstance(watched, CollectorRegistry):
                generate_latest(watched)
        executor.shutdown()
        return (time.process_time() - start) / jobs * 1e6


if __name__ == "__main__":
    run(measure, answer, __doc__)
