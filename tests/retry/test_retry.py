"""Retrying a call right here, in this thread."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, raise_
from helpers.played import Script, play
from helpers.waits import AtOnceTimer, HandTimer, TellingClock

from retryexec import (
    Cancelled,
    CancelToken,
    ConstantBackoff,
    EventTimer,
    PermanentError,
    Retry,
    RetryAfter,
    RetryPolicy,
    current_attempt,
    retry,
)
from retryexec.testing import VirtualClock

TENS = RetryPolicy(max_attempts=4, backoff=ConstantBackoff(10))


@pytest.fixture
def clock() -> TellingClock:
    return TellingClock()


def notes(error: BaseException | None) -> list[str]:
    return getattr(error, "__notes__", [])


# ---- the same decisions as an executor's


@pytest.mark.parametrize(
    ("changes", "outcomes"),
    [
        ({}, ["saved"]),
        ({}, [Boom, Boom, "saved"]),
        ({}, [Boom]),
        ({"max_attempts": 1}, [Boom]),
        ({"max_attempts": None, "max_elapsed": 30}, [Boom]),
        ({"max_elapsed": 25}, [Boom]),
        ({"backoff": [1, timedelta(seconds=2)]}, [Boom]),
        ({"retry_on": OSError}, [OSError, Boom]),
        ({"retry_on": lambda error: 3}, [Boom]),
        ({}, [lambda: PermanentError(Boom())]),
        ({}, [lambda: RetryAfter(7), lambda: RetryAfter(1, Boom()), "saved"]),
        ({"max_elapsed": 6}, [lambda: RetryAfter(7, Boom())]),
        ({"retry_on_result": lambda value: value == "no"}, ["no", "no", "yes"]),
        ({"retry_on_result": lambda value: value == "no"}, ["no"]),
        ({"retry_on_result": lambda value: value == "no"}, ["no", Boom]),
        ({}, [KeyboardInterrupt]),
        ({}, [Boom, CancelledError]),
        ({"retry_on": lambda error: 1 / 0}, [Boom]),
    ],
)
def test_goes_as_in_an_executor(changes: dict[str, Any], outcomes: list[Any]) -> None:
    policy = TENS.replace(**changes)
    there = play(policy, *outcomes)
    here = Script(VirtualClock(), *outcomes)
    value, raised = None, None
    try:
        value = retry(here.exec, policy=policy, clock=here.clock)
    except BaseException as error:
        raised = error
    assert (here.started, here.clock.now()) == (there.started, there.ended)
    assert type(raised) is type(there.exception)
    assert notes(raised) == notes(there.exception)
    if raised is None:
        assert value == there.future.result()


def test_the_very_exception_comes_back_with_one_note_and_a_short_traceback(
    clock: VirtualClock,
) -> None:
    error = Boom("same each time")
    for _ in range(2):
        with pytest.raises(Boom) as caught:
            retry(partial(raise_, error), policy=TENS, clock=clock)
        assert caught.value is error
        assert notes(error) == ["retryexec: gave up after 4 attempts over 30.000 s: max_attempts"]
        assert [entry.name for entry in caught.traceback].count("raise_") == 1
        assert (error.__cause__, error.__context__) == (None, None)


def test_what_the_caller_is_handling_keeps_its_traceback(clock: VirtualClock) -> None:
    outer = LookupError("outer")
    try:
        raise outer
    except LookupError:
        with pytest.raises(Boom) as caught:
            retry(Script(clock, Boom).exec, policy=TENS, clock=clock)
    assert caught.value.__context__ is outer
    assert outer.__traceback__ is not None


def test_nothing_of_a_failed_attempt_is_kept(clock: VirtualClock) -> None:
    class Payload:
        pass

    payloads: list[weakref.ref[Payload]] = []

    def job() -> None:
        payload = Payload()
        assert [ref() for ref in payloads] == [None] * len(payloads)
        payloads.append(weakref.ref(payload))
        raise Boom

    gc.disable()
    try:
        with pytest.raises(Boom):
            retry(job, policy=TENS, clock=clock)
        assert [ref() for ref in payloads] == [None] * 4
    finally:
        gc.enable()


# ---- on_retry


def test_on_retry_is_called_before_each_wait_and_not_at_the_end(clock: VirtualClock) -> None:
    told: list[tuple[float, Retry]] = []
    errors = [Boom(), None, Boom()]
    job = Script(clock, errors[0], "no", errors[2])
    policy = RetryPolicy(backoff=[1, 2], retry_on_result=lambda value: value == "no")
    with pytest.raises(Boom):
        retry(
            job.exec,
            policy=policy,
            clock=clock,
            on_retry=lambda event: told.append((clock.now(), event)),
        )
    assert told == [(0, Retry(1, errors[0], 1.0)), (1, Retry(2, None, 2.0))]


def test_exception_in_on_retry_is_logged_and_ignored(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    job = Script(clock, Boom, "saved")
    hook = partial(raise_, LookupError("in the hook"))
    assert retry(job.exec, policy=TENS, clock=clock, on_retry=lambda _: hook()) == "saved"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)


# ---- cancelling


def cancelled_after(error: BaseException | None, attempts: str) -> Callable[[Cancelled], bool]:
    def check(cancelled: Cancelled) -> bool:
        (note,) = notes(cancelled)
        return cancelled.__cause__ is error and attempts in note and note.endswith(": cancelled")

    return check


def test_cancelled_during_a_wait(clock: TellingClock) -> None:
    token, error = CancelToken(), Boom("last")
    run = InThread(lambda: retry(lambda: raise_(error), policy=TENS, clock=clock, cancel=token))
    clock.until_waiting()
    clock.advance(10)
    clock.until_waiting()
    token.cancel()
    with pytest.raises(Cancelled, check=cancelled_after(error, "after 2 attempts over 10.000 s")):
        run.result()
    assert not token._callbacks


def test_cancelled_during_an_attempt_that_fails(clock: VirtualClock) -> None:
    token, error = CancelToken(), Boom("last")
    told: list[Retry] = []

    def job() -> None:
        token.cancel()
        raise error

    with pytest.raises(Cancelled, check=cancelled_after(error, "after 1 attempt over")):
        retry(job, policy=TENS, clock=clock, cancel=token, on_retry=told.append)
    assert (told, clock.now()) == ([], 0)


def test_cancelled_by_the_hook_there_is_no_wait(clock: VirtualClock) -> None:
    token, error = CancelToken(), Boom("last")
    job = Script(clock, error)
    with pytest.raises(Cancelled, check=cancelled_after(error, "after 1 attempt over 0.000 s")):
        retry(job.exec, policy=TENS, clock=clock, cancel=token, on_retry=lambda _: token.cancel())
    assert clock.now() == 0


def test_a_tokens_time_ends_the_wait_exactly_then(clock: VirtualClock) -> None:
    token, job = CancelToken(timeout=25, clock=clock), Script(clock, Boom)
    with pytest.raises(Cancelled, match="not tried again"):
        retry(job.exec, policy=TENS, clock=clock, cancel=token)
    assert (job.started, clock.now()) == ([0, 10, 20], 25)


def test_final_failure_is_raised_itself_despite_a_cancel(clock: VirtualClock) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Boom):
        retry(Script(clock, Boom).exec, policy=RetryPolicy.never(), clock=clock, cancel=token)
    with pytest.raises(KeyboardInterrupt):
        retry(Script(clock, KeyboardInterrupt).exec, clock=clock, cancel=token)


def test_cancelled_after_an_unwanted_value(clock: VirtualClock) -> None:
    token = CancelToken()
    token.cancel()
    policy = TENS.replace(retry_on_result=lambda value: True)
    with pytest.raises(Cancelled, check=cancelled_after(None, "after 1 attempt")):
        retry(lambda: "no", policy=policy, clock=clock, cancel=token)


def test_a_token_that_is_never_cancelled_changes_nothing(clock: VirtualClock) -> None:
    for token in (CancelToken(), CancelToken(timeout=1000, clock=clock)):
        job, began = Script(clock, Boom, Boom, "saved"), clock.now()
        assert retry(job.exec, policy=TENS, clock=clock, cancel=token) == "saved"
        assert job.started == [began, began + 10, began + 20]
        assert not token._callbacks


def test_a_wait_is_cut_short_by_no_rounding() -> None:
    """0.8 + (2.9 - 0.8) is less than 2.9: the token's time is not quite up then."""
    clock = VirtualClock()
    token, job = CancelToken(timeout=2.9, clock=clock), Script(clock, Boom)
    clock.advance(0.8)
    assert 0.8 + token.remaining() < 2.9  # type: ignore[operator]
    with pytest.raises(Cancelled):
        retry(job.exec, policy=TENS, clock=clock, cancel=token)
    assert (job.started, clock.now()) == ([0.8], 2.9)


