"""Guards in an executor: schedules on a virtual clock, and a storm of threads."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from helpers.guarded import FOR_EVER, Counting, Service, finish, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retryexec import (
    CircuitBreaker,
    ConcurrencyLimit,
    Guard,
    RateLimit,
    RetryBudget,
    RetryFuture,
    RetryingExecutor,
    StopReason,
    ZeroBackoff,
)
from retryexec._typing import override
from retryexec.guards import _rate_limit
from retryexec.testing import VirtualClock


def test_a_rate_is_kept_exactly_and_nothing_polls() -> None:
    clock = VirtualClock()
    service, rate = Service(clock), Counting(RateLimit(1000))
    with RetryingExecutor(4, clock=clock, guards=[rate]) as executor:
        futures = [executor.submit(service.call) for _ in range(2000)]
        finish(clock, futures)
    assert sorted(service.attempts) == pytest.approx([n / 1000 for n in range(2000)])
    assert rate.asked == 2 * 2000 - 1


def test_by_the_machines_clock_a_long_line_takes_few_wake_ups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken = Counter[str]()

    class Clock(VirtualClock):
        """Taken for the machine's by the guard; counts how often a thread stops waiting by it."""

        def __init__(self) -> None:
            super().__init__()
            self.now = super().now  # type: ignore[method-assign]  # one object
            monkeypatch.setattr(_rate_limit, "monotonic", self.now)

        @override
        def wait(self, changed: threading.Condition, until: float) -> None:
            super().wait(changed, until)
            woken[threading.current_thread().name] += 1

    clock = Clock()
    service, rate = Service(clock), Counting(RateLimit(1024))
    with RetryingExecutor(1, clock=clock, guards=[rate]) as executor:
        futures = [executor.submit(service.call) for _ in range(4097)]
        finish(clock, futures)
    assert service.attempts[-1] == 4.0
    assert all(at >= n / 1024 for n, at in enumerate(service.attempts))
    assert rate.asked == 2 * 4097 - 1
    assert sum(woken.values()) < 4097 / 16


def test_after_workers_were_busy_there_is_no_burst() -> None:
    clock = VirtualClock()
    service = Service(clock)
    with RetryingExecutor(1, clock=clock) as executor:
        limited = executor.using(guards=[RateLimit(2)])
        futures: list[RetryFuture[Any]] = [limited.submit(service.call)]
        clock.run_until(futures[0].done)
        futures.append(executor.submit(work, clock, 10.0))
        futures += [limited.submit(service.call) for _ in range(10)]
        finish(clock, futures)
    gaps = [b - a for a, b in zip(service.attempts, service.attempts[1:], strict=False)]
    assert gaps[0] == 10.0
    assert gaps[1:] == pytest.approx([0.5] * 9)


def test_a_limit_wakes_one_at_a_time() -> None:
    clock = VirtualClock()
    running, most = Counter[str](), Counter[str]()
    limit = Counting(ConcurrencyLimit(1))

    def job() -> None:
        running["now"] += 1
        most["at once"] = max(most["at once"], running["now"])
        work(clock, 1.0)
        running["now"] -= 1

    with RetryingExecutor(4, clock=clock, guards=[limit]) as executor:
        futures = [executor.submit(job) for _ in range(100)]
        finish(clock, futures)
    assert clock.now() == 100.0
    assert most["at once"] == 1
    assert limit.asked <= 2 * 100


def test_a_probe_that_an_inner_limit_holds_back_lets_others_ask_but_not_go() -> None:
    """A thousand parked jobs, each of which would find the limit full: each asks a few times."""
    clock = VirtualClock()
    service = Service(clock, down=(0.0, 60.0))
    breaker = Counting(CircuitBreaker(minimum_attempts=1, open_for=10.0))
    limit = Counting(ConcurrencyLimit(5))
    with RetryingExecutor(8, clock=clock, policy=FOR_EVER) as executor:
        limited, guarded = (executor.using(guards=[*g, limit]) for g in ([], [breaker]))
        futures = [guarded.submit(service.call)]
        clock.advance(2.0)
        futures += [guarded.submit(service.call) for _ in range(1000)]
        blockers = [limited.submit(work, clock, 20.0) for _ in range(5)]
        clock.advance(15.0)  # half open, and the limit is full
        assert len(service.attempts) == 1
        clock.advance(40.0)
        assert len(service.attempts) == 1 + 4  # a probe each ten seconds
        finish(clock, [*futures, *blockers])
    assert breaker.asked < 8 * 1000
    assert limit.asked < 8 * 1000


