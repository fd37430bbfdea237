"""The interpreter's own tests of executors, run against ours.

They are imported from wherever the interpreter keeps them, with RetryingExecutor and RetryFuture
in the place of ThreadPoolExecutor and Future; each is a test here, under its own name. What they
ask of processes and interpreters is none of our business and left out.
"""

import importlib
import logging
import pkgutil
import unittest
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from types import ModuleType

import pytest
from helpers.substitute import ThreadPoolExecutor, in_subprocess, ships, substitute

from retryexec import RetryPolicy

FUTURES = "test.test_concurrent_futures"
ASYNCIO = "test.test_asyncio"

if not (ships(FUTURES) and ships(ASYNCIO)):
    pytest.skip(
        "this interpreter ships no tests of its own (test.test_concurrent_futures, "
        "test.test_asyncio) that could be run against RetryingExecutor",
        allow_module_level=True,
    )

EXCLUDED = {
    "FutureTests.test_multiple_set_exception": "wants <Future ...> in the message; ours says "
    "<RetryFuture ...>, and tests/future asks for that",
    "FutureTests.test_multiple_set_result": "as test_multiple_set_exception",
    "FutureTests.test_repr": "wants <Future ...>, the class's name; ours is RetryFuture",
    "ThreadPoolShutdownTest.test_cancel_futures": "wants one of 50 jobs to have begun before the "
    "shutdown that cancels them, which comes right after them; ours are submitted so fast that "
    "from 3.14 on it is a matter of luck, and tests/executor has tests of our own",
    "ThreadPoolShutdownTest.test_thread_names_default": "wants ThreadPoolExecutor-0_0; our "
    "threads are named for what they belong to, RetryingExecutor-0_0",
}
"""Tests that ask for something else than behaviour, with the reason."""

ASYNCIO_TESTS = {
    "test_base_events": ["*default_executor*", "*_in_other_thread", "*.test_call_coroutine"],
    "test_events": ["*run_in_executor*"],
    "test_futures": ["*wrap_future*"],
    "test_tasks": ["RunCoroutineThreadsafeTests.*"],
    "test_threads": ["ToThreadTests.*"],
}
"""Which of asyncio's tests come upon an executor or one of its futures."""

TRIED_ONCE = [
    "*.test_all_completed",
    "*.test_first_exception*",
    "*.test_hang_global_shutdown_lock",
    "*.test_map_exception",
    "*.test_swallows_falsey_exceptions",
    "*.test_to_thread_exception",
    "RunCoroutineThreadsafeTests.*",
]
"""Tests with a job that fails, and is expected to do so soon. The others keep our own policy."""

SLOW = {
    "FutureTests.test_exception_with_success": "it ends the future by its fields, which our "
    "waiters do not hear of until their timeout of half a minute",
}
"""Tests that only a run of all tests includes, with the reason."""


def modules() -> Iterator[ModuleType]:
    """Import the modules with tests for us: several, or one as in Python 3.11."""
    whole = importlib.import_module(FUTURES)
    yield whole
    for found in pkgutil.iter_modules(getattr(whole, "__path__", [])):
        if found.name.startswith("test_"):
            yield importlib.import_module(f"{FUTURES}.{found.name}")
    for name in ASYNCIO_TESTS:
        yield importlib.import_module(f"{ASYNCIO}.{name}")


def wanted(module: ModuleType, kind: type[unittest.TestCase], name: str) -> bool:
    if module.__name__.startswith(ASYNCIO):
        patterns = ASYNCIO_TESTS[module.__name__.rpartition(".")[2]]
        return any(fnmatch(name, p) or fnmatch(name.partition(".")[2], p) for p in patterns)
    return kind.__name__ == "FutureTests" or getattr(kind, "executor_type", None) in OURS


OURS = [ThreadPoolExecutor]


def collect() -> dict[str, unittest.TestCase]:
    """Return the tests, by class and name."""
    tests = {}
    with substitute(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in modules():
            if hasattr(module, "assert_python_ok"):
                module.assert_python_ok = in_subprocess(module.assert_python_ok)
            for kind in vars(module).values():
                if isinstance(kind, type) and issubclass(kind, unittest.TestCase):
                    for method in unittest.defaultTestLoader.getTestCaseNames(kind):
                        name = f"{kind.__name__}.{method}"
                        if wanted(module, kind, name):
                            tests[name] = kind(method)
    return tests


TESTS = collect()


@pytest.mark.leaks("they keep futures in their modules, and look after threads themselves")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow(SLOW[name]) if name in SLOW else ())
        for name in sorted(TESTS.keys() - EXCLUDED)
    ],
)
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from test import support

    # Nothing of pytest's: they look for what logging writes when nobody handles it.
    monkeypatch.setattr(logging.root, "handlers", [])
    support.environment_altered = False
    once = any(fnmatch(name, pattern) for pattern in TRIED_ONCE)
    result = unittest.TestResult()
    with substitute(RetryPolicy.never() if once else RetryPolicy()):
        # In a suite, which sees to the fixtures of its class and module.
        unittest.TestSuite([TESTS[name]]).run(result)
    for _, problem in result.errors + result.failures:
        pytest.fail(problem, pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not support.environment_altered, "it left threads or processes behind"


def test_what_is_left_out_or_slow_exists() -> None:
    assert EXCLUDED.keys() | SLOW.keys() <= TESTS.keys()


def test_each_kind_of_test_is_there() -> None:
    """A new layout would make the table of asyncio's tests match nothing, in silence."""
    for patterns in ASYNCIO_TESTS.values():
        for pattern in patterns:
            assert any(fnmatch(n, pattern) or fnmatch(n.partition(".")[2], pattern) for n in TESTS)
    for kind in ("ThreadPoolExecutorTest", "ThreadPoolShutdownTest", "ThreadPoolWaitTests"):
        assert any(name.startswith(kind) for name in TESTS)
