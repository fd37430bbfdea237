"""max_pending: the most jobs unresolved at a time, queued, running and waiting together."""

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate, InThread

from retryexec import ConstantBackoff, PendingLimitError, RetryingExecutor, RetryPolicy
from retryexec.testing import VirtualClock


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    """Room for two, one worker, ten seconds between attempts."""
    policy = RetryPolicy(max_attempts=2, backoff=ConstantBackoff(10))
    with RetryingExecutor(1, policy=policy, max_pending=2, clock=clock) as executor:
        yield executor


def is_full(executor: RetryingExecutor) -> InThread:
    """Submit from another thread; return that thread, which is seen to wait for room."""
    submitted: SimpleQueue[Any] = SimpleQueue()
    thread = InThread(lambda: submitted.put(executor.submit(len, "late")))
    thread.join(0.05)
    assert submitted.empty()
    return thread


def test_submit_waits_for_the_end_of_a_running_or_queued_job(executor: RetryingExecutor) -> None:
    gate = Gate()
    executor.submit(gate)
    assert gate.reached()
    executor.submit(len, "")
    late = is_full(executor)
    gate.open()
    late.result()


def test_submit_waits_for_a_waiting_job(executor: RetryingExecutor, clock: VirtualClock) -> None:
    for _ in range(2):
        executor.submit(Fails(1, clock))
    clock.advance(0)
    late = is_full(executor)
    clock.advance(10)
    late.result()


@pytest.mark.parametrize("fails", [1, 2])
def test_each_end_makes_room(fails: int, executor: RetryingExecutor, clock: VirtualClock) -> None:
    for _ in range(6):
        future = executor.submit(Fails(fails, clock))
        clock.run_until(future.done)
        assert (future.exception() is None) == (fails == 1)


def test_cancel_makes_room(executor: RetryingExecutor, clock: VirtualClock) -> None:
    for _ in range(6):
        future = executor.submit(Fails(2, clock))
        clock.advance(0)
        assert future.cancel()
        assert future.cancel()  # which makes room once, not twice
    for _ in range(2):
        executor.submit(Fails(2, clock))
    clock.advance(0)
    late = is_full(executor)
    clock.advance(10)
    late.result()


def test_a_worker_is_refused_rather_than_left_waiting(executor: RetryingExecutor) -> None:
    gate = Gate()

    def job() -> Any:
        gate.exec()
        return executor.submit(len, "inner")

    future = executor.using(RetryPolicy.never()).submit(job)
    executor.submit(len, "")
    gate.open()
    error = future.exception(5)
    assert isinstance(error, PendingLimitError)
    assert "max_pending=2" in str(error)


def test_a_worker_may_submit_while_there_is_room(executor: RetryingExecutor) -> None:
    future = executor.submit(lambda: executor.submit(len, "inner"))
    assert future.result(5).result(5) == 5


def test_a_callback_finds_room(executor: RetryingExecutor) -> None:
    """The room of the job that ends is free by then."""
    gate, inner = Gate(), SimpleQueue[Any]()
    future = executor.submit(gate)
    executor.submit(len, "")
    future.add_done_callback(lambda _: inner.put(executor.submit(len, "inner")))
    gate.open()
    assert inner.get(timeout=5).result(5) == 5


def test_shutdown_refuses_all_who_wait_for_room(executor: RetryingExecutor) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        executor.submit(gate)
    late = [is_full(executor), is_full(executor)]
    executor.shutdown(wait=False)
    for thread in late:
        with pytest.raises(RuntimeError, match="after shutdown"):
            thread.result()
    assert executor.stats().attempts == 0  # they did not wait until a job had ended
    for gate in gates:
        gate.open()


def test_a_submit_that_finds_more_room_than_it_needs_lets_the_next_one_know() -> None:
    """Two jobs end before the first of two submits wakes up, and only one of them tells of it."""
    gates, both_ended = [Gate() for _ in range(4)], Event()
    with RetryingExecutor(4, max_pending=2) as executor:
        room = executor._pool.room
        assert room is not None
        news = room._news

        class News:
            put, empty = news.put, news.empty

            def get(self) -> None:
                assert both_ended.wait(10)
                news.get()

        room._news = News()  # type: ignore[assignment]
        first = [executor.submit(gate) for gate in gates[:2]]
        late = [InThread(executor.submit, gate) for gate in gates[2:]]
        for gate in gates[:2]:
            gate.open()
        assert [future.result(10) for future in first] == ["through"] * 2
        both_ended.set()
        assert all(gate.reached() for gate in gates[2:])  # neither waits for the other one's end
        for gate in gates[2:]:
            gate.open()
        assert [thread.result().result(10) for thread in late] == ["through"] * 2


def test_a_view_shares_the_room(executor: RetryingExecutor, clock: VirtualClock) -> None:
    for submitter in (executor, executor.using(max_attempts=1)):
        submitter.submit(Gate()).cancel()
    for submitter in (executor, executor.using(max_attempts=5)):
        submitter.submit(Fails(1, clock))
    clock.advance(0)
    late = is_full(executor.using(max_attempts=3))
    clock.advance(10)
    late.result()


def test_a_refused_submit_takes_no_room(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_threads(self: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", no_more_threads)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit(len, "")
    with pytest.raises(TypeError):
        executor.submit(5)  # type: ignore[call-overload]
    late = InThread(executor.submit, len, "after")
    assert late.result().result(5) == 5


def test_failed_jobs_make_room(executor: RetryingExecutor) -> None:
    view = executor.using(RetryPolicy.never())
    for _ in range(6):
        gate = Gate(Boom())
        gate.open()
        assert isinstance(view.submit(gate).exception(5), Boom)
