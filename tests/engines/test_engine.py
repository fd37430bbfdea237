"""Which engines there are, and what they take."""

import concurrent.futures
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers import remote

from retryexec import RetryingExecutor
from retryexec.engines import Engine, processes
from retryexec.engines._engine import as_engine, default_size


def test_an_executor_stays_whose_it_is() -> None:
    with ThreadPoolExecutor(1) as own:
        engine = as_engine(own)
    assert (engine.executor, engine.make) == (own, None)


@pytest.mark.parametrize("make", [ThreadPoolExecutor, lambda: ThreadPoolExecutor(1)])
def test_a_callable_makes_one(make: Any) -> None:
    assert as_engine(make).make is make


def test_an_engine_is_a_frozen_value() -> None:
    engine = processes(2)
    assert as_engine(engine) is engine
    with pytest.raises(AttributeError):
        engine.max_crashes = 5  # type: ignore[misc]


def test_one_engine_serves_several_executors() -> None:
    engine = processes(1)
    with RetryingExecutor(attempts_on=engine) as one, RetryingExecutor(attempts_on=engine) as other:
        pids = {executor.submit(remote.pid).result(30) for executor in (one, other)}
    assert len(pids) == 2


@pytest.mark.parametrize("value", [None, 7, "processes", [processes]])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="attempts_on takes an Executor, a callable that makes one"):
        as_engine(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_workers": 0}, r"max_workers takes a whole number from 1 up \(got 0\)"),
        ({"max_workers": 1.5}, r"max_workers takes a whole number from 1 up \(got 1.5\)"),
        ({"max_crashes": 0}, r"max_crashes takes a whole number from 1 up \(got 0\)"),
        ({"max_tasks_per_child": 0}, r"max_tasks_per_child takes a whole number from 1 up"),
        ({"initializer": 7}, r"initializer takes a callable"),
        ({"mp_context": "thread"}, r"cannot find context for 'thread'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        processes(**arguments)


def test_size_of_an_executor() -> None:
    with ThreadPoolExecutor(3) as sized:
        assert default_size(sized) == 3
    assert default_size(concurrent.futures.Executor()) >= 1


def test_most_attempts_of_a_factory() -> None:
    engine = Engine(make=ProcessPoolExecutor, max_workers=3)
    with RetryingExecutor(2, attempts_on=engine) as executor:
        runner: Any = executor._pool.runner
        assert runner.size() == 2
