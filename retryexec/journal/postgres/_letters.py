"""The dead letters of a journal on PostgreSQL."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from retryexec._typing import override
from retryexec.journal._choice import (
    Choice,
    Numbered,
    is_prefix,
    is_whole,
    no_letter,
    not_stale,
    plain_id,
)
from retryexec.journal._codec import Codec
from retryexec.journal._entry import Entry
from retryexec.journal._letters import DeadLetter, DeadLetters, edited, letter_of
from retryexec.journal._redact import Redact
from retryexec.journal._rows import LetterRow, read_letter
from retryexec.journal.postgres._arrays import Float8s, Int4s, Texts, UUIDs
from retryexec.journal.postgres._connection import Connection, Database, Link, is_passing
from retryexec.journal.postgres._statements import Statements

if TYPE_CHECKING:
    from retryexec.journal.postgres._lane import PostgresLane

T = TypeVar("T")

_PAGE = 500
_LAST = (float("inf"), "f" * 32)


class Desk:
    """The connection of those who look and mend, in whatever thread: made for the first of them.

    It is not the writer's. Whoever lists a million letters keeps no job from being accepted.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._link = Link(database)
        # Held while the connection is in use, and by whoever forks.
        self.io = threading.RLock()

    def use(self, do: "Callable[[Connection], T]") -> T:
        """Return *do(connection)*; once more if the connection has been lost since its last use.

        What *do* changes must be one statement, or one transaction.

        Raises:
            JournalError: it could not be done; the message says why.
        """
        with self.io:
            fresh = False
            while True:
                try:
                    connection = self._link.get()
                    return do(connection)
                except psycopg.Error as error:
                    if not is_passing(error):
                        raise self._database.explained(error) from error
                    self._link.drop()
                    if fresh:
                        raise self._database.explained(error) from error
                    fresh = True

    def close(self) -> None:
        """Close the connection; the next use makes another one."""
        with self.io:
            self._link.close()

    def forget_after_fork(self) -> None:
        """In a forked child: leave the connection to the parent."""
        self._link.forget_after_fork()
        self._link = Link(self._database)
        self.io = threading.RLock()


class LetterTable:
    """What the writer has of the dead letters."""

    def __init__(self, desk: Desk, lane: "Callable[[], PostgresLane]") -> None:
        self._desk = desk
        self._lane = lane

    @property
    def io(self) -> Any:
        """Held by whoever forks."""
        return self._desk.io

    def insert(self, letters: Sequence[LetterRow]) -> None:
        """Write *letters*; of those that are there already, the latest counts."""
        self._lane().write_letters(
            {
                "ids": UUIDs.of([row.id for row in letters]),
                "kinds": Texts.of([row.kind for row in letters]),
                "vers": Int4s.of([row.ver for row in letters]),
                "datas": Texts.of([row.data for row in letters]),
                "reasons": Texts.of([storable(row.reason) for row in letters]),
                "attempts": Int4s.of([row.attempts for row in letters]),
                "crashes": Int4s.of([row.crashes for row in letters]),
                "accepted": Float8s.of([row.accepted_at for row in letters]),
                "died": Float8s.of([row.died_at for row in letters]),
                "errors": Texts.of([row.errors for row in letters]),
                "sources": Texts.of([row.source for row in letters]),
                "keys": Texts.of([row.key for row in letters]),
                "latest": Int4s.of([row.latest for row in letters]),
                "stale": Int4s.of([row.stale for row in letters]),
            }
        )

    def outdate(self, succeeded: Sequence[Entry]) -> None:
        """Mark the letters as stale whose key is that of one of *succeeded*, accepted later."""
        self._lane().outdate(succeeded)


