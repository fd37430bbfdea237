"""Dead letters: jobs that finally failed, kept for people to look at, mend, rerun or discard."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from retryexec._typing import override
from retryexec.journal._choice import (
    Choice,
    Numbered,
    find_letter,
    find_letters,
    no_letter,
    not_stale,
)
from retryexec.journal._codec import Codec, json_of
from retryexec.journal._directory import Directory
from retryexec.journal._errors import JobRefused, JournalError, Undecodable
from retryexec.journal._keys import key_or_text
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._redact import Redact
from retryexec.journal._rows import (
    ErrorText,
    JobRow,
    LetterRow,
    fields_of,
    shown_errors,
)
from retryexec.journal._sqlite_store import SQLiteStore
from retryexec.journal._store import Lane


class DeadLetter(msgspec.Struct, frozen=True):
    """A job that finally failed.

    Attributes:
        id: what it was called through all attempts; a rerun keeps it.
        kind: what its class is registered as.
        version: of its fields.
        fields: what the job holds, as JSON has it.
        reason: why there were no more attempts: a `StopReason`, ``crashes``, or, of a letter that
            cannot be read as it was, ``damaged: …``.
        attempts: how many failed.
        crashes: how often a process ended while it ran.
        accepted_at, died_at: seconds of the wall clock.
        errors: the latest failures, oldest first; the last one with its traceback.
        key: None if it has none.
        stale: whether a later job of its key has succeeded since. To rerun this one would put back
            what that one has replaced.
    """

    id: str
    kind: str
    version: int
    fields: Any
    reason: str
    attempts: int
    crashes: int
    accepted_at: float
    died_at: float
    errors: tuple[ErrorText, ...]
    key: Any = None
    stale: bool = False

    @override
    def __repr__(self) -> str:
        # Without the fields and errors, which logs must not show.
        return (
            f"DeadLetter(id={self.id!r}, kind={self.kind!r}, version={self.version}, "
            f"reason={self.reason!r}, attempts={self.attempts}, crashes={self.crashes}, "
            f"accepted_at={self.accepted_at}, died_at={self.died_at})"
        )


class LetterStore(Protocol):
    """What the letters have of their store."""

    @property
    def letters(self) -> LetterFile:
        """The file that they are in."""
        ...

    def new_lane(self) -> Lane:
        """Make a place for jobs that are run again."""
        ...

    def is_rerun_pending(self, owner: str) -> bool:
        """Return whether somebody is about to rerun a letter that says it goes to *owner*."""
        ...


Choose = Callable[[sqlite3.Connection], Sequence[Numbered]]


class DeadLetters:
    """The jobs that finally failed: to list, rerun, mend and discard.

    Usable whether the journal is open or not, and beside any number of processes. A letter is
    named by its id, or by the first digits of it if no other begins so.
    """

    def __init__(
        self,
        store: LetterStore,
        codec: Codec,
        take_over: Callable[[], object],
        redact: Redact | None,
    ) -> None:
        self._store = store
        self._codec = codec
        self._take_over = take_over
        self._redact = redact

    @property
    def redact(self) -> Redact | None:
        """What says which fields people may see; None if they may see all."""
        return self._redact

    def can_edit(self, kind: str) -> bool:
        """Return whether letters of *kind* can be edited here."""
        return kind in self._codec

    # ---- looking

    def list(
        self,
        kind: str | None = None,
        *,
        limit: int | None = None,
        error: str | None = None,
        before: float | None = None,
    ) -> "list[DeadLetter]":
        """Return the letters, the latest first.

        Args:
            kind: only those of this kind.
            limit: at most so many.
            error: only those whose latest error is of this type, or has this in its text.
            before: only those that died before this time, in seconds of the wall clock.
        """
        choice = Choice(kind, error, before)
        none: Sequence[Numbered] = ()
        rows = self._store.letters.read(lambda sql: tuple(choice.rows(sql, limit)), none)
        return [letter_of(row) for _, row in rows]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.list())

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # it is there, however many letters it holds

    def count(
        self, kind: str | None = None, *, error: str | None = None, before: float | None = None
    ) -> int:
        """Return how many letters there are, chosen as by `list`."""
        choice = Choice(kind, error, before)
        if choice == Choice():
            query = "SELECT count(*) FROM dead"
            return self._store.letters.read(lambda sql: int(sql.execute(query).fetchone()[0]), 0)
        return self._store.letters.read(lambda sql: sum(1 for _ in choice.rows(sql)), 0)

    def get(self, letter_id: str, /) -> DeadLetter:
        """Return the letter *letter_id*.

        Raises:
            LookupError: there is none, or more than one id begins so.
        """
        found = self._store.letters.read(lambda sql: find_letter(sql, letter_id), None)
        if found is None:
            raise no_letter(letter_id)
        return letter_of(found.row)

    def shown(self, letter: DeadLetter) -> Any:
        """Return the fields of *letter* as the journal's ``redact`` lets them be seen."""
        if self._redact is None or not isinstance(letter.fields, dict):
            return letter.fields
        return dict(self._redact(letter.kind, dict(letter.fields)))

    # ---- rerunning

    def rerun(self, letter_id: str, /, *, force: bool = False) -> None:
        """Give the job of letter *letter_id* all its attempts again, under the same id and key.

        It is on disk when this returns, and run by whichever process takes it over first.

        Args:
            force: whether to rerun even a stale letter, after later jobs of its key.

        Raises:
            LookupError: there is no such letter, or more than one id begins so.
            JournalError: it is stale.
        """
        if not self._move(lambda sql: not_stale([find_letter(sql, letter_id)], force=force)):
            raise no_letter(letter_id)

    def rerun_some(self, letter_ids: Sequence[str], /, *, force: bool = False) -> int:
        """Rerun those of *letter_ids* that are letters, in one go; return how many are.

        Raises:
            JournalError: one of them is stale, and nothing is rerun; *force* as for `rerun`.
        """
        return self._move(lambda sql: not_stale(find_letters(sql, letter_ids), force=force))

    def rerun_all(
        self,
        kind: str | None = None,
        *,
        error: str | None = None,
        before: float | None = None,
        force: bool = False,
    ) -> int:
        """Rerun all letters, or those chosen as by `list`; return how many.

        Stale ones are left, unless *force* is given.
        """

        def choose(sql: sqlite3.Connection) -> Sequence[Numbered]:
            chosen = Choice(kind, error, before).rows(sql)
            return [letter for letter in chosen if force or not letter.row.stale]

        return self._move(choose)

    def _move(self, choose: Choose) -> int:
        """Put jobs back into a file of their own, whose owner is gone at once."""
        letters = self._store.letters
        if not letters:
            return 0
        with letters.io:
            moved = self._move_out(letters, choose)
        if moved:
            self._take_over()
        return moved

    def _move_out(self, letters: LetterFile, choose: Choose) -> int:
        none: Sequence[Numbered] = ()
        if not letters.read(choose, none):
            return 0
        lane = self._store.new_lane()
        try:
            # In three steps, each on disk before the next: whatever happens in between, whoever
            # takes over the new file finds out which of the two records counts.
            with letters.transaction() as sql:
                chosen = [letter for letter in choose(sql) if self._is_free(letter.row)]
                sql.executemany(
                    "UPDATE dead SET rerun_to=? WHERE rowid=?",
                    [(lane.name, letter.number) for letter in chosen],
                )
            lane.parked = len(chosen)  # so that the lane is kept when it is left
            if chosen:
                lane.insert_rows(
                    [_revived(row, seq) for seq, (_, row) in enumerate(reversed(chosen), 1)]
                )
                with letters.transaction() as sql:
                    sql.execute("DELETE FROM dead WHERE rerun_to=?", (lane.name,))
        finally:
            lane.leave()
        return len(chosen)

    def _is_free(self, row: LetterRow) -> bool:
        return row.rerun_to is None or not self._store.is_rerun_pending(row.rerun_to)

    # ---- mending and discarding

    def edit(self, letter_id: str, /, **changes: Any) -> DeadLetter:
        """Change fields of letter *letter_id*, and return it as it is then.

        Raises:
            LookupError: there is no such letter, or more than one id begins so.
            JobRefused: it would not make a job any more; nothing has changed.
            JournalError: its kind is not registered here.
        """

        def edit(sql: sqlite3.Connection) -> DeadLetter:
            number, row = find_letter(sql, letter_id)
            row.ver, data = edited(self._codec, letter_of(row), changes)
            row.data = data.decode()
            sql.execute("UPDATE dead SET ver=?, data=? WHERE rowid=?", (row.ver, row.data, number))
            return letter_of(row)

        letter = self._store.letters.change(edit, None)
        if letter is None:
            raise no_letter(letter_id)
        return letter

    def discard(self, letter_id: str, /) -> None:
        """Remove letter *letter_id* for good.

        Raises:
            LookupError: there is none, or more than one id begins so.
        """
        if not self._discard(lambda sql: [find_letter(sql, letter_id)]):
            raise no_letter(letter_id)

    def discard_some(self, letter_ids: Sequence[str], /) -> int:
        """Remove those of *letter_ids* that are letters, all or none; return how many were."""
        return self._discard(lambda sql: find_letters(sql, letter_ids))

    def discard_all(
        self, kind: str | None = None, *, error: str | None = None, before: float | None = None
    ) -> int:
        """Remove all letters for good, or those chosen as by `list`; return how many."""
        return self._discard(lambda sql: [*Choice(kind, error, before).rows(sql)])

    def _discard(self, choose: Choose) -> int:
        def discard(sql: sqlite3.Connection) -> int:
            chosen = [(letter.number,) for letter in choose(sql) if letter.row.rerun_to is None]
            sql.executemany("DELETE FROM dead WHERE rowid=?", chosen)
            return len(chosen)

        return self._store.letters.change(discard, 0)


