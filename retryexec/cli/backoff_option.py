"""The value of ``--backoff``: a name and its values, or the delays themselves.

It is ``NAME[:VALUE,FIELD=VALUE,...]`` or ``DELAY,DELAY,...``; ``jitter=FRACTION`` goes with both.
"""

import inspect
import math
import random as _random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from retryexec import (
    Backoff,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    LinearBackoff,
    StopBackoff,
    ZeroBackoff,
)
from retryexec.cli.options import UsageError, did_you_mean, duration

Random = Callable[[], float]

_BACKOFFS: dict[str, type[Backoff]] = {
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
        UsageError: *spec* does not name a backoff, or gives it values that it does not take.
    """
    name, colon, rest = (part.strip() for part in spec.partition(":"))
    cls = _BACKOFFS.get(name.lower())
    if cls is None and (colon or not name.startswith(tuple("0123456789.+-"))):
        msg = (
            f"{spec!r} is not a backoff{did_you_mean(name, _BACKOFFS) or ':'} expected one of "
            f"{', '.join(_BACKOFFS)} (as constant:0.5), or the delays themselves (as 0.1,1,10)"
        )
        raise UsageError(msg)
    values, named = _arguments(spec, rest if cls else name)
    try:
        jitter = _value(named.pop("jitter", "0"))
        if cls:
            made = _build(cls, values, named, random)
        elif named:
            msg = f"a list of delays takes jitter= and no other name (got {', '.join(named)})"
            raise UsageError(msg)
        else:
            made = StopBackoff().then(tuple(_delay(value) for value in values))
        return made.jittered(_fraction(jitter), random=random) if jitter else made
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        msg = f"backoff {spec!r}: {error}"
        raise UsageError(msg) from error


def described_backoffs() -> Iterator[tuple[str, str]]:
    """Give the name of each backoff and its fields with their defaults, for the help text."""
    for name, cls in _BACKOFFS.items():
        fields = _fields(cls).values()
        yield (
            name,
            ", ".join(
                field.name if field.default is field.empty else f"{field.name}={field.default:g}"
                for field in fields
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
            raise UsageError(msg)
        else:
            named[name] = value
    return values, named


def _build(cls: type[Backoff], values: list[str], named: dict[str, str], random: Random) -> Backoff:
    fields = _fields(cls)
    takes = f"it takes {', '.join(fields)}" if fields else "it takes no values"
    if len(values) > len(fields):
        msg = f"{values[len(fields)]!r} is one value too many; {takes}"
        raise UsageError(msg)
    arguments: dict[str, Any] = dict(zip(fields, map(_value, values), strict=False))
    for name, value in named.items():
        matches = [field for field in fields if field.startswith(name.replace("-", "_"))]
        if len(matches) != 1 or not name:
            msg = f"{name!r} names {'several of its' if matches else 'none of its'} values; {takes}"
            raise UsageError(msg)
        if matches[0] in arguments:
            msg = f"{matches[0]} is given twice"
            raise UsageError(msg)
        arguments[matches[0]] = _value(value)
    for name, field in fields.items():
        if name not in arguments and field.default is field.empty:
            msg = f"{name} is missing; {takes}"
            raise UsageError(msg)
    if "random" in inspect.signature(cls).parameters:
        arguments["random"] = random
    return cls(**arguments)


def _fields(cls: type[Backoff]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls).parameters
    return {name: field for name, field in parameters.items() if name != "random"}


def _value(text: str) -> float | timedelta:
    """Return a plain number as it is, and one with a unit as a timedelta.

    So the class itself can tell a span of time from a factor, and refuse ``multiplier=2s``.
    """
    try:
        return float(text)
    except ValueError:
        return timedelta(seconds=duration(text))


def _delay(text: str) -> float:
    value = _value(text)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0.0 <= seconds < math.inf:
        msg = f"a delay takes seconds from 0 up, finite (got {seconds!r})"
        raise UsageError(msg)
    return seconds


def _fraction(value: float | timedelta) -> float:
    if isinstance(value, timedelta) or not 0.0 <= value <= 1.0:
        msg = f"jitter takes a number from 0 to 1 (got {value})"
        raise UsageError(msg)
    return value
