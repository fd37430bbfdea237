"""SQLite files: how one is opened, checked, read row by row, salvaged and set aside.

Everything in the journal that touches an SQLite file does it by way of this module. A file is
looked at as what it may be: something that nobody here has written.
"""

import logging
import os
import sqlite3
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from retryexec.journal._errors import Newer
from retryexec.journal._rows import printable

logger = logging.getLogger("retryexec.journal")

BUSY_MS = 5000
_LIKELY_VERSION = 100  # of a format; a higher one is a flipped bit
WAL_HEADER = 32  # bytes of a log in which nothing is
SMALLEST_PAGE = 512  # bytes: SQLite takes a file that is smaller to be empty
SUFFIXES = ("-wal", "-shm", "-journal", "")
STRICT = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""

# SQLite's codes, of which the module names some only from Python 3.11 on, some never.
FULL = 13
CORRUPT = 11
NOTADB = 26
_ERROR = 1
_READONLY = 8
# What says that the disk, or whoever else uses the file, is in the way: BUSY, LOCKED, NOMEM,
# READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH. The data are not to blame.
_ENVIRONMENT = frozenset({5, 6, 7, _READONLY, 9, 10, FULL, 14, 15, 22, 23})

_SOUND = (3, 51, 3)

# Connections that must not be closed, since closing tidies up by name what may be another's
# file by now, or in a forked child the parent's. They go with the process.
never_closed: list[sqlite3.Connection] = []

# Text is not trusted to be UTF-8: what is not comes as lone surrogates, which `read_job` finds.
as_text = partial(str, encoding="utf-8", errors="surrogateescape")


class Format(NamedTuple):
    """What a file of ours looks like.

    Attributes:
        application, version: its ``PRAGMA application_id`` and ``user_version``.
        schema: the statements that make it.
        tables: its tables and their columns; the first one holds the records.
        key: the primary key of the records, and its type.
        added: the columns that version 2 has added to the records at their end, version 3, and so
            on; each with its type, as text. A file may still be of an older version.
        made: the version that `schema` makes; `upgrade` does the rest when it is needed.
        pragmas: how a connection that writes to it is set up.
    """

    application: int
    version: int
    schema: str
    tables: dict[str, str]
    key: tuple[str, str]
    pragmas: tuple[str, ...]
    added: tuple[tuple[str, ...], ...] = ()
    made: int = 1

    @property
    def records(self) -> str:
        """The name of the table with the records."""
        return next(iter(self.tables))


# ---- opening


def connect(path: "Path | str", **options: Any) -> sqlite3.Connection:
    """Open *path*; a function of its own, for tests that bring a connection of theirs."""
    connection: sqlite3.Connection = sqlite3.connect(path, **options)
    return connection


def open_database(
    path: "Path | str", form: Format, *, new: bool = False, extra: tuple[str, ...] = ()
) -> sqlite3.Connection:
    """Open a file to read and write it; made to *form* if it is *new*.

    Args:
        extra: further pragmas.

    Raises:
        Newer: it is not for this version to touch.
        sqlite3.DatabaseError: it cannot be opened; it is damaged, if `is_damaged` says so.
    """
    if not new:
        check_kind(Path(path))
    sql = connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    try:
        with unreadable_is_damage():
            sql.text_factory = as_text
            sql.execute("PRAGMA trusted_schema=OFF")
            if not new:
                # Before anything that could write to a file of the future.
                check_version(sql, path, form)
            for pragma in (*form.pragmas, *extra):
                sql.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        sql.close()
        raise
    return sql


def make_tables(sql: sqlite3.Connection, form: Format) -> None:
    """Make the tables of *form*, within a transaction."""
    for statement in form.schema.split(";\n")[:-1]:
        sql.execute(statement)
    sql.execute(f"PRAGMA application_id={form.application}")
    sql.execute(f"PRAGMA user_version={form.made}")


def columns_of(sql: sqlite3.Connection, form: Format) -> str:
    """Return the columns of the records, all of *form*'s or the first ones; with no file, all."""
    names = form.tables[form.records].split(",")
    there = {str(row[1]) for row in sql.execute(f"PRAGMA table_info({form.records})")}
    for columns in reversed(form.added):
        if not there or columns[-1].split()[0] in there:
            break
        names = names[: -len(columns)]
    return ",".join(names)


def select(sql: sqlite3.Connection, form: Format, rest: str, *, first: str = "") -> str:
    """Return a query for the records as far as the file has their columns, and *first* another."""
    return f"SELECT {first}{columns_of(sql, form)} FROM {form.records} {rest}"  # noqa: S608  ours


