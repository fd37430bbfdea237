"""Around every test: no thread, executor or future that it made outlives it.

A test that lets one live on purpose says so: `@pytest.mark.leaks("why")`. So does one that
first uses a fixture of a wider scope which holds an executor.
"""

import gc
import threading
import time
from collections.abc import Generator

import pytest

from retryexec import RetryFuture, RetryingExecutor

# Seconds for threads that are about to end, and no more than a bound: a clean test waits
# exactly until they have ended.
GRACE = 2.0

Alive = tuple[set[threading.Thread], set[int]]
_before = pytest.StashKey[Alive]()
_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaks(reason): something of the test may outlive it")


def pytest_collection_finish() -> None:
    # What exists by now is no test's doing. Frozen, it is neither collected nor listed,
    # which makes looking at what a test has left behind cheap.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_before] = (set(threading.enumerate()), {id(thing) for thing in _ours()})
    item.stash[_failed] = False
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    report = yield
    item.stash[_failed] |= not report.passed
    return report


# A hook rather than a fixture: it looks last, when every fixture has been finished.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    if mark := item.get_closest_marker("leaks"):
        if not (mark.args and mark.args[0]):
            pytest.fail('leaks takes a reason: @pytest.mark.leaks("why")', pytrace=False)
        return
    # The traceback of a failure holds on to everything the test had.
    if item.stash[_failed]:
        return
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # the values of the fixtures
    if leaks := _leaks_since(item.stash[_before]):
        pytest.fail("left behind by this test:\n  " + "\n  ".join(leaks), pytrace=False)


def _leaks_since(before: Alive) -> list[str]:
    threads, ours = before
    started = set(threading.enumerate()) - threads
    if started or any(id(thing) not in ours for thing in _ours()):
        gc.collect()  # a cycle is no leak, and it may hold the executor of a thread
    deadline = time.monotonic() + GRACE
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaks = sorted(repr(thread) for thread in started if thread.is_alive())
    return leaks + sorted(repr(thing) for thing in _ours() if id(thing) not in ours)


def _ours() -> list[object]:
    """Return the executors and futures that are alive.

    By `type()`: `isinstance` would ask proxies and mocks what they claim to be.
    """
    kinds = (RetryFuture, RetryingExecutor)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