class PostgresLetters(DeadLetters):
    """The jobs that finally failed, in a table."""

    def __init__(
        self,
        desk: Desk,
        statements: Statements,
        codec: Codec,
        take_over: Callable[[], object],
        redact: Redact | None,
    ) -> None:
        self._desk = desk
        self._sql = statements
        self._codec = codec
        self._take_over = take_over
        self._redact = redact

    def rows(self, choice: Choice, limit: int | None = None) -> Iterator[LetterRow]:
        """Yield the letters chosen, the latest first."""
        before, name = _LAST, "letters" if choice.kind is None else "letters_of"
        if choice.before is not None:
            before = (choice.before, "0" * 32)
        while limit is None or limit > 0:
            values = {"kind": choice.kind, "at": before[0], "id": before[1], "most": _PAGE}
            page = self._desk.use(lambda c, v=values: c.execute(self._sql[name], v).fetchall())  # type: ignore[misc]
            for row in map(read_letter, page):
                before = (row.died_at, row.id)
                if choice.error is None or choice.matches(row, choice.error):
                    yield row
                    limit = None if limit is None else limit - 1
                    if limit == 0:
                        return
            if len(page) < _PAGE:
                return

    @override
    def list(
        self,
        kind: str | None = None,
        *,
        limit: int | None = None,
        error: str | None = None,
        before: float | None = None,
    ) -> "list[DeadLetter]":
        return [letter_of(row) for row in self.rows(Choice(kind, error, before), limit)]

    @override
    def count(
        self, kind: str | None = None, *, error: str | None = None, before: float | None = None
    ) -> int:
        choice = Choice(kind, error, before)
        if choice == Choice():
            query = self._sql["letter_count"]
            ((number,),) = self._desk.use(lambda c: c.execute(query).fetchall())
            return int(number)
        return sum(1 for _ in self.rows(choice))

    @override
    def get(self, letter_id: str, /) -> DeadLetter:
        return letter_of(self._found(letter_id))

    def _found(self, letter_id: str) -> LetterRow:
        """Return the letter with this id, or the only one whose id begins so."""
        name = plain_id(letter_id)
        if not is_whole(name) and not is_prefix(name):
            raise no_letter(letter_id)
        between = (name.ljust(32, "0"), name.ljust(32, "f"))
        rows = self._desk.use(lambda c: c.execute(self._sql["letter"], between).fetchall())
        if not rows:
            raise no_letter(letter_id)
        if len(rows) > 1:
            ids = ", ".join(str(row[0]) for row in rows[:3])
            msg = f"several dead letters begin with {letter_id!r}: {ids}, …: give more of the id"
            raise LookupError(msg)
        return read_letter(rows[0])

    def _all_of(self, letter_ids: Sequence[str]) -> Sequence[LetterRow]:
        names = [plain_id(letter_id) for letter_id in letter_ids]
        packed = UUIDs.of([name for name in names if is_whole(name)])
        rows = self._desk.use(lambda c: c.execute(self._sql["letters_by_id"], [packed]).fetchall())
        by_id = {row.id: row for row in map(read_letter, rows)}
        found = dict[str, LetterRow]()
        for name in names:
            with suppress(LookupError):
                row = by_id.get(name) or self._found(name)
                found[row.id] = row
        return [*found.values()]

    def _changed(self, name: str, ids: Sequence[str]) -> int:
        if not ids:
            return 0
        packed = UUIDs.of(ids)
        return self._desk.use(lambda c: c.execute(self._sql[name], [packed]).rowcount)

    # ---- rerunning

    @override
    def rerun(self, letter_id: str, /, *, force: bool = False) -> None:
        if not self._rerun([self._found(letter_id)], force=force):
            raise no_letter(letter_id)

    @override
    def rerun_some(self, letter_ids: Sequence[str], /, *, force: bool = False) -> int:
        return self._rerun(self._all_of(letter_ids), force=force)

    @override
    def rerun_all(
        self,
        kind: str | None = None,
        *,
        error: str | None = None,
        before: float | None = None,
        force: bool = False,
    ) -> int:
        found = [row for row in self.rows(Choice(kind, error, before)) if force or not row.stale]
        return self._rerun(found, force=force)

    def _rerun(self, rows: Sequence[LetterRow], *, force: bool) -> int:
        not_stale([Numbered(0, row) for row in rows], force=force)
        moved = self._changed("rerun", [row.id for row in rows])
        if moved:
            self._take_over()
        return moved

    # ---- mending and discarding

    @override
    def edit(self, letter_id: str, /, **changes: Any) -> DeadLetter:
        row = self._found(letter_id)
        row.ver, data = edited(self._codec, letter_of(row), changes)
        row.data = data.decode()
        values = (row.ver, row.data, UUIDs.of([row.id]))
        if not self._desk.use(lambda c: c.execute(self._sql["edit"], values).rowcount):
            raise no_letter(letter_id)
        return letter_of(row)

    @override
    def discard(self, letter_id: str, /) -> None:
        if not self._changed("discard", [self._found(letter_id).id]):
            raise no_letter(letter_id)

    @override
    def discard_some(self, letter_ids: Sequence[str], /) -> int:
        return self._changed("discard", [row.id for row in self._all_of(letter_ids)])

    @override
    def discard_all(
        self, kind: str | None = None, *, error: str | None = None, before: float | None = None
    ) -> int:
        return self._changed("discard", [r.id for r in self.rows(Choice(kind, error, before))])


def storable(text: str) -> str:
    """Return *text* without what PostgreSQL cannot keep: the character 0."""
    return text.replace("\0", "\\x00")