def test_a_breaker_spares_what_is_down_and_the_jobs_their_attempts() -> None:
    """A minute of outage, 100 jobs a second: a handful of attempts, and then a ramp."""
    clock = VirtualClock()
    service = Service(clock, down=(1.0, 61.0))
    breaker = CircuitBreaker(open_for=10.0)
    futures: list[RetryFuture[Any]] = []
    policy = FOR_EVER.replace(max_attempts=12)
    with RetryingExecutor(4, clock=clock, policy=policy, guards=[breaker]) as executor:
        for _ in range(70):
            futures += [executor.submit(service.call) for _ in range(100)]
            clock.advance(1.0)
        assert executor.stats().held > 1000
        finish(clock, futures)
    assert {future.stop_reason for future in futures} == {StopReason.SUCCEEDED}
    # One second's worth opens it; then one probe in ten seconds.
    assert service.between(1.0, 2.0) <= 210
    assert service.between(2.0, 61.0) == 5
    assert max(service.between(t, t + 1.0) for t in range(61, 75)) < 1000
    assert breaker.state == "closed"
    assert repr(breaker) == "<CircuitBreaker closed: 0 held>"


def test_a_probe_that_is_cancelled_lets_the_next_one_go() -> None:
    clock = VirtualClock()
    service = Service(clock, down=(0.0, 1.0))
    breaker = CircuitBreaker(minimum_attempts=1, open_for=10.0)
    with RetryingExecutor(2, clock=clock, policy=FOR_EVER, guards=[breaker]) as executor:
        first = executor.submit(service.call)
        clock.advance(2.0)
        assert first.held_by == "CircuitBreaker"
        second = executor.submit(service.call)
        clock.advance(0.0)
        first.cancel()
        clock.run_until(second.done)
    assert second.result() == 10.0


def test_a_probe_whose_job_is_out_of_time_lets_the_next_one_go() -> None:
    clock = VirtualClock()
    service = Service(clock, down=(0.0, 1.0))
    breaker = CircuitBreaker(minimum_attempts=1, open_for=30.0)
    policy = FOR_EVER.replace(max_elapsed=20.0)
    with RetryingExecutor(2, clock=clock, policy=policy, guards=[breaker]) as executor:
        too_late = executor.submit(service.call)
        clock.advance(2.0)
        fresh = executor.submit(service.call)
        finish(clock, [too_late, fresh])
    assert too_late.stop_reason is StopReason.MAX_ELAPSED
    assert too_late.attempts == 1
    assert fresh.result() == 30.0
    assert breaker.state == "closed"


def test_one_that_is_shut_down_while_it_is_held_leaves_the_line() -> None:
    clock = VirtualClock()
    limit, rate = ConcurrencyLimit(1), RateLimit(0.001)
    with RetryingExecutor(2, clock=clock) as other:
        view = other.using(guards=[limit, rate])
        assert view.submit(int).result(10) == 0
        held = RetryingExecutor(2, clock=clock, guards=[limit, rate])
        futures = [held.submit(int) for _ in range(10)]
        clock.advance(1.0)
        assert held.shutdown(timeout=0).abandoned == 10
        assert {future.stop_reason for future in futures} == {StopReason.SHUTDOWN}
        assert repr(rate) == "<RateLimit(0.001/s): 0 held>"
        assert view.submit(clock.now) is not None
        clock.advance(1000.0)
    assert repr(limit) == "<ConcurrencyLimit(1): 0 running, 0 held>"


def test_retries_stay_within_the_budget() -> None:
    clock = VirtualClock()
    service = Service(clock, down=(0.0, 30.0))
    budget = RetryBudget(0.2, reserve=5.0)
    policy = FOR_EVER.replace(backoff=ZeroBackoff())
    with RetryingExecutor(4, clock=clock, policy=policy, guards=[budget]) as executor:
        futures = [executor.submit(service.call) for _ in range(1000)]
        finish(clock, futures)
    assert all(future.stop_reason is StopReason.SUCCEEDED for future in futures)
    for seconds in (1, 5, 30):
        assert service.between(0.0, seconds) <= 1000 + 0.2 * 1000 + 5.0 * seconds + 1


# ---- a model


GUARDS: list[Callable[[], Guard]] = [
    lambda: RateLimit(2),
    lambda: RateLimit(1, burst=3, key=lambda kind, *_: kind),
    lambda: ConcurrencyLimit(1),
    lambda: ConcurrencyLimit(2, key=lambda kind, *_: kind),
    lambda: CircuitBreaker(minimum_attempts=2, open_for=5.0, window=10.0),
    lambda: RetryBudget(0.2, reserve=1.0),
]


