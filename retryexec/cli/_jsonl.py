"""INPUT in JSON Lines: one JSON object per line."""

from collections.abc import Callable
from typing import Any

import msgspec

from retryexec.cli._lines import lines
from retryexec.cli._records import (
    RESERVED,
    BadRecord,
    Reader,
    Record,
    construct,
    field_names,
    reason,
    unknown_reason,
)

_as_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def jsonl_records(
    read: Callable[[int], bytes], cls: type[Any], *, forbid_unknown: bool = False
) -> Reader:
    """Give the records in what *read* returns; blank lines are none.

    Args:
        read: returns at most so many bytes of INPUT, and none at its end.
        cls: the dataclass to make of each.
        forbid_unknown: whether a name that *cls* does not have makes a record bad.
    """
    decode = msgspec.json.Decoder(cls, dec_hook=construct).decode
    known = field_names(cls) | {RESERVED}
    end = 0
    for number, line in enumerate(lines(read), start=1):
        end += len(line)
        if not line.strip():
            continue
        try:
            values = _as_object.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield BadRecord(number, end, _no_object(error))
            continue
        unknown = tuple(name for name in values if name not in known)
        if unknown and forbid_unknown:
            yield BadRecord(number, end, unknown_reason(unknown, cls))
            continue
        try:
            job = decode(line)
        except Exception as error:
            yield BadRecord(number, end, reason(error, values))
        else:
            yield Record(number, end, job, line, unknown)


def _no_object(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return reason(error, {})
    text = str(error).replace("`", "").removeprefix("JSON is malformed: ")
    return f"not a JSON object: {text}"
