"""What an attempt's end leads to: unwanted values, broken backoffs, odd exceptions, history."""

import logging
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from helpers.broken import Moody, raiser
from helpers.jobs import busy_for
from helpers.played import play
from hypothesis import given, settings
from hypothesis import strategies as st

from retryexec import (
    Backoff,
    ConstantBackoff,
    PermanentError,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    ZeroBackoff,
)
from retryexec.testing import VirtualClock

MINUTES = ConstantBackoff(60)
NOW = RetryPolicy(max_attempts=3, backoff=ZeroBackoff())


class Flaky(OSError):
    pass


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors in the log that have a traceback."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]


# ---- retry_on_result


def is_none(value: Any) -> bool:
    return value is None


def test_an_unwanted_value_is_tried_again() -> None:
    played = play(RetryPolicy(backoff=MINUTES, retry_on_result=is_none), None, None, "here")
    assert (played.future.result(), played.started) == ("here", [0, 60, 120])
    assert played.reason == StopReason.SUCCEEDED


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (RetryPolicy(max_attempts=2, backoff=MINUTES), "max_attempts"),
        (RetryPolicy(backoff=[60]), "backoff_exhausted"),
        (RetryPolicy(max_elapsed=60, backoff=MINUTES), "max_elapsed"),
    ],
)
def test_in_the_end_the_unwanted_value_is_the_result(policy: RetryPolicy, reason: str) -> None:
    values: list[list[int]] = []

    def empty() -> list[int]:
        values.append([])
        return values[-1]

    played = play(policy.replace(retry_on_result=lambda value: not value), empty)
    assert played.future.result() is values[-1]
    assert (played.exception, played.reason, len(values)) == (None, reason, 2)


def test_errors_and_unwanted_values_may_take_turns() -> None:
    """What counts is how the last attempt ended."""
    policy = RetryPolicy(max_attempts=3, backoff=MINUTES, retry_on_result=is_none)
    assert play(policy, Flaky, Flaky, None).future.result() is None
    assert type(play(policy, None, None, Flaky).exception) is Flaky


def test_retry_on_result_is_asked_of_values_only() -> None:
    asked: list[Any] = []
    policy = NOW.replace(retry_on_result=asked.append)
    play(policy, Flaky, "value")
    play(policy, PermanentError(Flaky()))
    assert asked == ["value"]


@pytest.mark.parametrize("predicate", [raiser(ZeroDivisionError), lambda _: Moody()])
def test_a_broken_retry_on_result_leaves_the_job_its_value(
    predicate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    played = play(NOW.replace(retry_on_result=predicate), "value")
    assert (played.future.result(), played.reason) == ("value", StopReason.SUCCEEDED)
    (line,) = logged(caplog)
    assert "retry_on_result" in line


# ---- the delays


class Custom:
    """A user's own re-iterable of delays: calls *start* for each job."""

    def __init__(self, start: Any) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        return iter(self.start())


def one_then(bad: Any) -> Any:
    def delays() -> Iterator[Any]:
        yield 60
        if isinstance(bad, type):
            raise bad
        yield bad

    return delays


@pytest.mark.parametrize(
    ("start", "attempts"),
    [
        (raiser(ZeroDivisionError), 1),
        (lambda: 5, 1),
        (one_then(ZeroDivisionError), 2),
        *[(one_then(bad), 2) for bad in (-1, math.nan, math.inf, timedelta(-1), "1", None)],
    ],
)
def test_a_broken_backoff_ends_the_job_with_the_jobs_own_exception(
    start: Any, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    error, backoff = Flaky(), Custom(list)
    policy = RetryPolicy(backoff=backoff)
    backoff.start = start  # only now: a policy may look whether it can be iterated
    played = play(policy, error)
    assert played.exception is error
    assert (played.reason, len(played.started)) == (StopReason.BACKOFF_EXHAUSTED, attempts)
    (line,) = logged(caplog)
    assert "backoff" in line


@pytest.mark.parametrize(
    ("backoff", "started"),
    [
        ([], [0]),
        ([1, 10], [0, 1, 11]),
        ([timedelta(seconds=1), 0.5], [0, 1, 1.5]),
        (range(1, 3), [0, 1, 3]),
        (Custom(lambda: [timedelta(minutes=1), 5]), [0, 60, 65]),
        (ConstantBackoff(2).take(2), [0, 2, 4]),
        (ConstantBackoff(2).take(1).then([timedelta(minutes=1)]), [0, 2, 62]),
    ],
)
def test_the_end_of_the_sequence_is_the_end_of_the_job(backoff: Any, started: list[float]) -> None:
    played = play(RetryPolicy(backoff=backoff), Flaky)
    assert (played.started, played.reason) == (started, StopReason.BACKOFF_EXHAUSTED)


@settings(deadline=None)
@given(delays=st.lists(st.integers(0, 100), max_size=8))
def test_attempts_start_when_the_delays_add_up(delays: list[int]) -> None:
    played = play(RetryPolicy(max_elapsed=None, backoff=delays), Flaky)
    assert played.started == [sum(delays[:n]) for n in range(len(delays) + 1)]


def test_every_job_has_its_own_run_through_the_sequence() -> None:
    clock = VirtualClock()
    policy = RetryPolicy(backoff=[1, 2, 4])
    with RetryingExecutor(max_workers=1, policy=policy, clock=clock) as executor:
        early = executor.submit(raiser(Flaky))
        clock.advance(1)
        late = executor.submit(raiser(Flaky))
        clock.advance(0)
        assert (early.next_attempt_at, late.next_attempt_at) == (3, 2)
        clock.advance(1)
        assert (early.next_attempt_at, late.next_attempt_at) == (3, 4)
    assert isinstance(early.exception(), Flaky)
    assert isinstance(late.exception(), Flaky)


def test_a_named_delay_is_beyond_the_sequence() -> None:
    """It replaces one wait, and the sequence goes on from where it was."""
    played = play(RetryPolicy(backoff=[1, 2]), Flaky, RetryAfter(50), Flaky)
    assert played.started == [0, 1, 51, 53]


# ---- odd exceptions


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False


class Empty(Exception):
    def __len__(self) -> int:
        return 0


class Hostile(Exception):
    """Answers nothing about itself."""

    def __str__(self) -> str:
        raise OverflowError

    __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __str__  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Falsy, Empty, Hostile])
