"""Dead letters: jobs that finally failed, kept for people to look at, mend, rerun or discard.

They live in one file for all processes, ``dead.db``. It is written rarely, by anybody, so it is
no WAL but a plain rollback journal, opened for each use.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from retryexec.journal._codec import Codec, fields_of_json, json_of
from retryexec.journal._directory import DEAD, Directory, Lock
from retryexec.journal._entry import ErrorText
from retryexec.journal._errors import JobRefused, JournalError, Undecodable
from retryexec.journal._file import (
    BUSY_MS,
    JournalFile,
    Row,
    connect,
    errors_of,
    is_corrupt,
    transaction,
)

logger = logging.getLogger("retryexec.journal")

_APPLICATION = 0x72747864  # "rtxd"
_VERSION = 1
_STRICT = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS dead(
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  ver INTEGER NOT NULL,
  data TEXT NOT NULL,         -- the fields, as JSON
  reason TEXT NOT NULL,       -- why there were no more attempts
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  accepted_at REAL NOT NULL,  -- seconds of the wall clock, as died_at
  died_at REAL NOT NULL,
  errors TEXT,                -- the latest failures, as JSON
  source TEXT NOT NULL,       -- the owner of the file that it died in
  rerun_to TEXT               -- the owner of the file that it is being moved to
){_STRICT};
CREATE INDEX IF NOT EXISTS dead_source ON dead(source);
CREATE INDEX IF NOT EXISTS dead_rerun ON dead(rerun_to) WHERE rerun_to IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_kind ON dead(kind, died_at, id);
CREATE INDEX IF NOT EXISTS dead_died ON dead(died_at, id);
"""
_SELECT = (
    "SELECT id,kind,ver,data,reason,attempts,crashes,accepted_at,died_at,errors,source,rerun_to "
    "FROM dead"
)

