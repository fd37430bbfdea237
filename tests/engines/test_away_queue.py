"""The queue of a pool whose attempts run elsewhere: who is given out, when, and beside whom."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from retryexec._core.away import AwayQueue, Isolation


class FakeJob:
    """What a queue asks of a job."""

    def __init__(self, name: object = "") -> None:
        self.name = name
        self.ended = False
        self.superseded_by: FakeJob | None = None

    def done(self) -> bool:
        return self.ended

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Hand:
    """A worker that does by hand what the queue gives it to do."""

    def __init__(self, limit: int, isolation: Isolation) -> None:
        self.queue: Any = AwayQueue(limit, isolation)
        self.then: dict[FakeJob, Callable[[], object]] = {}

    def takes(self) -> list[FakeJob]:
        """Take the jobs to be sent that can be had without waiting; see those that came back."""
        taken = []
        while not self.queue._events.empty():
            self.queue.wake()  # so that get() returns if there is nothing
            while (job := self.queue.get()) is not None:
                if self.queue.returned(job) is None:
                    self.queue.flight(job).sent = True
                    taken.append(job)
                else:
                    self.then.pop(job)()
        return taken

    def comes_back(self, job: FakeJob, then: Callable[[], object] = list) -> None:
        """Let *job* come back; *then* is what the worker does when it sees that."""
        self.then[job] = then
        self.queue.come_back(self.queue.flight(job), Future())

    def crashes(self, *jobs: FakeJob) -> None:
        """Let the engine break with *jobs*."""
        for job in jobs:
            self.comes_back(job, partial(self.becomes_suspect, job))

    def becomes_suspect(self, job: FakeJob) -> None:
        self.queue.count_crash(job, 1)
        self.queue.put(job)

    def succeeds(self, job: FakeJob) -> None:
        self.comes_back(job, partial(self.queue.clear, job))


def hand(limit: int, isolation: Isolation, *jobs: FakeJob) -> Hand:
    made = Hand(limit, isolation)
    for job in jobs:
        made.queue.put(job)
    return made


@pytest.mark.parametrize("isolation", Isolation)
def test_no_more_than_the_limit_in_their_order(isolation: Isolation) -> None:
    worker = hand(2, isolation, A, B, C, D)
    assert worker.takes() == [A, B]
    assert worker.queue.qsize() == 2
    worker.comes_back(A)
    assert worker.takes() == [C]
    worker.queue.release(B)
    assert worker.takes() == [D]


def test_the_engine_is_fed_before_outcomes_are_seen() -> None:
    worker = hand(1, Isolation.EXACT, A, B)
    worker.takes()
    worker.comes_back(A)
    assert [worker.queue.get(), worker.queue.get()] == [B, A]


def test_a_higher_limit_counts_at_once() -> None:
    worker = hand(1, Isolation.EXACT, A, B, C)
    assert worker.takes() == [A]
    worker.queue.resize(3)
    assert worker.takes() == [B, C]
    worker.queue.resize(1)
    worker.comes_back(A)
    worker.queue.put(D)
    assert worker.takes() == []


def test_what_has_ended_is_passed_over() -> None:
    ended = FakeJob()
    ended.ended = True
    assert hand(1, Isolation.EXACT, ended, A).takes() == [A]


def test_job_that_is_queued_twice_is_given_out_once() -> None:
    worker = hand(4, Isolation.EXACT, A, A, B)
    assert worker.takes() == [A, B]
    worker.queue.put(A)
    assert worker.takes() == []
    worker.comes_back(A)
    worker.queue.put(A)
    assert worker.queue.get() is A
    assert worker.queue.returned(A) is not None
    assert worker.queue.flight(A) is None


def test_suspects_run_one_by_one_beside_others() -> None:
    worker = hand(2, Isolation.SECLUDED, A, B)
    worker.takes()
    worker.crashes(A, B)
    for job in (C, D):
        worker.queue.put(job)
    assert worker.takes() == [A, C, D]
    assert [worker.queue.flight(job).alone for job in (A, C, D)] == [True, False, False]
    worker.comes_back(C)
    assert worker.takes() == []
    worker.comes_back(A)
    assert worker.takes() == [B]
    assert worker.queue.has_suspects()
    worker.comes_back(B)
    assert not worker.queue.has_suspects()


def test_suspects_run_with_nobody_else_where_there_is_one_engine() -> None:
    worker = hand(2, Isolation.EXCLUSIVE, A, B)
    worker.takes()
    worker.crashes(A)
    worker.queue.put(C)
    assert worker.takes() == []  # B is still there
    worker.comes_back(B)
    assert worker.takes() == [A]
    worker.comes_back(A)
    assert worker.takes() == [C]
    assert not worker.queue.has_suspects()


def test_suspects_come_first_where_the_culprit_is_known() -> None:
    worker = hand(1, Isolation.EXACT, A)
    worker.takes()
    worker.queue.put(B)
    worker.queue.resize(0)
    worker.crashes(A)
    assert worker.takes() == []
    worker.queue.resize(2)
    assert worker.takes() == [A, B]
    assert not worker.queue.flight(A).alone
    assert worker.queue.count_crash(A, 1) == 2


def test_suspect_stays_one_until_an_attempt_has_come_to_its_end() -> None:
    """Wherever it was meanwhile: a guard may have held it."""
    worker = hand(2, Isolation.EXCLUSIVE, A)
    worker.takes()
    worker.crashes(A)
    assert worker.takes() == [A]
    worker.queue.release(A)
    worker.queue.put(B)
    assert worker.takes() == [B]
    worker.queue.put(A)
    assert worker.takes() == []
    worker.succeeds(B)
    assert worker.takes() == [A]
    worker.comes_back(A, lambda: (worker.queue.clear(A), worker.queue.put(A)))
    assert worker.takes() == [A]
    assert not worker.queue.flight(A).alone


def test_newer_job_takes_the_place_of_one_that_it_has_replaced() -> None:
    worker = hand(1, Isolation.EXACT, A, B)
    assert worker.takes() == [A]
    worker.queue.pass_on(A, C)
    assert worker.queue.flight(A) is None
    worker.succeeds(C)
    assert worker.takes() == [B]


def test_sweep_keeps_the_newer_one() -> None:
    old, new = FakeJob("old"), FakeJob("new")
    old.superseded_by = new
    queue = hand(0, Isolation.EXACT, A, old).queue
    queue.sweep({new})
    assert queue.get_nowait() is new


def test_get_nowait_and_sweep() -> None:
    queue = hand(0, Isolation.EXACT, A, B, C).queue
    assert queue.get_nowait() is A
    queue.sweep({C})
    assert queue.qsize() == 1
    assert queue.get_nowait() is C
    with pytest.raises(Empty):
        queue.get_nowait()


class Model(RuleBasedStateMachine):
    """Whatever happens in whatever order: bounds are kept, and no job is lost."""

    @initialize(limit=st.integers(1, 3), isolation=st.sampled_from(Isolation))
    def begin(self, limit: int, isolation: Isolation) -> None:
        self.limit, self.isolation = limit, isolation
        self.worker = Hand(limit, isolation)
        self.submitted = 0
        self.unfinished: set[FakeJob] = set()
        self.flying: set[FakeJob] = set()

    def take(self) -> None:
        for job in self.worker.takes():
            assert job not in self.flying
            assert not job.ended
            self.flying.add(job)

    @rule()
    def submit(self) -> None:
        self.submitted += 1
        job = FakeJob(self.submitted)
        self.unfinished.add(job)
        self.worker.queue.put(job)
        self.take()

    def one_of_the_flying(self, data: st.DataObject) -> FakeJob | None:
        flying = sorted(self.flying, key=str)
        return data.draw(st.sampled_from(flying)) if flying else None

    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        if (job := self.one_of_the_flying(data)) is not None:
            self.flying.discard(job)
            self.worker.succeeds(job)
            self.take()
            self.unfinished.discard(job)
            job.ended = True

    @rule(data=st.data())
    def try_again(self, data: st.DataObject) -> None:
        if (job := self.one_of_the_flying(data)) is not None:
            self.flying.discard(job)
            self.worker.comes_back(job, partial(self.worker.queue.put, job))
            self.take()

    @rule()
    def crash(self) -> None:
        crashed = sorted(self.flying, key=str)
        if self.isolation is not Isolation.EXCLUSIVE:
            crashed = [job for job in crashed if not self.worker.queue.flight(job).alone]
        for job in crashed[: 1 if self.isolation is Isolation.EXACT else None]:
            self.flying.discard(job)
            self.worker.crashes(job)
        self.take()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        pending = sorted(self.unfinished - self.flying, key=str)
        if pending:
            job = data.draw(st.sampled_from(pending))
            job.ended = True
            self.unfinished.discard(job)

    @rule(limit=st.integers(1, 3))
    def resize(self, limit: int) -> None:
        self.limit = max(limit, self.limit)  # what is away already is not called back
        self.worker.queue.resize(self.limit)
        self.take()

    @invariant()
    def bounds_are_kept(self) -> None:
        alone = [job for job in self.flying if self.worker.queue.flight(job).alone]
        assert len(alone) <= 1
        assert len(self.flying) - len(alone) <= self.limit
        if alone and self.isolation is Isolation.EXCLUSIVE:
            assert len(self.flying) == 1
        assert self.isolation is not Isolation.EXACT or not alone

    @invariant()
    def no_slot_is_idle(self) -> None:
        if self.unfinished and not self.flying:
            raise AssertionError(self.unfinished)

    def teardown(self) -> None:
        while self.flying:
            job = self.flying.pop()
            self.worker.comes_back(job)
            self.unfinished.discard(job)
            job.ended = True
            self.take()
        assert not self.unfinished


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase

A, B, C, D = (FakeJob(name) for name in "ABCD")
