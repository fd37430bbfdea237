"""Whether a job that was read back is the one that was submitted, and if not, what differs.

JSON and annotations change some values without a word: a key becomes text, a subclass its base.
What is compared is what a user would call the same: of a time the moment and its offset, and a
whole number in a field of floats, as type checkers take it, is the float of that value.
"""

import dataclasses
import math
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any
from uuid import UUID

# Values of these types are equal only if nothing tells them apart.
_ATOMS = frozenset(
    {str, int, float, bool, NoneType, bytes, bytearray, Decimal, UUID, date, timedelta}
)


def field_names(cls: type) -> tuple[str, ...] | None:
    """Return the names of *cls*'s declared fields; None if it declares none."""
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    names: Any = getattr(cls, "__struct_fields__", None)  # a msgspec.Struct
    if names is None and issubclass(cls, tuple):
        names = getattr(cls, "_fields", None)  # a NamedTuple
    if names is None and (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        names = [attribute.name for attribute in attributes]
    if names is None and is_model(cls):
        names = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return None if names is None else tuple(names)


def is_model(cls: type) -> bool:
    """Return whether *cls* is a model of pydantic's, which is not imported for that."""
    return hasattr(cls, "__pydantic_fields__") and hasattr(cls, "model_validate_json")


def difference(a: Any, b: Any, path: str) -> str | None:
    """Return where *b*, read back, differs from *a*, and in which types; None if they are the same.

    Without the values themselves, but for numbers: messages end in logs.
    """
    if type(a) in _ATOMS and type(a) is type(b) and a == b:  # most are
        return None
    if type(a) is not type(b):
        return None if _is_its_float(a, b) else f"{path!r}: {_told(a)} comes back as {_told(b)}"
    if isinstance(a, dict):
        return _dict_difference(a, b, path)
    if isinstance(a, (list, tuple)):
        same = len(a) == len(b)
        parts: Iterable[str | None] = (
            difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=False))
        )
    elif type(a) not in _ATOMS and (names := field_names(type(a))) is not None:
        same = getattr(a, "__pydantic_extra__", None) == getattr(b, "__pydantic_extra__", None)
        parts = (difference(getattr(a, name), getattr(b, name), f"{path}.{name}") for name in names)
    else:
        same, parts = _same(a, b), ()
    found = next((words for words in parts if words is not None), None)
    return found if same or found else f"{path!r}: {_told(a)} comes back as another one"


def _is_its_float(a: Any, b: Any) -> bool:
    """Return whether *b* is the float of *a*, a whole number, which loses nothing by that."""
    return type(a) is int and type(b) is float and a == b


def _same(a: Any, b: Any) -> bool:
    """Return whether two values of one type, without parts to compare one by one, are the same."""
    if isinstance(a, (set, frozenset)):
        members = {_identity(x) for x in b}
        return len(a) == len(b) and all(not members.isdisjoint(_identities(x)) for x in a)
    if isinstance(a, Enum):
        return a is b
    return _identity(a) == _identity(b)


def _identity(value: Any) -> tuple[Any, ...]:
    """Return what is equal for values that are the same, and for no others."""
    if isinstance(value, (datetime, time)):
        # The same moment in the same offset: of a named zone, the offset is what is kept. Python
        # itself calls times in the repeated hour, and in the skipped one, equal to no others.
        offset = value.utcoffset()
        return type(value), value.replace(tzinfo=None, fold=0), offset, value.tzinfo is None
    return type(value), value


def _identities(value: Any) -> list[tuple[Any, ...]]:
    """Return the identities as which *value*, a key or a member of a set, may come back."""
    found = [_identity(value)]
    if type(value) is int and abs(value) <= 2**53:
        found.append((float, float(value)))
    return found


def _dict_difference(a: dict[Any, Any], b: dict[Any, Any], path: str) -> str | None:
    back = {_identity(key): value for key, value in b.items()}
    if len(a) != len(back):
        return f"{path!r}: a dict of {len(a)} comes back as one of {len(back)}"
    for key, value in a.items():
        found = next((known for known in _identities(key) if known in back), None)
        if found is None:
            return f"{path!r}: a key ({_told(key)}) does not come back as it is"
        words = difference(value, back[found], f"{path}[...]")
        if words is not None:
            return words
    return None


def _told(value: Any) -> str:
    name = type(value).__qualname__
    if value is None:
        return "None"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} {float(value)!r}"
    return name
