"""The system's clock; nothing here depends on how fast it goes."""

import math
import threading
import time

import pytest

from retryexec._clock import SystemClock


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
def test_word_ends_the_wait_however_long(until: float) -> None:
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


def test_says_what_it_is() -> None:
    assert repr(SystemClock()) == "SystemClock()"
