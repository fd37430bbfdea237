"""Records: what a line of INPUT becomes, a job or a reason why it cannot be one."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from retryexec.cli._misuse import Misuse

RESERVED = "_retryexec"
"""The key under which a failures file tells what happened. No field: INPUT may have it."""

_SHOWN = 60  # characters of a value that a reason repeats
_PLACE = re.compile(r" - at `\$\.?(.+)`$")
_MISSING = re.compile(r"^Object missing required field `(.+?)`")


@dataclass(frozen=True, slots=True)
class Record:
    """One job to do.

    Attributes:
        line: the line of INPUT on which it begins, from 1.
        end: how many bytes of INPUT have been read, this record included.
        job: the dataclass instance.
        source: the record as a JSON object, to be told again if the job fails.
        unknown: the names in it that the dataclass does not have.
    """

    line: int
    end: int
    job: Any
    source: bytes
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that makes no job: `line` and `end` as in `Record`, and the reason."""

    line: int
    end: int
    reason: str


Reader: TypeAlias = Iterator[Record | BadRecord]


def field_names(cls: type[Any]) -> frozenset[str]:
    """Return the names a record may have."""
    return frozenset(field.name for field in dataclasses.fields(cls))


def required_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names a record must have, in their order."""
    missing = dataclasses.MISSING
    return tuple(
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is missing and field.default_factory is missing
    )


def check_types(cls: type[Any]) -> None:
    """Raise Misuse if no record can be decoded into *cls*, whatever it says."""
    try:
        msgspec.json.Decoder(cls)
    except Exception as error:  # TypeError, NameError of an annotation, or what one raises
        msg = f"the fields of {cls.__name__} cannot be read from records: {error}"
        raise Misuse(msg) from error


def construct(kind: type[Any], value: object) -> Any:
    """Make what msgspec knows nothing about (a Path, an IPv4Address) by calling its type."""
    return kind(value)


def reason(error: Exception, values: Mapping[str, object]) -> str:
    """Return *error*, met while decoding, in the words of whoever wrote the record.

    Args:
        error: what msgspec, or the dataclass itself, raised.
        values: the record's values by name, for the one that is wrong to be named.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason} 0x{error.object[error.start]:02x}"
    if not isinstance(error, msgspec.ValidationError):
        return f"{type(error).__name__}: {error}"
    text = str(error)
    place = _PLACE.search(text)
    text = text[: place.start()] if place else text
    if missing := _MISSING.match(text):
        inside = f" in {place[1]}" if place else ""
        return f"field {missing[1]!r} is missing{inside}"
    text = text.replace("`", "")
    if not place:
        return text
    text = f"{place[1]}: {text[:1].lower()}{text[1:]}"
    shown = values.get(re.split(r"[.\[]", place[1])[0])
    return text if shown is None else f"{text} ({_short(shown)})"


def unknown_reason(unknown: tuple[str, ...], cls: type[Any]) -> str:
    """Return the reason for a record with names that *cls* does not have."""
    names = ", ".join(map(repr, unknown))
    fields = ", ".join(field.name for field in dataclasses.fields(cls))
    return f"{cls.__name__} has no field {names} (it has {fields})"


def _short(value: object) -> str:
    text = bytes(value).decode() if isinstance(value, msgspec.Raw) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
