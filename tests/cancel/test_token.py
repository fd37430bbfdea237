"""A word that is given once, and that everybody hears."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from helpers.jobs import InThread, raise_
from helpers.waits import TellingClock

from retryexec import CancelToken
from retryexec.testing import VirtualClock


@pytest.fixture
def clock() -> TellingClock:
    return TellingClock()


# ---- the word


def test_cancel_is_once_and_for_all() -> None:
    token = CancelToken()
    assert not token.cancelled
    assert repr(token) == "<CancelToken open>"
    for _ in range(2):
        token.cancel()
        assert token.cancelled
        assert repr(token) == "<CancelToken cancelled>"


def test_callbacks_run_once_in_the_thread_that_cancels() -> None:
    token = CancelToken()
    ran: list[threading.Thread] = []
    for _ in range(2):
        token.on_cancel(lambda: ran.append(threading.current_thread()))
    assert ran == []
    thread = InThread(token.cancel)
    thread.result()
    token.cancel()
    assert ran == [thread, thread]


def test_callback_registered_after_the_cancel_is_called_at_once() -> None:
    token = CancelToken()
    token.cancel()
    ran: list[str] = []
    unregister = token.on_cancel(lambda: ran.append("late"))
    assert ran == ["late"]
    unregister()


def test_unregistered_it_is_not_called(clock: VirtualClock) -> None:
    for token in (CancelToken(), CancelToken(timeout=1, clock=clock)):
        ran: list[str] = []
        unregister = token.on_cancel(lambda ran=ran: ran.append("a"))  # type: ignore[misc]
        token.on_cancel(lambda ran=ran: ran.append("b"))  # type: ignore[misc]
        unregister()
        unregister()
        token.cancel()
        unregister()
        assert ran == ["b"]


def test_what_a_callback_raises_is_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = CancelToken()
    ran: list[str] = []
    token.on_cancel(lambda: raise_(LookupError("broken")))
    token.on_cancel(lambda: ran.append("next"))
    token.cancel()
    assert ran == ["next"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)
    assert "LookupError: broken" in caplog.text


def test_callbacks_run_under_no_lock() -> None:
    """Another thread may ask the token for anything meanwhile."""
    token = CancelToken()
    answers: list[Any] = []

    def ask() -> None:
        asking = InThread(lambda: (token.wait(), token.on_cancel(list), repr(token)))
        answers.append(asking.result()[0])

    token.on_cancel(ask)
    token.cancel()
    assert answers == [True]


@pytest.mark.parametrize("bad", [None, 5, "callback"])
def test_a_callback_must_be_callable(bad: Any) -> None:
    with pytest.raises(TypeError, match="callback takes a callable"):
        CancelToken().on_cancel(bad)


@pytest.mark.parametrize(
    "wrong", [{"parent": "token"}, {"timeout": -1}, {"timeout": "1"}, {"timeout": float("inf")}]
)
def test_arguments_that_cannot_be_right_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises((TypeError, ValueError), match=f"{name} takes"):
        CancelToken(**wrong)


# ---- waiting


def test_wait_ends_with_the_cancel(clock: TellingClock) -> None:
    token = CancelToken(clock=clock)
    waiting = [InThread(token.wait), InThread(token.wait, 100)]
    clock.until_waiting(2)
    token.cancel()
    assert [thread.result() for thread in waiting] == [True, True]
    assert token.wait(0)


def test_wait_ends_with_its_timeout(clock: VirtualClock) -> None:
    token = CancelToken(clock=clock)
    assert not token.wait(timedelta(seconds=7))
    assert clock.now() == 7
    assert not token.wait(0)
    with pytest.raises(ValueError, match="timeout takes"):
        token.wait(-1)


def test_wait_ends_with_the_tokens_deadline(clock: VirtualClock) -> None:
    assert CancelToken(timeout=5, clock=clock).wait(100)
    assert clock.now() == 5


def test_wait_leaves_nothing_at_the_token(clock: VirtualClock) -> None:
    token = CancelToken(clock=clock)
    token.wait(1)
    assert not token._callbacks


# ---- time


def test_cancels_itself_when_its_time_is_up(clock: VirtualClock) -> None:
    token = CancelToken(timeout=5, clock=clock)
    assert (token.remaining(), repr(token)) == (5, "<CancelToken 5 s left>")
    clock.advance(3)
    assert (token.cancelled, token.remaining()) == (False, 2)
    clock.advance(2)
    assert (token.cancelled, token.remaining()) == (True, 0)
    assert CancelToken(timeout=0, clock=clock).cancelled


def test_remaining_is_none_without_a_limit_and_zero_once_cancelled(clock: VirtualClock) -> None:
    free, limited = CancelToken(), CancelToken(timeout=timedelta(minutes=1), clock=clock)
    assert (free.remaining(), limited.remaining()) == (None, 60)
    for token in (free, limited):
        token.cancel()
        assert token.remaining() == 0


def test_callbacks_run_exactly_when_the_time_is_up(clock: VirtualClock) -> None:
    called: list[float] = []
    for timeout in (30, 10, 20):
        token = CancelToken(timeout=timeout, clock=clock)
        token.on_cancel(lambda: called.append(clock.now()))
    clock.advance(9.5)
    assert called == []
    clock.advance(100)
    assert called == [10, 20, 30]


def test_token_without_callbacks_is_not_scheduled(clock: VirtualClock) -> None:
    token = CancelToken(timeout=5, clock=clock)
    unregister = [token.on_cancel(list) for _ in range(2)]
    token.on_cancel(list)()
    for each in unregister:
        each()
    with pytest.raises(RuntimeError, match="nothing is due"):
        clock.run_until(lambda: False)
    token.on_cancel(list)
    clock.run_until(lambda: token.cancelled)
    assert clock.now() == 5


def test_many_callbacks_share_one_scheduled_deadline(clock: VirtualClock) -> None:
    """Else a token that serves a million jobs, never without one, would grow with each."""
    token = CancelToken(timeout=5, clock=clock)
    token.on_cancel(list)
    for _ in range(100):
        token.on_cancel(list)()
    assert (len(token._registrations), len(clock._calls)) == (1, 1)


# ---- parents and children


def test_a_parent_cancels_its_children_and_not_the_other_way() -> None:
    parent = CancelToken()
    child = CancelToken(parent=parent)
    grandchild, other = CancelToken(parent=child), CancelToken(parent=parent)
    called: list[str] = []
    for name, token in [("parent", parent), ("grandchild", grandchild), ("other", other)]:
        token.on_cancel(lambda name=name: called.append(name))  # type: ignore[misc]
    child.cancel()
    assert called == ["grandchild"]
    assert [t.cancelled for t in (parent, child, grandchild, other)] == [False, True, True, False]
    parent.cancel()
    assert sorted(called) == ["grandchild", "other", "parent"]
    assert other.cancelled


def test_a_child_has_no_more_time_than_its_parent(clock: VirtualClock) -> None:
    parent = CancelToken(timeout=10, clock=clock)
    longer, shorter = CancelToken(timeout=20, parent=parent), CancelToken(timeout=5, parent=parent)
    plain = CancelToken(parent=parent)
    assert [t.remaining() for t in (longer, shorter, plain)] == [10, 5, 10]
    called: list[float] = []
    plain.on_cancel(lambda: called.append(clock.now()))
    clock.advance(5)
    assert [t.cancelled for t in (longer, shorter, plain)] == [False, True, False]
    clock.advance(5)
    assert [t.cancelled for t in (longer, shorter, plain)] == [True, True, True]
    assert called == [10]


def test_parent_does_not_keep_an_unused_child_alive() -> None:
    parent = CancelToken()
    child = CancelToken(parent=parent)
    unregister = child.on_cancel(list)
    assert parent._callbacks
    unregister()
    assert not parent._callbacks
    child.on_cancel(list)
    child.cancel()
    assert not parent._callbacks


class Hurries:
    """A clock that moves on by one whenever somebody looks."""

    looks = 0

    def now(self) -> float:
        self.looks += 1
        return float(self.looks)

    def wait(self, changed: threading.Condition, until: float) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("timeout", range(1, 6))
def test_parent_cancelled_during_registration_cancels_the_child(timeout: int) -> None:
    """Wherever in `on_cancel` its time runs out."""
    parent = CancelToken(timeout=timeout, clock=Hurries())
    called: list[str] = []
    child = CancelToken(parent=parent, clock=VirtualClock())
    child.on_change(lambda: called.append("child"))
    if not called:
        parent.cancel()
    assert called == ["child"]


# ---- asyncio


def test_wakes_a_coroutine(clock: VirtualClock) -> None:
    async def main(cancel: Callable[[CancelToken], object]) -> bool:
        token, woken = CancelToken(), asyncio.Event()
        loop = asyncio.get_running_loop()
        with_loop = token.on_cancel(lambda: loop.call_soon_threadsafe(woken.set))
        cancel(token)
        await asyncio.wait_for(woken.wait(), 10)
        with_loop()
        return token.cancelled

    assert asyncio.run(main(CancelToken.cancel))
    assert asyncio.run(main(lambda token: InThread(token.cancel).result()))
