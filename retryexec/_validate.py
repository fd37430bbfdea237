"""Checks of arguments: each returns the value, or raises with the value and what would do."""

import inspect
import math
import operator
from collections.abc import Iterable
from datetime import timedelta
from types import FunctionType, MethodType
from typing import Any, SupportsFloat, TypeAlias

Seconds: TypeAlias = float | SupportsFloat | timedelta
"""A span of time: seconds as a real number of any type, or a `datetime.timedelta`."""


def real(value: Any) -> float | None:
    """Return *value* as a float, or None if it is not a real number.

    Whatever a float can be made of is one, such as a Decimal, a Fraction or a number of NumPy, as
    for the timeouts of the standard library from Python 3.15 on; text and truth values are not.
    """
    if isinstance(value, bool):
        return None
    try:
        return as_float(value)
    except TypeError:
        return None


def as_float(number: Any) -> float:
    """Return *number* as a float, as `float` does, which would read text as well.

    Raises:
        TypeError: *number* is not a real number.
    """
    try:
        return math.ldexp(number, 0)
    except OverflowError:  # an int past the largest float
        return math.inf if number > 0 else -math.inf
    except ValueError:  # a Decimal that is a signaling NaN
        return math.nan


def seconds(name: str, value: Any) -> float:
    """Return *value*, seconds or a timedelta, as seconds.

    Raises:
        TypeError: *value* is neither a number nor a timedelta.
        ValueError: *value* is negative, infinite or not a number.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else real(value)
    if number is None:
        msg = f"{name} takes seconds as a number, or a timedelta (got {value!r})"
        raise TypeError(msg)
    if not 0.0 <= number < math.inf:  # NaN fails this comparison too
        msg = f"{name} takes seconds from 0 up, finite (got {value!r})"
        raise ValueError(msg)
    return number


def seconds_or_none(name: str, value: Any) -> float | None:
    """Return *value* as seconds, or None where None stands for no limit."""
    return None if value is None else seconds(name, value)


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Return *value* as an int of at least *least*.

    Raises:
        TypeError: *value* is not a whole number.
        ValueError: *value* is smaller than *least*.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        msg = f"{name} takes a whole number from {least} up (got {value!r})"
        if isinstance(value, bool) or real(value) is not None:
            raise ValueError(msg)
        raise TypeError(msg)
    if number < least:
        msg = f"{name} takes a whole number from {least} up (got {value!r})"
        raise ValueError(msg)
    return number


def number_between(name: str, value: Any, low: float, high: float) -> float:
    """Return *value* as a float between *low* and *high*, both included.

    Raises:
        TypeError: *value* is not a number.
        ValueError: *value* lies outside, or is not a number at all (NaN).
    """
    bounds = f"from {low:g} up" if high == math.inf else f"from {low:g} to {high:g}"
    number = real(value)
    if number is None:
        msg = f"{name} takes a number {bounds} (got {value!r})"
        raise TypeError(msg)
    if not low <= number <= high or math.isinf(number):
        msg = f"{name} takes a finite number {bounds} (got {value!r})"
        raise ValueError(msg)
    return number


def callable_or_none(name: str, value: Any) -> Any:
    """Return *value* if it is callable or None; raise TypeError for anything else."""
    if value is not None and not callable(value):
        msg = f"{name} takes a callable or None (got {value!r})"
        raise TypeError(msg)
    return value


def is_coroutine_function(call: Any) -> bool:
    """Return whether *call* would only make a coroutine, which nobody awaits."""
    function = call.__func__ if call.__class__ is MethodType else call
    if function.__class__ is FunctionType:  # the common one, many times faster than inspect
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    method: Any = getattr(function.__class__, "__call__", None)  # noqa: B004  not whether, but which
    marked = hasattr(function, "__code__") or hasattr(function, "_is_coroutine_marker")
    if method.__class__ is FunctionType and not marked:  # as most objects that can be called
        return bool(method.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)


def reiterable(name: str, value: Any) -> Iterable[Any]:
    """Return *value* if jobs can share it as a backoff; lists and tuples become checked tuples.

    Raises:
        TypeError: *value* is not iterable, is text, or can be iterated only once.
        ValueError: a delay in a list or tuple is negative, infinite or NaN.
    """
    if isinstance(value, (list, tuple)):
        return tuple(seconds(f"{name}[{i}]", delay) for i, delay in enumerate(value))
    if isinstance(value, (str, bytes, bytearray, type)) or not hasattr(value, "__iter__"):
        msg = (
            f"{name} takes delays in seconds, such as [0.1, 1, 10], or a backoff such as "
            f"ExponentialBackoff() (got {value!r})"
        )
        raise TypeError(msg)
    if iter(value) is value:
        msg = (
            f"{name} takes a sequence that every job can iterate anew; {value!r} is an iterator, "
            "used up by the first job: give a list, a tuple, or an object whose __iter__ "
            "starts afresh"
        )
        raise TypeError(msg)
    return value  # type: ignore[no-any-return]  # checked above


def coroutine_refusal(job: Any) -> str:
    """Return the message for a *job* that makes a coroutine, which a thread cannot run."""
    return (
        f"submit runs its jobs on threads, where {job!r}, a coroutine function, would never be "
        "awaited: submit a plain function, or one that calls asyncio.run()"
    )
