"""What an executor logs where its user has no hook that hears of failures."""

import logging
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, raise_

from retryexec import RetryingExecutor, RetryPolicy
from retryexec.testing import VirtualClock


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_the_first_retry_after_each_type_of_error_is_logged(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RetryPolicy(max_attempts=4, backoff=[2.5] * 9)
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        futures = [executor.submit(Fails(3, clock)) for _ in range(3)]
        futures.append(executor.using(max_attempts=None).submit(raise_, KeyError("user")))
        clock.advance(100)
    assert [line.partition(". ")[0] for line in warnings(caplog)] == [
        "Fails: attempt 1 of at most 4 failed with Boom: 1; the next one follows in 2.5 s",
        "raise_: attempt 1 failed with KeyError: 'user'; the next one follows in 2.5 s",
    ]
    assert all("retry_on=" in line for line in warnings(caplog))
    for future in futures:
        future.exception(0)


def test_a_refused_result_is_logged_as_such(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RetryPolicy(max_attempts=2, backoff=[1.0], retry_on_result=lambda value: not value)
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        executor.submit(len, "")
    (line,) = warnings(caplog)
    assert "failed with a refused result" in line


@pytest.mark.parametrize("hook", ["on_retry", "on_give_up"])
def test_whoever_has_a_hook_is_told_by_that(
    hook: str, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RetryPolicy(max_attempts=2, backoff=[1.0])
    hooks: dict[str, Any] = {hook: lambda _: None}
    with RetryingExecutor(1, policy=policy, clock=clock, **hooks) as executor:
        executor.submit(raise_, Boom())
    assert caplog.records == []


def test_errors_of_endlessly_many_types_are_not_logged_for_ever(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def job() -> None:
        raise type("Odd", (Exception,), {})

    policy = RetryPolicy(max_attempts=2, backoff=[1.0])
    with RetryingExecutor(1, policy=policy, clock=clock) as executor:
        for _ in range(200):
            executor.submit(job).add_done_callback(lambda future: future.exception())
        clock.advance(10)
    assert 1 < len(warnings(caplog)) <= 100


def test_a_block_that_an_interrupt_ends_says_what_it_waits_for(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RetryPolicy(backoff=[30.0])
    caplog.set_level(logging.WARNING, "retryexec")

    def block() -> None:
        with RetryingExecutor(1, policy=policy, clock=clock, on_retry=lambda _: None) as executor:
            executor.submit(Fails(1, clock))
            clock.advance(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    (line,) = warnings(caplog)
    assert "0 running, 0 queued, 1 between two attempts, the next one in 20 s" in line
    assert "cancel_futures=True" in line


def test_an_interrupt_with_nothing_to_wait_for_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def block() -> None:
        with RetryingExecutor(1) as executor:
            executor.submit(len, "").result(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert caplog.records == []
