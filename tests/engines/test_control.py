"""Keys, guards and pauses hold for attempts that are away, too."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import remote
from helpers.scripted import Factory
from helpers.threads import until

from retryexec import RetryingExecutor, RetryPolicy, StopReason, ZeroBackoff
from retryexec.engines import Engine
from retryexec.guards import CircuitBreaker, ConcurrencyLimit, RateLimit

AT_ONCE = RetryPolicy(backoff=ZeroBackoff())


def key_of(text: str) -> str:
    return text[0]


@pytest.fixture
def engine() -> Iterator[Factory]:
    """Make executors of three workers, whose calls the test ends."""
    factory = Factory()
    yield factory
    assert not any(each.calls for each in factory.made), "the test has left calls behind"


def away(engine: Factory) -> list[str]:
    """Return the arguments of the calls that are at the engine."""
    return [argument_of(fn) for each in engine.made for fn, _ in list(each.calls)]


def argument_of(task: Any) -> str:
    argument: str = task._job.args[0]
    return argument


def is_away(engine: Factory, *arguments: str) -> None:
    until(lambda: sorted(away(engine)) == sorted(arguments))


def let(engine: Factory, argument: str) -> None:
    """Let the call with that argument run."""
    for each in engine.made:
        for index, (fn, _) in enumerate(each.calls):
            if argument_of(fn) == argument:
                each.run(index)
                return
    raise AssertionError(argument)


def test_jobs_of_a_key_are_away_one_after_the_other(engine: Factory) -> None:
    with RetryingExecutor(attempts_on=engine, key=key_of) as executor:
        futures = [executor.submit(remote.echo, text) for text in ("a1", "a2", "b1", "a3")]
        is_away(engine, "a1", "b1")
        assert futures[1].held_by == "key"
        for text in ("a1", "a2", "a3"):
            let(engine, text)
            is_away(engine, *({"a1": ["a2"], "a2": ["a3"], "a3": []}[text]), "b1")
        let(engine, "b1")
        assert [future.result(30) for future in futures] == ["a1", "a2", "b1", "a3"]


def test_newer_job_of_a_key_replaces_one_that_waits_behind_what_is_away(engine: Factory) -> None:
    with RetryingExecutor(attempts_on=engine, key=key_of, keep="latest") as executor:
        first = executor.submit(remote.echo, "a1")
        is_away(engine, "a1")
        second, third = executor.submit(remote.echo, "a2"), executor.submit(remote.echo, "a3")
        let(engine, "a1")
        is_away(engine, "a3")
        let(engine, "a3")
        assert [f.result(30) for f in (first, second, third)] == ["a1", "a3", "a3"]
        assert second.stop_reason is StopReason.SUPERSEDED


def test_newer_job_of_a_key_takes_the_turn_of_one_that_is_queued(engine: Factory) -> None:
    """Where the engine has no room: it goes before what was queued after the older one."""
    with RetryingExecutor(1, attempts_on=engine, key=key_of, keep="latest") as executor:
        executor.submit(remote.echo, "x1")
        is_away(engine, "x1")
        old, other = executor.submit(remote.echo, "a1"), executor.submit(remote.echo, "b1")
        new = executor.submit(remote.echo, "a2")
        for text in ("x1", "a2", "b1"):
            is_away(engine, text)
            let(engine, text)
        assert [f.result(30) for f in (old, other, new)] == ["a2", "b1", "a2"]


def test_guards_bound_what_is_away(engine: Factory) -> None:
    with RetryingExecutor(attempts_on=engine, guards=[ConcurrencyLimit(2)]) as executor:
        futures = [executor.submit(remote.echo, text) for text in "abc"]
        is_away(engine, "a", "b")
        assert executor.stats().held == 1
        let(engine, "b")
        is_away(engine, "a", "c")
        for text in "ca":
            let(engine, text)
        assert [future.result(30) for future in futures] == ["a", "b", "c"]


def test_guards_get_back_what_a_crashed_attempt_had(engine: Factory) -> None:
    breaker = CircuitBreaker(minimum_attempts=1)
    guards = [ConcurrencyLimit(1), breaker]
    with RetryingExecutor(policy=AT_ONCE, attempts_on=engine, guards=guards) as executor:
        future = executor.submit(remote.echo, "a")
        for _ in range(2):
            is_away(engine, "a")
            next(each for each in engine.made if each.calls).crash()
        is_away(engine, "a")
        assert breaker.state == "closed"  # a crash is no attempt, and so no failure
        let(engine, "a")
        assert future.result(30) == "a"


def test_suspect_that_a_guard_holds_stays_one(engine: Factory) -> None:
    attempts_on = Engine(make=engine, max_crashes=3)
    guards = [RateLimit(200)]
    with RetryingExecutor(policy=AT_ONCE, attempts_on=attempts_on, guards=guards) as executor:
        future = executor.submit(remote.echo, "a")
        for _ in range(3):
            is_away(engine, "a")
            next(each for each in engine.made if each.calls).crash()
        assert future.exception(30) is not None
        assert future.stop_reason is StopReason.CRASHED


def test_newer_job_of_a_key_goes_in_place_of_one_that_crashed(engine: Factory) -> None:
    with RetryingExecutor(attempts_on=engine, key=key_of, keep="latest") as executor:
        old = executor.submit(remote.echo, "a1")
        is_away(engine, "a1")
        new = executor.submit(remote.echo, "a2")
        engine.made[0].crash()
        is_away(engine, "a2")
        let(engine, "a2")
        assert (old.result(30), new.result(30)) == ("a2", "a2")
        assert old.stop_reason is StopReason.SUPERSEDED


def test_suspect_can_be_replaced_by_a_newer_job_of_its_key(engine: Factory) -> None:
    """While it waits for its turn to run alone."""
    with RetryingExecutor(attempts_on=engine, key=key_of, keep="latest") as executor:
        futures = [executor.submit(remote.echo, text) for text in ("a1", "b1")]
        is_away(engine, "a1", "b1")
        engine.made[0].crash()
        until(lambda: len(away(engine)) == 1)
        alone = away(engine)[0]
        waits = {"a1": "b", "b1": "a"}[alone]
        newer = executor.submit(remote.echo, f"{waits}2")
        let(engine, alone)
        is_away(engine, f"{waits}2")
        let(engine, f"{waits}2")
        assert newer.result(30) == f"{waits}2"
        assert {future.result(30) for future in futures} == {alone, f"{waits}2"}


def test_nothing_is_sent_during_a_pause(engine: Factory) -> None:
    with RetryingExecutor(attempts_on=engine) as executor:
        first = executor.submit(remote.echo, "a")
        is_away(engine, "a")
        executor.pause()
        second = executor.submit(remote.echo, "b")
        until(lambda: second.held_by == "pause")
        states = {one.future: one.state for one in executor.pending()}
        assert states == {first: "running", second: "held"}
        let(engine, "a")
        assert first.result(30) == "a"
        assert away(engine) == []
        executor.resume()
        is_away(engine, "b")
        let(engine, "b")
        assert second.result(30) == "b"
        del states