def test_odd_exceptions_are_exceptions(kind: type[Exception]) -> None:
    """Falsy, empty or hostile: retried as any other, and what the future holds in the end."""
    errors = [kind(), kind(), kind()]
    played = play(NOW, *errors)
    assert played.exception is errors[2]
    assert (len(played.started), played.reason) == (3, StopReason.MAX_ATTEMPTS)
    assert [failure.exception_type for failure in played.future.history] == [kind] * 3


@pytest.mark.parametrize("kind", [Falsy, Empty, Hostile])
def test_odd_exceptions_may_be_causes(kind: type[Exception]) -> None:
    def chained() -> None:
        raise Flaky from kind()

    played = play(NOW, chained, chained, RetryAfter(1, kind()))
    assert (len(played.started), played.reason) == (3, StopReason.MAX_ATTEMPTS)
    assert type(played.exception) is kind


@pytest.mark.parametrize("kind", [Falsy, Empty, Hostile])
def test_odd_exceptions_are_logged_if_nobody_reads_them(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """With their traceback, as any other."""
    error = kind()
    play(NOW, error)
    (record,) = (r for r in caplog.records if r.levelname == "ERROR")
    assert record.exc_info and record.exc_info[1] is error  # noqa: PT018
    caplog.clear()


def test_the_same_exception_may_be_raised_again_and_again() -> None:
    error = Flaky()
    played = play(NOW, error)
    assert played.exception is error
    assert len(played.started) == 3


# ---- history


def test_history_tells_of_the_last_failures() -> None:
    clock = VirtualClock()

    def slow() -> Exception:
        busy_for(clock, 2)
        return Flaky("too slow")

    policy = RetryPolicy(backoff=MINUTES, retry_on_result=is_none)
    played = play(policy, Flaky("no"), slow, None, "here", clock=clock)
    assert played.future.history == (
        (1, 0, 0, Flaky, "no"),
        (2, 60, 2, Flaky, "too slow"),
        (3, 122, 0, None, "refused result"),
    )


def test_history_is_bounded() -> None:
    played = play(NOW.replace(max_attempts=100), Flaky("x" * 10_000))
    history = played.future.history
    assert [failure.number for failure in history] == [96, 97, 98, 99, 100]
    assert all(len(failure.text) == 500 and failure.text.endswith("x…") for failure in history)


def test_history_survives_an_exception_whose_text_fails() -> None:
    played = play(NOW, Hostile)
    assert isinstance(played.exception, Hostile)
    assert played.future.history[0].text == "<str() raised OverflowError>"


class Named(Backoff):
    def __init__(self, delay: Any) -> None:
        self.delay = delay

    def __iter__(self) -> Iterator[Any]:
        return iter([self.delay])


def test_a_backoff_of_ones_own_has_the_combinators() -> None:
    """And may give timedeltas, as any other may."""
    backoff = Named(timedelta(minutes=1)).jittered(0.5, random=lambda: 0.5)
    played = play(RetryPolicy(backoff=backoff.then(Named(timedelta(minutes=2)))), Flaky)
    assert played.started == [0, 60, 180]
