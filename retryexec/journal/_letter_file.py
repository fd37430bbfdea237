"""The SQLite file of the dead letters, and what is read from it and written to it.

It is one for all processes, ``dead.db``. It is written rarely, by anybody, so it has a plain
rollback journal and no log, and is opened for each use.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

from retryexec.journal._directory import DEAD, Directory
from retryexec.journal._entry import Entry
from retryexec.journal._rows import LETTER_COLUMNS, LetterRow, read_letter, values_of
from retryexec.journal._salvage import salvage, set_aside
from retryexec.journal._sqlite import (
    STRICT,
    Format,
    check_content,
    check_schema,
    check_version,
    columns_of,
    is_damaged,
    is_damaged_file,
    make_tables,
    open_database,
    transaction,
    upgrade,
)

logger = logging.getLogger("retryexec.journal")

T = TypeVar("T")

_MOST_KEYS = 10_000  # that are kept in memory
_TIME_STEP = 0.1  # seconds; by more, each file system's clock goes on

LETTERS = Format(
    application=0x72747864,  # "rtxd"
    version=2,
    # Only the first letter with a key needs more: until then, processes with an older library may
    # write to the file, too.
    made=1,
    added=(("key TEXT", "latest INTEGER", "stale INTEGER"),),
    schema=f"""
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
){STRICT};
CREATE INDEX IF NOT EXISTS dead_source ON dead(source);
CREATE INDEX IF NOT EXISTS dead_rerun ON dead(rerun_to) WHERE rerun_to IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_kind ON dead(kind, died_at, id);
CREATE INDEX IF NOT EXISTS dead_died ON dead(died_at, id);
""",
    tables={"dead": LETTER_COLUMNS},
    key=("id", "TEXT"),
    pragmas=(
        # EXTRA also syncs the directory when the rollback journal has been removed: were it
        # back after a power cut, it would undo what the job's own file relies on.
        "synchronous=EXTRA",
        "fullfsync=1",
    ),
)

_KEPT = {"id", "kind", "accepted_at"}  # of a letter that is there already


def _changing(columns: Sequence[str]) -> str:
    changed = ",".join(f"{name}=excluded.{name}" for name in columns if name not in _KEPT)
    return f"ON CONFLICT(id) DO UPDATE SET {changed}"


def write_letters(
    sql: sqlite3.Connection, letters: Iterable[LetterRow], *, replace: bool = True
) -> None:
    """Write *letters*, within a transaction; where one is there already, *replace* it or not."""
    rows = [*letters]
    if any(row.key is not None for row in rows) and columns_of(sql, LETTERS) != LETTER_COLUMNS:
        upgrade(sql, LETTERS)
        sql.execute("CREATE INDEX dead_key ON dead(key) WHERE key IS NOT NULL AND stale IS NULL")
    columns = columns_of(sql, LETTERS).split(",")
    verb, end = ("INSERT", _changing(columns)) if replace else ("INSERT OR IGNORE", "")
    names, parts = ",".join(columns), ",".join("?" * len(columns))
    values = [values_of(row)[: len(columns)] for row in rows]
    sql.executemany(f"{verb} INTO dead({names}) VALUES({parts}) {end}", values)


class LetterFile:
    """The file of the dead letters of a directory."""

    def __init__(self, directory: Directory) -> None:
        self.path = directory.path / DEAD
        self._directory = directory
        self._checked: int | None = None  # the file that was found to be whole
        self._keys: set[str] | None = set()
        self._keys_version: tuple[int, ...] | None = ()
        self.rescued: list[str] = []  # what has become of damaged files
        # Held while SQLite is in use, and by whoever forks: a child that closed a connection in
        # the middle of a transaction would roll back what is the parent's.
        self.io = threading.RLock()

    def __bool__(self) -> bool:
        return os.path.lexists(self.path)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Open the file, made if need be, for one transaction."""
        new = not self
        if new:
            with suppress(FileExistsError):
                self.path.touch(mode=0o600, exist_ok=False)
        with self.io, closing(self._open()) as sql, transaction(sql):
            if check_version(sql, self.path, LETTERS):
                check_schema(sql, LETTERS)
            else:
                make_tables(sql, LETTERS)
            yield sql
        if new:
            self._directory.sync()

    def read(self, ask: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Return what *ask* reads of the letters; *default* if there is nothing to be read."""

        def read() -> T:
            if not self:
                return default
            with self.io, closing(self._open()) as sql:
                return ask(sql) if check_version(sql, self.path, LETTERS) else default

        return self._mending(read)

    def change(self, do: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Return *do()*, made one transaction; *default* if there is nothing to be changed."""

        def change() -> T:
            if not self:
                return default
            with self.transaction() as sql:
                return do(sql)

        return self._mending(change)

    def _open(self) -> sqlite3.Connection:
        sql = open_database(self.path, LETTERS)
        try:
            inode = self.path.stat().st_ino
            if inode != self._checked:  # once: it takes long where there are many
                if check_version(sql, self.path, LETTERS):
                    check_content(sql, LETTERS)
                self._checked = inode
        except BaseException:
            sql.close()
            raise
        return sql

    def forget_after_fork(self) -> None:
        """In a forked child: have a lock of its own."""
        self.io = threading.RLock()

    # ---- for the writer, and for whoever takes over

    def insert(self, letters: Sequence[LetterRow]) -> None:
        """Write *letters*, in place of those of the same id."""

        def insert() -> None:
            with self.transaction() as sql:
                write_letters(sql, letters)

        self._mending(insert)

    def outdate(self, succeeded: Sequence[Entry]) -> None:
        """Mark the letters as stale whose key is that of one of *succeeded*, accepted later."""
        known = self._fresh_keys()
        ended = [
            (entry.key.text, entry.id)
            for entry in succeeded
            if entry.key is not None and (known is None or entry.key.text in known)
        ]
        where = "key=? AND id<? AND stale IS NULL"
        query = f"SELECT 1 FROM dead WHERE {where}"  # noqa: S608  ours, with values bound
        none: list[tuple[str, str]] = []
        if ended:  # first without a transaction, which takes long
            ended = self.read(
                lambda sql: [pair for pair in ended if sql.execute(query, pair).fetchone()], none
            )
        if ended:
            change = f"UPDATE dead SET stale=1 WHERE {where}"  # noqa: S608  as above
            self.change(lambda sql: sql.executemany(change, ended), None)

    def _fresh_keys(self) -> AbstractSet[str] | None:
        """Return the texts of keys that have letters which are not stale; None if that is not sure.

        They are read again when the file has changed, by any process.
        """
        version = self._version()
        if version == self._keys_version:
            return self._keys

        def fresh(sql: sqlite3.Connection) -> set[str]:
            if columns_of(sql, LETTERS) != LETTER_COLUMNS:
                return set()
            query = "SELECT DISTINCT key FROM dead WHERE key IS NOT NULL AND stale IS NULL LIMIT ?"
            return {str(key) for (key,) in sql.execute(query, (_MOST_KEYS + 1,))}

        nothing: set[str] = set()
        keys = self.read(fresh, nothing) if version is not None else nothing
        self._keys = keys if len(keys) <= _MOST_KEYS else None
        # Changes in short succession may leave the same time of the last change.
        if version is None or abs(time.time() - version[-1] / 1e9) > _TIME_STEP:
            self._keys_version = version
        return self._keys

    def _version(self) -> tuple[int, ...] | None:
        """Return what changes with each change of the file; None if it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def reconcile(self, owner: str, present: Callable[[AbstractSet[str]], set[str]]) -> set[str]:
        """Finish what the dead *owner* of a file had begun, before its jobs are run.

        A job on its way to the dead letters, or back from there, is in both files for a moment.

        Args:
            present: says which of some ids are in the owner's file.

        Returns:
            the ids of those jobs there that have died, and must not run.
        """
        query = "SELECT id, rerun_to FROM dead WHERE source=? OR rerun_to=?"
        none: list[Any] = []
        found = self.read(lambda sql: sql.execute(query, (owner, owner)).fetchall(), none)
        ids = present({id_ for id_, _ in found}) if found else set()
        rerun = [(id_,) for id_, to in found if to == owner and id_ in ids]
        unfinished = [(id_,) for id_, to in found if to == owner and id_ not in ids]
        if rerun or unfinished:

            def reconcile(sql: sqlite3.Connection) -> None:
                sql.executemany("DELETE FROM dead WHERE id=?", rerun)
                sql.executemany("UPDATE dead SET rerun_to=NULL WHERE id=?", unfinished)

            self.change(reconcile, None)
        return {id_ for id_, to in found if to != owner and id_ in ids}

    def _mending(self, do: Callable[[], T]) -> T:
        """Return *do()*; if the file turns out to be damaged, once more after its repair."""
        with self.io:
            inode = self._inode()
            try:
                return do()
            except sqlite3.DatabaseError as error:
                if not (is_damaged_file(self.path, error) or self._is_closed_to_us()):
                    raise
                # Of several processes that come upon it at once, one does it.
                with self._directory.alone():
                    if self._inode() == inode:
                        self._rescue(error)
            return do()

    def _inode(self) -> int:
        try:
            return self.path.lstat().st_ino
        except OSError:
            return 0

    def _is_closed_to_us(self) -> bool:
        """Return whether the file may not be opened, and its name may be given to another."""
        may = os.R_OK | os.W_OK
        return (
            os.path.lexists(self.path)
            and not os.access(self.path, may)
            and os.access(self._directory.path, may)
        )

    def _rescue(self, error: Exception) -> None:
        """Put a new file in the place of the damaged one, with all letters that can be read."""
        saved = salvage(self.path, LETTERS)
        new = LetterFile(self._directory)
        new.path = self._directory.path / f"{uuid4().hex}.probe"
        try:
            with new.transaction() as sql:
                write_letters(sql, map(read_letter, saved.rows), replace=False)
            aside = set_aside(self.path, new.path)
        finally:
            new.path.unlink(missing_ok=True)
        self._directory.sync()
        words = f"{len(saved.rows)} letters saved, {saved.words}"
        self.rescued.append(f"{aside}: set aside ({error}): {words}")
        what = "are damaged" if is_damaged(error) else "may not be opened by this process"
        logger.error("the dead letters %s (%s): %s, the old file is %s", what, error, words, aside)
