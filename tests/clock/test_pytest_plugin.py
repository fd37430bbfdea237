"""What the plugin gives to a user's tests."""

from __future__ import annotations

import pytest

TESTS = """
import time

import pytest
from retryexec import ConstantBackoff, RetryPolicy, RetryingExecutor, retry, retrying
from retryexec.testing import InstantClock, VirtualClock

POLICY = RetryPolicy(max_attempts=3, backoff=ConstantBackoff(60))
clocks = []


def test_virtual_clock(virtual_clock):
    started = []

    def job():
        started.append(virtual_clock.now())
        raise OSError

    with RetryingExecutor(policy=POLICY, clock=virtual_clock) as executor:
        future = executor.submit(job)
        virtual_clock.advance(60)
        assert started == [0, 60]
        virtual_clock.run_until(future.done)
        assert isinstance(future.exception(), OSError)
    assert started == [0, 60, 120]
    clocks.append(virtual_clock)


def test_each_test_has_its_own(virtual_clock):
    assert isinstance(virtual_clock, VirtualClock)
    assert virtual_clock.now() == 0
    assert virtual_clock is not clocks[0]


def test_retry_immediately(retry_immediately):
    assert isinstance(retry_immediately, InstantClock)
    calls, began = [], time.monotonic()

    def job():
        calls.append(1)
        raise OSError

    with pytest.raises(OSError):
        retry(job, policy=POLICY, clock=retry_immediately)
    assert len(calls) == 3
    assert time.monotonic() - began < 60
    clocks.append(retry_immediately)


@retrying(POLICY)
def save():
    raise OSError


def test_as_the_default(virtual_clock):
    with virtual_clock.as_default():
        with pytest.raises(OSError):
            save()
    assert virtual_clock.now() == 120


def test_with_its_own_time(retry_immediately):
    assert retry_immediately is not clocks[1]
"""


def test_the_fixtures_are_there_without_an_import(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    # In a process of its own, where the plugin comes by its entry point alone.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(passed=5)


def test_the_fixtures_tell_what_they_are_for(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines_random(
        [
            "virtual_clock -- *_pytest.py:*",
            "*A clock at 0.0 that stands still until the test moves it*",
            "retry_immediately -- *_pytest.py:*",
            "*A clock on which no wait takes any time*",
        ]
    )
