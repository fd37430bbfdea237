"""What is due when: seen through the executor, and where only it can be told, the timekeeper."""

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.jobs import Boom, Gate, InThread
from hypothesis import given
from hypothesis import strategies as st

from retryexec import Clock, RetryAfter, RetryFuture, RetryingExecutor, RetryPolicy, current_attempt
from retryexec._timekeeper import Timekeeper
from retryexec.testing import VirtualClock

delays = st.lists(st.integers(1, 20), max_size=30)


def once_after(delay: float, done: list[float]) -> None:
    """Fail once, then note *delay* in *done*."""
    if current_attempt().number == 1:
        raise RetryAfter(delay)
    done.append(delay)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=1, clock=clock) as executor:
        yield executor


# ---- through the executor


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


class Between:
    """Stands in for a queue, and lets something happen right after a look at it."""

    def __init__(self, queue: Any, happens: Callable[[], object]) -> None:
        self.queue = queue
        self.happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    def empty(self) -> bool:
        answer: bool = self.queue.empty()
        self.happens()
        return answer


def test_a_job_due_just_as_the_last_worker_looks_whether_it_may_go_is_not_lost() -> None:
    """It looks into the queue and into the heap, and a job may go from one to the other."""
    clock, done = ByHand(), list[float]()
    executor = RetryingExecutor(max_workers=1, clock=clock)
    future = executor.submit(once_after, 5, done)
    executor.submit(len, "seven").result()  # by now the first job waits
    pool, released, looked = executor._pool, threading.Event(), threading.Event()
    release, may_leave = pool.timekeeper._release, pool.may_leave

    def release_and_tell(jobs: deque[RetryFuture[Any]]) -> None:
        release(jobs)
        released.set()

    def come_due() -> None:
        clock.time = 5
        pool.poke()
        released.wait(0.1)  # in vain if the look is taken under the lock, which is fine too

    pool.timekeeper._release = release_and_tell
    pool.queue = Between(pool.queue, come_due)  # type: ignore[assignment]
    pool.may_leave = lambda: (may_leave(), looked.set())[0]  # type: ignore[method-assign]
    executor.shutdown(wait=False)
    assert looked.wait(10)
    come_due()  # if it never looked into the queue
    executor.shutdown()
    assert (future.done(), done) == (True, [5])


