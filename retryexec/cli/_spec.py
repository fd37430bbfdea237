"""Backoffs as text: ``exponential``, ``constant:0.5``, ``full-jitter:base=1,max=30``, ``0.1,1,10``.

::

    SPEC   = NAME [":" ARG {"," ARG}]  |  DELAY {"," DELAY} ["," "jitter=" FRACTION]
    ARG    = VALUE | FIELD "=" VALUE | "jitter=" FRACTION
    VALUE  = a number, or a span of time with its unit: 0.5, 500ms, 2m

A FIELD is a field of the backoff's class, or any beginning of its name that no other field
shares. Values without a name fill the fields in their order.
"""

import inspect
import random as _random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from retryexec._backoff import (
    Backoff,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    LinearBackoff,
    Random,
    StopBackoff,
    ZeroBackoff,
)
from retryexec._validate import number_between, seconds
from retryexec.cli._misuse import Misuse
from retryexec.cli._parse import duration

_CLASSES: dict[str, type[Backoff]] = {
    "exponential": ExponentialBackoff,
    "full-jitter": FullJitterBackoff,
    "equal-jitter": EqualJitterBackoff,
    "decorrelated": DecorrelatedJitterBackoff,
    "linear": LinearBackoff,
    "fibonacci": FibonacciBackoff,
    "constant": ConstantBackoff,
    "zero": ZeroBackoff,
    "none": StopBackoff,
}


def backoff(spec: str, random: Random = _random.random) -> Backoff:
    """Return the backoff that *spec* describes, drawing from *random* where it has jitter.

    Raises:
        Misuse: *spec* names no backoff, or gives it values that it does not take.
    """
    name, colon, rest = (part.strip() for part in spec.partition(":"))
    cls = _CLASSES.get(name.lower())
    if cls is None and (colon or not name.startswith(tuple("0123456789.+-"))):
        msg = (
            f"{spec!r} is no backoff: expected one of {', '.join(_CLASSES)} (as constant:0.5), "
            "or the delays themselves (as 0.1,1,10)"
        )
        raise Misuse(msg)
    values, named = _arguments(spec, rest if cls else name)
    try:
        jitter = _value(named.pop("jitter", "0"))
        if cls:
            made = _build(cls, values, named, random)
        elif named:
            msg = f"a list of delays takes jitter= and no other name (got {', '.join(named)})"
            raise Misuse(msg)
        else:
            made = StopBackoff().then(tuple(seconds("a delay", _value(value)) for value in values))
        return (
            made.jittered(number_between("jitter", jitter, 0.0, 1.0), random=random)
            if jitter
            else made
        )
    except (Misuse, TypeError, ValueError, OverflowError) as error:
        msg = f"backoff {spec!r}: {error}"
        raise Misuse(msg) from error


def described() -> Iterator[tuple[str, str]]:
    """Give the name of each backoff and its fields with their defaults, for the help text."""
    for name, cls in _CLASSES.items():
        parameters = inspect.signature(cls).parameters
        yield (
            name,
            ", ".join(
                field
                if parameters[field].default is inspect.Parameter.empty
                else f"{field}={parameters[field].default:g}"
                for field in _fields(cls)
            ),
        )


def _arguments(spec: str, text: str) -> tuple[list[str], dict[str, str]]:
    """Split ``1,max=30`` into its values and its named values."""
    values: list[str] = []
    named: dict[str, str] = {}
    for item in text.split(",") if text else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            values.append(name)
        elif name in named:
            msg = f"backoff {spec!r}: {name} is given twice"
            raise Misuse(msg)
        else:
            named[name] = value
    return values, named


def _build(cls: type[Backoff], values: list[str], named: dict[str, str], random: Random) -> Backoff:
    fields = _fields(cls)
    takes = f"it takes {', '.join(fields)}" if fields else "it takes no values"
    if len(values) > len(fields):
        msg = f"{values[len(fields)]!r} is one value too many; {takes}"
        raise Misuse(msg)
    arguments: dict[str, Any] = dict(zip(fields, map(_value, values), strict=False))
    for name, value in named.items():
        matches = [field for field in fields if field.startswith(name.replace("-", "_"))]
        if len(matches) != 1 or not name:
            msg = f"{name!r} names {'several of its' if matches else 'none of its'} values; {takes}"
            raise Misuse(msg)
        if matches[0] in arguments:
            msg = f"{matches[0]} is given twice"
            raise Misuse(msg)
        arguments[matches[0]] = _value(value)
    missing = [
        field
        for field in fields
        if field not in arguments
        and inspect.signature(cls).parameters[field].default is inspect.Parameter.empty
    ]
    if missing:
        msg = f"{missing[0]} is missing; {takes}"
        raise Misuse(msg)
    if "random" in inspect.signature(cls).parameters:
        arguments["random"] = random
    return cls(**arguments)


def _fields(cls: type[Backoff]) -> list[str]:
    return [name for name in inspect.signature(cls).parameters if name != "random"]


def _value(text: str) -> float | timedelta:
    """Return a plain number as it is, and one with a unit as a timedelta.

    So the class itself can tell a span of time from a factor, and refuse ``multiplier=2s``.
    """
    try:
        return float(text)
    except ValueError:
        return timedelta(seconds=duration(text))
