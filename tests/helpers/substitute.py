"""Makes `concurrent.futures` hand out what is ours, here and in processes that tests start."""

import concurrent.futures
import concurrent.futures._base
import concurrent.futures.thread
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from helpers import TESTS
from retryexec import RetryFuture, RetryingExecutor, RetryPolicy

if importlib.util.find_spec("concurrent.futures.interpreter"):
    # Its pool is a subclass of the standard library's, which has to be there as it is imported.
    importlib.import_module("concurrent.futures.interpreter")

PREAMBLE = f"""\
import sys
sys.path[:0] = {[str(TESTS), str(TESTS.parent)]!r}
from helpers.substitute import substitute
substitute().__enter__()
del sys.path[:2]
"""
"""Goes before the source that a test runs in a process of its own."""


class ThreadPoolExecutor(RetryingExecutor):
    """Ours, under the name by which tests import it in the source of their subprocesses."""

    default_policy = RetryPolicy()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, policy=self.default_policy, **kwargs)


@contextmanager
def substitute(policy: RetryPolicy = ThreadPoolExecutor.default_policy) -> Iterator[None]:
    """Put our executor, with *policy*, and our future in the place of the standard ones."""
    with (
        mock.patch.object(ThreadPoolExecutor, "default_policy", policy),
        mock.patch.object(concurrent.futures, "ThreadPoolExecutor", ThreadPoolExecutor),
        mock.patch.object(concurrent.futures.thread, "ThreadPoolExecutor", ThreadPoolExecutor),
        mock.patch.object(concurrent.futures, "Future", RetryFuture),
        mock.patch.object(concurrent.futures._base, "Future", RetryFuture),
    ):
        yield


def in_subprocess(run_python: Any) -> Any:
    """Wrap `assert_python_ok`, so that the source it is given finds our executor too."""

    def run(*args: str, **options: Any) -> Any:
        *flags, source = args
        assert flags == ["-c"], f"only source can be told about our executor (got {args!r})"
        return run_python("-c", PREAMBLE + source, **options)

    return run


def ships(module: str) -> bool:
    """Return whether the interpreter has this module of its own tests; import it not yet."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the whole package "test"
        return False