Redact = Callable[[str, dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that finally failed.

    Attributes:
        id: what it was called through all attempts; a rerun keeps it.
        kind: what its class is registered as.
        version: of its fields.
        fields: what the job holds, as JSON has it.
        reason: why there were no more attempts: a `StopReason`, or ``crashes``.
        attempts: how many failed.
        crashes: how often a process ended while it ran.
        accepted_at, died_at: seconds of the wall clock.
        errors: the latest failures, oldest first; the last one with its traceback.
    """

    id: str
    kind: str
    version: int
    fields: Any = field(repr=False)  # which logs must not show
    reason: str
    attempts: int
    crashes: int
    accepted_at: float
    died_at: float
    errors: tuple[ErrorText, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Death:
    """What is written of a job that dies."""

    id: str
    kind: str
    version: int
    data: str
    reason: str
    attempts: int
    crashes: int
    accepted_at: float
    died_at: float
    errors: str | None
    source: str


class DeadFile:
    """The file of the dead letters, as the machinery uses it."""

    def __init__(self, directory: Directory) -> None:
        self.path = directory.path / DEAD
        self._directory = directory
        # Held while SQLite is in use, and by whoever forks: a child that closed a connection in
        # the middle of a transaction would roll back what is the parent's.
        self.io = threading.RLock()

    def __bool__(self) -> bool:
        return self.path.exists()

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Open the file, made if need be, for one transaction."""
        new = not self.path.exists()
        if new:
            with suppress(FileExistsError):
                self.path.touch(mode=0o600, exist_ok=False)
        with self.io, closing(self._open()) as sql, transaction(sql):
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                msg = (
                    f"{self.path} is of version {version}, and this library knows up to {_VERSION}"
                )
                raise JournalError(msg)
            if version == 0:
                for statement in _SCHEMA.split(";\n")[:-1]:
                    sql.execute(statement)
                sql.execute(f"PRAGMA application_id={_APPLICATION}")
                sql.execute(f"PRAGMA user_version={_VERSION}")
            yield sql
        if new:
            self._directory.sync()

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection | None]:
        """Open the file to read it; None if there is none."""
        if not self.path.exists():
            yield None
            return
        with self.io, closing(self._open()) as sql:
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            yield sql if version else None

    def _open(self) -> sqlite3.Connection:
        sql = connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000
        )
        try:
            sql.execute("PRAGMA trusted_schema=OFF")
            # EXTRA also syncs the directory when the rollback journal has been removed: were it
            # back after a power cut, it would undo what the job's own file relies on.
            sql.execute("PRAGMA synchronous=EXTRA")
            sql.execute("PRAGMA fullfsync=1")
        except BaseException:
            sql.close()
            raise
        return sql

    def bury(self, deaths: Sequence[Death]) -> None:
        """Write *deaths* down; those that are there already stay as they are."""
        try:
            self._bury(deaths)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            self._set_aside(error)
            self._bury(deaths)

    def _bury(self, deaths: Sequence[Death]) -> None:
        with self.transaction() as sql:
            sql.executemany(
                "INSERT INTO dead VALUES(?,?,?,?,?,?,?,?,?,?,?,NULL) ON CONFLICT(id) DO UPDATE SET "
                "data=excluded.data, ver=excluded.ver, reason=excluded.reason, "
                "attempts=excluded.attempts, crashes=excluded.crashes, died_at=excluded.died_at, "
                "errors=excluded.errors, source=excluded.source, rerun_to=NULL",
                [
                    (
                        death.id,
                        death.kind,
                        death.version,
                        death.data,
                        death.reason,
                        death.attempts,
                        death.crashes,
                        death.accepted_at,
                        death.died_at,
                        death.errors,
                        death.source,
                    )
                    for death in deaths
                ],
            )

    def _set_aside(self, error: Exception) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        rows: list[Any] = []
        with suppress(sqlite3.Error), closing(self._open()) as sql:
            rows.extend(sql.execute(_SELECT))
        with suppress(FileNotFoundError):
            self.path.rename(aside)
        with suppress(FileNotFoundError):
            Path(f"{self.path}-journal").rename(f"{aside}-journal")
        logger.error(
            "the dead letters are damaged (%s): %d of them saved, the old file is %s",
            error,
            len(rows),
            aside,
        )
        if rows:
            with self.transaction() as sql:
                sql.executemany("INSERT OR IGNORE INTO dead VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def settle(self, owner: str, present: Callable[[AbstractSet[str]], set[str]]) -> set[str]:
        """Finish what the dead *owner* of a file had begun, before its jobs are run.

        A job on its way to the dead letters, or back from there, is in both files for a moment.

        Args:
            present: says which of some ids are in the owner's file.

        Returns:
            the ids of those jobs there that have died, and must not run.
        """
        if not self:
            return set()
        try:
            with self.reading() as sql:
                if sql is None:
                    return set()
                found = sql.execute(
                    "SELECT id, rerun_to FROM dead WHERE source=? OR rerun_to=?", (owner, owner)
                ).fetchall()
            ids = present({id_ for id_, _ in found}) if found else set()
            rerun = [(id_,) for id_, to in found if to == owner and id_ in ids]
            unfinished = [(id_,) for id_, to in found if to == owner and id_ not in ids]
            if rerun or unfinished:
                with self.transaction() as sql:
                    sql.executemany("DELETE FROM dead WHERE id=?", rerun)
                    sql.executemany("UPDATE dead SET rerun_to=NULL WHERE id=?", unfinished)
            return {id_ for id_, to in found if to != owner and id_ in ids}
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            self._set_aside(error)
            return set()


class DeadLetters:
    """The jobs that finally failed: to list, rerun, mend and discard.

    Usable whether the journal is open or not, and beside any number of processes.
    """

    def __init__(
        self,
        file: DeadFile,
        directory: Directory,
        codec: Codec,
        adopt: Callable[[], object],
        redact: Redact | None,
    ) -> None:
        self._file = file
        self._directory = directory
        self._codec = codec
        self._adopt = adopt
        self._redact = redact

    def list(self, kind: str | None = None, *, limit: int | None = None) -> "list[DeadLetter]":
        """Return the letters, the latest first.

        Args:
            kind: only those of this kind.
            limit: at most so many.
        """
        where, values = ("", ()) if kind is None else (" WHERE kind=?", (kind,))
        most = -1 if limit is None else limit
        with self._file.reading() as sql:
            if sql is None:
                return []
            query = f"{_SELECT}{where} ORDER BY died_at DESC, id DESC LIMIT ?"
            return [_letter(row) for row in sql.execute(query, (*values, most))]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.list())

    def __len__(self) -> int:
        with self._file.reading() as sql:
            if sql is None:
                return 0
            return int(sql.execute("SELECT count(*) FROM dead").fetchone()[0])

    def __bool__(self) -> bool:
        return True  # it is there, however many letters it holds

    def get(self, letter_id: str, /) -> DeadLetter:
        """Return the letter *letter_id*.

        Raises:
            LookupError: there is none.
        """
        with self._file.reading() as sql:
            row = None
            if sql is not None:
                row = sql.execute(f"{_SELECT} WHERE id=?", (plain_id(letter_id),)).fetchone()
        if row is None:
            raise no_letter(letter_id)
        return _letter(row)

    def shown(self, letter: DeadLetter) -> Any:
        """Return the fields of *letter* as the journal's ``redact`` lets them be seen."""
        if self._redact is None or not isinstance(letter.fields, dict):
            return letter.fields
        return dict(self._redact(letter.kind, dict(letter.fields)))

    def rerun(self, letter_id: str, /) -> None:
        """Give the job of letter *letter_id* all its attempts again, under the same id.

        It is on disk when this returns, and run by whichever process adopts it first.

        Raises:
            LookupError: there is no such letter.
        """
        if not self._move(f"{_SELECT} WHERE id=?", (plain_id(letter_id),)):
            raise no_letter(letter_id)

    def rerun_some(self, letter_ids: Sequence[str], /) -> int:
        """Rerun those of *letter_ids* that are letters, in one go; return how many are."""
        ids = tuple(map(plain_id, letter_ids))
        moved = 0
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            moved += self._move(f"{_SELECT} WHERE id IN ({','.join('?' * len(some))})", some)
        return moved

    def rerun_all(self, kind: str | None = None) -> int:
        """Rerun all letters, or all of one kind; return how many."""
        if kind is None:
            return self._move(_SELECT, ())
        return self._move(f"{_SELECT} WHERE kind=?", (kind,))

    def edit(self, letter_id: str, /, **changes: Any) -> DeadLetter:
        """Change fields of letter *letter_id*, and return it as it is then.

        Raises:
            LookupError: there is no such letter.
            JobRefused: it would not make a job any more; nothing has changed.
            JournalError: its kind is not registered here.
        """
        name = plain_id(letter_id)
        with self._editable() as sql:
            row = None if sql is None else sql.execute(f"{_SELECT} WHERE id=?", (name,)).fetchone()
            if sql is None or row is None:
                raise no_letter(letter_id)
            letter = _letter(row)
            kind, data = edited(self._codec, letter, changes)
            values = (kind, data.decode(), name)
            sql.execute("UPDATE dead SET ver=?, data=? WHERE id=?", values)
        return self.get(name)

    def discard(self, letter_id: str, /) -> None:
        """Remove letter *letter_id* for good.

        Raises:
            LookupError: there is none.
        """
        with self._editable() as sql:
            gone = sql is not None and sql.execute(
                "DELETE FROM dead WHERE id=? AND rerun_to IS NULL", (plain_id(letter_id),)
            )
            if not gone or not gone.rowcount:
                raise no_letter(letter_id)

    def discard_some(self, letter_ids: Sequence[str], /) -> int:
        """Remove those of *letter_ids* that are letters, all or none; return how many were."""
        ids = [(plain_id(name),) for name in letter_ids]
        with self._editable() as sql:
            if sql is None:
                return 0
            query = "DELETE FROM dead WHERE id=? AND rerun_to IS NULL"
            return sql.executemany(query, ids).rowcount

    def discard_all(self, kind: str | None = None) -> int:
        """Remove all letters, or all of one kind, for good; return how many."""
        where, values = ("", ()) if kind is None else (" AND kind=?", (kind,))
        with self._editable() as sql:
            if sql is None:
                return 0
            query = f"DELETE FROM dead WHERE rerun_to IS NULL{where}"  # noqa: S608  both ours
            return sql.execute(query, values).rowcount

    @contextmanager
    def _editable(self) -> Generator[sqlite3.Connection | None]:
        if not self._file:
            yield None
            return
        with self._file.transaction() as sql:
            yield sql

    def _move(self, query: str, values: tuple[str, ...]) -> int:
        """Put jobs back into a file of their own, whose owner is gone at once."""
        if not self._file:
            return 0
        with self._file.io:
            moved = self._move_out(query, values)
        if moved:
            self._adopt()
        return moved

    def _move_out(self, query: str, values: tuple[str, ...]) -> int:
        lock = self._directory.new()
        file: JournalFile | None = None
        try:
            # In three steps, each on disk before the next: whatever happens in between, the
            # adopter of the new file finds out which of the two records counts.
            with self._file.transaction() as sql:
                rows = [row for row in sql.execute(query, values) if self._free(row[-1])]
                sql.executemany(
                    "UPDATE dead SET rerun_to=? WHERE id=?", [(lock.owner, row[0]) for row in rows]
                )
            if not rows:
                lock.remove()
                return 0
            file = JournalFile.create(lock, power=True)
            file.insert_rows(_revived(row, seq) for seq, row in enumerate(rows, 1))
            self._directory.sync()
            with self._file.transaction() as sql:
                sql.execute("DELETE FROM dead WHERE rerun_to=?", (lock.owner,))
            file.calm()
        finally:
            if file is not None:
                file.close()
            else:
                lock.release()
        return len(rows)

    def _free(self, rerun_to: str | None) -> bool:
        """Return whether no one is about to rerun a letter that says it is moved to *rerun_to*."""
        if rerun_to is None:
            return True
        path = self._directory.path / f"{rerun_to}.db"
        if path.exists():
            return False  # whoever adopts that file will settle it
        lock: Lock | None = self._directory.claim(rerun_to)
        if lock is None:
            return not (self._directory.path / f"{rerun_to}.lock").exists()
        lock.remove()
        return True


