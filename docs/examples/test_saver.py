"""Tests of code that retries: an hour of backoff, in no time.

pytest docs/examples/test_saver.py
"""

from random import Random

import pytest

from retryexec import (
    CancelToken,
    ConstantBackoff,
    ExponentialBackoff,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
    Ticker,
    retry,
)
from retryexec.testing import InstantClock, VirtualClock


class Saver:
    """Fails *failures* times, and notes when it was tried."""

    def __init__(self, failures: int, clock: VirtualClock | InstantClock) -> None:
        self.failures = failures
        self.clock = clock
        self.tried_at: list[float] = []

    def exec(self) -> str:
        self.tried_at.append(self.clock.now())
        if len(self.tried_at) <= self.failures:
            raise OSError("database is locked")
        return "saved"


def test_every_wait_is_exact(virtual_clock: VirtualClock) -> None:
    saver = Saver(2, virtual_clock)
    policy = RetryPolicy(max_elapsed=None, backoff=[60, 3600])
    with RetryingExecutor(policy=policy, clock=virtual_clock) as executor:
        future = executor.submit(saver)
        virtual_clock.advance(59)
        assert saver.tried_at == [0]
        assert future.next_attempt_at == 60
        virtual_clock.run_until(future.done)
    assert saver.tried_at == [0, 60, 3660]
    assert future.result() == "saved"


def test_the_end_of_the_block_moves_time_too(virtual_clock: VirtualClock) -> None:
    policy = RetryPolicy(max_attempts=3, backoff=ConstantBackoff(100))
    with RetryingExecutor(policy=policy, clock=virtual_clock) as executor:
        future = executor.submit(Saver(9, virtual_clock))
    assert virtual_clock.now() == 200
    assert future.stop_reason is StopReason.MAX_ATTEMPTS
    assert isinstance(future.exception(), OSError)


def test_chance_repeats_itself() -> None:
    def waits(seed: int) -> list[float]:
        backoff = ExponentialBackoff(random=Random(seed).random)
        return [delay for delay, _ in zip(backoff, range(5), strict=False)]

    assert waits(seed=1) == waits(seed=1) != waits(seed=2)


def test_retry_in_place_takes_the_clock(virtual_clock: VirtualClock) -> None:
    saver = Saver(2, virtual_clock)
    assert retry(saver.exec, policy=RetryPolicy(backoff=[5, 5]), clock=virtual_clock) == "saved"
    assert virtual_clock.now() == 10


def test_tickers_and_tokens_take_the_clock(virtual_clock: VirtualClock) -> None:
    token = CancelToken(timeout=25, clock=virtual_clock)
    ticks = list(Ticker(ConstantBackoff(10), cancel=token, clock=virtual_clock))
    assert ticks == [0, 10, 20]


def test_where_only_the_outcome_matters(retry_immediately: InstantClock) -> None:
    saver = Saver(9, retry_immediately)
    with RetryingExecutor(clock=retry_immediately) as executor:
        assert executor.submit(saver).result() == "saved"


@pytest.mark.parametrize("failures", [0, 4])
def test_the_last_attempt_may_still_succeed(failures: int, virtual_clock: VirtualClock) -> None:
    saver = Saver(failures, virtual_clock)
    policy = RetryPolicy(max_attempts=5)
    with RetryingExecutor(policy=policy, clock=virtual_clock) as executor:
        future = executor.submit(saver)
    assert future.attempts == failures + 1
