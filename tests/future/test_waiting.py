"""Waiting for a RetryFuture: result(), wait(), as_completed() and await."""

import asyncio
import threading
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from decimal import Decimal
from fractions import Fraction
from threading import Event
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, cancelled, failed, succeeded
from helpers.waits import tell_of_gates

from retryexec import RetryFuture


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set when a thread is about to wait for its lock, which whoever ends the future releases."""
    return tell_of_gates(monkeypatch)


@pytest.mark.parametrize("ask", [RetryFuture.result, RetryFuture.exception])
def test_waiting_ends_with_the_timeout(ask: Any) -> None:
    future: RetryFuture[None] = RetryFuture()
    for timeout in (0, -1, 0.001, Fraction(1, 999), Decimal("0.001")):
        with pytest.raises(TimeoutError, match=str(timeout)):
            ask(future, timeout)
    assert not future.done()


@pytest.mark.parametrize("ask", [RetryFuture.result, RetryFuture.exception])
def test_a_timeout_is_a_number(ask: Any) -> None:
    with pytest.raises(TypeError, match="must be real number, not str"):
        ask(RetryFuture[None](), "1")


def test_result_wakes_all_who_wait(asleep: Event) -> None:
    future: RetryFuture[str] = RetryFuture()
    waiting = []
    for _ in range(3):
        asleep.clear()
        waiting.append(InThread(future.result))
        assert asleep.wait(5)
    future.set_result("saved")
    assert [thread.result() for thread in waiting] == ["saved"] * 3


def test_exception_wakes_who_waits(asleep: Event) -> None:
    future: RetryFuture[str] = RetryFuture()
    waiting = InThread(future.exception)
    assert asleep.wait(5)
    error = Boom()
    future.set_exception(error)
    assert waiting.result() is error


def test_cancel_wakes_who_waits(asleep: Event) -> None:
    future: RetryFuture[str] = RetryFuture()
    waiting = InThread(future.result)
    assert asleep.wait(5)
    future.cancel()
    with pytest.raises(CancelledError):
        waiting.result()


@pytest.mark.parametrize(
    ("return_when", "end"),
    [
        (ALL_COMPLETED, "set_result"),
        (FIRST_COMPLETED, "set_result"),
        (FIRST_COMPLETED, "set_exception"),
        (FIRST_EXCEPTION, "set_exception"),
        (ALL_COMPLETED, "cancel"),
        (FIRST_COMPLETED, "cancel"),
    ],
)
def test_wait_is_woken(return_when: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The future ends when wait() has looked at it and is about to sleep."""
    future: RetryFuture[None] = RetryFuture()
    sleep = Event.wait

    def end_and_sleep(self: Event, timeout: float | None = None) -> bool:
        if end == "cancel":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif end == "set_exception":
            future.set_exception(Boom())
        else:
            future.set_result(None)
        return sleep(self, timeout)

    monkeypatch.setattr(Event, "wait", end_and_sleep)
    others = [] if return_when == ALL_COMPLETED else [RetryFuture[None]()]
    done, not_done = wait([future, *others], timeout=5, return_when=return_when)
    assert done == {future}
    assert not_done == set(others)


def test_first_exception_lets_successes_pass() -> None:
    pending: RetryFuture[None] = RetryFuture()
    ended = {succeeded(), cancelled()}
    done, not_done = wait({pending, *ended}, timeout=0, return_when=FIRST_EXCEPTION)
    assert (done, not_done) == (ended, {pending})


def test_wait_mixes_with_futures_of_the_standard_library() -> None:
    theirs: Future[str] = Future()
    theirs.set_result("theirs")
    ours = succeeded()
    assert wait([theirs, ours], timeout=0).done == {theirs, ours}


def test_as_completed_follows_the_order_of_ends() -> None:
    """The first is done before as_completed looks; the others end while it waits."""
    futures: list[RetryFuture[Any]] = [RetryFuture() for _ in range(4)]
    futures[2].set_result(None)
    ends = as_completed(futures, timeout=5)
    assert next(ends) is futures[2]
    futures[1].set_exception(Boom())
    assert next(ends) is futures[1]
    futures[3].cancel()
    futures[3].set_running_or_notify_cancel()
    assert next(ends) is futures[3]
    futures[0].set_result(None)
    assert list(ends) == [futures[0]]


def test_await() -> None:
    async def main() -> list[Any]:
        future: RetryFuture[str] = RetryFuture()
        late = threading.Thread(target=future.set_result, args=("saved",))
        asyncio.get_running_loop().call_soon(late.start)
        first = await future
        late.join()
        return [first, await future, await asyncio.wrap_future(succeeded("wrapped"))]

    assert asyncio.run(main()) == ["saved", "saved", "wrapped"]


def test_await_raises_the_exception_itself() -> None:
    future = failed()

    async def main() -> None:
        await future

    with pytest.raises(Boom) as caught:
        asyncio.run(main())
    assert caught.value is future.exception()


def test_cancelling_who_awaits_cancels_the_future() -> None:
    future: RetryFuture[None] = RetryFuture()

    async def main() -> None:
        async def follow() -> None:
            await future

        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert future.cancelled()


def test_await_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        succeeded().__await__()
