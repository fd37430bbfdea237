"""Browsing a journal page by page, for whoever shows it to people while it is in use.

A page is one short statement that begins where the last page ended, so it costs the same wherever
it is, and keeps no owner waiting. The fields of jobs, which may be large, are read one by one only.
"""

import os
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from retryexec.journal._directory import DEAD
from retryexec.journal._inspect import Inspector, Owner, UnfinishedJob
from retryexec.journal._job_table import JOBS
from retryexec.journal._letter_file import LETTERS
from retryexec.journal._rows import LetterRow, read_letter
from retryexec.journal._sqlite import columns_of

Place = tuple[Any, ...]
"""Where a page ended: what its last record is ordered by, as the store has it."""


class LetterPage(NamedTuple):
    """Dead letters without their fields, each with its place, and whether there may be more."""

    found: list[tuple[LetterRow, Place]]
    more: bool


class JobPage(NamedTuple):
    """Unfinished jobs without their fields, each with its place, and whether there may be more."""

    found: list[tuple[UnfinishedJob, Place]]
    more: bool


class Sight(NamedTuple):
    """What is counted of a dead letter: its kind, when it died, its errors as JSON, the reason."""

    died_at: Any
    id: Any
    kind: Any
    errors: Any
    reason: Any


class DirectoryBrowser(Inspector):
    """Browses the journal in a directory."""

    def letter_page(self, after: Place | None, size: int, kind: str | None = None) -> LetterPage:
        """Return letters, the latest first."""
        where, of_kind = ("", ()) if kind is None else ("kind=? AND ", (kind,))
        place = (float("inf"), "") if after is None else after
        rest = f"WHERE {where}(died_at,id)<(?,?) ORDER BY died_at DESC,id DESC LIMIT ?"
        rows = self._letters(rest, (*of_kind, *place, size))
        return LetterPage([(read_letter(row), (row[8], row[0])) for row in rows], len(rows) == size)

    def _letters(self, rest: str, values: Sequence[Any]) -> list[Any]:
        def read(sql: sqlite3.Connection) -> list[Any]:
            names = _without_data(columns_of(sql, LETTERS))
            return sql.execute(f"SELECT {names} FROM dead {rest}", values).fetchall()  # noqa: S608

        return self._ask_dead(read) or []

    def sights(self, after: Place | None, size: int) -> list[Sight]:
        """Return what is counted of letters, the oldest first."""
        where, values = ("", ()) if after is None else ("WHERE (died_at,id)>(?,?) ", after)
        query = (
            f"SELECT died_at,id,kind,errors,reason FROM dead {where}"  # noqa: S608  ours
            "ORDER BY died_at,id LIMIT ?"
        )
        rows = self._ask_dead(lambda sql: sql.execute(query, (*values, size)).fetchall())
        return [Sight(*row) for row in rows or ()]

    def letter_count(self) -> int:
        """Return how many letters there are."""
        query = "SELECT count(*) FROM dead"
        return self._ask_dead(lambda sql: int(sql.execute(query).fetchone()[0])) or 0

    def letter_version(self) -> object:
        """Return what is another value once the letters have changed; None if nobody knows."""
        try:
            found = os.stat(self.path / DEAD)  # noqa: PTH116
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def job_page(self, after: Place | None, size: int, kind: str | None = None) -> JobPage:
        """Return unfinished jobs: those of one owner after the other, each in its order."""
        name, seq = ("", -(2**63)) if after is None else after
        where, of_kind = ("", ()) if kind is None else ("AND kind=? ", (kind,))
        found: list[tuple[UnfinishedJob, Place]] = []
        for owner in self.owners():
            if owner.name < name:
                continue
            first = seq if owner.name == name else -(2**63)
            values = (first, *of_kind, size - len(found))
            rows = self._job_rows(owner, f"WHERE seq>? {where}ORDER BY seq LIMIT ?", values)
            found += [(self._job(row, owner), (owner.name, row[0])) for row in rows]
            if len(found) == size:
                return JobPage(found, True)
        return JobPage(found, False)

    def _job_rows(self, owner: Owner, rest: str, values: Sequence[Any]) -> list[Any]:
        def read(sql: sqlite3.Connection) -> list[Any]:
            names = _without_data(columns_of(sql, JOBS))
            return sql.execute(f"SELECT {names} FROM job {rest}", values).fetchall()  # noqa: S608

        return self._ask(owner, read) or []


def _without_data(columns: str) -> str:
    return columns.replace(",data,", ",'null',")