def test_a_job_done_before_its_release_has_returned_is_not_taken_for_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its worker, the last one to look, would see no end."""
    with RetryingExecutor(1, policy=RetryPolicy(backoff=[0.01])) as executor:
        pool, looked = executor._pool, threading.Event()
        look, put = pool.closing.look_for_the_end, pool.queue.put

        class Queue:
            def __getattr__(self, name: str) -> Any:
                return getattr(queue, name)

            def put(self, job: Any) -> None:
                put(job)
                if threading.current_thread().name.endswith("_timekeeper"):
                    looked.wait(0.2)  # in vain if the word takes the lock, which is fine

        def look_and_tell() -> None:
            look()
            if future.done():
                looked.set()

        queue = pool.queue
        monkeypatch.setattr(pool, "queue", Queue())
        gate = Gate(Boom())
        future = executor.submit(gate)
        assert gate.reached()
        closed = threading.Event()
        monkeypatch.setattr(pool, "make_room", closed.set)
        monkeypatch.setattr(pool.closing, "look_for_the_end", look_and_tell)
        thread = InThread(executor.shutdown)
        assert closed.wait(10)  # the word of this shutdown is not the one that is looked for
        gate.open()
        assert isinstance(future.exception(10), Boom)
        assert thread.result().failed == 1


# ---- itself


class Kept:
    """A timekeeper, and the jobs it has released."""

    def __init__(self, clock: Clock) -> None:
        self.released: list[RetryFuture[Any]] = []
        self.some = threading.Event()
        self.lock = threading.RLock()
        self.keeper = Timekeeper(clock, self.lock, self.release, name="timekeeper", daemon=True)

    def release(self, jobs: deque[RetryFuture[Any]]) -> None:
        self.released += jobs
        jobs.clear()
        self.some.set()

    def close(self) -> list[RetryFuture[Any]]:
        left = self.keeper.close()
        self.keeper.join()
        return left

    def schedule(self, *due: float) -> list[RetryFuture[Any]]:
        jobs: list[RetryFuture[Any]] = [RetryFuture() for _ in due]
        for job, when in zip(jobs, due, strict=True):
            assert self.keeper.ready()
            assert self.keeper.schedule(job, when)
        return jobs


@pytest.fixture
def kept(clock: VirtualClock) -> Iterator[Kept]:
    kept = Kept(clock)
    yield kept
    kept.close()


def test_cancelled_jobs_do_not_pile_up(kept: Kept) -> None:
    """Many more come and go than ever wait at a time, and the heap stays small."""
    kept.schedule(1e9)
    for _ in range(50):
        for job in kept.schedule(*range(100, 150)):
            assert kept.keeper.discard(job)
    assert len(kept.keeper) == 1
    assert len(kept.keeper._heap) + len(kept.keeper._inbox) < 300


def test_only_a_waiting_job_can_be_discarded(kept: Kept) -> None:
    one, two = kept.schedule(5, 6)
    assert kept.keeper.discard(one)
    assert not kept.keeper.discard(one)
    assert not kept.keeper.discard(RetryFuture())
    assert kept.keeper.next_due() == 6
    assert kept.keeper.close() == [two]


def test_the_next_due_time_is_that_of_a_living_job(kept: Kept) -> None:
    jobs = kept.schedule(3, 1, 2)
    assert kept.keeper.next_due() == 1
    kept.keeper.discard(jobs[1])
    assert kept.keeper.next_due() == 2
    kept.keeper.discard(jobs[2])
    kept.keeper.discard(jobs[0])
    assert kept.keeper.next_due() == float("inf")
    assert len(kept.keeper) == 0


def test_close_hands_back_what_waits_in_the_order_it_is_due(kept: Kept) -> None:
    three, one, gone, two = kept.schedule(3, 1, 2.5, 2)
    kept.keeper.discard(gone)
    assert kept.keeper.close() == [one, two, three]
    assert [job.next_attempt_at for job in (one, two, three)] == [None] * 3
    assert (kept.keeper.close(), kept.released) == ([], [])


def test_closed_it_takes_no_more(kept: Kept) -> None:
    kept.schedule(5)
    kept.keeper.close()
    late: RetryFuture[Any] = RetryFuture()
    assert not kept.keeper.schedule(late, 6)
    assert (late.next_attempt_at, len(kept.keeper)) == (None, 0)


def test_closed_before_the_first_delay_it_starts_no_thread(kept: Kept) -> None:
    kept.keeper.close()
    before = threading.active_count()
    assert not kept.keeper.schedule(RetryFuture(), 6)
    assert threading.active_count() == before


def test_close_in_the_middle_of_schedule_takes_the_job(kept: Kept) -> None:
    """Whoever schedules has written the job down when close() comes: the job is among the rest."""
    kept.schedule(5)
    late: RetryFuture[Any] = RetryFuture()
    left: list[RetryFuture[Any]] = []
    closes = ClosesWhenAppended(lambda: left.extend(kept.keeper.close()))
    kept.keeper._inbox = closes  # type: ignore[assignment]
    assert kept.keeper.schedule(late, 6)
    assert late in left


class ClosesWhenAppended(list[Any]):
    """An inbox that stages the race: something happens just after a job has been put in."""

    def __init__(self, happens: Any) -> None:
        super().__init__()
        self.happens = happens

    def append(self, job: Any) -> None:
        super().append(job)
        self.happens()

    def popleft(self) -> Any:
        return self.pop(0)


def test_cancelled_jobs_on_their_way_into_the_heap_never_get_there(kept: Kept) -> None:
    """They are dropped when they surface, whether in the heap or before it."""
    with kept.lock:  # the thread cannot look
        jobs = kept.schedule(*range(10, 20))
        for job in jobs[:5]:
            kept.keeper.discard(job)
        assert len(kept.keeper) == 5
        assert kept.keeper.waiting() == jobs[5:]
    assert kept.keeper.close() == jobs[5:]


def test_late_it_releases_all_that_is_due_but_what_was_cancelled() -> None:
    clock = ByHand()
    kept = Kept(clock)
    with kept.lock:  # the thread cannot look
        one, five, gone, three, late_five, later = kept.schedule(1, 5, 2, 3, 5, 100)
        assert kept.keeper.next_due() == 1
        kept.keeper.discard(gone)
        clock.time = 10
    assert kept.some.wait(10)
    assert (kept.close(), kept.released) == ([later], [one, three, five, late_five])


def test_of_two_that_are_due_at_one_time_the_first_to_arrive_comes_first(kept: Kept) -> None:
    """Even if what made the first one wait in the heap has been cancelled, and swept."""
    (cancelled,) = kept.schedule(10)
    (first,) = kept.schedule(5)
    dead = kept.schedule(*range(100, 300))
    for job in (cancelled, *dead):
        kept.keeper.discard(job)
    (second,) = kept.schedule(5)
    assert kept.close() == [first, second]


def test_a_sooner_job_wakes_the_thread() -> None:
    clock = ByHand()
    kept = Kept(clock)
    kept.schedule(100)
    assert clock.waited_for.wait(10)
    with kept.lock:  # ours only once the thread is asleep
        pass
    sooner = kept.schedule(0)
    assert kept.some.wait(10)
    assert (len(kept.close()), kept.released) == (1, sooner)


def test_a_job_that_comes_as_the_thread_lies_down_is_not_slept_over() -> None:
    """It comes between the look into the heap and the sleep, when no word can wake the thread."""
    late: RetryFuture[Any] = RetryFuture()
    arriving = [late]

    class Staged(ByHand):
        def now(self) -> float:
            if arriving:
                kept.keeper.schedule(arriving.pop(), 0)
            return 0

    kept = Kept(Staged())
    later = kept.schedule(100)
    assert kept.some.wait(10)
    assert (kept.close(), kept.released) == (later, [late])


def test_a_released_job_can_wait_again(kept: Kept, clock: VirtualClock) -> None:
    (job,) = kept.schedule(5)
    clock.advance(10)
    assert kept.some.wait(10)
    assert kept.keeper.schedule(job, clock.now() + 1)
    assert kept.keeper.close() == [job]
