"""A pytest plugin: a test fails when a thread, executor or future that it made outlives it.

A test that lets one live on purpose says so: `@pytest.mark.leaks("why")`. So does one that
first uses a fixture of a wider scope which holds an executor.
"""

import contextlib
import functools
import gc
import io
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest

from retryexec import RetryingExecutor
from retryexec._core.future import LazyFuture

# Seconds for threads that are about to end, and no more than a bound: a clean test waits
# exactly until they have ended.
GRACE = 2.0

MARKERS = {
    "leaks": "something of the test may outlive it",
    "uninstrumented": "the test counts frames or objects, so the classes are left as they are",
}

_threads = pytest.StashKey[set[threading.Thread]]()
_known = pytest.StashKey[set[int]]()
_failed = pytest.StashKey[bool]()


class Registry:
    """The executors and futures made since the start of a test, held weakly.

    It replaces the constructors of the classes by ones that also register, so the library knows
    nothing of it. The references have no callbacks: those would run Python code wherever an
    object happens to be freed, also in a test that interrupts the main thread at any moment.
    """

    def __init__(self) -> None:
        self.made: list[weakref.ref[Any]] = []
        self._originals: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        for kind in [*family(LazyFuture), *family(RetryingExecutor)]:
            if "__init__" in vars(kind):
                self._replace(kind, "__init__", self._registering_init)
        # A view is made by copying, without a constructor.
        self._replace(RetryingExecutor, "using", self._registering_result)

    def remove(self) -> None:
        while self._originals:
            kind, name, original = self._originals.pop()
            setattr(kind, name, original)

    def alive(self) -> list[object]:
        """Return what is still there, each object once."""
        things = {id(thing): thing for ref in self.made if (thing := ref()) is not None}
        return list(things.values())

    def _replace(self, kind: type, name: str, wrap: Callable[[Any], Any]) -> None:
        original = vars(kind)[name]
        self._originals.append((kind, name, original))
        setattr(kind, name, functools.wraps(original)(wrap(original)))

    def _registering_init(self, init: Any) -> Any:
        register, ref = self.made.append, weakref.ref

        def registering(self: Any, *args: Any, **kwargs: Any) -> None:
            register(ref(self))
            init(self, *args, **kwargs)

        return registering

    def _registering_result(self, method: Any) -> Any:
        register, ref = self.made.append, weakref.ref

        def registering(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            register(ref(result))
            return result

        return registering


def family(kind: type) -> list[type]:
    """Return *kind* and all classes derived from it."""
    return [kind, *(member for child in kind.__subclasses__() for member in family(child))]


registry = Registry()


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}(reason): {meaning}")


def pytest_collection_finish() -> None:
    # What exists by now is no test's doing. Frozen, it is not visited by collections, which
    # makes the ones around tests cheap.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_failed] = False
    item.stash[_threads] = set(threading.enumerate())
    registry.made.clear()
    if item.get_closest_marker("uninstrumented"):
        item.stash[_known] = {id(thing) for thing in found_by_search()}
    else:
        registry.install()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    report = yield
    item.stash[_failed] |= not report.passed
    return report


# A hook rather than a fixture: it looks last, when every fixture has been finished.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    try:
        yield
    finally:
        registry.remove()
    for name in MARKERS:
        if (mark := item.get_closest_marker(name)) and not (mark.args and mark.args[0]):
            pytest.fail(f'{name} takes a reason: @pytest.mark.{name}("why")', pytrace=False)
    # The traceback of a failure holds on to everything the test had.
    if item.get_closest_marker("leaks") or item.stash[_failed]:
        return
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # the values of the fixtures
    if leaks := left_behind(item):
        pytest.fail("left behind by this test:\n  " + "\n  ".join(leaks), pytrace=False)


def left_behind(item: pytest.Item) -> list[str]:
    """Return the threads, executors and futures that *item* made and that are still alive."""
    threads = set(threading.enumerate()) - item.stash[_threads]
    if threads or alive(item):
        # A cycle is not a leak, and it may hold the executor of a thread. What it frees may log,
        # as a future does whose failure nobody read: pytest captures nothing at this point.
        with contextlib.redirect_stderr(io.StringIO()):
            gc.collect()
    deadline = time.monotonic() + GRACE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if threads and alive(item):  # one of them may have held a cycle until now
        with contextlib.redirect_stderr(io.StringIO()):
            gc.collect()
    leaks = sorted(repr(thread) for thread in threads if thread.is_alive())
    return leaks + sorted(repr(thing) for thing in alive(item))


def alive(item: pytest.Item) -> list[object]:
    """Return the executors and futures that *item* made and that are still there."""
    if _known not in item.stash:
        return registry.alive()
    known = item.stash[_known]
    return [thing for thing in found_by_search() if id(thing) not in known]


def found_by_search() -> list[object]:
    """Return the executors and futures among all objects of the process, which takes long.

    By `type()`: `isinstance` would ask proxies and mocks what they claim to be.
    """
    kinds = (LazyFuture, RetryingExecutor)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
