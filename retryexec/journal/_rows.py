"""What is on disk of a job and of a dead letter, column by column, and how a row is read.

A row may come from a damaged disk, another program or somebody's hand, whatever the schema says.
So each value is checked before it is used. A row that is not as it must be is read all the same,
with harmless values in the place of the wrong ones and the reason in words: it costs itself alone.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

MAX_DELAY = 1e9  # seconds, some thirty years: longer waits are kept as this
_MAX_PARKED = 1000  # characters; what we write is less
_MAX_ERRORS = 1_000_000  # characters; what we write is far less

Count = Annotated[int, Meta(ge=0, le=10**9)]
Moment = Annotated[float, Meta(ge=-1e12, le=1e12)]
Name = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Version = Annotated[int, Meta(ge=1, le=10**9)]
Flag = Annotated[int, Meta(ge=0, le=1)]
Delay = Annotated[float, Meta(ge=0.0, le=MAX_DELAY)]


class ErrorText(msgspec.Struct, frozen=True):
    """A failed attempt as text: its number, when, the exception's type and what it said."""

    attempt: int
    at: float
    type: str
    text: str


class JobRow(msgspec.Struct, array_like=True):
    """A row of the table `job`, in the order of its columns."""

    seq: int
    id: Name
    kind: str
    ver: Version
    data: str
    attempts: Count = 0
    crashes: Count = 0
    started: Count = 0
    accepted_at: Moment = 0.0
    first_at: Moment | None = None
    due_at: Moment | None = None
    delay: Delay | None = None
    errors: str | None = None
    parked: str | None = None
    key: str | None = None
    latest: Flag | None = None
    stale: Flag | None = None


class LetterRow(msgspec.Struct, array_like=True):
    """A row of the table `dead`, in the order of its columns."""

    id: Name
    kind: str
    ver: Version
    data: str
    reason: str
    attempts: Count = 0
    crashes: Count = 0
    accepted_at: Moment = 0.0
    died_at: Moment = 0.0
    errors: str | None = None
    source: str = ""
    rerun_to: str | None = None
    key: str | None = None
    latest: Flag | None = None
    stale: Flag | None = None


TRACE = "(traceparent)"
"""The type of what stands before the failures of a job that was submitted within a trace.

Few jobs are, so that has no column of its own; what does not know it takes it for a failure."""

JOB_COLUMNS = ",".join(JobRow.__struct_fields__)
LETTER_COLUMNS = ",".join(LetterRow.__struct_fields__)

R = TypeVar("R", JobRow, LetterRow)
DAMAGED = "damaged: "
"""How the reason begins of a record that is not as it must be, and so stays parked."""

_PLACE = re.compile(r" - at `\$\[(\d+)\]`")
_errors_decoder = msgspec.json.Decoder(tuple[ErrorText, ...])


def read_job(values: Sequence[Any]) -> tuple[JobRow, str | None]:
    """Return a row of jobs, and what is wrong with it; None if nothing is."""
    try:
        row = msgspec.convert(values, JobRow)
        _check_texts(row.kind, row.data, row.key or "")
    except ValueError as error:
        return _mended(JobRow, values), _in_words(JobRow, error)
    if row.errors is not None and not errors_of(row.errors):
        row.errors = None  # they are for people, and no reason to keep a job from running
    if row.parked is not None:
        row.parked = printable(row.parked, _MAX_PARKED)
    return row, None


def read_letter(values: Sequence[Any]) -> LetterRow:
    """Return a row of dead letters; if anything is wrong with it, its `reason` says so."""
    try:
        row = msgspec.convert(values, LetterRow)
        _check_texts(row.kind, row.data, row.reason, row.source, row.rerun_to or "", row.key or "")
    except ValueError as error:
        row = _mended(LetterRow, values)
        row.reason = _in_words(LetterRow, error)
    if row.errors is not None and not errors_of(row.errors):
        row.errors = None
    return row


def _check_texts(*texts: str) -> None:
    for text in texts:
        if not text.isascii():
            text.encode()


def _in_words(cls: type[JobRow] | type[LetterRow], error: ValueError) -> str:
    if isinstance(error, UnicodeError):
        return f"{DAMAGED}its text is not valid UTF-8"
    found = _PLACE.search(str(error))
    column = cls.__struct_fields__[int(found[1])] if found else "?"
    return f"{DAMAGED}column {column!r}: {printable(_PLACE.sub('', str(error)))}"


def _mended(cls: type[R], values: Sequence[Any]) -> R:
    """Return a row that can be written and shown, with harmless values for the wrong ones."""
    parts: list[Any] = []
    for position, column in enumerate(msgspec.structs.fields(cls)):
        value = values[position] if position < len(values) else None
        if isinstance(value, (str, bytes)):
            value = printable(value)
        try:
            parts.append(msgspec.convert(value, column.type))
        except msgspec.ValidationError:
            parts.append(_harmless(value, column))
    return cls(*parts)


def _harmless(value: Any, column: Any) -> Any:
    if column.default is None:
        return None
    if column.name in {"seq", "ver"}:
        return value if isinstance(value, int) else 1
    if column.name in {"id", "kind", "data", "reason", "source"}:
        return printable("" if value is None else value)
    return 0


def printable(value: object, limit: int | None = None) -> str:
    """Return *value* as text that can be stored and printed everywhere; whatever is in it.

    What has no form in UTF-8, such as half of a surrogate pair, is written as an escape.
    """
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if type(text) is not str:
        text = str(text)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def errors_json(errors: Sequence[ErrorText]) -> str:
    """Return *errors* as JSON, whatever their texts hold."""
    try:
        return msgspec.json.encode(errors).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(
            [ErrorText(e.attempt, e.at, printable(e.type), printable(e.text)) for e in errors]
        ).decode()


def errors_of(text: str | None) -> tuple[ErrorText, ...]:
    """Return the failures in a JSON text; none if it is damaged, too long or too deep."""
    if not text or len(text) > _MAX_ERRORS:
        return ()
    try:
        return _errors_decoder.decode(text)
    except (ValueError, RecursionError, MemoryError):
        return ()


def trace_of(errors: Sequence[ErrorText]) -> str | None:
    """Return the ``traceparent`` that stands before a job's failures; None if there is none."""
    return errors[0].text if errors and errors[0].type == TRACE else None


def without_trace(errors: Sequence[ErrorText]) -> Sequence[ErrorText]:
    """Return *errors* without the trace that may stand before them, for those who show them."""
    return errors if trace_of(errors) is None else errors[1:]


def shown_errors(text: str | None) -> tuple[ErrorText, ...]:
    """Return the failures in a JSON text, as `errors_of` does, without what is not a failure."""
    return tuple(without_trace(errors_of(text)))


def fields_of(data: bytes | str) -> Any:
    """Return what the JSON of a record says, for showing; the text itself if it is not JSON."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError, MemoryError):
        return data


def bounded(seconds: float) -> float:
    """Return a delay as it can be kept."""
    return min(MAX_DELAY, seconds) if math.isfinite(seconds) else MAX_DELAY


def ranges_of(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers of rows as ranges: what was accepted together mostly ends together."""
    ordered = sorted(rows)
    ranges: list[tuple[int, int]] = []
    first = last = ordered[0]
    for row in ordered:
        if row > last + 1:
            ranges.append((first, last))
            first = row
        last = row
    ranges.append((first, last))
    return ranges


def values_of(row: JobRow | LetterRow) -> tuple[Any, ...]:
    """Return *row* as values for its columns."""
    return msgspec.structs.astuple(row)
