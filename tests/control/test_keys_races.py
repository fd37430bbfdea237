"""Keys, where two things happen at one time: staged races, interrupts, and keys with code."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread
from helpers.strikes import Strike, quietly

from retryexec import (
    ConstantBackoff,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
)
from retryexec._core.controlled import ControlledJob
from retryexec._core.followers import Followers
from retryexec._core.shutdown import after_shutdown
from retryexec.guards import ConcurrencyLimit
from retryexec.testing import VirtualClock

MINUTE = RetryPolicy(backoff=ConstantBackoff(60.0), max_elapsed=None)


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=4, clock=clock, policy=MINUTE) as executor:
        yield executor


@pytest.fixture
def latest(executor: RetryingExecutor) -> RetryingExecutor:
    return executor.using(key="user", keep="latest")


# ---- followers


def job_of(executor: RetryingExecutor) -> Any:
    """Return a job of *executor* that stands behind one at a gate, and the gate."""
    view = executor.using(key=object())
    gate = Gate()
    view.submit(gate)
    assert gate.reached()
    return view.submit(int), gate


def test_a_follower_that_is_added_while_others_end_is_ended_too(
    executor: RetryingExecutor,
) -> None:
    target, gate = job_of(executor)
    followers = Followers(target)
    jobs = [job_of(executor) for _ in range(2)]
    late, late_gate = jobs[1]

    def adds(_: Any) -> None:
        followers.add(late)

    first, first_gate = jobs[0]
    first.following = late.following = followers
    followers.add(first)
    first.add_done_callback(adds)
    assert target.cancel()
    followers.end()
    followers.run_callbacks()
    assert first.cancelled()
    assert late.cancelled()
    for each in (gate, first_gate, late_gate):
        each.open()


def test_what_replaced_it_can_be_asked_while_it_changes(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that has just found the followers, as those become a part of others."""
    one, gate = job_of(executor)
    two, other_gate = job_of(executor)
    small, large = Followers(one), Followers(two)
    find, merged = Followers._find, list[int]()

    def find_and_be_late(self: Followers) -> Followers:
        found = find(self)
        if not merged:
            merged.append(1)
            small.merge_into(large)
        return found

    monkeypatch.setattr(Followers, "_find", find_and_be_late)
    assert small.target is two
    gate.open()
    other_gate.open()


@pytest.mark.leaks("what is logged of the callback holds its frames")
def test_a_callback_that_ends_its_thread_keeps_no_follower_from_its_end(
    executor: RetryingExecutor, latest: RetryingExecutor
) -> None:
    gate, called = Gate(), list[int]()
    latest.submit(gate)
    assert gate.reached()
    futures = [latest.submit(lambda: "newest") for _ in range(4)]
    told = threading.Event()
    futures[0].add_done_callback(lambda _: sys.exit("from a callback"))
    futures[1].add_done_callback(lambda _: called.append(1))
    futures[3].add_done_callback(lambda _: told.set())
    gate.open()
    assert [future.result(10) for future in futures] == ["newest"] * 4
    assert told.wait(10)
    assert called == [1]
    assert executor.submit(int).result(10) == 0