def upgrade(sql: sqlite3.Connection, form: Format) -> None:
    """Add to the records the columns that are missing, within a transaction."""
    known = columns_of(sql, form).split(",")
    for columns in form.added:
        for column in columns:
            if column.split()[0] not in known:
                sql.execute(f"ALTER TABLE {form.records} ADD COLUMN {column}")
    sql.execute(f"PRAGMA user_version={form.version}")


def check_version(sql: sqlite3.Connection, path: "Path | str", form: Format) -> bool:
    """Return whether the file holds anything yet.

    Raises:
        Newer: it is of a version that is not known here.
        sqlite3.DatabaseError: it is not a file of this form.
    """
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    (application,) = sql.execute("PRAGMA application_id").fetchone()
    (tables,) = sql.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != form.application:
        msg = f"{path} is not a file of a journal"
        raise damage(msg, NOTADB)
    if version > form.version:
        if version > _LIKELY_VERSION or _is_flipped(sql, version, form):
            msg = f"{path} says that it is of version {version}, and is not"
            raise damage(msg)
        msg = f"{path} is of version {version}, and this library knows up to {form.version}"
        raise Newer(msg)
    return bool(tables)


def _is_flipped(sql: sqlite3.Connection, version: int, form: Format) -> bool:
    """Return whether *version* is that of the file's tables with a flipped bit.

    So a later version of a format has to have other tables, or a number that is two bits away.
    """
    with suppress(sqlite3.Error):
        check_schema(sql, form)
        missing = form.tables[form.records].removeprefix(columns_of(sql, form)).count(",")
        known, added = form.version, list(form.added)
        while missing > 0:
            missing -= len(added.pop())
            known -= 1
        return (version ^ known).bit_count() == 1
    return False


def check_content(sql: sqlite3.Connection, form: Format, pragma: str = "quick_check") -> None:
    """Make sure that the file is whole, and that its tables are those of *form*.

    Raises:
        sqlite3.DatabaseError: it is damaged; the message says how.
    """
    with unreadable_is_damage():
        found = sql.execute(f"PRAGMA {pragma}(5)").fetchall()
        words = " ".join("; ".join(str(row[0]) for row in found).split())
        if words.lower() != "ok":
            raise damage(printable(words.replace("*** in database main *** ", ""), 200))
        check_schema(sql, form)


def check_schema(sql: sqlite3.Connection, form: Format) -> None:
    """Make sure that the tables are those of *form*, and that there is nothing beside them.

    A view or a trigger could make each end of a job come to nothing; with another key, one end
    could be that of two jobs.

    Raises:
        sqlite3.DatabaseError: they are not; the message says how.
    """
    query = "SELECT type,name FROM sqlite_schema WHERE type<>'index'"
    there = {(str(kind), str(name)) for kind, name in sql.execute(query)}
    expected = {("table", table) for table in form.tables}
    if there != expected:
        names = sorted(name for _, name in there ^ expected)
        msg = f"its tables are not those of a journal: {', '.join(names)}"
        raise damage(msg)
    tables = {**form.tables, form.records: columns_of(sql, form)}
    for table, columns in tables.items():
        info = sql.execute(f"PRAGMA table_info({table})").fetchall()
        if ",".join(str(row[1]) for row in info) != columns:
            msg = f"its table {table!r} has other columns"
            raise damage(msg)
        key = [(row[1], str(row[2]).upper()) for row in info if row[5]]
        if table == form.records and key != [form.key]:
            msg = f"its table {table!r} has another key"
            raise damage(msg)
    try:
        sql.execute(f"SELECT rowid FROM {form.records} LIMIT 0")  # noqa: S608  ours
    except sqlite3.OperationalError as error:
        msg = f"its table {form.records!r} does not have row numbers"
        raise damage(msg) from error


def check_kind(path: Path) -> None:
    """Refuse what is not a plain file: to open a pipe, SQLite would wait for ever."""
    for suffix in SUFFIXES:
        name = Path(f"{path}{suffix}")
        if not is_plain(name):
            msg = f"{name} is not a plain file"
            raise damage(msg, NOTADB)


def check_log_of_empty(path: Path) -> None:
    """Refuse an empty file with a log that is not empty: even to read, SQLite would delete the log.

    Raises:
        sqlite3.DatabaseError: there is something in the log.
    """
    wal = Path(f"{path}-wal")
    if is_plain(path) and size_of(path) < SMALLEST_PAGE and size_of(wal) > WAL_HEADER:
        msg = f"{path} is empty or not there, and its log is not empty"
        raise damage(msg)


