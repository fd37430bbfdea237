"""What can be read of a damaged SQLite file, row by row; and where the file goes."""

import os
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from retryexec.journal._log import Log
from retryexec.journal._pages import Pages
from retryexec.journal._records import Shape
from retryexec.journal._sqlite import SUFFIXES, Format, as_text, is_plain

_LONGEST = 5.0  # seconds that SQLite may take to read a file


class Salvaged(NamedTuple):
    """What could be read of a damaged file, and at most about how many records could not.

    Of a file of which nothing can be read nobody knows how many there were: None.
    """

    rows: list[tuple[Any, ...]]
    lost: int | None

    @property
    def words(self) -> str:
        """How many are lost, for people."""
        if self.lost is None:
            return "nobody can say how many are lost"
        return f"up to about {self.lost} lost" if self.lost else "none lost"


def set_aside(path: Path, new: Path | None = None) -> Path:
    """Rename a damaged file, with all that belongs to it, and return its new name.

    Args:
        new: what takes its place, at the same moment if that can be.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 0
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    if new is not None:
        with suppress(OSError):  # some cannot be linked, such as directories
            os.link(path, aside, follow_symlinks=False)
    for suffix in SUFFIXES:
        if suffix or not os.path.lexists(aside):
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    if new is not None:
        new.replace(path)
    return aside


def salvage(path: Path, form: Format, log: Log | None = None) -> Salvaged:
    """Return all records that can be read of a damaged file, which is left as it is.

    Args:
        log: of that file, as it was before SQLite looked at it.

    If SQLite can read all of it, as of a file whose tables are other ones, that is what counts.
    """
    content = b""
    with suppress(OSError):  # it may not be for us to read
        log = log or Log(path)
        content = path.read_bytes() if is_plain(path) and path.exists() else b""
    if log is None or not (content or log.frames):
        # An empty file is what is left of one that was being made, or of one that was lost.
        return Salvaged([], None)
    shape, missing = _shape(form), log.missing()
    read, whole = list[Any](), False
    if not missing and log.valid() == len(log.frames):  # else it leaves out what may be newer
        read, whole = _by_sqlite(path, content, log, form)
    if whole:
        return Salvaged(read, 0)
    rows, lost = Pages(content, log.frames, missing, log.pages).rows(shape)
    # Of a table that has been changed by others, SQLite may know more.
    known = {row[shape.at] for row in rows}
    for row in read:
        if row[shape.at] not in known and shape.was_written(row):
            known.add(row[shape.at])
            rows.append(row)
    return Salvaged(rows, lost)


def _shape(form: Format) -> Shape:
    # The first page is that of the schema; the roots of tables and indexes come after it.
    columns, roots = form.tables[form.records], 1 + form.schema.count("CREATE ")
    added = sum(map(len, form.added))
    return Shape(columns, roots, least=columns.count(",") + 1 - added)


def _by_sqlite(path: Path, content: bytes, log: Log, form: Format) -> tuple[list[Any], bool]:
    """Return what SQLite reads of a copy, and whether that is all: opening a file may change it."""
    with tempfile.TemporaryDirectory(prefix="retryexec-") as name:
        copy = Path(name) / "copy.db"
        copy.write_bytes(content)
        if log.content:
            Path(f"{copy}-wal").write_bytes(log.content)
        source = Path(f"{path}-journal")
        if is_plain(source) and source.exists():
            Path(f"{copy}-journal").write_bytes(source.read_bytes())
        rows: list[Any] = []
        try:
            with closing(sqlite3.connect(copy, isolation_level=None)) as sql:
                return rows, _read(sql, form, rows, most=len(content) // 32 + 1000)
        except (sqlite3.Error, OSError, ValueError, OverflowError):
            return rows, False


def _read(sql: sqlite3.Connection, form: Format, rows: list[Any], most: int) -> bool:
    """Add to *rows* what a scan gives, and return whether the file is whole."""
    sql.text_factory = as_text
    sql.execute("PRAGMA writable_schema=ON")
    sql.execute("PRAGMA trusted_schema=OFF")
    due = time.monotonic() + _LONGEST  # a view may have no end
    sql.set_progress_handler(lambda: time.monotonic() > due, 10_000)
    table = form.records
    there = {str(row[1]) for row in sql.execute(f"PRAGMA table_info({table})")}
    names = form.tables[table].split(",")
    columns = ",".join(name if name in there else "NULL" for name in names)
    order = f"ORDER BY {names[0]}" if names[0] in there else ""
    found = sql.execute(f"SELECT {columns} FROM {table} {order}")  # noqa: S608  ours
    rows.extend(islice(found, most))
    return sql.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
