"""Whether to try again: what the policy takes, and how it decides, seen from the outside."""

import asyncio
import concurrent.futures
import logging
import math
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from helpers.broken import Moody, raiser
from helpers.jobs import busy_for
from helpers.played import play
from hypothesis import given
from hypothesis import strategies as st

from retryexec import (
    ConstantBackoff,
    ExponentialBackoff,
    PermanentError,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    StopBackoff,
    StopReason,
    ZeroBackoff,
)
from retryexec.testing import VirtualClock

MINUTES = ConstantBackoff(60)


class Custom:
    """A user's own re-iterable of delays: calls *start* for each job."""

    def __init__(self, start: Any) -> None:
        self.start = start
        self.runs = 0

    def __iter__(self) -> Iterator[Any]:
        self.runs += 1
        # A policy may try it once when it is made.
        return self.start() if self.runs > 1 else iter(())


# ---- the value


def test_defaults() -> None:
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.max_elapsed) == (10, 900)
    assert policy.backoff == ExponentialBackoff(0.5, 1.5, 0.5, 60)
    assert policy.retry_on is Exception
    assert policy.retry_on_result is policy.attempt_timeout is None


def test_is_a_frozen_value() -> None:
    policy = RetryPolicy(max_attempts=3, backoff=[1, 2])
    assert {policy, RetryPolicy(max_attempts=3, backoff=(1, 2))} == {policy}
    assert policy != RetryPolicy(max_attempts=4, backoff=[1, 2])
    with pytest.raises(AttributeError):
        policy.max_attempts = 4  # type: ignore[misc]


def test_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


def test_keeps_a_list_of_delays_as_it_was() -> None:
    delays = [1, timedelta(minutes=1)]
    policy = RetryPolicy(backoff=delays)
    delays.clear()
    assert list(policy.backoff) == [1, 60]


@given(seconds=st.integers(0, 10**6))
def test_a_timedelta_is_its_seconds(seconds: int) -> None:
    span = timedelta(seconds=seconds)
    assert RetryPolicy(max_elapsed=span, attempt_timeout=span) == RetryPolicy(
        max_elapsed=seconds, attempt_timeout=seconds
    )


class OnlyAFloat:
    def __float__(self) -> float:
        return 0.25


@pytest.mark.parametrize("quarter", [Fraction(1, 4), Decimal("0.25"), OnlyAFloat()])
def test_seconds_are_any_real_number(quarter: Any) -> None:
    policy = RetryPolicy(max_elapsed=quarter, attempt_timeout=quarter, backoff=[quarter])
    assert policy == RetryPolicy(max_elapsed=0.25, attempt_timeout=0.25, backoff=[0.25])
    assert ConstantBackoff(quarter) == ConstantBackoff(0.25)


@pytest.mark.parametrize("number", [Decimal("NaN"), Decimal("sNaN"), Decimal("1e999"), Decimal(-1)])
def test_decimals_that_are_no_time_are_refused(number: Decimal) -> None:
    with pytest.raises(ValueError, match=r"max_elapsed takes seconds from 0 up, finite \(got Dec"):
        RetryPolicy(max_elapsed=number)


def test_replace_changes_what_is_named() -> None:
    policy = RetryPolicy(max_attempts=3, retry_on=OSError)
    changed = policy.replace(max_attempts=None, backoff=[1])
    assert changed == RetryPolicy(max_attempts=None, backoff=[1], retry_on=OSError)
    assert policy.max_attempts == 3
    with pytest.raises(TypeError, match=r"'attempts'.* max_attempts, max_elapsed"):
        policy.replace(attempts=3)
    with pytest.raises(ValueError, match="0"):
        policy.replace(max_attempts=0)


def test_never_tries_once() -> None:
    played = play(RetryPolicy.never(), OSError)
    assert (played.started, played.reason) == ([0], StopReason.MAX_ATTEMPTS)


class NotABackoff:
    def __repr__(self) -> str:
        return "<not a backoff>"


