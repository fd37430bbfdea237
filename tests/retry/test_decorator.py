"""`retrying`, which decorates, and what `retry` refuses."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import weakref
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, raise_

from retryexec import (
    CallStats,
    Cancelled,
    CancelToken,
    ConstantBackoff,
    Failure,
    LastCall,
    Retry,
    RetryPolicy,
    StopReason,
    Success,
    ZeroBackoff,
    _retrying,
    current_attempt,
    retry,
    retry_async,
    retrying,
)
from retryexec.testing import VirtualClock

TENS = RetryPolicy(max_attempts=4, backoff=ConstantBackoff(10))


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


def test_a_coroutine_is_no_result(clock: VirtualClock) -> None:
    """It has done nothing yet, and nobody would retry what it does when it is awaited."""

    async def save() -> str:
        return "saved"

    def hides(name: str) -> Any:
        assert name == "a"
        return save()

    with pytest.raises(TypeError, match="use retry_async, or decorate the coroutine function"):
        retry(lambda: hides("a"), policy=TENS, clock=clock)
    decorated = retrying(TENS, clock=clock)(hides)
    with pytest.raises(TypeError, match="returned <coroutine object") as caught:
        decorated("a")
    assert caught.value.__notes__ == ["retryexec: gave up after 1 attempt over 0.000 s: permanent"]


# ---- on other terms


def test_using_other_terms_it_is_the_same_function(clock: VirtualClock) -> None:
    calls: list[str] = []

    @retrying
    def save(name: str) -> str:
        """Save it."""
        calls.append(name)
        return name if len(calls) == 3 else raise_(Boom())

    tried = save.using(clock=clock, policy=TENS)
    assert (tried.__name__, tried.__doc__) == ("save", "Save it.")
    assert tried.__wrapped__ is save.__wrapped__
    assert tried("a") == "a"
    assert (calls, clock.now()) == (["a"] * 3, 20)
    assert save.stats().calls == 0
    with pytest.raises(Boom):
        tried.using(policy=RetryPolicy.never())("b")
    assert clock.now() == 20


def test_a_coroutine_function_on_other_terms_is_one_still(clock: VirtualClock) -> None:
    @retrying
    async def save() -> None:
        raise Boom

    tried = save.using(policy=TENS, clock=clock)
    assert inspect.iscoroutinefunction(tried)
    with pytest.raises(Boom):
        asyncio.run(tried())
    assert (clock.now(), tried.stats().attempts) == (30, 4)


def test_decorated_function_uses_the_default_clock_of_its_call(clock: VirtualClock) -> None:
    @retrying(TENS)
    def save() -> None:
        raise Boom

    @retrying(TENS)
    async def save_async() -> None:
        raise Boom

    with clock.as_default():
        with pytest.raises(Boom):
            save()
        with pytest.raises(Boom):
            asyncio.run(save_async())
    assert clock.now() == 60


def test_what_it_does_not_take_is_refused_with_what_to_write() -> None:
    for name, call in [("retrying", retrying), ("using", retrying(list).using)]:
        with pytest.raises(TypeError, match=rf"^{name} does not take 'max_attempts'.*=RetryPolicy"):
            call(max_attempts=3)
        with pytest.raises(TypeError, match="did you mean on_success="):
            call(on_sucess=print)


# ---- what became of the calls


def test_hooks_hear_of_retries_and_of_success(clock: VirtualClock) -> None:
    told: list[Any] = []

    @retrying(TENS, clock=clock, on_retry=told.append, on_success=told.append)
    def save(name: str) -> str:
        return name if current_attempt().number == 2 else raise_(Boom())

    assert save("a") == "a"
    assert [type(event) for event in told] == [Retry, Success]
    assert told[1] == Success(2, "a")
    assert (told[1].job, told[1].future) == (None, None)


def test_on_success_is_called_only_on_success(clock: VirtualClock) -> None:
    told: list[Success] = []
    policy = TENS.replace(retry_on_result=lambda value: value == "no")
    for fn in (lambda: raise_(Boom()), lambda: raise_(KeyboardInterrupt())):
        with pytest.raises((Boom, KeyboardInterrupt)):
            retry(fn, policy=policy, clock=clock, on_success=told.append)
    assert retry(lambda: "no", policy=policy, clock=clock, on_success=told.append) == "no"
    assert told == []
    assert retry(lambda: "yes", policy=policy, clock=clock, on_success=told.append) == "yes"

    async def save() -> str:
        return "saved"

    assert asyncio.run(retry_async(save, on_success=told.append)) == "saved"
    assert told == [Success(1, "yes"), Success(1, "saved")]


def test_what_on_success_raises_is_logged_and_costs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert retry(lambda: 5, on_success=lambda _: raise_(LookupError("in the hook"))) == 5
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)
    assert "on_success failed" in record.getMessage()
    with pytest.raises(TypeError, match="on_success takes a callable or None"):
        retry(list, on_success=5)  # type: ignore[arg-type]


def test_stats_tell_what_became_of_the_calls(clock: VirtualClock) -> None:
    @retrying(TENS, clock=clock)
    def save(succeeds_at: int) -> int:
        number = current_attempt().number
        return number if number == succeeds_at else raise_(Boom("locked"))

    assert save.stats() == CallStats(calls=0, attempts=0, failures=0, last=None)
    assert save(1) == 1
    assert save.stats() == CallStats(1, 1, 0, LastCall(1, 0.0, StopReason.SUCCEEDED, None))
    assert save(3) == 3
    last = save.stats().last
    assert last is not None
    assert (last.attempts, last.elapsed, last.stop_reason) == (3, 20.0, StopReason.SUCCEEDED)
    assert last.failure == Failure(2, 10.0, 0.0, Boom, "locked")
    with pytest.raises(Boom):
        save(9)
    stats = save.stats()
    assert (stats.calls, stats.attempts, stats.failures) == (3, 8, 1)
    assert stats.last is not None
    assert stats.last.stop_reason is StopReason.MAX_ATTEMPTS
    with pytest.raises(FrozenInstanceError):
        stats.calls = 0  # type: ignore[misc]


def test_call_is_counted_before_it_returns() -> None:
    @retrying(on_success=lambda _: seen.append(save.stats().calls))
    def save() -> None:
        seen.append(save.stats().calls)

    seen: list[int] = []
    save()
    assert (seen, save.stats().calls) == ([0, 0], 1)


def test_a_call_that_is_cancelled_or_interrupted_in_a_wait_counts_as_failed(
    clock: VirtualClock,
) -> None:
    token = CancelToken(timeout=5, clock=clock)

    @retrying(TENS, clock=clock, cancel=token)
    def save() -> None:
        raise Boom

    with pytest.raises(Cancelled):
        save()

    @retrying(TENS)
    async def save_async() -> None:
        waiting.cancel()
        raise Boom

    async def main() -> None:
        nonlocal waiting
        waiting = asyncio.create_task(save_async())
        await waiting

    waiting: asyncio.Task[None]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    for stats in (save.stats(), save_async.stats()):
        assert (stats.calls, stats.attempts, stats.failures) == (1, 1, 1)
        assert stats.last is not None
        assert stats.last.stop_reason is StopReason.CANCELLED
        assert stats.last.failure is not None


def test_stats_keep_nothing_of_a_call_alive(clock: VirtualClock) -> None:
    class Payload:
        pass

    @retrying(TENS, clock=clock)
    def save() -> None:
        payload = Payload()
        payloads.append(weakref.ref(payload))
        raise Boom

    payloads: list[weakref.ref[Payload]] = []
    gc.disable()
    try:
        with pytest.raises(Boom):
            save()
        assert [ref() for ref in payloads] == [None] * 4
    finally:
        gc.enable()


def test_calls_of_many_threads_all_count() -> None:
    together = threading.Barrier(8)
    policy = RetryPolicy(max_attempts=2, backoff=ZeroBackoff())

    @retrying(policy)
    def save(fails: bool) -> None:
        if fails:
            raise Boom

    def many() -> None:
        together.wait(10)
        for n in range(100):
            if n % 4:
                save(False)
            else:
                with pytest.raises(Boom):
                    save(True)

    threads = [InThread(many) for _ in range(8)]
    for thread in threads:
        thread.result()
    stats = save.stats()
    assert (stats.calls, stats.attempts, stats.failures) == (800, 1000, 200)


def test_of_two_calls_that_end_at_the_same_time_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one ends while the numbers of the first are being written."""
    save, make = retrying(list), _retrying.CallStats
    second_ends = threading.Event()

    def make_slowly(calls: int, *rest: Any) -> CallStats:
        if not others:
            others.append(InThread(lambda: (second_ends.set(), save())))
            second_ends.wait(10)
            others[0].join(0.1)  # in vain, since it has to wait for the lock
        return make(calls, *rest)

    others: list[InThread] = []
    monkeypatch.setattr(_retrying, "CallStats", make_slowly)
    save()
    others[0].result()
    assert save.stats().calls == 2
