"""The file of the dead letters, as the machinery uses it.

It is one for all processes, ``dead.db``. It is written rarely, by anybody, so it has a plain
rollback journal and no log, and is opened for each use.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from typing import TypeVar

from retryexec.journal._directory import DEAD, Directory
from retryexec.journal._errors import JournalError
from retryexec.journal._rows import LETTER_COLUMNS, LetterRow, read_letter, values_of
from retryexec.journal._sqlite import (
    STRICT,
    Format,
    check_schema,
    check_version,
    is_damaged,
    make_tables,
    open_database,
    salvage,
    set_aside,
    transaction,
)

logger = logging.getLogger("retryexec.journal")

T = TypeVar("T")

LETTERS = Format(
    application=0x72747864,  # "rtxd"
    version=1,
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

_PARTS = ",".join("?" * len(LetterRow.__struct_fields__))
_CHANGED = ",".join(
    f"{column}=excluded.{column}"
    for column in LetterRow.__struct_fields__
    if column not in {"id", "kind", "accepted_at"}
)
_INSERT = f"INSERT INTO dead VALUES({_PARTS}) ON CONFLICT(id) DO UPDATE SET {_CHANGED}"


class LetterFile:
    """The file of the dead letters of a directory."""

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

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection | None]:
        """Open the file to read it; None if there is nothing in it.

        Raises:
            JournalError: it turns out to be damaged; what can be read has been saved.
        """
        if not self:
            yield None
            return
        with self.io, closing(self._mending(self._open, self._open)) as sql:
            try:
                yield sql if check_version(sql, self.path, LETTERS) else None
            except sqlite3.DatabaseError as error:
                if not is_damaged(error):
                    raise
                sql.close()
                self._rescue(error)
                msg = f"{self.path} was damaged; what could be read was saved: try again"
                raise JournalError(msg) from error

    def _open(self) -> sqlite3.Connection:
        return open_database(self.path, LETTERS)

    def forget_after_fork(self) -> None:
        """In a forked child: have a lock of its own."""
        self.io = threading.RLock()

    # ---- for the writer, and for whoever takes over

    def insert(self, letters: Sequence[LetterRow]) -> None:
        """Write *letters*; of those that are there already, the latest counts."""

        def insert() -> None:
            with self.transaction() as sql:
                sql.executemany(_INSERT, map(values_of, letters))

        self._mending(insert, insert)

    def reconcile(self, owner: str, present: Callable[[AbstractSet[str]], set[str]]) -> set[str]:
        """Finish what the dead *owner* of a file had begun, before its jobs are run.

        A job on its way to the dead letters, or back from there, is in both files for a moment.

        Args:
            present: says which of some ids are in the owner's file.

        Returns:
            the ids of those jobs there that have died, and must not run.
        """
        if not self:
            return set()
        return self._mending(lambda: self._reconcile(owner, present), set)

    def _reconcile(self, owner: str, present: Callable[[AbstractSet[str]], set[str]]) -> set[str]:
        with self.io, closing(self._open()) as sql:
            if not check_version(sql, self.path, LETTERS):
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

    def _mending(self, do: Callable[[], T], after: Callable[[], T]) -> T:
        """Return *do()*, or, if the file is damaged, what *after* its repair there is."""
        try:
            return do()
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            self._rescue(error)
            return after()

    def _rescue(self, error: Exception) -> None:
        saved = salvage(self.path, LETTERS)
        aside = set_aside(self.path)
        logger.error(
            "the dead letters are damaged (%s): %d of them saved, %d lost, the old file is %s",
            error,
            len(saved.rows),
            saved.lost,
            aside,
        )
        if saved.rows:
            self.keep(map(read_letter, saved.rows))

    def keep(self, letters: Iterable[LetterRow]) -> None:
        """Write *letters*, as far as there is none of the same id."""
        with self.transaction() as sql:
            sql.executemany(f"INSERT OR IGNORE INTO dead VALUES({_PARTS})", map(values_of, letters))
