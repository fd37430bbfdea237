"""What type checkers make of the public names; only they run this file."""

# An error that is no longer one is an error, for both of them.
# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from retryexec import (
    Attempt,
    AttemptRequest,
    Backoff,
    CallStats,
    CircuitBreaker,
    Clock,
    ConcurrencyLimit,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    Failure,
    FibonacciBackoff,
    FullJitterBackoff,
    GiveUp,
    Guard,
    LastCall,
    LinearBackoff,
    Outcome,
    PermanentError,
    RateLimit,
    Recovered,
    Retriable,
    RetriedFunction,
    Retry,
    RetryAfter,
    RetryBudget,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    ShutdownReport,
    Stats,
    StopBackoff,
    StopReason,
    Success,
    ZeroBackoff,
    current_attempt,
    retry,
    retry_async,
    retrying,
)
from retryexec.engines import Engine, dask, interpreters, processes
from retryexec.journal import DeadLetter, Inspector, Journal, JournalStats, MemoryJournal
from retryexec.telemetry.opentelemetry import instrument, uninstrument
from retryexec.telemetry.prometheus import Collector
from retryexec.testing import InstantClock, VirtualClock


@dataclass(frozen=True)
class Save:
    activity: str

    def exec(self) -> int:
        return len(self.activity)


class NoJob:
    def execute(self) -> int:
        return 1


def double(number: int, *, times: int = 1) -> int:
    return number * 2 * times


def add(number: int, text: str) -> str:
    return text * number


# ---- submit

with RetryingExecutor(max_workers=1, policy=RetryPolicy(max_attempts=3)) as executor:
    assert_type(executor, RetryingExecutor)
    assert_type(executor.submit(len, "seven"), RetryFuture[int])
    assert_type(executor.submit(Save("login")), RetryFuture[int])
    assert_type(executor.submit(double, 7, times=2), RetryFuture[int])
    assert_type(executor.submit(add, 7, text="a"), RetryFuture[str])
    assert_type(executor.submit(lambda: 1.5), RetryFuture[float])
    assert_type(executor.submit(len, "seven").result(), int)
    assert_type(executor.submit(len, "seven").result(timeout=5), int)
    plain: Future[int] = executor.submit(len, "seven")
    job: Retriable[int] = Save("login")
    assert_type(executor.submit(job), RetryFuture[int])

    executor.submit(len, 7)  # type: ignore[call-overload]
    executor.submit(double, 7, often=2)  # type: ignore[call-arg]
    executor.submit(double)  # type: ignore[call-overload]
    executor.submit("no job")  # type: ignore[call-overload]
    executor.submit(NoJob())  # type: ignore[call-overload]
    executor.submit()  # type: ignore[call-overload]
    no_job: Retriable[int] = NoJob()  # type: ignore[assignment]
    other: Retriable[str] = Save("login")  # type: ignore[assignment]

    # ---- and the other ways in

    assert_type(executor.map(double, [1, 2]), Iterator[int])
    assert_type(list(executor.map(add, [1, 2], "ab", timeout=5, buffersize=1)), list[str])
    assert_type(executor.using(max_attempts=5), RetryingExecutor)
    assert_type(executor.using(RetryPolicy.never()).submit(len, "seven"), RetryFuture[int])
    executor.using("twice")  # type: ignore[arg-type]

    # ---- what it tells

    assert_type(executor.stats(), Stats)
    assert_type(executor.stats().waiting, int)
    assert_type(executor.shutdown(), ShutdownReport)
    assert_type(executor.shutdown(cancel_futures=True, timeout=timedelta(minutes=1)).done, int)

some_executor: Executor = RetryingExecutor()


# ---- futures


async def awaited(future: RetryFuture[int]) -> None:
    assert_type(await future, int)
    assert_type(await asyncio.wrap_future(future), int)
    assert_type(
        await asyncio.get_running_loop().run_in_executor(RetryingExecutor(), len, "seven"), int
    )


