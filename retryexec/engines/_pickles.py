"""Pickle what an attempt is called with, and what it returns, and name the part that cannot be."""

import pickle
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from retryexec._outcome import name_of, qualified_name, text_of

# How deep to look for what it is that cannot be pickled.
DEPTH = 4


def dumps(value: Any, *, cloud: bool) -> bytes:
    """Pickle *value*.

    Args:
        cloud: by cloudpickle, which takes functions defined anywhere. Otherwise by pickle and,
            where that cannot, as multiprocessing does, which takes sockets.
    """
    if cloud:
        cloudpickle: Any = import_module("cloudpickle")  # which has no types
        pickled: bytes = cloudpickle.dumps(value)
        return pickled
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        from multiprocessing.reduction import ForkingPickler

        return bytes(ForkingPickler.dumps(value))


def can_pickle(value: Any, *, cloud: bool) -> bool:
    """Return whether *value* can be pickled."""
    try:
        dumps(value, cloud=cloud)
    except Exception:
        return False
    return True


def dumps_value(value: Any, *, cloud: bool) -> bytes:
    """Pickle what an attempt returned.

    Raises:
        PicklingError: it cannot be pickled; the message names the part, and the reason.
    """
    try:
        return dumps(value, cloud=cloud)
    except Exception as error:
        part = _culprit(f"a {qualified_name(type(value))}", value, cloud)
        msg = f"the attempt returned what cannot be pickled: {part}: {_reason(error)}"
        raise pickle.PicklingError(msg) from error


def dumps_call(
    job: Any, by_exec: bool, args: tuple[Any, ...], kwargs: dict[str, Any], *, cloud: bool
) -> bytes:
    """Pickle a call of what was submitted.

    Raises:
        PicklingError: it cannot be pickled; the message names the part, and the reason.
    """
    try:
        return dumps((job, by_exec, args, kwargs), cloud=cloud)
    except Exception as error:
        parts = [(f"argument {i}", value) for i, value in enumerate(args, 1)]
        parts += [(f"argument {name}", value) for name, value in kwargs.items()]
        bad = next((part for part in parts if not can_pickle(part[1], cloud=cloud)), None)
        name = name_of(job)
        if bad is not None:
            part = _culprit(f"its {bad[0]}, a {qualified_name(type(bad[1]))}", bad[1], cloud)
        elif "<locals>" in name or "<lambda>" in name:
            part = "it is defined within a function, where other processes do not find it"
        else:
            part = _culprit("the job itself", job, cloud)
        msg = f"{name} cannot be sent to where attempts run: {part}: {_reason(error)}"
        raise pickle.PicklingError(msg) from error


def _reason(error: Exception) -> str:
    return f"{qualified_name(type(error))}: {text_of(error)}"


def _culprit(name: str, value: Any, cloud: bool) -> str:
    """Return *name*, which stands for *value*, and the part of it that cannot be pickled."""
    path = ""
    for _ in range(DEPTH):
        bad = next((part for part in _parts(value) if not can_pickle(part[1], cloud=cloud)), None)
        if bad is None:
            break
        path, value = path + bad[0], bad[1]
    return f"{name}, because of {path}, a {qualified_name(type(value))}" if path else name


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of *value*, each with how it is reached."""
    with suppress(Exception):
        if type(value) is dict:
            yield from ((f"[{key!r}]"[:40], inner) for key, inner in value.items())
        elif type(value) in {list, tuple}:
            yield from ((f"[{i}]", inner) for i, inner in enumerate(value))
        else:
            yield from ((f".{key}", inner) for key, inner in vars(value).items())
