"""What a job may raise to steer its retries, and what our own errors are."""

import concurrent.futures
import math
import pickle
import re
import runpy
import traceback
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from helpers.played import Played, play
from hypothesis import given
from hypothesis import strategies as st

from retryexec import (
    Cancelled,
    ConstantBackoff,
    ExecutorShutdownError,
    PendingLimitError,
    PermanentError,
    RetryAfter,
    RetryPolicy,
    ShutdownError,
    StopReason,
    _errors,
)


def test_the_error_after_shutdown_is_the_standard_librarys_where_it_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert issubclass(ExecutorShutdownError, RuntimeError)

    class Theirs(RuntimeError): ...

    monkeypatch.setattr(concurrent.futures, "ExecutorShutdownError", Theirs, raising=False)
    assert issubclass(runpy.run_path(_errors.__file__)["ExecutorShutdownError"], Theirs)


MINUTES = RetryPolicy(backoff=ConstantBackoff(60))


class Refused(Exception):
    """What a server says."""


class SavingFailedError(Exception):
    """What a job makes of it."""


def raise_from(error: Exception, cause: BaseException | None) -> Any:
    def fail() -> None:
        raise error from cause

    return fail


def stopped_at_once(played: Played) -> bool:
    return (played.reason, played.started) == (StopReason.PERMANENT, [0])


# ---- PermanentError


def test_permanent_stops_and_leaves_the_error_behind_it() -> None:
    error = Refused()
    played = play(MINUTES, PermanentError(error))
    assert played.exception is error
    assert stopped_at_once(played)


def test_permanent_may_come_late() -> None:
    played = play(MINUTES, Refused, PermanentError(SavingFailedError()))
    assert (type(played.exception), played.started) == (SavingFailedError, [0, 60])


def test_permanent_within_permanent_is_still_the_error_behind() -> None:
    error = Refused()
    played = play(MINUTES, PermanentError(PermanentError(error)))
    assert played.exception is error


def test_a_subclass_of_permanent_is_one() -> None:
    class NoSuchUser(PermanentError):
        pass

    error = Refused()
    assert play(MINUTES, NoSuchUser(error)).exception is error


def test_permanent_as_the_cause_stops_and_the_raised_message_stays() -> None:
    error = SavingFailedError("saving john")
    played = play(MINUTES, raise_from(error, PermanentError(Refused())))
    assert played.exception is error
    assert stopped_at_once(played)


def test_permanent_as_the_cause_of_the_cause_stops_too() -> None:
    middle = SavingFailedError()
    middle.__cause__ = PermanentError(Refused())
    assert stopped_at_once(play(MINUTES, raise_from(SavingFailedError(), middle)))


def test_permanent_that_was_handled_does_not_stop() -> None:
    """Only a cause that was named counts: an error met on the way (the context) is no word."""

    def handle() -> None:
        try:
            raise PermanentError(Refused())
        except PermanentError:
            raise SavingFailedError  # noqa: B904

    played = play(MINUTES, handle, "saved")
    assert played.future.result() == "saved"


def test_causes_that_go_in_circles_end() -> None:
    one, two = SavingFailedError(), SavingFailedError()
    one.__cause__, two.__cause__ = two, one
    played = play(RetryPolicy(max_attempts=2, backoff=[1]), one)
    assert played.exception is one
    assert played.reason == StopReason.MAX_ATTEMPTS


def test_an_error_that_was_never_raised_gets_the_traceback_of_its_marker() -> None:
    def save() -> None:
        raise PermanentError(Refused("never raised"))

    exception = play(MINUTES, save).exception
    assert exception is not None
    assert [f.name for f in traceback.extract_tb(exception.__traceback__)][-1] == "save"


def test_an_error_that_was_raised_keeps_its_traceback() -> None:
    def refuse() -> None:
        raise Refused

    def save() -> None:
        try:
            refuse()
        except Refused as error:
            raise PermanentError(error) from None

    exception = play(MINUTES, save).exception
    assert exception is not None
    assert [f.name for f in traceback.extract_tb(exception.__traceback__)][-1] == "refuse"


