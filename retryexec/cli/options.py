"""Values of options (times, numbers, exception types), and the error for wrong ones."""

import argparse
import builtins
import difflib
import math
import pkgutil
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from retryexec._typing import override


class UsageError(argparse.ArgumentTypeError):
    """What was asked for cannot work: exit status 2, and no traceback.

    Its text is one line that names the value and what was expected instead. When a function that
    converts an option's value raises it, argparse puts the option's name before the text.
    """


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError for whatever is wrong, and knows its options' names."""

    def __init__(self, **settings: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        self.options: list[str] = []  # --names, for a misspelled one to be recognised
        super().__init__(formatter_class=raw, allow_abbrev=False, **settings)

    @override
    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an argument, as `argparse` does."""
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise UsageError, where argparse would end the process."""
        msg = f"{message} (see {self.prog} --help)"
        raise UsageError(msg)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'exponential'?"`` for the *known* name most like *name*, or ""."""
    known = list(known)
    lower = {word.lower(): word for word in known}
    found = [word for word in known if len(name) > 1 and word.lower().startswith(name.lower())]
    found = found[:1] or difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower.get(found[0].lower(), found[0])!r}?" if found else ""


# ---- times and numbers

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 1e13  # seconds, nearly what a timedelta can hold; nobody can wait for ever
_LONGEST_INTERVAL = 86400.0  # seconds
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d)")


def duration(text: str) -> float:
    """Return *text*, such as ``2.5``, ``500ms`` or ``1h30m``, in seconds.

    Raises:
        UsageError: *text* is not a finite span of time from 0 up.
    """
    stripped = text.strip().lower()
    parts = _PART.findall(stripped)
    try:
        if parts and "".join(number + unit for number, unit in parts) == stripped:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            seconds = float(stripped)
    except ValueError:
        seconds = -1.0
    if 0.0 <= seconds <= _LONGEST:  # NaN fails this comparison too
        return seconds
    msg = f"{text!r} is not a span of time: seconds from 0 up, or with units, as 500ms, 2m or 1h30m"
    raise UsageError(msg)


def duration_or_none(text: str) -> float | None:
    """Return *text* in seconds; ``none`` is no limit."""
    return None if _means_none(text) else duration(text)


def interval(text: str) -> float:
    """Return *text* in seconds, of which there are some; raise UsageError for anything else."""
    seconds = duration(text)
    if not 0 < seconds <= _LONGEST_INTERVAL:
        msg = f"{text!r} is not a time between two looks: give more than 0 s, and a day at most"
        raise UsageError(msg)
    return seconds


def count(text: str) -> int:
    """Return *text* as a whole number from 1 up; raise UsageError for anything else."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        msg = f"{text!r} is not a whole number from 1 up"
        raise UsageError(msg)
    return number


def count_or_none(text: str) -> int | None:
    """Return *text* as a whole number from 1 up; ``none`` is no limit."""
    return None if _means_none(text) else count(text)


def rate(text: str) -> tuple[float, float]:
    """Return *text*, such as ``20``, ``100/s`` or ``5/min``, as a number and its span in seconds.

    Raises:
        UsageError: it is not a number above 0, alone or with a unit.
    """
    number, slash, unit = (part.strip().lower() for part in text.partition("/"))
    try:
        starts = float(number)
    except ValueError:
        starts = 0.0
    span = _RATE_UNITS.get(unit) if slash else 1.0
    if not 0.0 < starts < math.inf or span is None:
        msg = (
            f"{text!r} is not a rate: a number above 0, of starts per second, as 20 or 0.5; or "
            "with a unit, as 100/s, 5/min or 1000/h"
        )
        raise UsageError(msg)
    return starts, span


def field_names(text: str) -> tuple[str, ...]:
    """Return the names in *text*, which commas separate; raise UsageError if one is missing."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        msg = f"{text!r} does not name fields: one, or several with commas between, as user,kind"
        raise UsageError(msg)
    return names


