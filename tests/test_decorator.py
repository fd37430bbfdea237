"""`retrying`, which decorates, and what `retry` refuses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.jobs import Boom, raise_

from retryexec import ConstantBackoff, RetryPolicy, retry, retry_async, retrying
from retryexec.testing import VirtualClock

TENS = RetryPolicy(max_attempts=4, backoff=ConstantBackoff(10))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.mark.parametrize("bad", [None, 5, "fn"])
def test_only_a_callable_can_be_retried(bad: Any) -> None:
    with pytest.raises(TypeError, match="fn takes a callable"):
        retry(bad)
    with pytest.raises(TypeError, match="fn takes a callable"):
        asyncio.run(retry_async(bad))


def test_other_arguments_that_cannot_be_right_are_refused() -> None:
    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="use retry_async"):
        retry(coroutine)
    with pytest.raises(TypeError, match="policy takes a RetryPolicy"):
        retry(list, policy=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_retry takes a callable or None"):
        retry(list, on_retry="log")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="policy takes a RetryPolicy"):
        retrying(5)  # type: ignore[call-overload]


def test_decorates_functions_and_methods(clock: VirtualClock) -> None:
    class Saver:
        calls = 0

        @retrying(TENS, clock=clock)
        def save(self, name: str, *, suffix: str) -> str:
            """Save it."""
            self.calls += 1
            return name + suffix if self.calls == 3 else raise_(Boom())

    assert Saver().save("a", suffix="b") == "ab"
    assert clock.now() == 20
    assert (Saver.save.__name__, Saver.save.__doc__) == ("save", "Save it.")
    assert retrying(len)("seven") == 5
    assert retrying()(len)("seven") == 5


def test_decorates_coroutine_functions(clock: VirtualClock) -> None:
    calls: list[str] = []

    @retrying(TENS, clock=clock)
    async def save(name: str) -> str:
        calls.append(name)
        return name if len(calls) == 3 else raise_(Boom())

    assert inspect.iscoroutinefunction(save)
    assert asyncio.run(save("a")) == "a"
    assert (calls, clock.now()) == (["a"] * 3, 20)


def test_generator_functions_are_refused() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def asynchronous() -> Any:
        yield 1

    for decorate in (retrying, retrying(TENS)):
        for fn in (generator, asynchronous):
            with pytest.raises(TypeError, match=f"{fn.__name__} is a generator function"):
                decorate(fn)
