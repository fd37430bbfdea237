"""What is due when: seen through the executor, and where only it can be told, the timekeeper."""

import gc
import math
import threading
import weakref
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retryexec import Clock, RetryAfter, RetryingExecutor, current_attempt
from retryexec._core import timekeeper
from retryexec._core.timekeeper import Timekeeper
from retryexec.testing import VirtualClock

delays = st.lists(st.integers(1, 20), max_size=30)


def once_after(delay: float, done: list[float]) -> None:
    """Fail once, then note *delay* in *done*."""
    if current_attempt().number == 1:
        raise RetryAfter(delay)
    done.append(delay)


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        yield executor


# ---- through the executor


@settings(deadline=None)  # threads take their time on a busy machine
@given(delays=delays)
def test_jobs_run_in_the_order_they_are_due(delays: list[int]) -> None:
    clock = VirtualClock()
    ran: list[tuple[int, float]] = []

    def job(place: int, delay: float) -> None:
        if current_attempt().number == 1:
            raise RetryAfter(delay)
        assert clock.now() == delay
        ran.append((place, delay))

    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        for place, delay in enumerate(delays):
            executor.submit(job, place, delay)
    assert ran == sorted(enumerate(delays), key=lambda job: job[1])  # stable: first come, first due


def test_a_sooner_job_overtakes_those_that_wait(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    done: list[float] = []
    for delay in (30, 20, 10):  # each wakes the timekeeper from its sleep until the one before
        executor.submit(once_after, delay, done)
        clock.advance(0)
    clock.advance(10)
    assert done == [10]
    clock.advance(20)
    assert done == [10, 20, 30]


def test_waiting_holds_no_thread(executor: RetryingExecutor, clock: VirtualClock) -> None:
    """Hundreds of jobs wait, and the one worker is free for another."""
    before = threading.active_count()
    done: list[float] = []
    for delay in range(1, 801):
        executor.submit(once_after, delay, done)
    clock.advance(0)
    assert executor.stats().waiting == 800
    assert executor.submit(len, "seven").result() == 5
    assert threading.active_count() - before == 2  # the worker and the timekeeper
    clock.advance(500)
    assert executor.stats().waiting == 300
    assert done == list(range(1, 501))


class Payload:
    def exec(self) -> None:
        raise RetryAfter(60)


def test_cancelling_a_waiting_job_ends_it_at_once_and_frees_what_it_held(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    payload = Payload()
    future = executor.submit(payload)
    alive = weakref.ref(payload)
    del payload
    clock.advance(0)
    gc.disable()  # freed means freed, and not some day
    try:
        assert future.cancel()
        assert alive() is None
    finally:
        gc.enable()
    assert (future.done(), future.next_attempt_at, executor.stats().waiting) == (True, None, 0)


def test_the_longest_wait_is_told(executor: RetryingExecutor, clock: VirtualClock) -> None:
    assert executor.stats().oldest_wait == 0
    first = executor.submit(Payload())
    clock.advance(10)
    executor.submit(once_after, 5, [])
    clock.advance(2)
    assert executor.stats().oldest_wait == 12
    first.cancel()
    assert executor.stats().oldest_wait == 2


class ByHand:
    """A clock that a test sets, and nobody waits for."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waited_for = threading.Event()

    def now(self) -> float:
        return self.time

    def wait(self, changed: threading.Condition, until: float) -> None:  # noqa: ARG002
        self.waited_for.set()
        changed.wait()


def test_a_job_that_comes_due_after_the_executor_is_closed_is_not_lost() -> None:
    """The workers stay as long as there is a job that waits."""
    clock, done = ByHand(), list[float]()
    executor = RetryingExecutor(max_workers=2, clock=clock)
    future = executor.submit(once_after, 5, done)
    assert clock.waited_for.wait(10)
    executor.shutdown(wait=False)
    clock.time = 5
    executor._pool.recheck()
    report = executor.shutdown()
    assert (future.done(), done, report.done) == (True, [5], 1)


# ---- itself


class Thing:
    """What waits."""

    def __init__(self, due: float | None = None) -> None:
        self.due = due


class Kept:
    """A timekeeper, and what it has released."""

    def __init__(self, clock: Clock) -> None:
        self.released: list[Thing] = []
        self.some = threading.Event()
        self.lock = threading.RLock()
        self.keeper: Timekeeper[Thing] = Timekeeper(
            clock, self.lock, self.release, name="timekeeper", daemon=True
        )

    def release(self, due: deque[Thing]) -> None:
        assert not self.lock._is_owned()  # type: ignore[attr-defined]
        while due:
            self.released.append(due.popleft())
        self.some.set()

    def close(self) -> None:
        self.keeper.close()
        self.keeper.join()

    def schedule(self, *due: float) -> list[Thing]:
        things = [Thing() for _ in due]
        for thing, when in zip(things, due, strict=True):
            assert self.keeper.ready()
            assert self.schedule_one(thing, when)
        return things

    def schedule_one(self, thing: Thing, due: float) -> bool:
        thing.due = due
        return self.keeper.schedule(thing, due)


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


@pytest.fixture
def kept(by_hand: ByHand) -> Iterator[Kept]:
    kept = Kept(by_hand)
    yield kept
    kept.close()


def test_it_starts_its_thread_with_the_first_delay(kept: Kept) -> None:
    assert not kept.keeper.started
    assert kept.keeper.ready()
    assert kept.keeper.started


def test_only_a_waiting_entry_can_be_discarded(kept: Kept) -> None:
    one, two = kept.schedule(5, 6)
    assert kept.keeper.discard(one)
    assert not kept.keeper.discard(one)
    assert not kept.keeper.discard(Thing())
    assert (kept.keeper.next_due(), kept.keeper.waiting(), len(kept.keeper)) == (6, [two], 1)


def test_close_forgets_what_waits_and_ends_the_thread(kept: Kept) -> None:
    things = kept.schedule(3, 1, 2)
    kept.close()
    assert [thing.due for thing in things] == [None] * 3
    assert (len(kept.keeper), kept.keeper.waiting(), kept.released) == (0, [], [])
    kept.close()


def test_cleared_it_goes_on_with_what_comes(kept: Kept, by_hand: ByHand) -> None:
    (gone,) = kept.schedule(5)
    kept.keeper.clear()
    assert (gone.due, len(kept.keeper)) == (None, 0)
    (kept_one,) = kept.schedule(6)
    by_hand.time = 10
    kept.keeper.recheck()
    assert kept.some.wait(10)
    assert kept.released == [kept_one]


def test_closed_it_takes_no_more(kept: Kept) -> None:
    kept.schedule(5)
    kept.keeper.close()
    late = Thing()
    assert not kept.keeper.ready()
    assert not kept.schedule_one(late, 6)
    assert (late.due, len(kept.keeper)) == (None, 0)


def test_closed_before_the_first_delay_it_starts_no_thread(kept: Kept) -> None:
    kept.keeper.close()
    assert not kept.keeper.ready()
    assert not kept.keeper.started


def test_close_in_the_middle_of_schedule_leaves_no_entry_behind(kept: Kept) -> None:
    kept.schedule(5)
    late, add = Thing(), kept.keeper.add

    def add_and_close(thing: Thing) -> None:
        kept.keeper.close()
        add(thing)

    kept.keeper.add = add_and_close
    assert not kept.schedule_one(late, 6)
    assert (late.due, len(kept.keeper)) == (None, 0)


def test_late_it_releases_all_that_is_due_in_order_but_what_was_discarded(
    kept: Kept, by_hand: ByHand
) -> None:
    with kept.lock:  # the thread cannot look
        one, five, gone, three, late_five, later = kept.schedule(1, 5, 2, 3, 5, 100)
        assert kept.keeper.next_due() == 1
        kept.keeper.discard(gone)
        by_hand.time = 10
    assert kept.some.wait(10)
    assert kept.released == [one, three, five, late_five]
    assert kept.keeper.waiting() == [later]


def test_a_sooner_entry_wakes_the_thread(kept: Kept, by_hand: ByHand) -> None:
    kept.schedule(100)
    assert by_hand.waited_for.wait(10)
    with kept.lock:  # ours only once the thread is asleep
        pass
    sooner = kept.schedule(0)
    assert kept.some.wait(10)
    assert (len(kept.keeper), kept.released) == (1, sooner)


def test_a_sooner_entry_wakes_the_thread_and_not_just_one_that_waits_itself(
    kept: Kept, by_hand: ByHand
) -> None:
    """No thread could be started for a while, so that a worker waits in its place."""
    waiting = threading.Thread(target=kept.keeper.wait_here, args=(50,))
    waiting.start()
    assert by_hand.waited_for.wait(10)
    by_hand.waited_for.clear()
    kept.schedule(100)
    assert by_hand.waited_for.wait(10)
    with kept.lock:  # ours only once the thread is asleep
        pass
    sooner = kept.schedule(0)
    assert kept.some.wait(10)
    assert kept.released == sooner
    kept.keeper.close()
    waiting.join(10)
    assert not waiting.is_alive()


def test_an_entry_that_comes_as_the_thread_falls_asleep_is_not_slept_over() -> None:
    """It comes between the look into the queue and the sleep, when nothing can wake the thread."""
    late = Thing()
    arriving = [late]

    class Staged(ByHand):
        def now(self) -> float:
            if arriving:
                kept.schedule_one(arriving.pop(), 0)
            return 0

    kept = Kept(Staged())
    kept.schedule(100)
    assert kept.some.wait(10)
    assert kept.released == [late]
    kept.close()


def test_a_released_entry_can_wait_again(kept: Kept, by_hand: ByHand) -> None:
    (thing,) = kept.schedule(0)
    assert kept.some.wait(10)
    assert thing.due is None
    assert kept.schedule_one(thing, 1)
    assert kept.keeper.waiting() == [thing]


def test_what_could_not_be_released_is_due_all_the_while_and_offered_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there is no memory for its place in a queue."""
    monkeypatch.setattr(timekeeper, "_PAUSE", 0.001)
    offers = list[list[Thing]]()
    offered, looked, went_on = threading.Event(), threading.Event(), threading.Event()

    def release(due: deque[Thing]) -> None:
        offers.append([*due])
        if len(offers) == 1:
            due.popleft()
            offered.set()
            looked.wait(10)
            raise MemoryError
        due.clear()
        went_on.set()

    keeper = Timekeeper[Thing](ByHand(), threading.RLock(), release, name="keeper", daemon=True)
    one, two, later = Thing(-2), Thing(-1), Thing(100)
    keeper.schedule(one, -2)
    keeper.schedule(two, -1)
    assert keeper.ready()
    assert offered.wait(10)
    keeper.schedule(later, 100)
    assert (keeper.next_due(), len(keeper)) == (-math.inf, 2)
    looked.set()
    assert went_on.wait(10)
    keeper.close()
    keeper.join()
    assert offers == [[one, two], [two]]
    assert [record.getMessage()[:26] for record in caplog.records] == ["cannot release what is due"]


def test_a_clock_that_raises_is_reported_once_and_looked_at_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timekeeper, "_PAUSE", 0.001)
    failures = iter([OSError("no time"), OSError("still none")])

    class Broken(ByHand):
        def now(self) -> float:
            for failure in failures:
                raise failure
            return 10

    kept = Kept(Broken())
    things = kept.schedule(5)
    assert kept.some.wait(10)
    kept.close()
    assert kept.released == things
    assert [record.getMessage()[:16] for record in caplog.records] == ["the clock failed"]


def test_without_a_thread_it_waits_where_it_is_called(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    keeper = Kept(clock).keeper
    assert not keeper.ready()
    keeper.wait_here(7)
    assert clock.now() == 7


def test_a_thread_whose_start_was_interrupted_leaves_its_place_to_the_next(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, start = list[threading.Thread](), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kept.keeper.ready()
    started[0].join(10)
    assert not started[0].is_alive()
    (thing,) = kept.schedule(0)
    assert kept.some.wait(10)
    assert kept.released == [thing]