def breaker(text: str) -> dict[str, Any]:
    """Return the terms of a circuit breaker that *text* gives: ``default``, ``0.8,open_for=10s``.

    Raises:
        UsageError: it takes no such terms.
    """
    from retryexec.guards import CircuitBreaker  # here, since `plan` has none

    terms: dict[str, Any] = {}
    try:
        for item in () if text.strip().lower() in {"default", ""} else text.split(","):
            name, equals, value = (part.strip() for part in item.partition("="))
            if not equals:
                name, value = "failure_rate", name
            found = [term for term in _BREAKER if term.startswith(name.replace("-", "_"))]
            if len(found) != 1 or not name or found[0] in terms:
                several = "given twice" if found and found[0] in terms else "not one of its terms"
                msg = f"{name!r} is {several}: {', '.join(_BREAKER)}"
                raise UsageError(msg)
            terms[found[0]] = _BREAKER[found[0]](value)
        CircuitBreaker(**terms)
    except (UsageError, TypeError, ValueError) as error:
        msg = (
            f"{text!r} is not a breaker ({error}); expected default, or terms as "
            "0.8,minimum_attempts=50,open_for=10s"
        )
        raise UsageError(msg) from error
    return terms


def _share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


_RATE_UNITS = {
    **dict.fromkeys(("s", "sec"), 1.0),
    **dict.fromkeys(("m", "min"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
_BREAKER: dict[str, Callable[[str], Any]] = {
    "failure_rate": _share,
    "minimum_attempts": count,
    "window": duration,
    "open_for": duration,
    "probes": count,
}


def _means_none(text: str) -> bool:
    return text.strip().lower() == "none"


def past_time(text: str) -> float:
    """Return *text*, a time (UTC) or a span of time that it is ago, in seconds of the wall clock.

    Raises:
        UsageError: *text* is neither.
    """
    try:
        return time.time() - duration(text)
    except UsageError:
        pass
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        msg = f"{text!r} is not a time: 2026-11-22, 2026-11-22T02:19:23Z, or how long ago, as 7d"
        raise UsageError(msg) from error


# ---- how INPUT is written

_DELIMITERS = {"tab": "\t", r"\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


def delimiter(text: str) -> str:
    r"""Return the character that *text* names: itself, or ``tab`` (also ``\t``), ``comma`` ..."""
    character = _DELIMITERS.get(text.strip().lower() or text, text)
    if len(character) != 1 or not character.isascii() or character in '"\r\n\0':
        msg = f"{text!r} is not a delimiter: one character, or one of {', '.join(_DELIMITERS)}"
        raise UsageError(msg)
    return character


def encoding(text: str) -> str:
    """Return *text* if it names a text encoding; raise UsageError otherwise."""
    try:
        with suppress(UnicodeError):  # one letter may be too short for it
            b"x".decode(text)
    except (LookupError, ValueError) as error:
        msg = f"{text!r} is not an encoding that Python knows: try utf-8, utf-16, cp1252 or latin-1"
        raise UsageError(msg) from error
    return text


# ---- exception types


def exception_type(name: str) -> type[Exception]:
    """Return the exception type called *name*: ``TimeoutError``, ``sqlite3.OperationalError``.

    Raises:
        UsageError: there is no such name, or it is not a type that a retry could be about.
    """
    found = _find(name)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        msg = f"{name} is not a type of exception (it is {found!r})"
        raise UsageError(msg)
    if not issubclass(found, Exception):
        msg = (
            f"{name} ends a job and is never retried: only types derived from Exception are, "
            "as TimeoutError or sqlite3.OperationalError"
        )
        raise UsageError(msg)
    return found


def _find(name: str) -> object:
    expected = "a built-in name as TimeoutError, or module.Name as sqlite3.OperationalError"
    path = name if re.search(r"\w[.:]", name) else f"builtins:{name or '?'}"
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:
        if path != name:
            hint = did_you_mean(name, (word for word in vars(builtins) if word[0].isupper()))
            msg = f"no exception {name!r} is known{hint} (expected {expected})"
        else:
            msg = f"no exception {name!r}: {type(error).__name__}: {error} (expected {expected})"
        raise UsageError(msg) from error