def test_a_token_of_another_clock_cuts_no_wait_short(clock: VirtualClock) -> None:
    token, job = CancelToken(timeout=3, clock=VirtualClock()), Script(clock, Boom, "saved")
    assert retry(job.exec, policy=TENS, clock=clock, cancel=token) == "saved"
    assert job.started == [0, 10]


# ---- a timer of one's own


def test_another_timer_is_waited_by_and_stopped_at_the_end(clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    job = Script(clock, Boom, Boom, "saved")
    assert retry(job.exec, policy=TENS, clock=clock, timer=timer) == "saved"
    assert (timer.started, timer.stops, clock.now()) == ([10, 10], 1, 0)
    with pytest.raises(Boom):
        retry(Script(clock, Boom).exec, policy=RetryPolicy.never(), timer=timer, clock=clock)
    assert timer.stops == 2


def test_cancel_stops_the_timer(clock: VirtualClock) -> None:
    timer, token = HandTimer(), CancelToken()
    run = InThread(lambda: retry(partial(raise_, Boom()), policy=TENS, cancel=token, timer=timer))
    timer.until_started(1)
    token.cancel()
    with pytest.raises(Cancelled):
        run.result()
    assert timer.stops


def test_no_retry_starts_too_late_because_the_wait_took_longer(clock: VirtualClock) -> None:
    class Oversleeps(EventTimer):
        def start(self, seconds: float) -> None:
            super().start(seconds * 2)

    policy, job = TENS.replace(max_elapsed=15), Script(clock, Boom)
    with pytest.raises(Boom) as caught:
        retry(job.exec, policy=policy, clock=clock, timer=Oversleeps(clock))
    assert job.started == [0]
    assert notes(caught.value) == ["retryexec: gave up after 1 attempt over 20.000 s: max_elapsed"]


# ---- what the call may ask


def test_the_call_knows_its_attempt(clock: VirtualClock) -> None:
    seen: list[Any] = []
    error, token = Boom(), CancelToken()

    def job() -> Any:
        attempt = current_attempt()
        seen.append((attempt.number, attempt.previous, attempt.remaining(), attempt.cancelled))
        if attempt.number == 2:
            token.cancel()
            attempt.checkpoint()
        raise error

    with pytest.raises(Cancelled, match="cancelled during attempt 2") as caught:
        retry(job, policy=TENS.replace(attempt_timeout=5), clock=clock, cancel=token)
    assert seen == [(1, None, 5, False), (2, error, 5, False)]
    assert caught.value.__cause__ is error
    with pytest.raises(LookupError, match="not here"):
        current_attempt()
