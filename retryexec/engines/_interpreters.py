"""interpreters(): the engine that runs attempts in other interpreters of this process."""

import concurrent.futures
import pickle
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from retryexec._errors import PermanentError
from retryexec._validate import callable_or_none
from retryexec.engines._engine import Engine
from retryexec.engines._pickles import dumps_call
from retryexec.engines._processes import workers


def interpreters(
    max_workers: int | None = None,
    *,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    max_crashes: int = 3,
) -> Engine:
    """Run attempts in other interpreters of this process, by an `InterpreterPoolExecutor`.

    Each has a GIL of its own, and no process of its own: what ends the process ends all. The job,
    its arguments and its outcome are pickled. A script whose own functions are sent needs
    ``if __name__ == "__main__":``, since each interpreter then runs it to have them.

    Args:
        max_workers: how many interpreters, and threads; by default one for each CPU.
        initializer, initargs: called as ``initializer(*initargs)`` in each new interpreter.
        max_crashes: how often its interpreter may break before a job fails with
            `StopReason.CRASHED`.

    Raises:
        RuntimeError: this Python is older than 3.14, which first had them.
        TypeError, ValueError: an argument cannot be right; the message names it.
    """
    if sys.version_info < (3, 14):
        version = ".".join(map(str, sys.version_info[:2]))
        msg = (
            f"interpreters() needs Python 3.14, and this is {version}: processes() runs attempts "
            "in other processes"
        )
        raise RuntimeError(msg)
    most = workers(max_workers)
    callable_or_none("initializer", initializer)
    make = partial(_make_pool, most, initializer, tuple(initargs))
    return Engine(make=make, max_workers=most, max_crashes=max_crashes, same_host=True)


def _make_pool(
    max_workers: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> Any:
    from multiprocessing.spawn import get_preparation_data

    if _loads_main:
        msg = (
            "the main script makes attempts run in interpreters while one of these runs it, for "
            'its functions: put that under if __name__ == "__main__":'
        )
        raise PermanentError(RuntimeError(msg))
    call = None
    if initializer is not None:
        try:
            call = dumps_call(initializer, False, initargs, {}, cloud=False)
        except pickle.PicklingError as error:
            raise PermanentError(error) from None
    # What multiprocessing tells a process that it spawns. Not the current directory, for one, which
    # all interpreters share.
    told = get_preparation_data("retryexec")
    wanted = ("sys_path", "sys_argv", "init_main_from_name", "init_main_from_path")
    told = {name: told[name] for name in wanted if name in told}
    # By its name, for type checkers that are told of an older Python.
    pool: Any = getattr(concurrent.futures, "InterpreterPoolExecutor")  # noqa: B009
    return pool(max_workers, initializer=_begin, initargs=(pickle.dumps(told), call))


# ---- in one of the interpreters

# Names of what is being loaded; not empty while the main script runs for its functions.
_loads_main: list[str] = []


def _begin(told: bytes, call: bytes | None) -> None:
    """Make this interpreter find the modules, and the main script's functions, of the first one."""
    data = pickle.loads(told)  # noqa: S301  the first interpreter wrote it
    sys.path[:] = data["sys_path"]
    sys.argv = data["sys_argv"]
    main: Any = sys.modules["__main__"]
    main.__getattr__ = partial(_from_main_script, main, data)
    if call is not None:
        function, _, args, kwargs = pickle.loads(call)  # noqa: S301  the same
        function(*args, **kwargs)


def _from_main_script(empty: ModuleType, data: dict[str, Any], name: str) -> Any:
    """Return what the main script calls *name*; run it as a module first, for the first such."""
    from multiprocessing import spawn

    if not name.startswith("__") and not _loads_main and sys.modules["__main__"] is empty:
        _loads_main.append(name)
        try:
            spawn.prepare(data)
        finally:
            _loads_main.clear()
        main = sys.modules["__main__"]
        if main is not empty:
            return getattr(main, name)
    msg = f"module '__main__' has no attribute {name!r}"
    raise AttributeError(msg)
