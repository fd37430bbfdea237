"""Tokens whose time runs by the system's clock: a thread minds their deadlines."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

from retryexec import CancelToken


def minders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "retryexec-deadlines"]


def test_the_systems_clock_has_a_thread_for_it_while_there_is_any() -> None:
    rang = [threading.Event(), threading.Event()]
    late, soon = CancelToken(timeout=0.02), CancelToken(timeout=0.01)
    never = CancelToken(timeout=3600)
    late.on_cancel(rang[0].set)
    (minder,) = minders()
    soon.on_cancel(rang[1].set)  # an earlier one, of which the thread hears
    unregister = never.on_cancel(lambda: pytest.fail("too early"))
    assert all(event.wait(10) for event in rang)
    assert minders() == [minder]
    unregister()
    minder.join(10)
    assert not minder.is_alive()


def test_a_deadline_taken_back_is_not_kept() -> None:
    """Tokens of an hour, each for a moment, beside one that stays."""
    stays = CancelToken(timeout=3600)
    unregister = stays.on_cancel(list)
    tokens = [CancelToken(timeout=1800) for _ in range(10)]
    for token in tokens:
        token.on_cancel(list)()
    gone = [weakref.ref(token) for token in tokens]
    del tokens, token
    gc.collect()
    assert sum(ref() is not None for ref in gone) <= 2
    unregister()


def test_a_clock_is_not_kept_alive_by_its_deadlines() -> None:
    class Clock:
        """As a user may write one: without a hash."""

        __slots__ = ("__weakref__",)
        __hash__ = None  # type: ignore[assignment]

        def now(self) -> float:
            return 0.0

        def wait(self, changed: threading.Condition, until: float) -> None:
            changed.wait(until)

    clock = Clock()
    token = CancelToken(timeout=1, clock=clock)
    unregister = token.on_cancel(list)
    (minder,) = minders()
    unregister()
    minder.join(10)
    gone = weakref.ref(clock)
    del clock, token, unregister, minder
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_deadlines_are_minded_in_a_forked_child_too() -> None:
    unregister = CancelToken(timeout=3600).on_cancel(list)
    child = os.fork()
    if child == 0:  # pragma: no cover  (nobody sees what a child that was forked runs)
        rang = threading.Event()
        CancelToken(timeout=0.01).on_cancel(rang.set)
        os._exit(0 if rang.wait(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
    unregister()