@pytest.mark.parametrize(
    ("name", "bad", "wrong"),
    [
        *[("max_attempts", n, ValueError) for n in (0, -1, 1.5, 3.0, math.inf, math.nan, True)],
        *[("max_attempts", n, TypeError) for n in ("3", [3], timedelta(3), 1j)],
        *[("max_elapsed", s, ValueError) for s in (-1, math.inf, math.nan, timedelta(-1), 10**400)],
        *[("max_elapsed", s, TypeError) for s in ("60", True, [60])],
        *[("attempt_timeout", s, ValueError) for s in (-0.1, math.inf, math.nan)],
        *[("attempt_timeout", s, TypeError) for s in ("1", False)],
        *[("retry_on", e, TypeError) for e in (None, 5, int, [OSError], OSError(), "OSError")],
        ("retry_on_result", 5, TypeError),
        *[("backoff", b, TypeError) for b in (None, 5, "0.1", b"1", NotABackoff())],
        # A class that was meant to be called.
        ("backoff", ExponentialBackoff, TypeError),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(
    name: str, bad: Any, wrong: type[Exception]
) -> None:
    with pytest.raises(wrong, match=re.escape(repr(bad))) as caught:
        RetryPolicy(**{name: bad})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"retry_on": (OSError, 5)}, "5"),
        ({"retry_on": (OSError, int)}, "int"),
        ({"backoff": [0.1, -1]}, "backoff[1] .*-1"),
        ({"backoff": (0.1, 1, math.nan)}, "backoff[2] .*nan"),
        ({"backoff": [[1]]}, "backoff[0] .*[1]"),
    ],
)
def test_the_bad_one_of_several_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=named.replace("[", r"\[")):
        RetryPolicy(**arguments)


@pytest.mark.parametrize("once", [iter([1]), (n for n in [1]), map(float, [1]), zip([1])])
def test_a_one_shot_iterator_is_refused_and_told_why(once: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(once)) + ".*first job"):
        RetryPolicy(backoff=once)


# ---- retry_on


class Flaky(OSError):
    pass


@pytest.mark.parametrize(
    ("retry_on", "attempts"),
    [
        (Exception, 3),
        (OSError, 3),
        ((ValueError, OSError), 3),
        (lambda error: isinstance(error, Flaky), 3),
        (lambda error: "yes", 3),
        (ValueError, 1),
        ((), 1),
        (lambda error: False, 1),
        (lambda error: None, 1),
    ],
)
def test_retry_on_says_which_errors_deserve_another_try(
    retry_on: Any, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    played = play(RetryPolicy(max_attempts=3, backoff=MINUTES, retry_on=retry_on), Flaky)
    assert played.started == [0, 60, 120][:attempts]
    assert played.reason == (StopReason.MAX_ATTEMPTS if attempts > 1 else StopReason.NOT_RETRIABLE)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("delay", "seconds"), [(5, 5), (0.25, 0.25), (timedelta(minutes=2), 120), (0, 0), (0.0, 0)]
)
def test_retry_on_may_name_the_delay(delay: Any, seconds: float) -> None:
    """The named one takes the place of the next in the sequence, which is not used up."""
    answers = iter([delay, True, True])
    played = play(
        RetryPolicy(max_attempts=4, backoff=[10, 20], retry_on=lambda _: next(answers)), Flaky
    )
    assert played.started == [0, seconds, seconds + 10, seconds + 30]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: math.inf,
        lambda _: math.nan,
        lambda _: -1,
        lambda _: timedelta(-1),
        lambda _: Moody(),
        raiser(ZeroDivisionError),
    ],
)
def test_a_broken_retry_on_ends_the_job_with_the_jobs_own_exception(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = Flaky()
    played = play(RetryPolicy(backoff=MINUTES, retry_on=answer), error)
    assert played.exception is error
    assert (played.reason, played.started) == (StopReason.NOT_RETRIABLE, [0])
    assert_logged(caplog, "retry_on")


def test_retry_on_that_raises_no_exception_but_control_flow_ends_the_job_too() -> None:
    error = Flaky()
    played = play(RetryPolicy(backoff=MINUTES, retry_on=raiser(SystemExit)), error)
    assert played.exception is error


def assert_logged(caplog: pytest.LogCaptureFixture, what: str) -> None:
    """The log has one line about *what*, with the traceback of what went wrong."""
    (record,) = [r for r in caplog.records if what in r.getMessage() and r.exc_info]
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)


