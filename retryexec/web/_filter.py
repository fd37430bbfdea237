"""Which jobs are meant: what people choose by, as the address of a page says it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from retryexec.web._causes import Cause


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant; what is None is not asked for.

    Attributes:
        kind: what the job's class is registered as, or is called.
        error: the type of the latest error.
        shape: its text, without what differs from job to job.
        text: is contained in its text.
        key: the job's key, as it is shown.
        older: seconds for which it has been there, or been dead, at least.
        until: only those that died, or were accepted, up to this time of the wall clock.
        state: of a job that has not ended.
    """

    kind: str | None = None
    error: str | None = None
    shape: str | None = None
    text: str | None = None
    key: str | None = None
    older: float | None = None
    until: float | None = None
    state: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Filter":
        """Return the filter that the query of an address, or a form, asks for.

        Raises:
            ValueError: a time is not one.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = str(values.get(field.name) or "").strip()
            if field.name == "shape" and "shape" in values:
                found["shape"] = str(values["shape"])  # the empty one is a shape, too
            elif field.name == "until" and value:
                found["until"] = _number(value)
            elif field.name == "older" and value:
                found["older"] = duration(value)
            elif value:
                found[field.name] = value
        return cls(**found)

    def without(self, *names: str) -> "Filter":
        """Return this filter without what *names* ask for."""
        return replace(self, **dict.fromkeys(names))

    def query(self, **more: Any) -> str:
        """Return it as the query of an address."""
        given = {name: value for name, value in more.items() if value is not None}
        return urlencode({**self.as_form(), **given})

    def as_form(self) -> dict[str, str]:
        """Return it as the fields of a form."""
        return {
            field.name: _as_text(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }

    def __bool__(self) -> bool:
        return bool(self.as_form())

    def matches(self, *, kind: str, key: str, since: float, cause: Cause, now: float) -> bool:
        """Return whether a job is meant, whatever its state is.

        Args:
            since: when it was accepted, or died.
        """
        return (
            (self.kind is None or kind == self.kind)
            and (self.error is None or cause.type == self.error)
            and (self.shape is None or cause.shape == self.shape)
            and (self.text is None or self.text.lower() in cause.text.lower())
            and (self.key is None or key == self.key)
            and (self.older is None or now - since >= self.older)
            and (self.until is None or since <= self.until)
        )

    def in_words(self) -> str:
        """Return it for people: ``save, ConnectionError``."""
        parts = [self.state, self.kind, self.error, self.shape]
        parts.append(self.text and f"“{self.text}”")
        parts.append(self.key and f"key {self.key}")
        parts.append(f"older than {_as_text(self.older)} s" if self.older else None)
        return ", ".join(part for part in parts if part)


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``2h`` or ``7d``.

    Raises:
        ValueError: *text* is not a time.
    """
    number, unit = text.strip().lower(), ""
    while number and number[-1].isalpha():
        number, unit = number[:-1], number[-1] + unit
    try:
        seconds = _number(number) * _UNITS[unit or "s"]
    except (KeyError, ValueError):
        msg = f"{text!r} is not a time: expected seconds, or 15m, 2h, 7d"
        raise ValueError(msg) from None
    if seconds < 0:
        msg = f"{text!r} is less than no time"
        raise ValueError(msg)
    return seconds


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = f"{text!r} is not a finite number"
        raise ValueError(msg)
    return number


def _as_text(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def key_text(key: Any) -> str:
    """Return a key as people read it: a text as it is, all else as Python has it, or nothing."""
    if key is None:
        return ""
    return key if isinstance(key, str) else repr(key)
