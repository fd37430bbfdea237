"""Records: what a line of INPUT becomes, a job or a reason why not, and how it is written back."""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from retryexec.cli.options import UsageError
from retryexec.cli.output import clean, describe

RESERVED = "_retryexec"
"""The key under which a failures file tells what happened. Not a field: INPUT may have it."""

Values: TypeAlias = dict[str, msgspec.Raw | str | None]
"""A record by name: JSON as it was read, the text of a CSV cell, or None for an empty one."""

_SHOWN = 60  # characters of a value that a reason repeats
_PLACE = re.compile(r" - at `\$\.?(.+)`$")
_MISSING = re.compile(r"^Object missing required field `(.+?)`")


class Record(msgspec.Struct, frozen=True):
    """One job to do.

    Attributes:
        line: the line of INPUT on which it begins, from 1.
        end: how many bytes of INPUT have been read, this record included.
        job: the dataclass instance.
        values: the record as it was read, to be written back if the job fails.
        unknown: the names in it that the dataclass does not have.
    """

    line: int
    end: int
    job: Any
    values: Values
    unknown: tuple[str, ...] = ()


class BadRecord(msgspec.Struct, frozen=True):
    """A record that makes no job: `line` and `end` as in `Record`, and the reason."""

    line: int
    end: int
    reason: str


class BlankRow(msgspec.Struct, frozen=True):
    """A row of nothing but delimiters, as spreadsheets leave them; it is skipped."""

    line: int
    end: int


class FailedRecord(msgspec.Struct, frozen=True):
    """Why a record's job did not succeed.

    Attributes:
        reason: why no further attempt followed, a `retryexec.StopReason`; or ``interrupted`` for
            an attempt that was still running when the command quit, or ``crashes`` for a record
            that was running whenever its process died.
        attempts: how many attempts were begun.
        error: type and text of the last error; None if no attempt has failed.
        line: where the record begins in INPUT.
    """

    reason: str
    attempts: int
    error: str | None
    line: int


Item: TypeAlias = Record | BadRecord | BlankRow
Reader: TypeAlias = Iterator[Item]


class RecordType:
    """The dataclass that records become, and how they become it.

    Args:
        cls: the dataclass.
        forbid_unknown: whether a name that *cls* does not have makes a record bad.

    Raises:
        UsageError: no record can become a *cls*, whatever it says.
    """

    def __init__(self, cls: type[Any], *, forbid_unknown: bool = False) -> None:
        self.cls = cls
        self.forbid_unknown = forbid_unknown
        fields = dataclasses.fields(cls)
        missing = dataclasses.MISSING
        self.names = frozenset(field.name for field in fields)
        self.required = tuple(
            field.name
            for field in fields
            if field.init and field.default is missing and field.default_factory is missing
        )
        try:
            self._decode = msgspec.json.Decoder(cls, dec_hook=_construct).decode
            self._types = typing.get_type_hints(cls, include_extras=True)
        except Exception as error:  # TypeError, NameError of an annotation, or what one raises
            msg = f"the fields of {cls.__name__} cannot be read from records: {error}"
            raise UsageError(msg) from error
        self._nullable = frozenset(name for name in self.names if _takes_none(self._types[name]))

    def from_json(self, line: int, end: int, data: bytes) -> Record | BadRecord:
        """Return the record in *data*, a JSON object."""
        try:
            values = _as_object(data)
        except Exception as error:
            return BadRecord(line, end, _not_an_object(error))
        as_text = _names_as_text(values.pop(RESERVED, None))
        for name in as_text & values.keys():
            values[name] = msgspec.json.decode(typing.cast("msgspec.Raw", values[name]))
        if as_text:
            return self._make(line, end, values, data=None)
        return self._make(line, end, values, data)

    def from_cells(self, line: int, end: int, cells: Mapping[str, str]) -> Record | BadRecord:
        """Return the record in *cells* of CSV, by column.

        An empty cell is a value not given: the field's default, else None where its type allows
        that, else empty text.
        """
        values: Values = {}
        for name, cell in cells.items():
            if name == RESERVED:
                continue
            if cell or name not in self.names:
                values[name] = cell
            elif name in self.required:
                values[name] = None if name in self._nullable else cell
        return self._make(line, end, values, data=None)

    def _make(self, line: int, end: int, values: Values, data: bytes | None) -> Record | BadRecord:
        """Return *values* as a record; *data* is the same as JSON, if nothing in it is text."""
        unknown = tuple(name for name in values if name not in self.names)
        if unknown and self.forbid_unknown:
            return BadRecord(line, end, self.unknown_reason(unknown))
        try:
            job = self._decode(data) if data is not None else self._convert(values)
        # The dataclass has a say, and may even call sys.exit().
        except BaseException as error:
            return BadRecord(line, end, _reason(error, values))
        return Record(line, end, job, values, unknown)

    def _convert(self, values: Values) -> Any:
        if any(isinstance(value, msgspec.Raw) for value in values.values()):
            # JSON with some cells in it: JSON is strict about types, and cells are not.
            mixed = {
                name: msgspec.json.decode(value)
                if isinstance(value, msgspec.Raw)
                else self._cell(name, value)
                for name, value in values.items()
                if name in self.names
            }
            return msgspec.convert(mixed, self.cls, dec_hook=_construct, str_keys=True)
        return msgspec.convert(values, self.cls, strict=False, dec_hook=_construct)

    def _cell(self, name: str, cell: str | None) -> Any:
        if cell is None:
            return None
        return msgspec.convert(cell, self._types[name], strict=False, dec_hook=_construct)

    def to_json(self, record: Record) -> tuple[dict[str, msgspec.Raw], list[str]]:
        """Return *record* as the fields of a JSON object from which `from_json` makes it again.

        Returns:
            The fields, and the names of those that stay the text of a CSV cell, since JSON does
            not have their value (NaN), or would not be read as the same one.
        """
        fields, as_text = {}, []
        for name, value in record.values.items():
            if isinstance(value, msgspec.Raw):
                fields[name] = value
                continue
            encoded = self._typed(name, value) if name in self.names else None
            if encoded is None:
                encoded = msgspec.json.encode(value)
                if name in self.names and value is not None:
                    as_text.append(name)
            fields[name] = msgspec.Raw(encoded)
        return fields, as_text

    def _typed(self, name: str, cell: str | None) -> bytes | None:
        """Return the value of *cell* as JSON; None if JSON would be read as something else."""
        try:
            value = self._cell(name, cell)
            encoded = msgspec.json.encode(value, enc_hook=str)
            again = msgspec.json.decode(encoded, type=self._types[name], dec_hook=_construct)
            same = type(again) is type(value) and bool(again == value)
            return encoded if same and msgspec.json.encode(again, enc_hook=str) == encoded else None
        except Exception:
            return None

    def unknown_reason(self, unknown: tuple[str, ...]) -> str:
        """Return the reason for a record with names that the dataclass does not have."""
        names = ", ".join(clean(repr(name)) for name in unknown[:5])
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        fields = ", ".join(field.name for field in dataclasses.fields(self.cls))
        return f"{self.cls.__name__} does not have a field {names}{more} (it has {fields})"


