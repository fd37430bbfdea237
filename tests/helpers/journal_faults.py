"""Faults of SQLite, and damage to its files, for journals under test."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from retryexec.journal import Journal
from retryexec.journal._file import JournalFile


def databases(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.db") if path.name != "dead.db")


def own_file(journal: Journal) -> JournalFile:
    assert journal._engine is not None
    own = journal._engine.lanes.own
    assert own is not None
    return own


class Faulty(sqlite3.Connection):
    """A connection that fails, where and how it is told."""

    before: Callable[[str], None] | None = None
    after: Callable[[str], None] | None = None
    paths: ClassVar[list[Path]] = []  # of all that were opened

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if Faulty.before is not None:
            Faulty.before(sql)
        cursor = super().execute(sql, *args)
        if Faulty.after is not None:
            Faulty.after(sql)
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if Faulty.before is not None:
            Faulty.before(sql)
        return super().executemany(sql, *args)


def error(code: int, text: str = "made by a test") -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(text)
    made.sqlite_errorcode = code
    return made


def full(*_: object, **__: object) -> Any:
    """Fail as on a full disk, in place of something that writes."""
    raise error(sqlite3.SQLITE_FULL, "database or disk is full")


def damage(path: Path, place: int, size: int = 64) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(os.urandom(size))


def only_file(journal: Journal) -> JournalFile:
    assert journal._engine is not None
    (file,) = journal._engine.lanes.all()
    return file
