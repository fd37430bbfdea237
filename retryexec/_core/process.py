"""The process that executors live in: what happens at its exit, and in its forked children."""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from retryexec._core.future import LOCKS
from retryexec._core.line import LINE_LOCKS
from retryexec._core.pool import Pool
from retryexec._core.settings import JobSettings
from retryexec._errors import ExecutorShutdownError

Move: TypeAlias = Callable[[Any, Mapping[Pool, Pool]], None]
GetSettings: TypeAlias = Callable[[Any], JobSettings]

# Guards all below; held across a fork, so that the child finds it in order.
_lock = threading.RLock()
_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
# The executors, and views of them, each with a function that moves it to another pool, and one that
# returns its settings. Nothing here leads to a pool or an executor, so those that users have
# forgotten can go.
_owners: "weakref.WeakKeyDictionary[Any, tuple[Move, GetSettings]]" = weakref.WeakKeyDictionary()
_exiting = False


def register(owner: object, pool: Pool, move: Move, get_settings: GetSettings) -> None:
    """Finish *pool* at the interpreter's exit, and replace it in a forked child.

    Args:
        owner: the executor, or view of one, that submits to the pool.
        pool: where its jobs run.
        move: called as ``move(owner, successors)`` in a forked child, which has none of the
            threads; *successors* has the new pool for each old one.
        get_settings: called as ``get_settings(owner)``, returns those of the jobs it submits.
    """
    with _lock:
        _owners[owner] = move, get_settings
        _pools.add(pool)
        if _exiting:
            pool.shutdown.close(_refuse)


def settings_of(owner: object) -> JobSettings | None:
    """Return the settings of *owner*, an executor or a view of one; None if it is neither."""
    try:
        with _lock:
            known = _owners.get(owner)
    except TypeError:  # it cannot be referred to weakly
        return None
    return None if known is None else known[1](owner)


def pool_of(owner: object) -> Pool:
    """Return the pool that *owner*, an executor or a view of one, submits to.

    Raises:
        TypeError: it is neither.
    """
    settings = settings_of(owner)
    if settings is None:
        msg = f"executor takes a RetryingExecutor (got {owner!r})"
        raise TypeError(msg)
    return settings.pool


def all_settings(pool: Pool) -> list[JobSettings]:
    """Return the settings of all executors, and views of them, that submit to *pool*."""
    with _lock:
        owners = list(_owners)
    found = [settings for owner in owners if (settings := settings_of(owner)) is not None]
    return [settings for settings in found if settings.pool is pool]


def finish_before_others() -> None:
    """Finish pools at exit before whatever was registered for it until now ends what they need.

    What was registered last comes first. The standard library's process pool, which is imported
    after this module, would otherwise have been shut down when the jobs left need it.
    """
    global _first  # noqa: PLW0603  there is one list of such functions
    with _lock, suppress(RuntimeError):  # the exit has begun
        if _first is None or _registered_last() is not _first:
            threading._register_atexit(_finish_pools)  # type: ignore[attr-defined]
            _first = _registered_last()


# Of the functions called at exit, ours, which comes first; None until `finish_before_others`.
_first: object = None


def _registered_last() -> object:
    registered: list[object] = getattr(threading, "_threading_atexits", [])
    return registered[-1] if registered else None


def _refuse() -> Exception:
    return ExecutorShutdownError("cannot schedule new futures after interpreter shutdown")


def _finish_pools() -> None:
    """Let all accepted jobs finish, before the interpreter exits."""
    global _exiting  # noqa: PLW0603  the process ends once
    with _lock:
        if _exiting:
            return  # it is registered more than once
        _exiting = True
        pools = list(_pools)
    for pool in pools:
        pool.shutdown.close(_refuse)
    if getattr(sys, "last_type", None) is KeyboardInterrupt:  # it has ended the main thread
        for pool in pools:
            pool.shutdown.log_wait()
    interrupt = None
    for pool, deadline in [(pool, pool.shutdown.exit_deadline()) for pool in pools]:
        try:
            pool.shutdown.finish_at_exit(deadline)
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


_held: list[Pool] = []  # the pools whose locks a fork under way holds
_locks: list[Any] = []  # those locks, and those of the lines and jobs


def _before_fork() -> None:
    """Take all locks, so that the child inherits none that a thread of the parent holds."""
    _lock.acquire()
    _held[:] = _pools
    # In the order in which they nest.
    for lock in (*LINE_LOCKS, *(pool.lock for pool in _held), *LOCKS):
        _locks.append(lock)
        lock.acquire()


def _after_fork() -> None:
    for lock in _locks:
        with suppress(RuntimeError):  # an interrupt came before it was taken
            lock.release()
    _locks.clear()
    _held.clear()
    _lock.release()


def _in_child() -> None:
    """Give every executor a pool with threads of its own, and fail what only the parent runs."""
    pools = _held.copy()
    _after_fork()
    successors = {pool: pool.for_forked_child() for pool in pools}
    for owner, (move, _) in list(_owners.items()):
        move(owner, successors)
    for pool in pools:
        _pools.discard(pool)
        pool.abandon_after_fork()


# Called before the interpreter joins non-daemon threads, which atexit's functions are not. The
# standard library's own pool ends its threads from the same place.
threading._register_atexit(_finish_pools)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):  # pragma: no branch  no forks on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
