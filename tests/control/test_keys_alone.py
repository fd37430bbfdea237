"""Jobs that are alone with their keys, and how another one joins them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.jobs import Boom, Gate
from helpers.scripted import until

from retryexec import RetryingExecutor
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
