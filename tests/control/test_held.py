"""Jobs that guards hold back, without a thread and without an attempt."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate

from retryexec import RetryingExecutor, RetryPolicy, StopReason
from retryexec._core.controlled import ControlledJob
from retryexec.guards import AttemptRequest, ConcurrencyLimit, Outcome, RateLimit
from retryexec.testing import VirtualClock


class Door:
    """A guard that lets nobody through until it is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.line: list[AttemptRequest] = []
        self.asked: list[int] = []
        self.released: list[Outcome | None] = []
        self.holding = threading.Event()

    def admit(self, request: AttemptRequest) -> float | None:
        self.asked.append(request.number)
        if self.is_open:
            return None
        self.line.append(request)
        self.holding.set()
        return math.inf

    def release(self, _: AttemptRequest, outcome: Outcome | None) -> None:
        self.released.append(outcome)

    def open(self) -> None:
        self.is_open = True
        for request in self.line:
            request.wake()


def test_a_rate_spaces_attempts_and_costs_none(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    view = executor.using(guards=[RateLimit(2)])
    jobs = [Fails(0, clock) for _ in range(10)]
    futures = [view.submit(job) for job in jobs]
    clock.run_until(lambda: all(future.done() for future in futures))
    assert sorted(job.started_at[0] for job in jobs) == [n / 2 for n in range(10)]
    assert {future.attempts for future in futures} == {1}


def test_one_that_has_come_due_goes_before_those_whose_guards_were_not_asked() -> None:
    """A long queue makes it no later, and the guard is asked for one of them in between."""
    asked = list[str]()

    class Reserves:
        def admit(self, request: AttemptRequest) -> float | None:
            name = request.args[0]
            asked.append(name)
            if name == "first":
                return request.now() if asked.count(name) == 1 else None
            while not control.due and asked.count("first") == 1:
                threading.Event().wait(0.0005)  # until the first has come due
            return math.inf

        def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
            pass

    with RetryingExecutor(max_workers=1) as executor:
        control = executor._pool.control
        view = executor.using(guards=[Reserves()])
        gate = Gate()
        executor.submit(gate)
        future = view.submit(str, "first")
        others = [view.submit(str, "other") for _ in range(200)]
        gate.open()
        assert future.result(10) == "first"
        assert asked[:3] == ["first", "other", "first"]
        for other in others:
            other.cancel()


def test_held_by_a_rate_it_says_so(executor: RetryingExecutor, clock: VirtualClock) -> None:
    view = executor.using(guards=[RateLimit(1)])
    first, second = view.submit(int), view.submit(int)
    assert first.result(10) == 0
    clock.advance(0.0)  # until the worker has done what holds it
    assert second.held_by == "RateLimit(1/s)"
    stats = executor.stats()
    assert (stats.held, stats.waiting, stats.queued, stats.oldest_wait) == (1, 0, 0, 0.0)
    (told,) = executor.pending()
    assert (told.state, told.held_by, told.due_in) == ("held", second.held_by, 1.0)
    assert not second.retry_now()
    executor.shutdown()
    assert second.held_by is None


def test_a_limit_bounds_the_attempts_at_a_time(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    view = executor.using(guards=[ConcurrencyLimit(2)])
    running, most = set[int](), list[int]()

    def job(n: int) -> int:
        running.add(n)
        most.append(len(running))
        running.discard(n)
        return n

    futures = [view.submit(job, n) for n in range(1000)]
    assert [future.result(20) for future in futures] == list(range(1000))
    assert max(most) <= 2


def test_a_job_in_backoff_holds_no_permit(executor: RetryingExecutor, clock: VirtualClock) -> None:
    view = executor.using(guards=[ConcurrencyLimit(1)])
    first, second = view.submit(Fails(1, clock)), view.submit(Fails(0, clock))
    assert second.result(10) == "saved"
    clock.run_until(first.done)


@pytest.mark.parametrize("how", ["cancelled", "shut down", "cancelled by a token"])
def test_a_held_job_can_be_ended(clock: VirtualClock, how: str) -> None:
    door = Door()
    executor = RetryingExecutor(max_workers=1, clock=clock, guards=[door])
    future = executor.submit(int)
    assert door.holding.wait(10)
    if how == "shut down":
        report = executor.shutdown(timeout=0)
        assert report.abandoned == 1
    else:
        assert future.cancel()
    assert future.done()
    assert door.released == [None]
    door.open()
    executor.shutdown()
    assert future.attempts == 0
    stats = executor.stats()
    assert (stats.held, stats.queued) == (0, 0)


def test_one_that_is_cancelled_just_before_asks_no_guard(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was called with is gone, so a guard's key could not be asked for."""
    start_asking = ControlledJob.start_asking

    def cancelled_after(job: ControlledJob[Any]) -> bool:
        may_ask = start_asking(job)
        job.cancel()
        return may_ask

    monkeypatch.setattr(ControlledJob, "start_asking", cancelled_after)
    view = executor.using(guards=[ConcurrencyLimit(1, key=lambda one: one)])
    view.submit(str, 1)
    executor.shutdown()
    assert executor.stats().cancelled == 1
    assert not caplog.messages


def test_held_jobs_hold_no_worker(executor: RetryingExecutor) -> None:
    door = Door()
    view = executor.using(guards=[door])
    futures = [view.submit(int) for _ in range(100)]
    assert executor.submit(lambda: "past them").result(10) == "past them"
    door.open()
    assert [future.result(10) for future in futures] == [0] * 100


def test_the_guard_is_told_how_each_attempt_went(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    door = Door()
    door.open()
    future = executor.using(guards=[door]).submit(Fails(2, clock))
    clock.run_until(future.done)
    assert door.asked == [1, 2, 3]
    told = [outcome for outcome in door.released if outcome is not None]
    assert [outcome.succeeded for outcome in told] == [False, False, True]
    assert [type(outcome.exception) for outcome in told] == [Boom, Boom, type(None)]


def test_a_newer_job_takes_the_place_of_one_that_a_guard_holds(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    """However often it is replaced, its turn comes."""
    view = executor.using(guards=[RateLimit(0.1)], key=lambda _: "user", keep="latest")
    view.submit(str, 0).result(10)
    futures = [view.submit(str, 1)]
    while futures[0].held_by is None:
        threading.Event().wait(0.001)
    for n in range(2, 10):
        clock.advance(1)
        futures.append(view.submit(str, n))
        assert futures[-1].held_by == futures[0].held_by or futures[-1].held_by
    clock.run_until(futures[-1].done)
    assert clock.now() == 10.0
    assert {future.result(10) for future in futures} == {"9"}


def test_parked_in_a_line_it_is_replaced_in_its_place(executor: RetryingExecutor) -> None:
    door = Door()
    view = executor.using(guards=[door], key="user", keep="latest")
    older = view.submit(lambda: "older")
    assert door.holding.wait(10)
    newer = view.submit(lambda: "newer")
    while newer.held_by != "Door":  # it asks anew, and keeps its place in the line
        threading.Event().wait(0.001)
    door.open()
    assert older.result(10) == newer.result(10) == "newer"
    assert executor.stats().held == 0


def test_a_guard_that_fails_lets_the_attempt_go(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def admit(self, _: AttemptRequest) -> float | None:
            raise Boom

        def release(self, _: AttemptRequest, __: Outcome | None) -> None:
            raise Boom

    assert executor.using(guards=[Broken()]).submit(lambda: "gone").result(10) == "gone"
    assert "Broken failed to decide" in caplog.text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (RateLimit(1), "guards takes a list"),
        ([RateLimit], "is a class"),
        ([1], "which 1 is not"),
        (7, "guards takes a list"),
    ],
)
def test_what_is_not_a_guard_is_refused(executor: RetryingExecutor, bad: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        executor.using(guards=bad)
    with pytest.raises(TypeError, match=message):
        RetryingExecutor(guards=bad)


def test_postponed_while_held_it_leaves_the_line(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    door = Door()
    future = executor.using(guards=[door]).submit(int)
    assert door.holding.wait(10)
    assert future.postpone(5)
    assert door.released == [None]
    door.open()
    assert not future.done()
    clock.run_until(future.done)
    assert clock.now() == 5.0


def test_a_pause_while_guards_hold(executor: RetryingExecutor) -> None:
    door = Door()
    future = executor.using(guards=[door]).submit(int)
    assert door.holding.wait(10)
    executor.pause()
    door.open()
    executor.resume()
    assert future.result(10) == 0


def test_many_threads_wake_a_job_and_it_runs_once(executor: RetryingExecutor) -> None:
    door = Door()
    view = executor.using(guards=[door])
    ran: list[int] = []
    futures = [view.submit(ran.append, n) for n in range(200)]
    threads = [threading.Thread(target=door.open) for _ in range(4)]
    for thread in threads:
        thread.start()
    for future in futures:
        future.result(10)
    for thread in threads:
        thread.join(10)
    assert sorted(ran) == list(range(200))
    executor.shutdown()
    assert executor.stats().held == 0


def test_a_storm_with_keys_guards_and_ends(clock: VirtualClock) -> None:
    limit, rate = ConcurrencyLimit(3), RateLimit(10_000, burst=50)
    running, broken = set[object](), list[int]()
    executor = RetryingExecutor(
        max_workers=8,
        policy=RetryPolicy(backoff=[0.0, 0.001, 0.0], max_attempts=4),
        guards=[limit, rate],
    )

    def job(n: int) -> None:
        token = object()
        running.add(token)
        if len(running) > 3:
            broken.append(n)
        running.discard(token)
        if n % 3 == 0:
            raise Boom

    futures: list[Any] = []

    def submits(seed: int) -> None:
        for n in range(150):
            view = executor.using(key=n % 5, keep="latest" if seed % 2 else "all")
            future = view.submit(job, n)
            futures.append(future)
            if n % 11 == 0:
                future.cancel()
            if n % 13 == 0:
                future.postpone(0.001)

    threads = [threading.Thread(target=submits, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert broken == []
    stats = executor.stats()
    assert (stats.held, stats.queued, stats.waiting, stats.running) == (0, 0, 0, 0)
    ends = stats.succeeded + stats.failed + stats.cancelled + stats.superseded
    assert ends == len(futures)
    assert all(future.stop_reason in StopReason for future in futures)
