"""An executor that goes by a clock which the test moves."""

from collections.abc import Iterator

import pytest
from helpers.staged import TENS

from retryexec import RetryingExecutor
from retryexec.testing import VirtualClock


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    """One worker, and ten seconds between attempts."""
    with RetryingExecutor(1, clock=clock, policy=TENS) as executor:
        yield executor
