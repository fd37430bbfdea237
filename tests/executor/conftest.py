"""An executor of one worker, which goes by a clock that the test moves."""

from collections.abc import Iterator

import pytest
from helpers.staged import TENS

from retryexec import RetryingExecutor
from retryexec.testing import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(1, clock=clock, policy=TENS) as executor:
        yield executor