def dead_letters(path: "str | os.PathLike[str]") -> DeadLetters:
    """Return the letters of the journal in *path*, for whoever has none of its classes.

    They can be listed, rerun and discarded, and not edited.
    """
    # Whether the file system will do, those have settled that the journal is for.
    directory = Directory(path, allow_network=True)
    codec = Codec({}, max_bytes=1)
    return DeadLetters(DeadFile(directory), directory, codec, lambda: None, None)


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
        current = fields_of_json(
            json_of(codec.decode(letter.kind, letter.version, json_of(current)))
        )
    if not isinstance(current, dict):
        msg = f"the fields of {letter.id} have no names to change them by"
        raise JournalError(msg)
    if unknown := codec.unknown(letter.kind, changes):
        msg = f"kind {letter.kind!r} has no field {unknown!r} (it has {', '.join(current)})"
        raise JobRefused(msg)
    try:
        text = json_of({**current, **changes})
        mended = codec.decode(letter.kind, codec.version_of(letter.kind), text)
    except (Undecodable, NotImplementedError, TypeError) as error:
        raise JobRefused(str(error)) from error
    known, data = codec.encode(mended)
    return known.version, data


def plain_id(text: str) -> str:
    """Return an id as records have it, given with or without a UUID's hyphens."""
    return text.replace("-", "").lower()


def no_letter(letter_id: str) -> LookupError:
    """Return what to raise for the id of no dead letter."""
    return LookupError(f"there is no dead letter {letter_id!r}")


def _letter(row: Sequence[Any]) -> DeadLetter:
    id_, kind, version, data, reason, attempts, crashes, accepted_at, died_at, errors, *_ = row
    try:
        fields = fields_of_json(data)
    except msgspec.DecodeError:
        fields = data
    return DeadLetter(
        id_,
        kind,
        version,
        fields,
        reason,
        attempts,
        crashes,
        accepted_at,
        died_at,
        errors_of(errors),
    )


def _revived(row: Sequence[Any], seq: int) -> Row:
    id_, kind, version, data, _, _, _, accepted_at, _, errors, *_ = row
    return Row(
        seq=seq,
        id=id_,
        kind=kind,
        ver=version,
        data=data,
        attempts=0,
        crashes=0,
        started=0,
        accepted_at=accepted_at,
        first_at=None,
        due_at=None,
        delay=None,
        errors=errors,
        parked=None,
    )
