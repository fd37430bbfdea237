"""What is due when, without a thread: against a sorted list, and under interrupts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import count

import pytest
from helpers.strikes import Strike
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from retryexec._core import due_queue
from retryexec._core.due_queue import SWEEP_MIN, DueQueue


class Thing:
    """What waits."""

    def __init__(self, due: float | None = None) -> None:
        self.due = due

    def __repr__(self) -> str:
        return f"Thing({self.due})"


def queue_of(*things: Thing) -> DueQueue[Thing]:
    queue: DueQueue[Thing] = DueQueue()
    for thing in things:
        queue.add(thing)
    return queue


def taken(queue: DueQueue[Thing], now: float = math.inf) -> list[Thing]:
    into: deque[Thing] = deque()
    queue.take_due(now, into)
    return [*into]


class Model(RuleBasedStateMachine):
    """A queue beside a list of (due, arrival, thing), which is sorted whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(due_queue, "SWEEP_MIN", 4)
        self.queue: DueQueue[Thing] = DueQueue()
        self.expected: list[tuple[float, int, Thing]] = []
        self.idle: list[Thing] = []  # discarded, or taken
        self.arrivals = count()
        self.now = 0.0

    def _wait(self, thing: Thing, due: float) -> None:
        thing.due = due
        self.queue.add(thing)
        self.expected.append((due, next(self.arrivals), thing))

    @rule(delays=st.lists(st.integers(0, 20), min_size=1, max_size=30))
    def add(self, delays: list[int]) -> None:
        for delay in delays:
            self._wait(Thing(), self.now + delay)

    @precondition(lambda self: self.idle)
    @rule(data=st.data(), delay=st.integers(0, 20))
    def add_again(self, data: st.DataObject, delay: int) -> None:
        thing = self.idle.pop(data.draw(st.integers(0, len(self.idle) - 1)))
        # Never when it was due before: that has a test of its own.
        self._wait(thing, self.now + delay + 1 / (2 + next(self.arrivals)))

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def discard_some(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.expected) - 1))
        many = data.draw(st.sampled_from([1, 3, 10]))
        for _, _, thing in self.expected[which : which + many]:
            assert self.queue.discard(thing)
            assert not self.queue.discard(thing)
            self.idle.append(thing)
        del self.expected[which : which + many]

    @rule(span=st.integers(0, 8))
    def take(self, span: int) -> None:
        self.now += span
        due = sorted(place for place in self.expected if place[0] <= self.now)
        self.expected = [place for place in self.expected if place[0] > self.now]
        things = [thing for _, _, thing in due]
        assert taken(self.queue, self.now) == things
        assert all(thing.due is None for thing in things)
        self.idle += things

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        assert all(thing.due is None for _, _, thing in self.expected)
        self.idle += [thing for _, _, thing in self.expected]
        self.expected = []

    @rule()
    def ask_for_the_next(self) -> None:
        assert self.queue.next_due() == min((due for due, _, _ in self.expected), default=math.inf)

    @invariant()
    def the_same_things_wait(self) -> None:
        assert len(self.queue) == len(self.expected)
        things = {id(thing) for _, _, thing in self.expected}
        assert {id(thing) for thing in self.queue} == things

    def teardown(self) -> None:
        self.patch.undo()
        assert taken(self.queue) == [thing for _, _, thing in sorted(self.expected)]
        assert (len(self.queue), self.queue.next_due()) == (0, math.inf)


TestAgainstASortedList = Model.TestCase
TestAgainstASortedList.settings = settings(deadline=None)


@pytest.mark.parametrize("dead", [0, 2 * SWEEP_MIN])
def test_of_two_that_are_due_at_one_time_the_first_to_arrive_comes_first(dead: int) -> None:
    """Even if what made the first one go into the heap is gone by now."""
    first, second = Thing(5), Thing(5)
    later = [Thing(10), *(Thing(100) for _ in range(dead))]
    queue = queue_of(later[0], first, *later[1:])
    assert queue.next_due() == 5
    for thing in later:
        queue.discard(thing)
    assert queue.next_due() == 5
    queue.add(second)
    assert taken(queue) == [first, second]


def test_one_that_is_discarded_before_it_is_added_never_waits() -> None:
    """As a job that is cancelled while a worker puts it off."""
    queue, early = queue_of(), Thing(5)
    assert queue.discard(early)
    queue.add(early)
    assert (len(queue), [*queue], queue.next_due(), len(queue)) == (0, [], math.inf, 0)


def test_one_added_again_with_the_same_due_time_comes_once() -> None:
    thing = Thing(5)
    queue = queue_of(thing, Thing(7))
    assert queue.next_due() == 5
    assert queue.discard(thing)
    thing.due = 5
    queue.add(thing)
    assert len(queue) == 2
    assert taken(queue, 5) == [thing]
    assert len(queue) == 1


@pytest.mark.parametrize("absorbed", [True, False])
def test_the_discarded_do_not_pile_up(absorbed: bool) -> None:
    """Many more come and go than ever wait at a time."""
    queue, kept = queue_of(Thing(1e9)), set[int]()
    for _ in range(50):
        things = [Thing(due) for due in range(50)]
        for thing in things:
            queue.add(thing)
        if absorbed:
            queue.next_due()
        for thing in things:
            queue.discard(thing)
        kept.add(queue._places())
    assert len(queue) == 1
    assert max(kept) <= 50 + 2 * SWEEP_MIN


def test_want_of_memory_while_it_is_placed_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    late, early = Thing(9), Thing(3)
    queue = queue_of(late, early)
    with monkeypatch.context() as patch:
        patch.setattr("retryexec._core.due_queue.heappush", no_memory)
        with pytest.raises(MemoryError):
            queue.next_due()
    assert (len(queue), taken(queue)) == (2, [early, late])


def struck(operate: Callable[[DueQueue[Thing], list[Thing]], object]) -> int:
    """Strike *operate* at each moment in turn; check the queue each time; return how often."""
    for at in count():
        # Half of them dead, one short of a sweep; in the lane, in the heap and in the inbox.
        things = [Thing(due) for due in (*range(50, 100), *range(50), *range(25, 75))]
        queue = queue_of(*things[:100])
        queue.next_due()
        for thing in things[100:]:
            queue.add(thing)
        for thing in things[:75]:
            queue.discard(thing)
        strike = Strike(at)
        was_struck = strike(lambda queue=queue, things=things: operate(queue, things))
        waiting = sorted((t for t in things if t.due is not None), key=lambda t: t.due or 0)
        assert len(queue) == len(waiting), strike.where
        assert taken(queue) == waiting, strike.where
        assert len(queue) == 0, strike.where
        if not was_struck:
            return at
    raise AssertionError


def test_an_interrupt_in_discard_leaves_the_queue_consistent() -> None:
    def discard(queue: DueQueue[Thing], things: list[Thing]) -> None:
        assert queue.discard(things[80])
        assert queue._places() < 100  # it has swept

    assert struck(discard) > 10


def test_an_interrupt_in_clear_leaves_the_queue_consistent() -> None:
    assert struck(lambda queue, _: queue.clear()) > 3
