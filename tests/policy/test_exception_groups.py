"""Groups of exceptions: their members decide together whether there is another try."""

import asyncio
import concurrent.futures
from typing import Any

import pytest
from helpers.played import play

from retryexec import PermanentError, RetryAfter, RetryPolicy, StopReason
from retryexec._groups import all_match, is_control_flow, longest_named_delay, names_permanent

MINUTES = RetryPolicy(max_attempts=3, backoff=[60, 60], retry_on=ConnectionError)


def group(*members: BaseException) -> BaseException:
    return BaseExceptionGroup("several", members)  # of Exceptions alone, it is an ExceptionGroup


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def nested(depth: int, *members: BaseException) -> BaseException:
    error = group(*members)
    for _ in range(depth):
        error = group(error)
    return error


@pytest.mark.parametrize(
    "error",
    [
        group(ConnectionError()),
        group(ConnectionError(), BrokenPipeError(), ConnectionResetError()),
        group(ConnectionError(), group(BrokenPipeError())),
        nested(5000, ConnectionError()),
        group(ConnectionError(), caused(ConnectionError(), ValueError())),
    ],
)
def test_a_group_whose_members_all_match_is_retried(error: BaseException) -> None:
    played = play(MINUTES, error)
    assert played.exception is error
    assert (played.started, played.reason) == ([0, 60, 120], StopReason.MAX_ATTEMPTS)


@pytest.mark.parametrize(
    "error",
    [
        group(ValueError()),
        group(ConnectionError(), ValueError()),
        group(ConnectionError(), group(ConnectionError(), ValueError())),
        nested(5000, ValueError()),
    ],
)
def test_one_member_that_does_not_match_ends_it(error: BaseException) -> None:
    played = play(MINUTES, error)
    assert played.exception is error
    assert (played.started, played.reason) == ([0], StopReason.NOT_RETRIABLE)


def test_a_group_may_be_asked_for_by_its_own_type() -> None:
    policy = MINUTES.replace(retry_on=(ExceptionGroup, ConnectionError))
    assert len(play(policy, group(ValueError())).started) == 3
    assert len(play(policy, ConnectionError()).started) == 3


def test_a_kind_of_group_may_be_a_member_that_matches() -> None:
    class Saving(ExceptionGroup[Exception]):
        pass

    policy = MINUTES.replace(retry_on=(Saving, ConnectionError))
    inner = Saving("while saving", [ValueError()])
    assert len(play(policy, group(ConnectionError(), inner)).started) == 3


def test_members_that_are_shared_are_looked_at_once() -> None:
    """2**100 paths lead to the one member; Python itself could not print such a group."""
    error = group(ConnectionError())
    for _ in range(100):
        error = group(error, error)
    assert all_match(error, ConnectionError)
    assert not is_control_flow(error)
    assert not names_permanent(error)
    assert longest_named_delay(error) is None


def test_a_callable_is_given_the_group() -> None:
    asked: list[Exception] = []

    def wanted(error: Exception) -> float:
        asked.append(error)
        return 5

    error = group(ValueError())
    assert play(MINUTES.replace(retry_on=wanted), error).started == [0, 5, 10]
    assert asked == [error] * 3


# ---- control flow


@pytest.mark.parametrize(
    "stop",
    [
        KeyboardInterrupt(),
        SystemExit(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),  # which is an Exception
    ],
)
@pytest.mark.parametrize("retry_on", [BaseException, Exception, BaseExceptionGroup, lambda _: True])
def test_a_group_with_control_flow_is_never_retried(stop: BaseException, retry_on: Any) -> None:
    for error in (group(stop), group(ConnectionError(), stop), nested(3, stop, ConnectionError())):
        played = play(MINUTES.replace(retry_on=retry_on), error)
        assert played.exception is error
        assert (played.started, played.reason) == ([0], StopReason.NOT_RETRIABLE)


# ---- members that say what is to follow


@pytest.mark.parametrize("retry_on", [Exception, ConnectionError, ExceptionGroup, lambda _: True])
@pytest.mark.parametrize(
    "error",
    [
        group(PermanentError(OSError())),
        group(ConnectionError(), PermanentError(OSError())),
        nested(3, ConnectionError(), PermanentError(OSError())),
        group(RetryAfter(5), PermanentError(OSError())),
        group(caused(ConnectionError(), PermanentError(OSError()))),
        caused(ConnectionError(), group(ConnectionError(), PermanentError(OSError()))),
    ],
)
def test_a_permanent_member_ends_it(error: BaseException, retry_on: Any) -> None:
    played = play(MINUTES.replace(retry_on=retry_on), error)
    assert played.exception is error
    assert (played.started, played.reason) == ([0], StopReason.PERMANENT)


@pytest.mark.parametrize("retry_on", [Exception, ConnectionError, ExceptionGroup, lambda _: True])
def test_the_longest_wait_that_members_name_counts(retry_on: Any) -> None:
    policy = MINUTES.replace(retry_on=retry_on)
    error = group(RetryAfter(5), group(RetryAfter(20), ConnectionError()), RetryAfter(None))
    assert play(policy, error, group(ConnectionError()), "saved").started == [0, 20, 80]


def test_members_that_only_ask_for_a_retry_get_it_whatever_retry_on_says() -> None:
    for retry_on in (ConnectionError, lambda _: False):
        policy = MINUTES.replace(retry_on=retry_on)
        assert play(policy, group(RetryAfter(5), RetryAfter(7)), "saved").started == [0, 7]
        assert play(policy, group(RetryAfter(None)), "saved").started == [0, 60]


def test_beside_a_member_that_does_not_match_a_named_wait_is_in_vain() -> None:
    played = play(MINUTES, group(RetryAfter(5), ValueError()))
    assert (played.started, played.reason) == ([0], StopReason.NOT_RETRIABLE)
    assert (
        len(
            play(MINUTES.replace(retry_on=lambda _: False), group(RetryAfter(5), OSError())).started
        )
        == 1
    )


def test_the_longer_of_a_callables_wait_and_a_members_counts() -> None:
    policy = MINUTES.replace(retry_on=lambda _: 10)
    error = group(RetryAfter(5), OSError())
    assert play(policy, error, group(RetryAfter(30), OSError()), "saved").started == [0, 10, 40]