def asked(future: RetryFuture[int]) -> None:
    assert_type(future.exception(), BaseException | None)
    assert_type(future.attempts, int)
    assert_type(future.stop_reason, StopReason | None)
    assert_type(future.history, tuple[Failure, ...])
    assert_type(future.history[-1].exception_type, type[BaseException] | None)
    assert_type(future.next_attempt_at, float | None)
    assert_type(future.cancel(), bool)
    future.add_done_callback(finished)
    future.add_done_callback(lambda done: print(done.result() + 1))  # noqa: T201
    wait([future], timeout=5)
    for done in as_completed([future]):
        assert_type(done.result(), int)
    future.attempts = 2  # type: ignore[misc]
    future.stop_reason = StopReason.SUCCEEDED  # type: ignore[misc]


def finished(future: Future[int]) -> None: ...


# ---- attempts


def attempt() -> None:
    assert_type(current_attempt(), Attempt)
    assert_type(current_attempt().number, int)
    assert_type(current_attempt().previous, BaseException | None)
    assert_type(current_attempt().remaining(), float | None)
    assert_type(current_attempt().cancelled, bool)
    raise RetryAfter(timedelta(minutes=1), ValueError("busy")) from PermanentError(OSError())


PermanentError("gone")  # type: ignore[arg-type]
RetryAfter("5")  # type: ignore[arg-type]
RetryAfter(5, "busy")  # type: ignore[arg-type]


# ---- policies


def worth_it(error: Exception) -> bool:
    return not isinstance(error, ValueError)


def when(error: Exception) -> float | timedelta | None:
    return timedelta(seconds=5) if isinstance(error, OSError) else None


class Delays:
    def __iter__(self) -> Iterator[float]:
        return iter((0.5, 1.0))


RetryPolicy(max_attempts=None, max_elapsed=None, attempt_timeout=None, retry_on_result=None)
RetryPolicy(max_elapsed=timedelta(minutes=15), attempt_timeout=timedelta(seconds=5))
RetryPolicy(max_elapsed=900, attempt_timeout=1.5)
RetryPolicy(retry_on=OSError)
RetryPolicy(retry_on=(OSError, ValueError))
RetryPolicy(retry_on=worth_it)
RetryPolicy(retry_on=when)
RetryPolicy(retry_on=lambda error: 2.5 if "busy" in str(error) else False)
RetryPolicy(retry_on_result=lambda value: value is None)
RetryPolicy(backoff=[0.1, 1, 10])
RetryPolicy(backoff=(timedelta(seconds=1), timedelta(minutes=1)))
RetryPolicy(backoff=[1, timedelta(minutes=1)])
RetryPolicy(backoff=range(5))
RetryPolicy(backoff=Delays())
RetryPolicy(backoff=ConstantBackoff(5).take(3))
assert_type(RetryPolicy.never(), RetryPolicy)
assert_type(RetryPolicy().replace(max_attempts=3), RetryPolicy)

RetryPolicy(attempts=3)  # type: ignore[call-arg]
RetryPolicy(3)  # type: ignore[call-arg]
RetryPolicy(max_attempts="3")  # type: ignore[arg-type]
RetryPolicy(max_elapsed="1h")  # type: ignore[arg-type]
RetryPolicy(retry_on=5)  # type: ignore[arg-type]
RetryPolicy(retry_on=int)  # type: ignore[arg-type]
RetryPolicy(backoff=5)  # type: ignore[arg-type]
RetryPolicy(backoff=["1"])  # type: ignore[list-item]
RetryPolicy().max_attempts = 3  # type: ignore[misc]


# ---- backoffs

second, minute = timedelta(seconds=1), timedelta(minutes=1)
backoffs: list[Backoff] = [
    ZeroBackoff(),
    StopBackoff(),
    ConstantBackoff(second),
    LinearBackoff(second, second, minute),
    LinearBackoff(initial=1, increment=0.5, max_interval=60),
    FibonacciBackoff(initial=second, max_interval=minute),
    ExponentialBackoff(),
    ExponentialBackoff(second, 2, 0.5, minute),
    ExponentialBackoff(
        initial_interval=1, multiplier=2, randomization_factor=0, max_interval=9, random=lambda: 0.5
    ),
    FullJitterBackoff(base=second, multiplier=2, max_interval=minute, random=lambda: 0.5),
    EqualJitterBackoff(base=second, multiplier=2, max_interval=minute, random=lambda: 0.5),
    DecorrelatedJitterBackoff(base=second, max_interval=minute, random=lambda: 0.5),
]
assert_type(next(iter(backoffs[0])), float)
assert_type(ConstantBackoff(second).interval, float)
assert_type(ConstantBackoff(5).take(3), Backoff)
assert_type(ConstantBackoff(5).take(3).then([1, minute]), Backoff)
assert_type(ConstantBackoff(5).jittered(0.5, random=lambda: 0.5), Backoff)

