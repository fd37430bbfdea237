"""What a running job may ask about its own attempt."""

import threading
from concurrent.futures import CancelledError
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Gate, busy_for
from helpers.played import play

from retryexec import (
    Attempt,
    Cancelled,
    ConstantBackoff,
    PermanentError,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock

MINUTES = RetryPolicy(max_attempts=3, backoff=ConstantBackoff(60))


class Flaky(OSError):
    pass


def told(*facts: Any) -> tuple[list[Any], Any]:
    """Return a list, and a failing job that adds to it what *facts* say of each attempt."""
    seen: list[Any] = []

    def job() -> None:
        attempt = current_attempt()
        seen.append(tuple(fact(attempt) for fact in facts))
        raise Flaky

    return seen, job


def test_number_counts_from_one() -> None:
    seen, job = told(lambda attempt: attempt.number, repr)
    play(MINUTES, job)
    assert seen == [(1, "<Attempt 1>"), (2, "<Attempt 2>"), (3, "<Attempt 3>")]


def test_previous_is_what_the_attempt_before_raised() -> None:
    seen: list[BaseException | None] = []
    one, cause = Flaky(), ValueError()

    def job(error: BaseException) -> None:
        seen.append(current_attempt().previous)
        raise error

    errors = [one, RetryAfter(5, cause), PermanentError(Flaky())]
    play(MINUTES, *[partial(job, error) for error in errors])
    assert seen == [None, one, cause]


def test_previous_is_none_after_an_unwanted_value() -> None:
    policy = MINUTES.replace(retry_on_result=lambda value: value is None)
    seen, job = told(lambda attempt: attempt.previous)
    play(policy, None, job)
    assert seen[0] == (None,)


def test_previous_holds_no_frames() -> None:
    """They would keep the variables of that attempt alive through the wait."""
    seen, job = told(lambda attempt: attempt.previous and attempt.previous.__traceback__)
    play(MINUTES, job)
    assert seen == [(None,)] * 3


@pytest.mark.parametrize(
    ("limits", "remaining"),
    [
        ({"max_elapsed": None, "attempt_timeout": None}, [None, None, None]),
        ({"max_elapsed": 100, "attempt_timeout": None}, [100, 40]),
        ({"max_elapsed": None, "attempt_timeout": 30}, [30, 30, 30]),
        ({"max_elapsed": 70, "attempt_timeout": 30}, [30, 10]),
        ({"max_elapsed": 60}, [60, 0]),
    ],
)
def test_remaining_is_until_the_sooner_limit(
    limits: dict[str, Any], remaining: list[float | None]
) -> None:
    seen, job = told(Attempt.remaining)
    play(MINUTES.replace(**limits), job)
    assert [seconds for (seconds,) in seen] == remaining


def test_remaining_runs_down_to_zero_and_the_attempt_counts_all_the_same() -> None:
    clock = VirtualClock()
    seen = []

    def slow() -> str:
        attempt = current_attempt()
        for _ in range(3):
            seen.append(attempt.remaining())
            busy_for(clock, 20)
        seen.append(current_attempt().remaining())
        return "late, but done"

    played = play(RetryPolicy(attempt_timeout=30), slow, clock=clock)
    assert seen == [30, 10, 0, 0]
    assert played.future.result() == "late, but done"


class Long(Gate):
    """A job that looks whether it was cancelled, once it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def exec(self) -> None:
        attempt = current_attempt()
        self.seen += [attempt.cancelled, repr(attempt)]
        attempt.checkpoint()  # nobody has cancelled it yet
        super().exec()
        self.seen += [attempt.cancelled, repr(attempt)]
        attempt.checkpoint()
        self.seen += ["went on"]


def test_cancel_is_seen_by_the_running_attempt() -> None:
    job = Long()
    with RetryingExecutor(max_workers=1) as executor:
        future = executor.submit(job)
        assert job.reached()
        assert not future.cancel()
        job.open()
    assert job.seen == [False, "<Attempt 1>", True, "<Attempt 1, cancelled>"]
    exception = future.exception()
    assert isinstance(exception, Cancelled)
    assert isinstance(exception, CancelledError)
    assert "attempt 1" in str(exception)


def test_uncancelled_attempt_says_so() -> None:
    job = Long()
    job.open()
    with RetryingExecutor(max_workers=1) as executor:
        executor.submit(job)
    assert job.seen[2:] == [False, "<Attempt 1>", "went on"]


def test_a_shutdown_that_lets_no_attempt_start_is_seen_too() -> None:
    job = Long()
    clock = VirtualClock()
    executor = RetryingExecutor(max_workers=1, clock=clock)
    future = executor.submit(job)
    assert job.reached()
    executor.shutdown(wait=False, cancel_futures=True)
    job.open()
    executor.shutdown()
    assert isinstance(future.exception(), Cancelled)
    assert job.seen[2] is True


def test_cancelled_error_has_the_last_failure_as_its_cause() -> None:
    job, error, clock = Long(), Flaky(), VirtualClock()
    outcomes = iter([partial(job.seen.append, "first"), job.exec])

    def run() -> None:
        next(outcomes)()
        raise error

    with RetryingExecutor(max_workers=1, policy=MINUTES, clock=clock) as executor:
        future = executor.submit(run)
        clock.run_until(lambda: future.next_attempt_at)
        thread = threading.Thread(target=lambda: (job.reached(), future.cancel(), job.open()))
        thread.start()
        clock.run_until(future.done)
        thread.join()
    exception = future.exception()
    assert isinstance(exception, Cancelled)
    assert exception.__cause__ is error
    assert future.attempts == 2


def test_result_of_an_attempt_that_ignores_a_cancel_counts() -> None:
    """Success is success, and after a failure no other attempt follows."""
    with RetryingExecutor(max_workers=1, policy=MINUTES) as executor:
        good, bad = Gate("saved"), Gate(Flaky())
        for job, reason in ((good, StopReason.SUCCEEDED), (bad, StopReason.CANCELLED)):
            future = executor.submit(job)
            assert job.reached()
            future.cancel()
            job.open()
            future.exception()
            assert (future.attempts, future.stop_reason) == (1, reason)


# ---- where it answers


def test_outside_a_job_there_is_none() -> None:
    with pytest.raises(LookupError, match="inside a job"):
        current_attempt()


def test_in_a_callback_there_is_none() -> None:
    """A callback belongs to the future, and to no attempt."""
    seen: list[str] = []

    def ask(_: Any) -> None:
        try:
            current_attempt()
        except LookupError:
            seen.append("none")

    gate = Gate()
    with RetryingExecutor(max_workers=1) as executor:
        executor.submit(gate).add_done_callback(ask)
        gate.open()
    assert seen == ["none"]


def test_jobs_do_not_see_each_other() -> None:
    """Not on the same worker, nor when one submits the other."""

    def outer() -> int:
        inner = executor.submit(lambda: current_attempt().number)
        return inner.result() + 10 * current_attempt().number

    numbers = iter([Flaky(), None])

    def second_time() -> int:
        if error := next(numbers):
            raise error
        return outer()

    policy = RetryPolicy(backoff=[0])
    with RetryingExecutor(max_workers=2, policy=policy) as executor:
        assert executor.submit(second_time).result() == 21


var: ContextVar[str] = ContextVar("var", default="unset")


def test_every_attempt_sees_the_submitters_variables_in_a_fresh_copy() -> None:
    seen: list[str] = []

    def job() -> None:
        seen.append(var.get())
        var.set("changed by an attempt")
        raise Flaky

    token = var.set("submitter's")
    try:
        play(MINUTES, job)
    finally:
        var.reset(token)
    assert seen == ["submitter's"] * 3
    assert var.get() == "unset"
