"""Policies travel to other processes, by pickle."""

import pickle

import pytest

from retryexec import (
    Backoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    RetryPolicy,
)

JITTERED = [
    ExponentialBackoff(0.1),
    FullJitterBackoff(0.1),
    EqualJitterBackoff(0.1),
    DecorrelatedJitterBackoff(0.1),
    FibonacciBackoff(0.1).jittered(0.5),
]


@pytest.mark.parametrize("backoff", JITTERED, ids=repr)
def test_a_copy_is_equal_and_draws_for_itself(backoff: Backoff) -> None:
    """With the state of the random numbers, all copies would retry in step."""
    copies = [pickle.loads(pickle.dumps(backoff)) for _ in range(2)]
    assert copies == [backoff, backoff]
    assert len({next(iter(copy)) for copy in copies}) == 2


def test_a_policy_survives() -> None:
    policy = RetryPolicy(max_attempts=3, retry_on=(OSError, ValueError))
    assert pickle.loads(pickle.dumps(policy)) == policy
