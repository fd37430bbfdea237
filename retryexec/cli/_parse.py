"""Values of options: spans of time, whole numbers, types of exceptions."""

import builtins
import importlib
import re

from retryexec.cli._misuse import Misuse

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds in each unit that a span of time may be given in."""

_LONGEST = 1e13  # seconds, nearly what a timedelta can hold; infinity is no time to wait for
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d)")


def duration(text: str) -> float:
    """Return *text*, such as ``2.5``, ``500ms`` or ``1h30m``, in seconds.

    Raises:
        Misuse: *text* is no span of time from 0 up, or an infinite one.
    """
    stripped = text.strip().lower()
    parts = _PART.findall(stripped)
    try:
        if parts and "".join(number + unit for number, unit in parts) == stripped:
            seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
        else:
            seconds = float(stripped)
    except ValueError:
        seconds = -1.0
    if 0.0 <= seconds <= _LONGEST:  # NaN fails this comparison too
        return seconds
    msg = f"{text!r} is no span of time: seconds from 0 up, or with units, as 500ms, 2m or 1h30m"
    raise Misuse(msg)


def duration_or_none(text: str) -> float | None:
    """Return *text* in seconds; ``none`` is no limit."""
    return None if _means_none(text) else duration(text)


def count(text: str) -> int:
    """Return *text* as a whole number from 1 up; raise Misuse for anything else."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        msg = f"{text!r} is no whole number from 1 up"
        raise Misuse(msg)
    return number


def count_or_none(text: str) -> int | None:
    """Return *text* as a whole number from 1 up; ``none`` is no limit."""
    return None if _means_none(text) else count(text)


def exception_type(name: str) -> type[Exception]:
    """Return the exception type called *name*: ``TimeoutError``, ``sqlite3.OperationalError``.

    Raises:
        Misuse: there is no such name, or it is no type that a retry could be about.
    """
    found = _find(name)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        msg = f"{name} is no type of exception (it is {found!r})"
        raise Misuse(msg)
    if not issubclass(found, Exception):
        msg = (
            f"{name} ends a job and is never retried: only types derived from Exception are, "
            "as TimeoutError or sqlite3.OperationalError"
        )
        raise Misuse(msg)
    return found


def _means_none(text: str) -> bool:
    return text.strip().lower() == "none"


def _find(name: str) -> object:
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    expected = "a built-in name as TimeoutError, or module.Name as sqlite3.OperationalError"
    if not module_name:
        if hasattr(builtins, attribute):
            return getattr(builtins, attribute)
        msg = f"no exception {name!r} is known: {expected}"
        raise Misuse(msg)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        msg = f"no exception {name!r}: {type(error).__name__}: {error} (expected {expected})"
        raise Misuse(msg) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        msg = f"no exception {name!r}: module {module_name} has no {attribute!r}"
        raise Misuse(msg) from None
