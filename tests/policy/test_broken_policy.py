"""Control flow ends a job at once; a broken policy ends it with the job's own outcome."""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from helpers.jobs import Boom, raise_

from retryexec import (
    ConstantBackoff,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    ZeroBackoff,
)
from retryexec.testing import VirtualClock


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    """One worker, and ten seconds between attempts."""
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(10))
    with RetryingExecutor(max_workers=1, policy=policy, clock=clock) as executor:
        yield executor


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, CancelledError, GeneratorExit])
def test_control_flow_ends_the_job(
    kind: type[BaseException], executor: RetryingExecutor, clock: VirtualClock
) -> None:
    error = kind()
    future = executor.using(retry_on=BaseException).submit(raise_, error)
    assert future.exception(5) is error
    assert (future.attempts, future.stop_reason) == (1, StopReason.NOT_RETRIABLE)
    assert executor.submit(len, "next").result(5) == 4


class Delays:
    """A backoff of one's own, of which only the job finds out what it is worth."""

    def __init__(self, *delays: Any) -> None:
        self.delays = delays
        self.broken = False

    def __iter__(self) -> Iterator[Any]:
        if self.broken:
            raise LookupError("broken")
        return iter(self.delays)


def endless_failure(value: Any) -> Any:
    raise LookupError("broken")


@pytest.mark.parametrize(
    "changes",
    [
        {"retry_on": endless_failure},
        {"retry_on": lambda error: float("inf")},
        {"retry_on": lambda error: float("nan")},
        {"retry_on": lambda error: -1},
        {"backoff": Delays()},
        {"backoff": Delays(float("inf"))},
        {"backoff": Delays("soon")},
        {"backoff": Delays(-1)},
    ],
)
def test_a_broken_policy_ends_the_job_with_its_own_exception(
    changes: dict[str, Any],
    executor: RetryingExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = Boom()
    view = executor.using(**changes)
    if changes.get("backoff") and not changes["backoff"].delays:
        changes["backoff"].broken = True
    assert view.submit(raise_, error).exception(5) is error
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)
    assert record.exc_info
    assert executor.submit(len, "next").result(5) == 4


def test_a_broken_question_about_the_result_ends_the_job_with_it(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert executor.using(retry_on_result=endless_failure).submit(len, "five!").result(5) == 5
    assert "retry_on_result failed" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_policy_that_raises_control_flow_ends_the_job_too(
    kind: type[BaseException], executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    error = Boom()
    future: RetryFuture[Any] = executor.using(retry_on=lambda _: raise_(kind())).submit(
        raise_, error
    )
    assert future.exception(5) is error
    assert caplog.records
    assert executor.using(backoff=ZeroBackoff()).submit(len, "next").result(5) == 4