@pytest.mark.parametrize("bad", ["gone", None, Refused, 404])
def test_permanent_wraps_an_exception(bad: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(bad))):
        PermanentError(bad)


# ---- RetryAfter


@given(seconds=st.floats(0, 1e6))
def test_retry_after_is_the_next_wait(seconds: float) -> None:
    policy = RetryPolicy(max_elapsed=None, backoff=[10])
    played = play(policy, RetryAfter(seconds), Refused, "saved")
    assert played.started == [0, seconds, seconds + 10]


def test_retry_after_takes_a_timedelta() -> None:
    assert RetryAfter(timedelta(minutes=2)).seconds == 120


def test_retry_after_counts_whatever_retry_on_says_of_other_errors() -> None:
    policy = MINUTES.replace(retry_on=Refused, max_attempts=2)
    assert play(policy, RetryAfter(5)).started == [0, 5]


def test_in_the_end_the_cause_is_what_the_job_failed_with() -> None:
    policy = MINUTES.replace(max_attempts=2)
    error = Refused()
    assert play(policy, RetryAfter(5, error)).exception is error
    assert play(policy, raise_from(RetryAfter(5), error)).exception is error
    plain = RetryAfter(5)
    assert play(policy, plain).exception is plain


def test_retry_on_is_not_asked_about_retry_after() -> None:
    """What RetryAfter says is final: `retry_on` is not asked."""
    asked: list[Exception] = []
    policy = RetryPolicy(max_attempts=2, retry_on=lambda error: asked.append(error) or False)
    play(policy, RetryAfter(1, Refused()))
    assert asked == []


def test_what_was_being_handled_is_shown_above_retry_after() -> None:
    """As for any exception raised while another was handled."""

    def save() -> None:
        try:
            raise Refused
        except Refused:
            raise RetryAfter(5)  # noqa: B904

    exception = play(MINUTES.replace(max_attempts=1), save).exception
    assert exception is not None
    assert "Refused" in "".join(traceback.format_exception(exception))


@pytest.mark.parametrize(
    ("arguments", "bad"),
    [
        *[((s,), s) for s in (True, [5], RetryAfter)],
        ((5, "refused"), "refused"),
        ((5, Refused), Refused),
    ],
)
def test_bad_arguments_are_named(arguments: Any, bad: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(bad))):
        RetryAfter(*arguments)


@pytest.mark.parametrize("seconds", [-1, -0.5, timedelta(-1), Fraction(-1, 3), -(10**400)])
def test_a_wait_that_is_over_is_none_at_all(seconds: Any) -> None:
    """The job is retried at once; an error here would end it, with that error."""
    assert play(MINUTES, RetryAfter(seconds), "saved").started == [0, 0]


@pytest.mark.parametrize("seconds", [None, math.nan, math.inf, 10**400])
def test_without_a_wait_the_policys_own_comes(seconds: Any) -> None:
    error = RetryAfter(seconds, Refused())
    assert error.seconds is None
    assert str(error) == "retry after the policy's own delay"
    assert play(MINUTES, error, "saved").started == [0, 60]


# ---- all of them


def test_messages() -> None:
    assert str(PermanentError(Refused("no such user"))) == "permanent: Refused: no such user"
    assert str(RetryAfter(2.5)) == "retry after 2.5 s"


def test_errors_can_be_pickled() -> None:
    permanent = pickle.loads(pickle.dumps(PermanentError(Refused("gone"))))
    assert (type(permanent.exception), permanent.exception.args) == (Refused, ("gone",))
    after = pickle.loads(pickle.dumps(RetryAfter(timedelta(seconds=5), Refused())))
    assert (after.seconds, type(after.__cause__)) == (5, Refused)
    for kind in (Cancelled, ShutdownError, PendingLimitError):
        copy = pickle.loads(pickle.dumps(kind("why")))
        assert (type(copy), copy.args) == (kind, ("why",))


def test_errors_derive_from_what_callers_catch_already() -> None:
    assert issubclass(Cancelled, concurrent.futures.CancelledError)
    assert issubclass(ShutdownError, RuntimeError)
    assert issubclass(PendingLimitError, RuntimeError)