ConstantBackoff("5")  # type: ignore[arg-type]
ConstantBackoff(5).interval = 6  # type: ignore[misc]
ExponentialBackoff(random=0.5)  # type: ignore[arg-type]
ZeroBackoff().take("3")  # type: ignore[arg-type]
ZeroBackoff().then(3)  # type: ignore[arg-type]


# ---- clocks and hooks


class Frozen:
    def now(self) -> float:
        return 0.0

    def wait(self, changed: threading.Condition, until: float) -> None: ...


def on_retry(event: Retry) -> None:
    assert_type(event.attempt, int)
    assert_type(event.exception, BaseException | None)
    assert_type(event.delay, float)


def on_give_up(event: GiveUp) -> None:
    assert_type(event.stop_reason, StopReason)


clocks: list[Clock] = [Frozen(), VirtualClock()]
RetryingExecutor(clock=Frozen(), on_retry=on_retry, on_give_up=on_give_up, exit_timeout=minute)
RetryingExecutor(clock=VirtualClock(), max_pending=10, initializer=double, initargs=(7,))
RetryingExecutor(on_retry=on_give_up)  # type: ignore[arg-type]
RetryingExecutor(clock=5)  # type: ignore[arg-type]
VirtualClock().advance(minute)
VirtualClock().run_until(threading.Event().is_set)
VirtualClock().run_until(True)  # type: ignore[arg-type]


with VirtualClock().as_default() as default:
    assert_type(default, VirtualClock)
with InstantClock().as_default():
    RetryingExecutor()


# ---- retrying right here


def told_of_success(event: Success) -> None:
    assert_type(event.attempt, int)


@retrying
def fetch(url: str, *, size: int = 0) -> bytes:
    return url.encode()[:size]


@retrying(RetryPolicy(), on_retry=on_retry, on_success=told_of_success, clock=Frozen())
async def fetch_async(url: str) -> bytes:
    return url.encode()


class Fetcher:
    @retrying(RetryPolicy.never())
    def fetch(self, url: str) -> bytes:
        return url.encode()


assert_type(retry(lambda: 5, on_success=told_of_success), int)
assert_type(fetch("http://", size=5), bytes)
fetch(5)  # type: ignore[arg-type]
fetch("http://", length=5)  # type: ignore[call-arg]
assert_type(Fetcher().fetch("http://"), bytes)
Fetcher().fetch()  # type: ignore[call-arg]
assert_type(Fetcher.fetch(Fetcher(), "http://"), bytes)
quick = fetch.using(policy=RetryPolicy.never(), clock=VirtualClock(), on_success=told_of_success)
assert_type(quick("http://", size=5), bytes)
fetch.using(clock=5)  # type: ignore[arg-type]
fetch.using(max_attempts=3)  # type: ignore[call-arg]
retrying(max_attempts=3)  # type: ignore[call-overload]
assert_type(fetch.stats(), CallStats)
assert_type(fetch.stats().last, LastCall | None)
takes_any: RetriedFunction[..., bytes] = fetch


async def fetch_both() -> None:
    assert_type(await fetch_async("http://"), bytes)
    assert_type(await fetch_async.using(clock=InstantClock())("http://"), bytes)
    assert_type(await retry_async(fetch_both, on_success=told_of_success), None)


# ---- the journal


def on_success(event: Success) -> None:
    assert_type(event.attempt, int)
    assert_type(event.future.job_id, str)


def redact(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"kind": kind}


