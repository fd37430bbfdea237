"""How many threads there are: as many as are needed, and not one more."""

import threading

import pytest
from helpers.jobs import Gate
from helpers.threads import workers_of

from retryexec import RetryFuture, RetryingExecutor


def test_a_worker_whose_result_has_been_seen_takes_the_next_job() -> None:
    with RetryingExecutor(8, "counted") as executor:
        for _ in range(100):
            executor.submit(len, "").result()
        assert len(workers_of("counted")) == 1


def test_each_job_that_finds_no_free_worker_starts_one() -> None:
    with RetryingExecutor(3, "counted") as executor:
        gates = [Gate() for _ in range(5)]
        futures = [executor.submit(gate) for gate in gates]
        assert all(gate.reached() for gate in gates[:3])
        assert len(workers_of("counted")) == 3
        for gate in gates:
            gate.open()
        assert [future.result() for future in futures] == ["through"] * 5


class WaitsForAnother:
    """A callback that waits for a job it is told of later."""

    def __init__(self) -> None:
        self.told, self.ended = threading.Event(), threading.Event()
        self.future: RetryFuture[int] = RetryFuture()
        self.result = 0

    def __call__(self, _: object) -> None:
        if self.told.wait(10):
            self.result = self.future.result(10)
        self.ended.set()


def test_a_callback_may_wait_for_a_job_that_it_submits() -> None:
    """Its worker is busy with it, so the job needs another."""
    with RetryingExecutor(2) as executor:
        gate, waits = Gate(), WaitsForAnother()

        def submit(future: object) -> None:
            waits.future = executor.submit(len, "seven")
            waits.told.set()
            waits(future)

        future = executor.submit(gate)
        future.add_done_callback(submit)
        gate.open()
        assert waits.ended.wait(10)
    assert waits.result == 5


def test_callback_may_wait_for_a_job_submitted_while_its_worker_seemed_free() -> None:
    for _ in range(20):
        with RetryingExecutor(2) as executor:
            gate, waits = Gate(), WaitsForAnother()
            future = executor.submit(gate)
            future.add_done_callback(waits)
            gate.open()
            future.result()
            waits.future = executor.submit(len, "seven")
            waits.told.set()
            assert waits.ended.wait(10)
        assert waits.result == 5


def test_a_callback_may_wait_for_a_job_for_which_no_worker_could_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another try is made before callbacks run, since they may take their time."""
    with RetryingExecutor(2) as executor:
        gate, waits = Gate(), WaitsForAnother()
        executor.submit(gate).add_done_callback(waits)
        assert gate.reached()

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            waits.future = executor.submit(len, "seven")
        waits.told.set()
        gate.open()
        assert waits.ended.wait(10)
    assert waits.result == 5
