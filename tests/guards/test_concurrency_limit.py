"""ConcurrencyLimit: at most so many at a time, first come first served, one woken at a time."""

import math
import threading
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker
from hypothesis import given
from hypothesis import strategies as st

from retryexec.guards import ConcurrencyLimit


def test_so_many_run_and_the_others_wait_to_be_woken() -> None:
    asker = Asker(ConcurrencyLimit(2))
    assert [asker.ask() for _ in range(4)] == [None, None, math.inf, math.inf]
    assert asker.woken == []


def test_a_thousand_behind_a_limit_of_one_are_woken_one_at_a_time() -> None:
    asker = Asker(ConcurrencyLimit(1))
    requests = [asker.request() for _ in range(1000)]
    for request in requests:
        asker.ask(request)
    for i, request in enumerate(requests):
        assert asker.ask(request) is None
        asker.guard.release(request, SUCCESS)
        assert asker.woken == requests[1 : i + 2]


def test_no_newcomer_overtakes_the_one_that_was_woken() -> None:
    asker = Asker(ConcurrencyLimit(1))
    running, first = asker.request(), asker.request()
    asker.ask(running)
    asker.ask(first)
    asker.guard.release(running, SUCCESS)
    assert asker.ask() == math.inf
    assert asker.ask(first) is None


def test_a_place_in_the_line_is_kept_when_asked_early() -> None:
    asker = Asker(ConcurrencyLimit(1))
    running, first, second = requests = [asker.request() for _ in range(3)]
    for request in requests + requests:
        asker.ask(request)
    asker.guard.release(running, SUCCESS)
    assert asker.woken == [first]
    asker.guard.release(first, None)  # it was woken, and is cancelled
    assert asker.woken == [first, second]


def test_one_that_is_woken_and_does_not_come_is_passed_by() -> None:
    """Its executor has no free worker: after a second the next one that asks has the permit."""
    asker = Asker(ConcurrencyLimit(1))
    running, absent, waiting = requests = [asker.request() for _ in range(3)]
    for request in requests:
        asker.ask(request)
    asker.guard.release(running, SUCCESS)
    assert asker.ask_at(1.0) == math.inf
    assert asker.woken == [absent]
    assert asker.ask_at(1.1) == math.inf
    assert asker.woken == [absent, waiting]
    assert asker.ask(absent) == math.inf
    assert asker.ask(waiting) is None
    assert asker.ask_at(10.0) == math.inf  # it has come, and runs for as long as it likes


def test_a_busy_executor_keeps_a_permit_from_another_one_for_a_second_only() -> None:
    """Nobody else asks meanwhile: so the next in the line is told when to ask."""
    asker = Asker(ConcurrencyLimit(1))
    running, absent, waiting = requests = [asker.request() for _ in range(3)]
    running.origin = absent.origin = "busy"
    waiting.origin = "idle"
    for request in requests:
        asker.ask(request)
    asker.guard.release(running, SUCCESS)
    assert asker.woken == [absent, waiting]
    due = asker.ask(waiting)
    assert due is not None
    assert due == pytest.approx(1.0)
    assert asker.ask_at(due, waiting) is None
    assert asker.ask(absent) == math.inf
    asker.guard.release(waiting, SUCCESS)
    assert asker.ask(absent) is None


def test_who_comes_after_one_that_does_not_come_has_the_permit_after_a_second() -> None:
    asker = Asker(ConcurrencyLimit(1))
    running, _ = requests = [asker.request() for _ in range(2)]
    for request in requests:
        asker.ask(request)
    asker.guard.release(running, SUCCESS)
    newcomer = asker.request()
    newcomer.origin = "another executor"
    due = asker.ask_at(0.5, newcomer)
    assert due is not None
    assert due == pytest.approx(1.0)
    assert asker.ask_at(due, newcomer) is None


def test_one_that_is_cancelled_leaves_the_line() -> None:
    asker = Asker(ConcurrencyLimit(1))
    running, cancelled, next_one = requests = [asker.request() for _ in range(3)]
    for request in requests:
        asker.ask(request)
    asker.guard.release(cancelled, None)
    asker.guard.release(running, SUCCESS)
    assert asker.woken == [next_one]


def test_a_permit_is_given_back_once() -> None:
    asker = Asker(ConcurrencyLimit(1))
    running = asker.request()
    asker.ask(running)
    for _ in range(3):
        asker.guard.release(running, SUCCESS)
    assert [asker.ask(), asker.ask()] == [None, math.inf]


def test_each_key_has_a_limit_of_its_own_and_is_forgotten_when_idle() -> None:
    asker = Asker(ConcurrencyLimit(1, key=lambda tenant: tenant))
    guard: Any = asker.guard
    requests = [asker.request(tenant) for tenant in "abab"]
    assert [asker.ask(request) for request in requests] == [None, None, math.inf, math.inf]
    assert repr(guard) == "<ConcurrencyLimit(1): 2 running, 2 held>"
    for request in requests:
        guard.release(request, None)
    assert guard.states() == []
    assert repr(guard) == "<ConcurrencyLimit(1): 0 running, 0 held>"


def test_no_code_of_users_runs_under_the_lock() -> None:
    """A key whose comparison waits for another thread, which uses the guard meanwhile."""
    passed = threading.Event()

    class Key:
        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return passed.wait(10) and self is other

    guard = ConcurrencyLimit(1, key=lambda key: key)
    asker = Asker(guard)
    asker.ask(asker.request(Key()))
    told: list[float | None] = []
    compares = threading.Thread(target=lambda: told.append(asker.ask(asker.request(Key()))))
    compares.start()
    assert asker.ask(asker.request(8)) is None  # another hash: it has nothing to compare with
    passed.set()
    compares.join()
    assert told == [None]


class Gate:
    """A lock that two threads take only once both are there."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2, timeout=10)
        self.passed = threading.local()
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        if not hasattr(self.passed, "once"):
            self.passed.once = True
            self.both.wait()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_key_that_two_threads_bring_at_once_has_one_state() -> None:
    """Both have found that nobody has asked for it; the second one to take the lock looks again."""
    guard: Any = ConcurrencyLimit(1, key=lambda key: key)
    guard._lock = Gate()
    asker = Asker(guard)
    told: list[float | None] = []
    threads = [
        threading.Thread(target=lambda: told.append(asker.ask(asker.request("a"))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told, key=str) == [None, math.inf]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3", None, math.inf])
def test_wrong_limits_are_named(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="limit takes a whole number from 1 up"):
        ConcurrencyLimit(limit)


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("arc"), st.integers(0, 9))))
def test_never_more_than_the_limit_and_in_order(limit: int, steps: list[tuple[str, int]]) -> None:
    asker = Asker(ConcurrencyLimit(limit))
    running: list[Any] = []
    line: list[Any] = []
    for what, n in steps:
        if what == "a":
            request = asker.request()
            if asker.ask(request) is None:
                assert not line
                running.append(request)
            else:
                line.append(request)
        elif what == "r" and running:
            asker.guard.release(running.pop(n % len(running)), SUCCESS)
        elif what == "c" and line:
            asker.guard.release(line.pop(n % len(line)), None)
        woken, asker.woken = asker.woken, []
        assert woken == line[: len(woken)]
        for request in woken:
            assert asker.ask(line.pop(0)) is None
            running.append(request)
        assert len(running) <= limit
        assert not line or len(running) == limit