def is_plain(path: Path) -> bool:
    """Return whether *path* is a plain file, or not there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def unreadable_is_damage() -> Generator[None]:
    """Turn what Python says of an error whose text is not UTF-8 into that error.

    SQLite's messages quote the schema, which may be damaged.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        msg = f"it has texts that are not UTF-8 ({error.reason})"
        raise damage(msg) from error


@contextmanager
def transaction(sql: sqlite3.Connection) -> Generator[None]:
    """Make one transaction of the block: all of it, or, if it raises, nothing."""
    try:
        with unreadable_is_damage():
            sql.execute("BEGIN IMMEDIATE")
            yield
            sql.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            if sql.in_transaction:
                sql.execute("ROLLBACK")
        raise


# ---- looking only


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Open *path* for looking only.

    A connection in ``mode=ro`` checkpoints nothing, neither by itself nor at its end.
    """
    try:
        check_kind(path)
        check_log_of_empty(path)
        with unreadable_is_damage(), closing(_read_only(path)) as sql:
            try:
                sql.execute("PRAGMA user_version")
            except sqlite3.OperationalError as error:
                if code_of(error) != _READONLY:
                    raise
            else:
                yield sql
                return
        # Somebody died in the middle of a transaction, and whoever opens the file next takes it
        # back; a reader may not, and so opens it like the others.
        with (
            unreadable_is_damage(),
            closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000)) as sql,
        ):
            sql.text_factory = as_text
            yield sql
    finally:
        _tidy_after(path)


def _read_only(path: Path) -> sqlite3.Connection:
    sql = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_MS / 1000
    )
    try:
        sql.text_factory = as_text
        sql.execute("PRAGMA trusted_schema=OFF")
    except BaseException:
        sql.close()
        raise
    return sql


def _tidy_after(path: Path) -> None:
    """Remove what SQLite has made for a file that was removed while it was being opened.

    Even a reader makes an empty log, and the memory that goes with it. A log that holds anything
    is somebody's.
    """
    if path.exists():
        return
    wal = Path(f"{path}-wal")
    with suppress(OSError):
        if not wal.exists() or wal.stat().st_size == 0:
            wal.unlink(missing_ok=True)
            Path(f"{path}-shm").unlink(missing_ok=True)


# ---- errors


def damage(text: str, code: int = CORRUPT) -> sqlite3.DatabaseError:
    """Return an error that says that a file is damaged."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = code
    return error


def code_of(error: BaseException) -> int:
    """Return SQLite's code for *error*; 0 if there is none."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_damaged(error: BaseException) -> bool:
    """Return whether *error* means that the file is damaged, rather than out of reach."""
    return isinstance(error, sqlite3.DatabaseError) and code_of(error) in {CORRUPT, NOTADB}


def is_damaged_file(path: Path, error: BaseException) -> bool:
    """Return whether *error*, of opening *path* or of writing to it, means that it is damaged.

    A damaged header may say that only a later SQLite can read the file, or write to it.
    """
    return is_damaged(error) or (
        code_of(error) in {_ERROR, _READONLY} and not has_known_format(path)
    )


def has_known_format(path: Path) -> bool:
    """Return whether the header of *path* says that this SQLite can read it and write to it.

    Not for a file that this process has open: SQLite's locks on it would be gone.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return True
    # The versions for writing and reading, and of the schema: what SQLite itself looks at.
    return len(header) < 100 or (max(header[18:20]) <= 2 and header[47] <= 4)


def is_full(error: BaseException) -> bool:
    """Return whether *error* means that the disk is."""
    return code_of(error) == FULL or (isinstance(error, OSError) and error.errno == 28)


def is_environment(error: BaseException) -> bool:
    """Return whether *error* comes from the disk or from others, and not from what is written."""
    return isinstance(error, OSError) or code_of(error) in _ENVIRONMENT


def tell_of_sqlite(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """Tell, when a journal is made, of a bug in the log of older SQLites.

    At INFO, and once for each journal: nearly every Python has such a SQLite, and there is nothing
    to do about it for whoever leaves the files alone.
    """
    if version < _SOUND:
        logger.info(
            "nothing to do, unless you write to the journal's files with tools of your own: SQLite "
            "%d.%d.%d, which this Python has, may damage a file that two connections write to at "
            "the same time. The journal itself never does that (SQLite 3.51.3 has been mended)",
            *version,
        )


def size_of(path: "Path | str") -> int:
    """Return the bytes of *path*; 0 if it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  for every look
    except OSError:
        return 0
