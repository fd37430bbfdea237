"""Arrays as PostgreSQL reads them, packed here: a fifth of what lists of Python objects take.

One statement takes any number of rows as one array for each column (``unnest``), so a batch is one
prepared statement whatever its size.
"""

from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar

from psycopg.adapt import Dumper
from psycopg.pq import Format

from retryexec._typing import override

if TYPE_CHECKING:
    from psycopg import Connection

_HEADER = Struct(">iiiii").pack  # dimensions, whether with nulls, type, length, first index
_LENGTH = Struct(">i").pack
_INT4 = Struct(">ii").pack
_INT8 = Struct(">iq").pack
_FLOAT8 = Struct(">id").pack
_NULL = _LENGTH(-1)


class Packed:
    """An array in PostgreSQL's binary format."""

    __slots__ = ("data",)
    element: ClassVar[int]  # the oid of an element's type
    array: ClassVar[int]  # and that of the array's

    def __init__(self, parts: "list[bytes]", *, nulls: bool = False) -> None:
        length = len(parts)
        header = (
            _HEADER(1, int(nulls), self.element, length, 1)
            if length
            else _HEADER(0, 0, self.element, 0, 0)[:12]
        )
        self.data = b"".join([header, *parts])


class Int4s(Packed):
    """An ``int4[]``."""

    element, array = 23, 1007

    @classmethod
    def of(cls, values: Iterable[int | None]) -> "Int4s":
        """Pack *values*."""
        return cls([_NULL if value is None else _INT4(4, value) for value in values], nulls=True)


class Int8s(Packed):
    """An ``int8[]``."""

    element, array = 20, 1016

    @classmethod
    def of(cls, values: Iterable[int]) -> "Int8s":
        """Pack *values*."""
        return cls([_INT8(8, value) for value in values])


class Float8s(Packed):
    """A ``float8[]``."""

    element, array = 701, 1022

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Float8s":
        """Pack *values*."""
        parts = [_NULL if value is None else _FLOAT8(8, value) for value in values]
        return cls(parts, nulls=True)


class Texts(Packed):
    """A ``text[]``."""

    element, array = 25, 1009

    @classmethod
    def of(cls, values: "Iterable[bytes | str | None]") -> "Texts":
        """Pack *values*: text, or text encoded as UTF-8."""
        parts: list[bytes] = []
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                data = value.encode() if isinstance(value, str) else value
                parts.append(_LENGTH(len(data)) + data)
        return cls(parts, nulls=True)


class UUIDs(Packed):
    """A ``uuid[]``."""

    element, array = 2950, 2951

    @classmethod
    def of(cls, values: Iterable[str]) -> "UUIDs":
        """Pack *values*: UUIDs in hexadecimal."""
        sixteen = _LENGTH(16)
        return cls([sixteen + bytes.fromhex(value) for value in values])


class _PackedDumper(Dumper):
    format = Format.BINARY

    @override
    def dump(self, obj: Packed) -> bytes:
        return obj.data


def _dumper_of(kind: type[Packed]) -> type[Dumper]:
    return type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": kind.array})


_DUMPERS = {kind: _dumper_of(kind) for kind in (Int4s, Int8s, Float8s, Texts, UUIDs)}


def register(connection: "Connection[Any]") -> None:
    """Let *connection* send these arrays."""
    for kind, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(kind, dumper)
