"""The pytest plugin: the clocks of `retryexec.testing` as fixtures."""

import pytest

from retryexec.testing import InstantClock, VirtualClock


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock at 0.0 that stands still until the test moves it: pass it as ``clock=``.

    Or let it be the default, for all that is made without a clock:
    ``with virtual_clock.as_default():``.
    """
    return VirtualClock()


@pytest.fixture
def retry_immediately() -> InstantClock:
    """A clock on which no wait takes any time: pass it as ``clock=``.

    Or let it be the default, for all that is made without a clock:
    ``with retry_immediately.as_default():``.
    """
    return InstantClock()