@pytest.mark.parametrize(
    "flow",
    [
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
    ],
)
def test_control_flow_is_never_retried(flow: type[BaseException]) -> None:
    asked: list[BaseException] = []
    for retry_on in (BaseException, flow, lambda error: asked.append(error) or True):
        played = play(RetryPolicy(backoff=MINUTES, retry_on=retry_on), flow)
        assert (played.started, played.reason) == ([0], StopReason.NOT_RETRIABLE)
        assert type(played.exception) is flow
    assert asked == []


# ---- the order of the decision: each is asked only if the one before had no objection


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"retry_on": ValueError, "max_attempts": 1}, PermanentError(Flaky()), "permanent"),
        ({"retry_on": ValueError, "max_attempts": 1}, Flaky(), "not_retriable"),
        ({"max_attempts": 1, "backoff": []}, Flaky(), "max_attempts"),
        ({"max_attempts": 1, "backoff": []}, RetryAfter(1), "max_attempts"),
        ({"max_attempts": 1, "max_elapsed": 1, "backoff": MINUTES}, Flaky(), "max_attempts"),
        ({"max_elapsed": 0, "backoff": StopBackoff()}, Flaky(), "backoff_exhausted"),
        ({"max_elapsed": 59.999, "backoff": MINUTES}, Flaky(), "max_elapsed"),
        ({"max_elapsed": 59}, RetryAfter(60), "max_elapsed"),
    ],
)
def test_the_first_objection_is_the_reason(
    arguments: dict[str, Any], error: Exception, reason: str
) -> None:
    played = play(RetryPolicy(**arguments), error)
    assert (played.reason, played.started, played.ended) == (reason, [0], 0)


def test_no_delay_is_drawn_for_a_retry_that_will_not_be() -> None:
    backoff = Custom(lambda: iter([60]))
    policy = RetryPolicy(max_attempts=1, backoff=backoff)
    runs = backoff.runs
    play(policy, Flaky)
    assert backoff.runs == runs


# ---- limits


@given(attempts=st.integers(1, 30))
def test_max_attempts_counts_the_first_try(attempts: int) -> None:
    played = play(RetryPolicy(max_attempts=attempts, backoff=ZeroBackoff()), Flaky)
    assert len(played.started) == played.future.attempts == attempts


def test_without_limits_it_goes_on() -> None:
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(86400))
    played = play(policy, *[Flaky()] * 100, "at last")
    assert (played.future.result(), played.ended) == ("at last", 100 * 86400)


@given(tenths=st.integers(1, 20), retries=st.integers(0, 15))
def test_exactly_at_the_limit_still_counts(tenths: int, retries: int) -> None:
    """In decimals, too: three waits of 0.1 s are within 0.3 s."""
    limit = tenths * retries / 10
    backoff = [tenths / 10] * (retries + 1)
    played = play(RetryPolicy(max_attempts=None, max_elapsed=limit, backoff=backoff), Flaky)
    assert len(played.started) == retries + 1
    assert played.reason == StopReason.MAX_ELAPSED


def test_a_retry_past_the_limit_is_not_waited_for() -> None:
    played = play(RetryPolicy(max_elapsed=100, backoff=MINUTES), Flaky)
    assert (played.started, played.ended) == ([0, 60], 60)


def test_the_time_that_attempts_take_counts() -> None:
    clock = VirtualClock()

    def slow() -> Exception:
        busy_for(clock, 30)
        return Flaky()

    played = play(RetryPolicy(max_elapsed=100, backoff=[10, 15, 20]), slow, clock=clock)
    assert (played.started, played.ended) == ([0, 40, 85], 115)


def test_the_limit_runs_from_the_first_attempt_and_not_from_submit() -> None:
    clock = VirtualClock(patience=5)
    policy = RetryPolicy(max_elapsed=60, backoff=MINUTES, max_attempts=2)
    with RetryingExecutor(max_workers=1, policy=policy, clock=clock) as executor:
        executor.submit(busy_for, clock, 1000)
        late = executor.submit(raiser(Flaky))
    assert (late.attempts, late.stop_reason) == (2, StopReason.MAX_ATTEMPTS)
    assert isinstance(late.exception(), Flaky)
