"""What outlives a test fails it: threads, executors, views and futures."""

from pathlib import Path

import pytest
from helpers import leaks

TESTS = """
import threading
from concurrent.futures import Future

import pytest
from retryexec import RetryFuture, RetryingExecutor

kept = []
never = threading.Event()


def wait_for_nothing():
    thread = threading.Thread(target=never.wait, name="forgotten", daemon=True)
    thread.start()
    return thread


def test_clean():
    with RetryingExecutor(max_workers=1) as executor:
        assert executor.submit(len, "seven").result() == 5


def test_unfinished_thread_is_joined():
    gate = threading.Event()
    threading.Thread(target=gate.wait).start()
    gate.set()


def test_cycle():
    future = RetryFuture()
    future.add_done_callback(lambda _: future)


@pytest.fixture
def executor():
    with RetryingExecutor(max_workers=1) as executor:
        yield executor


def test_fixture(executor):
    executor.submit(len, "seven").result()


def test_forgotten_executor():
    RetryingExecutor(max_workers=1).submit(len, "seven").result()


def test_leaks_thread():
    wait_for_nothing()


def test_leaks_future():
    kept.append(RetryFuture())


def test_leaks_executor():
    executor = RetryingExecutor(max_workers=1)
    executor.shutdown()
    kept.append(executor)


def test_leaks_view():
    with RetryingExecutor(max_workers=1) as executor:
        kept.append(executor.using())


def test_leaks_future_of_a_job():
    with RetryingExecutor(max_workers=1) as executor:
        kept.append(executor.submit(len, "seven"))


class Derived(RetryFuture):
    __repr__ = object.__repr__

    def __init__(self):
        pass  # no other constructor is called


def test_leaks_derived_future():
    kept.append(Derived())


@pytest.mark.uninstrumented("on purpose")
def test_uninstrumented_and_leaks():
    assert "conftest" not in RetryFuture.__init__.__code__.co_filename
    kept.append(RetryFuture())


@pytest.mark.uninstrumented("on purpose")
def test_uninstrumented_and_clean():
    with RetryingExecutor(max_workers=1) as executor:
        assert executor.submit(len, "seven").result() == 5


@pytest.mark.leaks("on purpose")
def test_allowed():
    kept.append(wait_for_nothing())


@pytest.mark.leaks
def test_gives_no_reason():
    pass


def test_fails_and_leaks():
    kept.append(RetryFuture())
    assert False


def test_clean_after_a_leak():
    pass
"""


def test_a_leak_is_an_error_of_the_test_that_made_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(leaks.__file__).read_text(encoding="utf-8"))
    pytester.makepyfile(test_leaks=TESTS)
    # In a process of its own: what leaks here would be a leak of this test, too.
    result = pytester.runpytest_subprocess("-rE", "--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=16, failed=1, errors=8)
    result.stdout.fnmatch_lines_random(
        [
            "ERROR test_leaks.py::test_leaks_thread - *left behind by*",
            "ERROR test_leaks.py::test_leaks_future - *left behind by*",
            "ERROR test_leaks.py::test_leaks_executor - *left behind by*",
            "ERROR test_leaks.py::test_leaks_view - *left behind by*",
            "ERROR test_leaks.py::test_leaks_future_of_a_job - *left behind by*",
            "ERROR test_leaks.py::test_leaks_derived_future - *left behind by*",
            "ERROR test_leaks.py::test_uninstrumented_and_leaks - *left behind by*",
            "ERROR test_leaks.py::test_gives_no_reason - *leaks takes a reason*",
            "*<Thread(forgotten, started daemon *)>",
        ]
    )