JOBS = st.tuples(
    st.sampled_from("ab"),  # its key
    st.integers(0, 3),  # failures
    st.sampled_from([0.0, 0.1, 1.5]),  # virtual seconds of each attempt
    st.sampled_from(["submit", "cancel soon", "wait"]),
)


class Ledger:
    """What an outsider sees of the attempts."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.starts: list[tuple[float, str]] = []
        self.running = Counter[str]()
        self.most = Counter[str]()
        self.most_of_all = 0

    def attempt(self, kind: str, failures: list[None], seconds: float) -> None:
        with self.lock:
            self.starts.append((self.clock.now(), kind))
            self.running[kind] += 1
            self.most[kind] = max(self.most[kind], self.running[kind])
            self.most_of_all = max(self.most_of_all, self.running.total())
        try:
            work(self.clock, seconds)
            if failures:
                failures.pop()
                raise OSError(kind)
        finally:
            with self.lock:
                self.running[kind] -= 1

    def check(self, guard: Guard) -> None:
        if isinstance(guard, ConcurrencyLimit):
            most = self.most_of_all if guard.limit == 1 else max(self.most.values(), default=0)
            assert most <= guard.limit
        if isinstance(guard, RateLimit):
            for kinds in ("a", "b") if guard.burst == 3 else ("ab",):
                times = [time for time, kind in self.starts if kind in kinds]
                for i, begin in enumerate(times):
                    for j in range(i, len(times)):
                        allowed = guard.burst + guard.rate * (times[j] - begin)
                        assert j - i + 1 <= allowed + 1e-6


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(range(len(GUARDS))), unique=True, max_size=4),
    st.lists(JOBS, max_size=12),
    st.integers(1, 3),
)
def test_a_model_of_guards(chosen: list[int], jobs: list[Any], workers: int) -> None:
    """Never more than the limit nor faster than the rate; each job ends, and nothing is left."""
    clock = VirtualClock()
    ledger = Ledger(clock)
    guards = [GUARDS[i]() for i in chosen]
    futures: list[RetryFuture[None]] = []
    with RetryingExecutor(workers, clock=clock, policy=FOR_EVER, guards=guards) as executor:
        for kind, failures, seconds, what in jobs:
            if what == "wait":
                clock.advance(seconds)
                continue
            future = executor.submit(ledger.attempt, kind, [None] * failures, seconds)
            if what == "cancel soon":
                clock.advance(0.0)
                future.cancel()
            futures.append(future)
        finish(clock, futures)
        assert executor.stats().held == 0
    for guard in guards:
        ledger.check(guard)
        assert ", 0 held" in repr(guard) or ": 0 held" in repr(guard)
        assert "0 running" in repr(guard) or not isinstance(guard, ConcurrencyLimit)


# ---- a storm


def test_a_storm_of_threads_on_few_keys() -> None:
    """Six submitting threads, eight workers, real time: an outside ledger of what runs."""
    lock = threading.Lock()
    running, most, done = Counter[int](), Counter[int](), Counter[int]()

    def attempt(key: int, failures: list[None]) -> None:
        with lock:
            running[key] += 1
            most[key] = max(most[key], running[key])
        try:
            if failures:
                failures.pop()
                raise OSError(key)
            with lock:
                done[key] += 1
        finally:
            with lock:
                running[key] -= 1

    limit = ConcurrencyLimit(2, key=lambda key, _: key)
    guards: list[Guard] = [
        limit,
        CircuitBreaker(minimum_attempts=1000),
        RateLimit(50_000, burst=100),
        RetryBudget(0.5, reserve=1000.0),
    ]
    policy = FOR_EVER.replace(backoff=ZeroBackoff())
    futures: list[RetryFuture[None]] = []
    asked_to_cancel: list[RetryFuture[None]] = []

    def submit(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            failures = [None] * chance.choice([0, 0, 0, 1, 2])
            future = executor.submit(attempt, chance.randrange(4), failures)
            futures.append(future)
            if chance.random() < 0.1:
                asked_to_cancel.append(future)
                future.cancel()

    with RetryingExecutor(8, policy=policy, guards=guards) as executor:
        threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(futures) == 1800
    ends = Counter(future.stop_reason for future in futures)
    # Cancelled at once, or during an attempt that failed, so that no other followed.
    cancelled = sum(f.stop_reason is StopReason.CANCELLED for f in asked_to_cancel)
    assert ends == {StopReason.SUCCEEDED: done.total(), StopReason.CANCELLED: cancelled}
    assert max(most.values()) <= 2
    assert limit.states() == []
    for guard in guards:
        assert "0 held" in repr(guard)
