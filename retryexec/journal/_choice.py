"""Which dead letters are meant: by their ids, or by what they are like."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from retryexec.journal._errors import JournalError
from retryexec.journal._keys import key_or_text
from retryexec.journal._letter_file import LETTERS
from retryexec.journal._rows import LetterRow, read_letter, shown_errors
from retryexec.journal._sqlite import select

_PAGE = 500  # letters in one statement
_MIN_PREFIX = 4  # digits of an id that are enough if no other begins so, as git has it


class Choice(NamedTuple):
    """Which letters: of this kind, whose latest error is or contains this, that died before."""

    kind: str | None = None
    error: str | None = None
    before: float | None = None

    def rows(self, sql: sqlite3.Connection, limit: int | None = None) -> "Iterator[Numbered]":
        """Yield the letters chosen, the latest first."""
        where, values = ["1"], list[str | float]()
        if self.kind is not None:
            where.append("kind=?")
            values.append(self.kind)
        if self.before is not None:
            where.append("died_at<?")
            values.append(self.before)
        rest = f"WHERE {' AND '.join(where)} ORDER BY died_at DESC, id DESC"
        for number, *columns in sql.execute(_numbered(sql, rest), values):
            if limit is not None and limit <= 0:
                return
            row = read_letter(columns)
            if self.error is None or self.matches(row, self.error):
                yield Numbered(number, row)
                limit = None if limit is None else limit - 1

    @staticmethod
    def matches(row: LetterRow, error: str) -> bool:
        """Return whether the latest error of *row* is of type *error*, or says it."""
        latest = shown_errors(row.errors)[-1:]
        return any(error == known.type or error in known.text for known in latest)


class Numbered(NamedTuple):
    """A letter, and the number of its row."""

    number: int
    row: LetterRow


def plain_id(text: str) -> str:
    """Return an id as records have it, given with or without a UUID's hyphens.

    Raises:
        TypeError: it is not a str, but a whole letter, for one.
    """
    given: object = text
    if not isinstance(given, str):
        msg = f"an id is a str, as a letter's .id or a job's job_id is (got {given!r})"
        raise TypeError(msg)
    return given.replace("-", "").lower()


def is_prefix(name: str) -> bool:
    """Return whether *name* is the beginning of ids, and long enough to stand for one."""
    return _MIN_PREFIX <= len(name) < 32 and all(c in "0123456789abcdef" for c in name)


def is_whole(name: str) -> bool:
    """Return whether *name* is a whole id, as a UUID is."""
    return len(name) == 32 and all(c in "0123456789abcdef" for c in name)


def no_letter(letter_id: str) -> LookupError:
    """Return what to raise for the id of no dead letter."""
    return LookupError(f"there is no dead letter {letter_id!r}")


def _numbered(sql: sqlite3.Connection, rest: str) -> str:
    return select(sql, LETTERS, rest, first="rowid,")


def find_letter(sql: sqlite3.Connection, letter_id: str) -> Numbered:
    """Return the letter with this id, or the only one whose id begins so."""
    name = plain_id(letter_id)
    query = _numbered(sql, "WHERE id IN (?,?,CAST(? AS BLOB))")
    found = sql.execute(query, (name, letter_id, letter_id)).fetchall()
    if not found and is_prefix(name):
        query = _numbered(sql, "WHERE id GLOB ? LIMIT 4")
        found = sql.execute(query, (f"{name}*",)).fetchall()
        if len(found) > 1:
            ids = ", ".join(str(row[1]) for row in found[:3])
            msg = f"several dead letters begin with {letter_id!r}: {ids}, …: give more of the id"
            raise LookupError(msg)
    for number, *columns in found:
        return Numbered(number, read_letter(columns))
    raise no_letter(letter_id)


def not_stale(letters: "list[Numbered]", *, force: bool) -> "list[Numbered]":
    """Return *letters*; raise JournalError if one of them is stale, unless *force*."""
    for _, row in letters:
        if row.stale and not force:
            msg = (
                f"the dead letter {row.id} is stale: a later job of its key "
                f"{key_or_text(row.key)!r} has succeeded since, and this one would put back what "
                "that one has replaced. Discard it, or rerun it all the same with force=True "
                "(--force)"
            )
            raise JournalError(msg)
    return letters


def find_letters(sql: sqlite3.Connection, letter_ids: Sequence[str]) -> "list[Numbered]":
    """Return those of *letter_ids* that are letters."""
    names = [plain_id(name) for name in letter_ids]
    by_id: dict[str, Numbered] = {}
    for start in range(0, len(names), _PAGE):
        page = names[start : start + _PAGE]
        query = _numbered(sql, f"WHERE id IN ({','.join('?' * len(page))})")
        for number, *columns in sql.execute(query, page):
            by_id[columns[0]] = Numbered(number, read_letter(columns))
    found: dict[int, Numbered] = {}
    for letter_id, name in zip(letter_ids, names, strict=True):
        with suppress(LookupError):
            letter = by_id.get(name) or find_letter(sql, letter_id)
            found[letter.number] = letter
    return [*found.values()]