def test_a_callback_added_while_the_job_is_replaced_is_called_once(
    latest: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, called = Gate(), list[Any]()
    latest.submit(gate)
    assert gate.reached()
    older = latest.submit(lambda: "older")
    add = Followers.add

    def add_in_between(self: Followers, job: Any) -> None:
        job.add_done_callback(called.append)  # it has been told of what it follows
        add(self, job)

    monkeypatch.setattr(Followers, "add", add_in_between)
    newer = latest.submit(lambda: "newer")
    del older
    gate.open()
    assert newer.result(10) == "newer"
    latest.submit(int).result(10)
    assert [future.result() for future in called] == ["newer"]


# ---- replaced just now


def test_replaced_just_before_its_attempt_begins(
    executor: RetryingExecutor, latest: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that has asked for it goes on with the newer one."""
    begin, ran, futures = ControlledJob.begin, list[str](), list[Any]()

    def replaced_before(self: ControlledJob[Any], now: float) -> Any:
        monkeypatch.setattr(ControlledJob, "begin", begin)
        futures.append(InThread(latest.submit, ran.append, "newer").result())
        return begin(self, now)

    monkeypatch.setattr(ControlledJob, "begin", replaced_before)
    older = latest.submit(ran.append, "older")
    assert older.result(10) is None
    assert ran == ["newer"]
    assert older.superseded_by is futures[0]
    executor.shutdown()
    assert executor.stats().superseded == 1


def test_replaced_before_it_is_known_to_be_queued(
    latest: RetryingExecutor, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been tried, and waits, while the thread that queued it has not gone on yet."""
    pool, newer = latest._pool, Fails(0, clock)
    queue = pool.queue

    class Queue:
        def put(self, job: Any) -> None:
            monkeypatch.setattr(pool, "queue", queue)
            queue.put(job)
            while job.next_attempt_at is None:
                threading.Event().wait(0.0005)
            InThread(latest.submit, newer).result()

        def __getattr__(self, name: str) -> Any:
            return getattr(queue, name)

    monkeypatch.setattr(pool, "queue", Queue())
    older = latest.submit(Fails(1, clock))
    clock.run_until(older.done)
    assert newer.started_at == [60.0]


def test_replaced_as_its_wait_is_about_to_begin(
    executor: RetryingExecutor,
    latest: RetryingExecutor,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newer one is due when the older one would have been, and not sooner."""
    keeper, newer, replaced = executor._pool.timekeeper, Fails(0, clock), threading.Event()
    schedule = keeper.schedule

    def replaced_before(job: Any, due: float) -> bool:
        monkeypatch.setattr(keeper, "schedule", schedule)
        InThread(latest.submit, newer).result()
        try:
            return schedule(job, due)
        finally:
            replaced.set()

    monkeypatch.setattr(keeper, "schedule", replaced_before)
    older = latest.submit(Fails(1, clock))
    assert replaced.wait(10)
    clock.run_until(older.done)
    assert newer.started_at == [60.0]
    executor.shutdown()
    assert executor.stats().waiting == 0


def test_replaced_again_before_it_has_the_place_of_the_first(
    executor: RetryingExecutor,
    latest: RetryingExecutor,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = executor._pool.control
    take, newest = control.take_place, Fails(0, clock)

    def replaced_before(job: Any, replaced: Any) -> None:
        monkeypatch.setattr(control, "take_place", take)
        InThread(latest.submit, newest).result()
        take(job, replaced)

    older = latest.submit(Fails(1, clock))
    clock.advance(1)
    monkeypatch.setattr(control, "take_place", replaced_before)
    middle = latest.submit(Fails(0, clock))
    clock.run_until(older.done)
    assert middle.superseded_by is older.superseded_by
    assert newest.started_at == [60.0]
    executor.shutdown()
    stats = executor.stats()
    assert (stats.superseded, stats.held, stats.waiting, stats.queued) == (2, 0, 0, 0)


@pytest.mark.parametrize("held", [False, True])
def test_cancelled_as_a_newer_one_is_about_to_take_its_place(
    executor: RetryingExecutor,
    latest: RetryingExecutor,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    held: bool,
) -> None:
    """The newer one has that place all the same: in the due queue, or in the line of a guard."""
    control, newer, gate = executor._pool.control, Fails(0, clock), Gate()
    take = control.take_place

    def cancelled_before(job: Any, replaced: Any) -> None:
        monkeypatch.setattr(control, "take_place", take)
        assert InThread(replaced.cancel).result()
        take(job, replaced)

    if held:
        latest = latest.using(guards=[ConcurrencyLimit(1)])
        latest.using(key="another").submit(gate)
        assert gate.reached()
        older = latest.submit(Fails(1, clock))
        while older.held_by is None:
            threading.Event().wait(0.0005)
    else:
        older = latest.submit(Fails(1, clock))
        clock.advance(1)
    monkeypatch.setattr(control, "take_place", cancelled_before)
    future = latest.submit(newer)
    gate.open()
    clock.run_until(future.done)
    assert older.cancelled()
    assert newer.started_at == [0.0 if held else 60.0]
    executor.shutdown()
    assert executor.stats().superseded == 1


def test_replaced_while_the_pending_ones_are_ended(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is replaced when all are known that are to be ended: the newer one ends, too."""
    with RetryingExecutor(max_workers=1, max_pending=1, clock=clock, policy=MINUTE) as executor:
        latest = executor.using(key="user", keep="latest")
        older = latest.submit(Fails(1, clock))
        clock.advance(1)
        pool = executor._pool
        place, accepting, listed = (
            pool.control.place_by_replacing,
            threading.Event(),
            threading.Event(),
        )

        def placed_late(job: Any) -> bool:
            accepting.set()
            assert listed.wait(10)
            return place(job)

        monkeypatch.setattr(pool.control, "place_by_replacing", placed_late)
        submits = InThread(latest.submit, int)
        assert accepting.wait(10)

        def end(job: Any) -> None:
            if job is older:
                listed.set()
                submits.result()
            job.cancel(or_request=False)

        pool.shutdown.close(after_shutdown)
        pool.shutdown.stop_attempts(end)
        assert submits.result().cancelled()
        assert older.cancelled()


def test_replaced_as_it_is_handed_its_turn(
    executor: RetryingExecutor,
    latest: RetryingExecutor,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the failure of the first and the wait of the second comes a third."""
    gate, keys, third = Gate(Boom()), executor._pool.control.keys, Fails(0, clock)
    first = latest.submit(gate)
    assert gate.reached()
    second = latest.submit(Fails(0, clock))
    hand_over = keys.hand_over

    def replaced_after(job: Any, due: float | None) -> bool:
        handed = hand_over(job, due)
        InThread(latest.submit, third).result()
        return handed

    monkeypatch.setattr(keys, "hand_over", replaced_after)
    gate.open()
    clock.run_until(first.done)
    assert third.started_at == [60.0]
    assert first.superseded_by is second.superseded_by
    executor.shutdown()
    assert executor.stats().superseded == 2


def test_postponed_behind_a_running_one_it_waits_so_long_though_that_fails_before(
    latest: RetryingExecutor, clock: VirtualClock
) -> None:
    gate, newer = Gate(Boom()), Fails(0, clock)
    first = latest.submit(gate)
    assert gate.reached()
    assert latest.submit(newer).postpone(100)
    gate.open()
    clock.run_until(first.done)
    assert newer.started_at == [100.0]


@pytest.mark.parametrize("ends", ["cancel", "shutdown"])
def test_the_newer_one_is_ended_while_the_older_one_is_about_to_follow_it(
    executor: RetryingExecutor,
    latest: RetryingExecutor,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    gate = Gate(Boom())
    first = latest.submit(gate)
    assert gate.reached()
    newer = latest.submit(int)
    add, threads = Followers.add, list[InThread]()

    def end_before(self: Followers, job: Any) -> None:
        if ends == "cancel":
            threads.append(InThread(newer.cancel))
        else:
            threads.append(InThread(lambda: executor.shutdown(False, cancel_futures=True)))
        # What follows an end waits for the lock of the line, and so does the end of the other one.
        while not (newer.done() or first.done()):
            threading.Event().wait(0.0005)
        add(self, job)

    monkeypatch.setattr(Followers, "add", end_before)
    gate.open()
    with suppress(Exception):
        first.exception(10)
    assert first.cancelled()
    while not threads:  # it may have done all of that before it was listed
        threading.Event().wait(0.0005)
    threads[0].result()
    executor.shutdown()
    stats = executor.stats()
    assert (stats.superseded + stats.cancelled, stats.held) == (2, 0)


# ---- a pause


def test_in_a_pause_a_replaced_job_keeps_its_turn(clock: VirtualClock) -> None:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        latest, ran = executor.using(key="user", keep="latest"), list[str]()
        executor.pause()
        latest.submit(ran.append, "older")
        executor.submit(ran.append, "between")
        clock.advance(0)
        newer = latest.submit(ran.append, "newer")
        assert newer.held_by == "pause"
        assert executor.stats().held == 2
        executor.resume()
    assert ran == ["newer", "between"]


def test_a_job_whose_older_one_is_drawn_in_a_pause_is_not_lost(clock: VirtualClock) -> None:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        latest, gate = executor.using(key="user", keep="latest"), Gate()
        executor.submit(gate)
        assert gate.reached()
        latest.submit(int)
        newer = latest.submit(lambda: "newer")
        executor.pause()
        gate.open()
        clock.advance(0)  # a worker has drawn it by now
        executor.resume()
        assert newer.result(10) == "newer"


@pytest.mark.parametrize("which", ["older", "newer"])
def test_cancelled_in_a_pause_after_a_replacement(clock: VirtualClock, which: str) -> None:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        latest = executor.using(key="user", keep="latest")
        executor.pause()
        older = latest.submit(int)
        clock.advance(0)
        newer = latest.submit(int)
        assert (older if which == "older" else newer).cancel()
        clock.advance(1)
        assert executor.stats().held == (which == "older")
        executor.resume()
        assert newer.cancelled() is (which == "newer")
        assert newer.cancelled() or newer.result(10) == 0


def test_postponed_in_a_pause_it_counts_as_waiting(clock: VirtualClock) -> None:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        executor.pause()
        future = executor.submit(int)
        clock.advance(0)
        assert future.held_by == "pause"
        assert future.postpone(5)
        assert (executor.stats().held, executor.stats().waiting) == (0, 1)
        assert future.held_by is None
        executor.resume()
        clock.run_until(future.done)


# ---- many


def test_a_queue_is_swept_that_has_the_place_of_a_replaced_job(clock: VirtualClock) -> None:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        latest, gate = executor.using(key="user", keep="latest"), Gate()
        executor.submit(gate)
        assert gate.reached()
        older, newer = latest.submit(int), latest.submit(lambda: "newer")
        futures = [executor.submit(int) for _ in range(200)]
        for future in futures:
            future.cancel()
        assert executor._pool.queue.qsize() < 100
        gate.open()
        assert older.result(10) == newer.result(10) == "newer"


def test_ten_thousand_behind_one_key_are_cancelled_in_a_line_that_stays_short(
    executor: RetryingExecutor,
) -> None:
    gate, keyed = Gate(), executor.using(key="user")
    keyed.submit(gate)
    assert gate.reached()
    futures = [keyed.submit(int) for _ in range(10_000)]
    line = executor._pool.control.keys.jobs["user"]
    for future in futures[5000:]:
        future.cancel()
    assert line.behind is not None
    assert len(line.behind) <= 2 * 5000 + 65
    for future in reversed(futures[:5000]):
        future.cancel()
    assert len(line.behind) <= 65
    assert executor.stats().held == 0
    gate.open()


def test_room_for_few_jobs_of_one_key_with_many_who_wait_for_room(clock: VirtualClock) -> None:
    ran: list[int] = []
    with RetryingExecutor(max_workers=2, max_pending=3, clock=clock) as executor:
        views = [executor.using(key="user", keep=keep) for keep in ("all", "latest")]

        def submits(n: int) -> RetryFuture[None]:
            return views[n % 2].submit(ran.append, n)

        threads = [InThread(submits, n) for n in range(40)]
        for thread in threads:
            thread.result().result(10)
    stats = executor.stats()
    assert stats.succeeded == len(ran)
    assert stats.succeeded + stats.superseded == 40
    assert not executor._pool.unfinished


# ---- keys with code of their own


class Key:
    """A key of a user's own type: whose hash is that of others, and whose comparison is code."""

    def __init__(self, name: str, compare: Callable[[], object] = bool) -> None:
        self.name, self.compare = name, compare

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        self.compare()
        return isinstance(other, Key) and self.name == other.name


def test_a_key_is_compared_under_no_lock(executor: RetryingExecutor) -> None:
    """And so may submit jobs with such keys itself: as the last job of a key leaves, too."""
    held: list[bool] = []

    def compare() -> None:
        lines = list(executor._pool.control.keys.jobs.values())
        held.extend(InThread(_is_locked, line.lock).result() for line in lines)

    gates = [Gate() for _ in range(3)]
    futures = [
        executor.using(key=Key(str(n), compare)).submit(gate) for n, gate in enumerate(gates)
    ]
    futures += [executor.using(key=Key(str(n), compare)).submit(int) for n in range(3)]
    for gate in reversed(gates):
        assert gate.reached()
        gate.open()
    for future in futures:
        future.result(10)
    executor.shutdown()
    assert held
    assert not any(held)
    assert len(executor._pool.control.keys) == 0


def _is_locked(lock: Any) -> bool:
    """Whether another thread holds *lock*."""
    got = lock.acquire(blocking=False)
    if got:
        lock.release()
    return not got


def test_a_str_and_a_key_that_equals_it_are_one_key(executor: RetryingExecutor) -> None:
    class Name(str):
        __slots__ = ()

    gate = Gate()
    executor.using(key="user").submit(gate)
    assert gate.reached()
    future = executor.using(key=Name("user")).submit(int)
    assert future.held_by == "key"
    gate.open()
    assert future.result(10) == 0


def test_a_key_that_cannot_be_compared_costs_only_its_own_job(executor: RetryingExecutor) -> None:
    def compare() -> None:
        if broken:
            raise Boom

    broken: list[int] = []
    gate = Gate()
    first = executor.using(key=Key("a", compare)).submit(gate)
    second = executor.using(key=Key("b", compare)).submit(int)
    assert gate.reached()
    broken.append(1)
    with pytest.raises(Boom):
        executor.using(key=Key("a", compare)).submit(int)
    gate.open()
    assert (first.result(10), second.result(10)) == ("through", 0)
    executor.shutdown()
    assert len(executor._pool.control.keys) == 0
    assert not executor._pool.unfinished


def test_a_key_function_that_submits(executor: RetryingExecutor) -> None:
    inner: list[RetryFuture[Any]] = []

    def key(n: int) -> str:
        if n:
            inner.append(view.submit(int, n - 1))
        return "user"

    view = executor.using(key=key, keep="latest")
    assert view.submit(int, 5).result(10) in range(6)
    assert all(future.done() for future in inner) or [future.result(10) for future in inner]


# ---- interrupts, at every moment


@pytest.fixture
def quiet() -> Iterator[None]:
    with quietly():
        yield


class Play:
    """An executor with jobs of one key in every state, for one strike."""

    def __init__(self, max_pending: int | None = None) -> None:
        self.executor = RetryingExecutor(2, policy=MINUTE, max_pending=max_pending)
        self.latest = self.executor.using(key="user", keep="latest")
        self.futures: list[RetryFuture[Any]] = []
        self.called: list[Any] = []
        self.gate = Gate()

    def submit(self, view: RetryingExecutor, fn: Any, *args: Any) -> RetryFuture[Any]:
        future = view.submit(fn, *args)
        self.futures.append(future)
        future.add_done_callback(self.called.append)
        return future

    def end(self, possible: int = 0) -> None:
        self.gate.open()
        if self.futures:
            InThread(self.futures[-1].retry_now).result()
        report = InThread(lambda: self.executor.shutdown(timeout=5)).result()
        report = InThread(self.executor.shutdown).result()
        assert [future for future in self.futures if not future.done()] == []
        assert sorted(map(id, self.called)) == sorted(map(id, self.futures))
        ended = report.done + report.failed + report.cancelled + report.abandoned
        ended += report.superseded
        assert len(self.futures) <= ended <= len(self.futures) + possible
        assert (report.unfinished, report.abandoned) == (0, 0)
        pool = self.executor._pool
        assert not pool.unfinished
        assert len(pool.control.keys) == 0
        assert not pool.control.parked


def fails(*_: Any) -> None:
    raise Boom


def replace_behind_a_running_one(strike: Strike) -> bool:
    play = Play()
    play.submit(play.latest, play.gate)
    assert play.gate.reached()
    play.submit(play.latest, int)
    struck = strike(lambda: play.latest.submit(int))
    play.end(possible=1)
    return struck


def replace_one_that_waits(strike: Strike) -> bool:
    play = Play()
    older = play.submit(play.latest, fails)
    while older.next_attempt_at is None:
        threading.Event().wait(0.0005)
    struck = strike(lambda: play.latest.submit(int))
    last = play.submit(play.latest, int)
    while not last.done():  # a worker goes on with what was struck
        last.retry_now()
        threading.Event().wait(0.0005)
    assert last.result() == 0
    play.end(possible=1)
    return struck


def replace_one_in_a_full_pool(strike: Strike) -> bool:
    play = Play(max_pending=2)
    play.submit(play.latest, play.gate)
    assert play.gate.reached()
    play.submit(play.latest, int)
    struck = strike(lambda: play.latest.submit(int))
    play.end(possible=1)
    return struck


def first_of_a_key(strike: Strike) -> bool:
    play = Play()
    struck = strike(lambda: play.latest.submit(int))
    assert InThread(play.submit(play.latest, int).result).result() == 0
    play.end(possible=1)
    return struck


def cancel_the_newest(strike: Strike) -> bool:
    play = Play()
    play.submit(play.latest, play.gate)
    assert play.gate.reached()
    for _ in range(2):
        newest = play.submit(play.latest, int)
    struck = strike(newest.cancel)
    play.end()
    return struck


def cancel_the_head(strike: Strike) -> bool:
    play = Play()
    keyed = play.executor.using(key="other")
    head = play.submit(keyed, fails)
    while head.next_attempt_at is None:
        threading.Event().wait(0.0005)
    behind = play.submit(keyed, int)
    struck = strike(head.cancel)
    head.cancel()
    assert behind.result(10) == 0
    play.end()
    return struck


def postpone_and_retry(strike: Strike) -> bool:
    play = Play()
    waiting = play.submit(play.latest, fails)
    while waiting.next_attempt_at is None:
        threading.Event().wait(0.0005)

    def steer() -> None:
        waiting.postpone(100)
        waiting.retry_now()
        waiting.postpone(0.001)

    struck = strike(steer)
    waiting.cancel()
    play.end()
    return struck


def pause_and_resume(strike: Strike) -> bool:
    play = Play()
    play.executor.pause()
    for _ in range(3):
        play.submit(play.executor, int)
    play.submit(play.latest, int)
    play.submit(play.latest, int)
    struck = strike(play.executor.resume)
    play.executor.resume()
    play.end()
    return struck


PLOTS = (
    first_of_a_key,
    replace_behind_a_running_one,
    replace_one_that_waits,
    replace_one_in_a_full_pool,
    cancel_the_newest,
    cancel_the_head,
    postpone_and_retry,
    pause_and_resume,
)


@pytest.mark.usefixtures("quiet")
@pytest.mark.leaks("a struck call leaves its frames in the traceback")
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_an_interrupt_at_any_moment_costs_no_job_its_end(plot: Callable[[Strike], bool]) -> None:
    at = 0
    while plot(strike := Strike(at)):
        at += 1
        assert at < 2000, f"still striking, at {strike.where}"
    assert at > 2


# ---- a fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_replaced_futures_end_in_a_forked_child(latest: RetryingExecutor) -> None:
    gate = Gate()
    latest.submit(gate)
    assert gate.reached()
    futures = [latest.submit(int) for _ in range(3)]
    if (child := os.fork()) == 0:
        status = 1
        try:
            told = [InThread(future.exception, 5).result() for future in futures]
            after = latest.submit(lambda: "in the child")
            ends = [future.done() for future in futures]
            if all(isinstance(error, ShutdownError) for error in told) and all(ends):
                status = 0 if after.result(5) == "in the child" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    gate.open()
    assert [future.result(10) for future in futures] == [0] * 3
    assert futures[0].stop_reason is StopReason.SUPERSEDED
