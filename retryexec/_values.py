"""What frozen dataclasses of ours have in common, written once."""

from dataclasses import fields
from typing import Any

from retryexec._typing import override


class Value:
    """A dataclass that is compared, hashed and shown by its fields, as dataclasses are.

    To generate these methods for each class would take half of the time of its import.
    """

    __slots__ = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]  # all of them are dataclasses

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value) or other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    @override
    def __hash__(self) -> int:
        return hash(self._values())

    @override
    def __repr__(self) -> str:
        shown = [f.name for f in fields(self) if f.repr]  # type: ignore[arg-type]  # all of them are dataclasses
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{self.__class__.__qualname__}({values})"
