"""The system's clock, and users' own; nothing here depends on how fast they go."""

import asyncio
import math
import threading
import time
from collections.abc import Callable

import pytest

from retryexec import Clock
from retryexec._async import AsyncEvent
from retryexec._clock import SYSTEM_CLOCK, EngineClock, SystemClock, engine_clock
from retryexec.testing import InstantClock, VirtualClock


def test_is_the_monotonic_clock() -> None:
    clock = SystemClock()
    before, now, after = time.monotonic(), clock.now(), time.monotonic()
    assert before <= now <= after


@pytest.mark.parametrize("until", [-math.inf, 0.0])
def test_a_time_that_has_passed_is_not_waited_for(until: float) -> None:
    with (changed := threading.Condition()):
        SystemClock().wait(changed, until)


def test_a_time_soon_to_come_ends_the_wait() -> None:
    """Sooner or later: a wait may come back early."""
    clock = SystemClock()
    until = clock.now() + 1e-3
    with (changed := threading.Condition()):
        while clock.now() < until:
            clock.wait(changed, until)


@pytest.mark.parametrize("until", [math.inf, 1e300, 1e10])
def test_notification_ends_the_wait_however_long(until: float) -> None:
    """A time past what the platform can wait for is no error either."""
    changed, told, begun = threading.Condition(), threading.Event(), threading.Event()

    def wait() -> None:
        with changed:
            begun.set()
            SystemClock().wait(changed, until)
            told.set()

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    with changed:  # ours only once the thread waits
        assert not told.is_set()
        changed.notify()
    thread.join()
    assert told.is_set()


def test_repr_says_what_it_is() -> None:
    assert repr(SystemClock()) == "SystemClock()"


# ---- what the library asks beyond that


class OfAUser:
    """A clock with two methods, without a hash, and without anything else."""

    __slots__ = ("__weakref__", "time")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.time = 5.0

    def now(self) -> float:
        return self.time

    def wait(self, changed: threading.Condition, until: float) -> None:
        if self.time >= until:
            raise AssertionError
        self.time = until
        changed.wait(0.001)


@pytest.mark.parametrize("clock", [SystemClock(), VirtualClock(), InstantClock()])
def test_clocks_of_ours_are_taken_as_they_are(clock: EngineClock) -> None:
    assert engine_clock(clock) is clock


def test_no_clock_is_the_systems() -> None:
    assert engine_clock(None) is SYSTEM_CLOCK


def test_a_users_clock_is_adapted_once() -> None:
    clock = OfAUser()
    adapted = engine_clock(clock)
    assert (adapted.now(), repr(adapted)) == (5.0, repr(clock))
    assert engine_clock(clock) is adapted
    assert engine_clock(OfAUser()) is not adapted
    with (changed := threading.Condition()):
        adapted.wait(changed, 7)
    assert clock.time == 7

    async def wait() -> None:
        await adapted.wait_async(AsyncEvent(), 7.001)

    asyncio.run(wait())


def test_clock_whose_time_passes_ignores_idle_reports() -> None:
    clock = SystemClock()

    assert clock.attach(None) is None  # type: ignore[arg-type]
    clock.thread_busy()
    clock.thread_idle()


@pytest.mark.parametrize("make", [SystemClock, OfAUser, InstantClock])
def test_callbacks_at_their_times_share_a_thread_while_there_are_any(
    make: Callable[[], Clock],
) -> None:
    clock = engine_clock(make())
    now, threads, done = clock.now(), list[threading.Thread](), threading.Event()
    never = clock.call_at(now + 3600 if make is SystemClock else math.inf, lambda: 1 / 0)
    for delay in (0.002, 0.001):
        clock.call_at(now + delay, lambda: threads.append(threading.current_thread()))
    taken_back = clock.call_at(now + 0.003, lambda: 1 / 0)
    taken_back()
    taken_back()
    clock.call_at(now + 0.004, done.set)
    assert done.wait(10)
    assert threads[0] is threads[1]
    never()
    threads[0].join(10)
    assert not threads[0].is_alive()
    again = threading.Event()
    clock.call_at(now, again.set)
    assert again.wait(10)


def test_a_callback_that_raises_is_logged_and_the_next_is_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, called = SystemClock(), threading.Event()
    never = clock.call_at(clock.now() + 3600, list)
    clock.call_at(-2, lambda: 1 / 0)
    clock.call_at(-1, called.set)
    assert called.wait(10)
    never()
    assert "ZeroDivisionError" in caplog.text


def test_deadline_thread_that_cannot_start_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the interpreter ends. Whoever asks the token hears of its time all the same."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        SystemClock().call_at(0, lambda: 1 / 0)()
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot start a thread for deadlines")
