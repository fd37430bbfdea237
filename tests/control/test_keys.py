"""Keys: of the jobs that have the same key, one attempt at a time, in order; or the latest only."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate

from retryexec import (
    PermanentError,
    RetryAfter,
    RetryFuture,
    RetryingExecutor,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock


def test_one_attempt_at_a_time_in_the_order_of_acceptance(executor: RetryingExecutor) -> None:
    same = executor.using(key="user")
    running, most, order = list[int](), list[int](), list[int]()

    def job(number: int) -> int:
        running.append(number)
        most.append(len(running))
        order.append(number)
        running.remove(number)
        return number

    futures = [same.submit(job, number) for number in range(200)]
    assert [future.result(10) for future in futures] == list(range(200))
    assert (order, set(most)) == (list(range(200)), {1})


def test_a_job_in_backoff_blocks_its_own_key_and_no_other(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    first = executor.using(key="a").submit(Fails(1, clock))
    behind = Fails(0, clock)
    second = executor.using(key="a").submit(behind)
    other = Fails(0, clock)
    assert executor.using(key="b").submit(other).result(10) == "saved"
    assert second.held_by == "key"
    assert not second.done()
    clock.run_until(second.done)
    assert first.done()
    assert (other.started_at, behind.started_at) == ([0.0], [10.0])


@pytest.mark.parametrize("end", ["succeeds", "fails", "is cancelled", "is withdrawn by a token"])
def test_however_a_job_ends_the_next_of_its_key_starts(
    executor: RetryingExecutor, end: str
) -> None:
    gate = Gate(PermanentError(Boom()) if end == "fails" else "through")
    same = executor.using(key="user")
    first = same.submit(gate)
    behind = same.submit(Gate())
    last = same.submit(lambda: "last")
    assert gate.reached()
    if end == "is cancelled":
        assert behind.cancel()
        assert not last.done()
    gate.open()
    if end != "is cancelled":
        behind.cancel()
    assert last.result(10) == "last"
    assert first.done()


def test_the_key_is_asked_what_the_attempt_is_called_with(executor: RetryingExecutor) -> None:
    @dataclass
    class Save:
        user: str

        def exec(self) -> str:
            return self.user

    seen: list[Any] = []

    def key_of_job(job: Save, *args: Any) -> str:
        seen.append((job, args))
        return job.user

    job = Save("ann")
    assert executor.using(key=key_of_job).submit(job).result(10) == "ann"

    def key_of_call(user: str, *, force: bool = False) -> str:
        seen.append((user, force))
        return user

    def save(user: str, *, force: bool = False) -> str:
        return f"{user} {force}"

    assert executor.using(key=key_of_call).submit(save, "ann", force=True).result(10) == "ann True"
    assert seen == [(job, ()), ("ann", True)]


def test_a_key_without_a_hash_is_refused_at_once(executor: RetryingExecutor) -> None:
    with pytest.raises(TypeError, match=r"a key must have a hash.*\['list'\]"):
        executor.using(key=["list"])
    with pytest.raises(TypeError, match=r"a key must have a hash.*\{\}"):
        executor.using(key=dict).submit(lambda: None)
    with pytest.raises(Boom):
        executor.using(key=lambda: (_ for _ in ()).throw(Boom())).submit(lambda: None)
    with pytest.raises(ValueError, match='keep takes "all" or "latest" \\(got \'last\'\\)'):
        executor.using(keep="last")  # type: ignore[arg-type]
    assert executor.stats().queued == 0


def test_none_is_no_key(executor: RetryingExecutor) -> None:
    gate, other = Gate(), Gate()
    view = executor.using(key=lambda _: None)
    one, two = view.submit(gate), view.submit(other)
    assert gate.reached()
    assert other.reached()
    gate.open()
    other.open()
    assert one.result(10) == two.result(10) == "through"


class TestLatest:
    @pytest.fixture
    def latest(self, executor: RetryingExecutor) -> RetryingExecutor:
        return executor.using(key="user", keep="latest")

    def test_a_newer_job_replaces_the_one_that_waits_behind_a_running_one(
        self, executor: RetryingExecutor, latest: RetryingExecutor
    ) -> None:
        gate, ran = Gate(), list[int]()
        running = latest.submit(gate)
        assert gate.reached()
        futures = [latest.submit(lambda n=n: ran.append(n) or n) for n in range(5)]
        assert [future.superseded_by for future in futures] == [futures[-1]] * 4 + [None]
        assert futures[0].stop_reason is StopReason.SUPERSEDED
        gate.open()
        assert running.result(10) == "through"
        assert [future.result(10) for future in futures] == [4] * 5
        assert ran == [4]
        stats = executor.stats()
        assert (stats.superseded, stats.succeeded) == (4, 2)
        assert [f.stop_reason for f in futures] == ["superseded"] * 4 + ["succeeded"]

    def test_one_in_backoff_is_replaced_and_the_newer_takes_its_due_time(
        self, latest: RetryingExecutor, clock: VirtualClock
    ) -> None:
        older, newer = Fails(5, clock), Fails(1, clock)
        first = latest.submit(older)
        clock.advance(3)
        second = latest.submit(newer)
        assert first.superseded_by is second
        assert second.next_attempt_at == 10.0
        clock.run_until(second.done)
        assert second.result(10) == first.result(10) == "saved"
        assert older.started_at == [0.0]
        assert newer.started_at == [10.0, 20.0]
        assert second.attempts == 2
        assert first.attempts == 1

    def test_new_arrivals_do_not_put_off_the_attempt(
        self, latest: RetryingExecutor, clock: VirtualClock
    ) -> None:
        futures = [latest.submit(Fails(1, clock))]
        jobs = []
        for _ in range(9):
            clock.advance(1)
            jobs.append(Fails(0, clock))
            futures.append(latest.submit(jobs[-1]))
        clock.run_until(futures[-1].done)
        assert [future.result(10) for future in futures] == ["saved"] * 10
        assert jobs[-1].started_at == [10.0]

    def test_a_running_one_that_fails_is_not_tried_again_if_a_newer_one_waits(
        self, latest: RetryingExecutor, clock: VirtualClock
    ) -> None:
        gate, newer = Gate(Boom("older")), Fails(0, clock)
        first = latest.submit(gate)
        assert gate.reached()
        second = latest.submit(newer)
        gate.open()
        clock.run_until(second.done)
        assert second.result(10) == first.result(10) == "saved"
        assert newer.started_at == [10.0]
        assert (first.stop_reason, first.superseded_by) == (StopReason.SUPERSEDED, second)
        assert (first.attempts, second.attempts) == (1, 1)

    def test_one_that_fails_for_good_keeps_its_own_end(self, latest: RetryingExecutor) -> None:
        gate = Gate(PermanentError(Boom("older")))
        first = latest.submit(gate)
        assert gate.reached()
        second = latest.submit(lambda: "newer")
        gate.open()
        assert second.result(10) == "newer"
        assert isinstance(first.exception(10), Boom)
        assert first.stop_reason is StopReason.PERMANENT

    def test_followers_fail_with_the_same_exception(self, latest: RetryingExecutor) -> None:
        gate = Gate()
        latest.submit(gate)
        assert gate.reached()
        boom = Boom("newest")
        older = latest.submit(lambda: "older")

        def fails() -> None:
            raise PermanentError(boom)

        newer = latest.submit(fails)
        gate.open()
        assert newer.exception(10) is boom
        assert older.exception(10) is boom

    def test_cancelling_a_follower_cancels_only_it(self, latest: RetryingExecutor) -> None:
        gate = Gate()
        latest.submit(gate)
        assert gate.reached()
        futures = [latest.submit(lambda: "newest") for _ in range(3)]
        assert futures[1].cancel()
        gate.open()
        assert futures[0].result(10) == futures[2].result(10) == "newest"
        assert futures[1].cancelled()
        assert futures[1].stop_reason is StopReason.CANCELLED

    def test_cancelling_the_newest_cancels_those_that_follow_it(
        self, executor: RetryingExecutor, latest: RetryingExecutor
    ) -> None:
        gate = Gate()
        first = latest.submit(gate)
        assert gate.reached()
        older, newest = latest.submit(lambda: 1), latest.submit(lambda: 2)
        assert newest.cancel()
        assert older.cancelled()
        gate.open()
        assert first.result(10) == "through"
        after = latest.submit(lambda: 3)
        assert after.result(10) == 3
        stats = executor.stats()
        assert (stats.cancelled, stats.superseded, stats.succeeded) == (1, 1, 2)

    def test_a_queued_one_is_replaced_and_keeps_its_turn(self, clock: VirtualClock) -> None:
        with RetryingExecutor(max_workers=1, clock=clock) as executor:
            gate, ran = Gate(), list[str]()
            executor.submit(gate)
            assert gate.reached()
            latest = executor.using(key="user", keep="latest")
            latest.submit(ran.append, "older")
            executor.submit(ran.append, "between")
            for n in range(100):
                latest.submit(ran.append, f"newer {n}")
            gate.open()
        assert ran == ["newer 99", "between"]

    def test_ten_thousand_replacements_leave_nothing(
        self, executor: RetryingExecutor, latest: RetryingExecutor
    ) -> None:
        gate = Gate()
        latest.submit(gate)
        assert gate.reached()
        told = list[Any]()
        first = latest.submit(lambda: "first")
        latest.submit(lambda: "with a callback").add_done_callback(told.append)
        refs = [weakref.ref(latest.submit(lambda: "newest")) for _ in range(10_000)]
        gc.collect()
        assert sum(ref() is not None for ref in refs) == 1
        assert executor.stats().held == 1
        gate.open()
        assert first.result(10) == "newest"
        assert [future.result() for future in told] == ["newest"]
        assert executor.stats().superseded == 10_001

    def test_a_replaced_future_in_wait_and_as_completed_and_await(
        self, latest: RetryingExecutor
    ) -> None:
        gate = Gate()
        latest.submit(gate)
        assert gate.reached()
        futures: list[RetryFuture[Any]] = [latest.submit(lambda: "older")]
        began = threading.Event()
        ended: list[Any] = []

        def waits() -> None:
            began.set()
            ended.append(cf.wait(futures[:1], 10).done)
            ended.append(list(cf.as_completed(futures[:1], 10)))

        thread = threading.Thread(target=waits)
        thread.start()
        assert began.wait(10)

        async def awaits() -> Any:
            waiting = asyncio.ensure_future(_of(futures[0]))
            await asyncio.sleep(0)
            futures.append(latest.submit(lambda: "newer"))
            gate.open()
            return await waiting

        assert asyncio.run(awaits()) == "newer"
        thread.join(10)
        assert ended == [{futures[0]}, [futures[0]]]

    def test_one_that_replaces_needs_no_room(self, clock: VirtualClock) -> None:
        with RetryingExecutor(max_workers=1, clock=clock, max_pending=2) as executor:
            gate = Gate()
            latest = executor.using(key="user", keep="latest")
            latest.submit(gate)
            assert gate.reached()
            futures = [latest.submit(lambda n=n: n) for n in range(5)]
            gate.open()
            assert [future.result(10) for future in futures] == [4] * 5

    def test_hooks_are_told_of_the_job_that_ran(self, clock: VirtualClock) -> None:
        told: list[Any] = []
        with RetryingExecutor(max_workers=1, clock=clock, on_success=told.append) as executor:
            latest = executor.using(key="user", keep="latest")
            gate = Gate()
            latest.submit(gate)
            assert gate.reached()
            latest.submit(lambda: 1)
            newest = latest.submit(lambda: 2)
            gate.open()
        assert [event.result for event in told] == ["through", 2]
        assert told[1].future is newest


async def _of(future: RetryFuture[Any]) -> Any:
    return await future


def test_cancelled_at_a_shutdown_all_of_a_key_end(clock: VirtualClock) -> None:
    executor = RetryingExecutor(max_workers=2, clock=clock)
    same = executor.using(key="user")
    gate = Gate()
    running = same.submit(gate)
    assert gate.reached()
    futures = [same.submit(lambda: None) for _ in range(500)]
    latest = executor.using(key="other", keep="latest")
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.open()
    report = executor.shutdown()
    assert running.result(10) == "through"
    assert (report.done, report.cancelled, report.unfinished) == (1, 500, 0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        latest.submit(lambda: None)


def test_a_shutdown_waits_for_what_stands_behind(clock: VirtualClock) -> None:
    ran: list[int] = []
    with RetryingExecutor(max_workers=2, clock=clock, key="user") as executor:
        executor.submit(Fails(1, clock))
        for number in range(100):
            executor.submit(ran.append, number)
    assert ran == list(range(100))


def test_keys_are_forgotten_with_their_last_job(executor: RetryingExecutor) -> None:
    view = executor.using(key=lambda n: n)
    futures = [view.submit(lambda n: n, n) for n in range(1000)]
    assert [future.result(10) for future in futures] == list(range(1000))
    executor.shutdown()
    assert len(executor._pool.control.keys) == 0


def test_keys_with_code_of_their_own(executor: RetryingExecutor) -> None:
    """A key may compare itself in a slow way, and submit meanwhile."""

    class Key:
        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            executor.submit(lambda: None)
            return isinstance(other, Key) and self.name == other.name

    order: list[str] = []
    futures = [
        executor.using(key=Key(name)).submit(order.append, f"{name}{n}")
        for n in range(20)
        for name in "ab"
    ]
    assert not cf.wait(futures, 10).not_done
    assert [one for one in order if one[0] == "a"] == [f"a{n}" for n in range(20)]


def test_a_storm_of_threads_on_few_keys(executor: RetryingExecutor) -> None:
    """With a ledger outside: never two attempts of a key at one time, and every future ends."""
    busy: dict[int, int] = dict.fromkeys(range(3), 0)
    broken: list[int] = []
    lock = threading.Lock()
    futures: list[RetryFuture[Any]] = []

    def job(key: int, fails: int) -> None:
        with lock:
            busy[key] += 1
            if busy[key] > 1:
                broken.append(key)
        try:
            if current_attempt().number <= fails:
                raise RetryAfter(0)
        finally:
            with lock:
                busy[key] -= 1

    def submits(seed: int) -> None:
        for n in range(200):
            key = (seed + n) % 3
            view = executor.using(key=key, keep="latest" if (seed + n) % 2 else "all")
            future = view.submit(job, key, n % 3)
            futures.append(future)
            if n % 7 == 0:
                future.cancel()

    threads = [threading.Thread(target=submits, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not cf.wait(futures, 20).not_done
    assert broken == []
    executor.shutdown()
    stats = executor.stats()
    assert stats.superseded + stats.succeeded + stats.failed + stats.cancelled == 1200 + 0
    assert (stats.held, stats.queued, stats.waiting) == (0, 0, 0)