def dead_letters(path: "str | os.PathLike[str]") -> DeadLetters:
    """Return the letters of the journal in *path*, for whoever has none of its classes.

    They can be listed, rerun and discarded, and not edited.
    """
    return letters_of(path, {}, max_bytes=1)


def letters_of(
    path: "str | os.PathLike[str]", jobs: Mapping[str, type], *, max_bytes: int = 1024 * 1024
) -> DeadLetters:
    """Return the letters of the journal in *path*, to be edited as far as *jobs* knows them."""
    # Whether the file system will do, those have settled that the journal is for.
    directory = Directory(path, allow_network=True)
    codec = Codec(jobs, max_bytes=max_bytes)
    store = SQLiteStore(directory, codec, power=True)
    return DeadLetters(store, codec, lambda: None, None)


def edited(codec: Codec, letter: DeadLetter, changes: Mapping[str, Any]) -> tuple[int, bytes]:
    """Return the version and the JSON of *letter*'s job with *changes* to its fields.

    Raises:
        JobRefused: it would not make a job any more.
        JournalError: its kind is not registered.
    """
    if letter.kind not in codec:
        msg = f"kind {letter.kind!r} is not registered here, so its fields cannot be checked"
        raise JournalError(msg)
    current = letter.fields
    with suppress(Undecodable):  # it may be this edit that mends it
        current = fields_of(json_of(codec.decode(letter.kind, letter.version, json_of(current))))
    if not isinstance(current, dict):
        msg = f"the fields of {letter.id} do not have names to change them by"
        raise JournalError(msg)
    if unknown := codec.unknown(letter.kind, changes):
        msg = (
            f"kind {letter.kind!r} does not have a field {unknown!r} (it has {', '.join(current)})"
        )
        raise JobRefused(msg)
    try:
        text = json_of({**current, **changes})
        mended = codec.decode(letter.kind, codec.version_of(letter.kind), text)
    except (Undecodable, NotImplementedError, TypeError, ValueError, RecursionError) as error:
        raise JobRefused(str(error)) from error
    known, data = codec.encode(mended)
    return known.version, data


def letter_of(row: LetterRow) -> DeadLetter:
    """Return a row as what users see."""
    return DeadLetter(
        row.id,
        row.kind,
        row.ver,
        fields_of(row.data),
        row.reason,
        row.attempts,
        row.crashes,
        row.accepted_at,
        row.died_at,
        shown_errors(row.errors),
        key_or_text(row.key),
        bool(row.stale),
    )


def _revived(row: LetterRow, seq: int) -> JobRow:
    """Return a letter as a job that has all its attempts again."""
    return JobRow(
        seq,
        row.id,
        row.kind,
        row.ver,
        row.data,
        accepted_at=row.accepted_at,
        errors=row.errors,
        key=row.key,
        latest=row.latest,
        stale=row.stale,
    )