# Of `Values` no more than Raw is decoded; the type says what may be put in later.
_as_object: Callable[[bytes], Values] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode  # type: ignore[assignment]


class _Story(msgspec.Struct):
    """What is read of `RESERVED`: the names of values that are the text of CSV cells."""

    text: list[str] = []


def _names_as_text(story: Any) -> set[str]:
    if story is None:
        return set()
    try:
        return set(msgspec.json.decode(story, type=_Story).text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()  # somebody else's, which says nothing about this record


def _construct(kind: type[Any], value: object) -> Any:
    """Make what msgspec knows nothing about (a Path, an IPv4Address) by calling its type."""
    return kind(value)


def _takes_none(hint: Any) -> bool:
    """Return whether None is a value of the type: asked of msgspec, which knows all spellings."""
    try:
        msgspec.convert(None, hint)
    except Exception:
        return False
    return True


def _not_an_object(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return _reason(error, {})
    if isinstance(error, RecursionError):
        return "nested too deep"
    if not isinstance(error, msgspec.DecodeError):
        return describe(error)
    text = str(error).replace("`", "").removeprefix("JSON is malformed: ")
    return f"not a JSON object: {text}"


def _reason(error: BaseException, values: Mapping[str, object]) -> str:
    """Return *error*, met while decoding, in the words of whoever wrote the record.

    Args:
        error: what msgspec, or the dataclass itself, raised.
        values: the record's values by name, for the one that is wrong to be named.
    """
    if isinstance(error, UnicodeDecodeError):
        return NOT_UTF8 + f": {error.reason} 0x{error.object[error.start]:02x}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if not isinstance(error, msgspec.ValidationError):
        return describe(error)
    text = str(error)
    place = _PLACE.search(text)
    text = text[: place.start()] if place else text
    if missing := _MISSING.match(text):
        inside = f" in {place[1]}" if place else ""
        return clean(f"field {missing[1]!r} is missing{inside}")
    text = text.replace("`", "")
    if not place:
        return clean(" ".join(text.split()))
    text = f"{place[1]}: {text[:1].lower()}{text[1:]}"
    shown = values.get(re.split(r"[.\[]", place[1])[0])
    return clean(text if shown is None else f"{text} ({_short(shown)})")


NOT_UTF8 = "not UTF-8 text"
"""How the reason begins of a record whose text is in another encoding than was thought."""


def _short(value: object) -> str:
    text = (
        bytes(value).decode("utf-8", "replace") if isinstance(value, msgspec.Raw) else repr(value)
    )
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
