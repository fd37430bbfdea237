"""Keys of jobs, as a journal keeps them: as text that makes an equal key again.

The text is JSON, with an array for a tuple and ``{"uuid": "…"}`` for what JSON does not have. Keys
that are equal, such as 1 and 1.0, may have different texts, so the keys are what is compared.
"""

import json
import math
from collections.abc import Callable, Hashable
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec

from retryexec.journal._rows import printable

_MOST = 100_000  # characters of a key's text; it is in each record of that key

# What stands in JSON for a value of these types, and what makes the value of it.
_TAGS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    UUID: ("uuid", str, UUID),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
}
_PLAIN = frozenset({str, int, bool, type(None)})  # which JSON has as they are
_MAKERS = {tag: make for tag, _, make in _TAGS.values()}


class EntryKey:
    """The key of an accepted job.

    Attributes:
        value: the key itself.
        text: as the journal keeps it.
        latest: whether a newer job of the key replaces this one while it waits.
        stale: whether the job was a stale dead letter, and is rerun all the same.
        held: whether the job, which has been taken over, is not to start yet.
    """

    __slots__ = ("held", "latest", "stale", "text", "value")

    def __init__(self, value: Hashable, text: str, *, latest: bool, stale: bool = False) -> None:
        self.value = value
        self.text = text
        self.latest = latest
        self.stale = stale
        self.held = False


def recorded(key: Hashable, *, latest: bool) -> EntryKey:
    """Return *key* as the journal keeps it.

    Raises:
        TypeError: it would not come back equal to what it is.
    """
    text = _text_of_plain(key)
    if text is not None:
        return EntryKey(key, text, latest=latest)
    try:
        text = json.dumps(plain(key), ensure_ascii=False, separators=(",", ":"))
        if not text.isascii() and printable(text) != text:
            text = json.dumps(plain(key), separators=(",", ":"))
        if len(text) > _MOST:
            msg = f"it takes {len(text):,} characters, and may take {_MOST:,}"
            raise ValueError(msg)
        back = key_of_text(text)
        same = bool(back == key) and hash(back) == hash(key)
    except Exception as error:
        raise _refusal(key, str(error)) from error
    if not same:
        raise _refusal(key, "it would come back as another one")
    return EntryKey(key, text, latest=latest)


def _text_of_plain(key: Hashable) -> str | None:
    """Return the text of a short key that is sure to come back as it is; None for any other."""
    kind = type(key)
    if kind is str or (kind is tuple and _PLAIN.issuperset(map(type, key))):  # type: ignore[call-overload]
        try:
            text: str = msgspec.json.encode(key).decode()
        except Exception:  # half of a surrogate pair, or a very large number
            return None
        return text if len(text) <= _MOST else None
    return None


def key_of_text(text: str) -> Hashable:
    """Return the key that *text* stands for.

    Raises:
        ValueError: for none; or another error, if somebody has meddled with it.
    """
    return _made(json.loads(text))


def read_key(text: str, latest: object, stale: object) -> EntryKey:
    """Return what a record says of its job's key.

    Raises:
        ValueError: *text* is not that of a key.
    """
    try:
        key = key_of_text(text)
    except Exception as error:
        msg = f"column 'key' does not hold a key: {error}"
        raise ValueError(msg) from error
    return EntryKey(key, text, latest=bool(latest), stale=bool(stale))


def key_or_text(text: str | None) -> Hashable:
    """Return the key that *text* stands for; the text itself where it is damaged."""
    if text is None:
        return None
    try:
        return key_of_text(text)
    except Exception:
        return text


def plain(key: Any) -> Any:
    """Return what JSON has for *key*; raise ValueError or TypeError if it has nothing."""
    if isinstance(key, tuple):
        return [plain(part) for part in key]
    tag = _TAGS.get(type(key))
    if tag is not None:
        return {tag[0]: tag[1](key)}
    if key is None or isinstance(key, (str, int, float)):
        if isinstance(key, float) and math.isnan(key):
            msg = "nan is not equal to itself"
            raise ValueError(msg)
        return key
    msg = f"a journal does not keep keys of type {type(key).__qualname__}"
    raise TypeError(msg)


def _made(plain: Any) -> Hashable:
    """Return the key that *plain*, from JSON, stands for."""
    if isinstance(plain, list):
        return tuple([_made(part) for part in plain])
    if isinstance(plain, dict):
        ((tag, text),) = plain.items()
        made: Hashable = _MAKERS[tag](text)
        return made
    found: Hashable = plain
    return found


def _refusal(key: object, reason: str) -> TypeError:
    try:
        what = repr(key)
    except Exception:
        what = f"one of type {type(key).__qualname__}"
    return TypeError(
        f"the key {printable(what, 200)} cannot be kept in the journal: {reason}; let key= return "
        "a str, int, float, bool, bytes, UUID, date or datetime, or a tuple of them (of an Enum, "
        "its .value), or submit the job to an executor without a journal"
    )