journal = Journal(
    Path("var/saves"),
    jobs={"save": Save},
    durability="process",
    accept="async",
    max_crashes=2,
    max_bytes=1000,
    redact=redact,
    poll=1,
)
Journal("var/saves", jobs={"save": Save}, durability="power", accept="wait")
Journal("postgresql://host/db", jobs={"save": Save}, schema="s", lease=10, accept_timeout=2.5)
Journal("postgresql://host/db", jobs={"save": Save}, schema=1)  # type: ignore[arg-type]
Journal("var/saves", jobs={"save": Save("x")})  # type: ignore[dict-item]
Journal("var/saves", jobs={"save": Save}, durability="full")  # type: ignore[arg-type]
Journal("var/saves", jobs={"save": Save}, accept="soon")  # type: ignore[arg-type]
Journal("var/saves")  # type: ignore[call-arg]

journaled = RetryingExecutor(journal=journal, on_success=on_success)
RetryingExecutor(journal=MemoryJournal(jobs={"save": Save}))
RetryingExecutor(journal="var/saves")  # type: ignore[arg-type]
RetryingExecutor(on_success=on_give_up)  # type: ignore[arg-type]

kept = journaled.submit(Save("x"))
assert_type(kept, RetryFuture[int])
assert_type(kept.accepted, Future[None])
assert_type(kept.job_id, str)
assert_type(current_attempt().job_id, str)
assert_type(journaled.recovered, Recovered)
assert_type(len(journaled.recovered), int)
assert_type(journaled.recovered.unfinished, int)
assert_type(journaled.recovered.wait(timeout=1), bool)
assert_type(journaled.shutdown(timeout=minute).journaled, int)
assert_type(journal.put(Save("x")), str)
assert_type(journal.put_many([Save("x")]), list[str])
assert_type(journal.stats(), JournalStats)
assert_type(journal.dead.list(limit=3), list[DeadLetter])
assert_type(journal.dead.edit(kept.job_id, activity="y"), DeadLetter)
assert_type(journal.dead.rerun_all("save"), int)
assert_type(Inspector("var/saves").stats().unfinished, int)

# ---- telemetry

collector = Collector(journaled, RetryingExecutor(), per_job=True, buckets=[0.1, 1])
collector.add(RetryingExecutor(), name="another")
Collector(journal)  # type: ignore[arg-type]
Collector(journaled, per_job="yes")  # type: ignore[arg-type]
instrument(journaled, tracer_provider=None)
instrument(journal)  # type: ignore[arg-type]
uninstrument(journaled)

# ---- guards


class NoGuard:
    def admit(self, request: AttemptRequest) -> None: ...


class OfMyOwn:
    def admit(self, request: AttemptRequest) -> float | None:
        return request.now() + 1.0 if request.number > 1 else None

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None: ...


def activity_of(job: Save) -> str:
    return job.activity


guards: list[Guard] = [
    RateLimit(100, timedelta(minutes=1), burst=10, key=activity_of),
    ConcurrencyLimit(5, key="all"),
    CircuitBreaker(trips_on=(OSError, ValueError), open_for=timedelta(minutes=1)),
    CircuitBreaker(trips_on=lambda error: "down" in str(error)),
    RetryBudget(0.1, reserve=1),
    OfMyOwn(),
]
with RetryingExecutor(guards=guards) as guarded:
    assert_type(guarded.using(guards=[RateLimit(5)]).submit(len, "seven"), RetryFuture[int])
    guarded.using(guards=[NoGuard()])  # type: ignore[list-item]
    guarded.using(guards=RateLimit(5))  # type: ignore[arg-type]
assert_type(retry(lambda: 1, guards=[RateLimit(5)]), int)
state: str = CircuitBreaker().state
RateLimit("fast")  # type: ignore[arg-type]
retrying(guards=guards)(double)

# ---- engines

assert_type(processes(2, mp_context="spawn", max_crashes=1), Engine)
assert_type(interpreters(2), Engine)
assert_type(dask("tcp://127.0.0.1:8786"), Engine)
RetryingExecutor(attempts_on=processes())
RetryingExecutor(attempts_on=ThreadPoolExecutor(2))
RetryingExecutor(attempts_on=ProcessPoolExecutor)
RetryingExecutor(attempts_on=lambda: ProcessPoolExecutor(2))
RetryingExecutor(attempts_on="processes")  # type: ignore[arg-type]
