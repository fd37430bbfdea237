"""An executor that goes by a clock which the test moves."""

from collections.abc import Iterator

import pytest

from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy
from retryexec.testing import VirtualClock


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    """Four workers, and ten seconds between attempts."""
    policy = RetryPolicy(backoff=ConstantBackoff(10.0))
    with RetryingExecutor(max_workers=4, clock=clock, policy=policy) as executor:
        yield executor
