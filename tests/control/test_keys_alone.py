"""Jobs that are alone with their keys, and how another one joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from helpers.jobs import Boom, Gate, InThread
from helpers.threads import until

from retryexec import RetryFuture, RetryingExecutor
from retryexec._core.controlled import ControlledJob
from retryexec._core.line import LEFT, Line


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=4) as executor:
        yield executor
        executor.shutdown()
        assert len(executor._pool.control.keys) == 0


class UserKey:
    """A key of a user's own type, with the hash of another one."""

    def __init__(self, other: object) -> None:
        self.other = other

    def __hash__(self) -> int:
        return hash(self.other)

    def __eq__(self, other: object) -> bool:
        return self is other


def test_jobs_with_keys_of_their_own_stand_in_no_line(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_line(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Line, "__init__", no_line)
    for key in ("a", 7, ("user", 7), b"b", 1.5):
        assert executor.using(key=key).submit(int).result(10) == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("keep", ["all", "latest"])
@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_one_ends_as_another_joins_it(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, when: str, keep: str, end: str
) -> None:
    """The second one has found it alone with their key, and it leaves just before or after."""
    gate = Gate(Boom() if end == "fail" else "through")
    join, view = ControlledJob.join, executor.using(key="k", keep=keep, max_attempts=1)
    if end == "cancel":
        executor.pause()

    def end_first() -> None:
        if end == "cancel":
            assert first.cancel()
            executor.resume()
        else:
            gate.open()
            first.exception(10)
        until(lambda: first not in executor._pool.unfinished)

    def staged(self: ControlledJob[object], line: Line) -> Line:
        if when == "before":
            end_first()
            until(lambda: self.line is LEFT)
        joined = join(self, line)
        if when == "after":
            end_first()
        return joined

    first = view.submit(gate)
    if end != "cancel":
        assert gate.reached()
    monkeypatch.setattr(ControlledJob, "join", staged)
    assert view.submit(int).result(10) == 0


def test_beside_keys_with_code_they_leave_nothing_behind(executor: RetryingExecutor) -> None:
    gates = [Gate() for _ in range(4)]
    keys = ["a", UserKey("a"), 7, UserKey(7)]
    futures = [executor.using(key=k).submit(g) for k, g in zip(keys, gates, strict=True)]
    for gate in gates:
        assert gate.reached()
        gate.open()
    for future in futures:
        future.result(10)


def test_a_third_one_comes_in_between(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second has joined the first, which has ended then, and before it has its place."""
    gates, join, view = [Gate(), Gate()], ControlledJob.join, executor.using(key="k")
    others = []

    def staged(self: ControlledJob[object], line: Line) -> Line:
        monkeypatch.undo()
        joined = join(self, line)
        gates[0].open()
        first.result(10)
        others.append(view.submit(gates[1]))
        assert gates[1].reached()
        return joined

    first = view.submit(gates[0])
    assert gates[0].reached()
    monkeypatch.setattr(ControlledJob, "join", staged)
    second = view.submit(int)
    assert second.held_by == "key"
    gates[1].open()
    assert second.result(10) == 0


class Compared(UserKey):
    """A key that is equal to those of its name, and calls something as it is compared."""

    def __init__(self, name: str, on_compare: Callable[[], object] = bool) -> None:
        super().__init__(7)
        self.name, self.on_compare = name, on_compare

    __hash__ = UserKey.__hash__

    def __eq__(self, other: object) -> bool:
        self.on_compare()
        return isinstance(other, Compared) and self.name == other.name


@pytest.mark.parametrize("comparison", [1, 2, 3])
def test_two_threads_come_with_one_key_while_it_is_compared(
    executor: RetryingExecutor, comparison: int
) -> None:
    """To compare a key is code of a user's, in which another thread has its turn.

    In the dict the one thread then finds a free place before, and the other one after the key that
    both are compared with.
    """
    gates, seen = [Gate() for _ in range(3)], count(1)
    rivals: list[RetryFuture[object]] = []

    def come_in_between() -> None:
        if next(seen) == comparison:
            rivals.append(InThread(by_key["c"].submit, gates[2]).result())
            assert gates[2].reached()

    by_key = {name: executor.using(key=Compared(name)) for name in "ac"}
    by_key["b"] = executor.using(key=Compared("b", come_in_between))
    first, second = by_key["a"].submit(gates[0]), by_key["b"].submit(gates[1])
    assert gates[0].reached()
    assert gates[1].reached()
    gates[0].open()
    first.result(10)
    until(lambda: len(executor._pool.control.keys) == 1)
    last = by_key["c"].submit(int)
    if rivals:
        assert last.held_by == "key"
    for gate in gates:
        gate.open()
    for future in [second, last, *rivals]:
        future.result(10)
