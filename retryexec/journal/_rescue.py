"""How the jobs of a damaged file get into a new one: all of them, and into one alone.

The new file names the one that its rows come from, in the transaction that writes them; then the
old one is set aside. A process may die in between, and leave both. Whoever comes upon the old file
finds the new one named after it, and sets the old one aside without reading it again; whoever comes
upon the new file does so before any of its jobs is run.
"""

import logging
import sqlite3
from contextlib import suppress

from retryexec.journal._copies import Copies
from retryexec.journal._directory import OWNER, Directory, Lock
from retryexec.journal._file import JournalFile
from retryexec.journal._job_table import JOBS
from retryexec.journal._log import Log
from retryexec.journal._rows import JobRow, read_job
from retryexec.journal._salvage import salvage, set_aside
from retryexec.journal._sqlite import is_plain

logger = logging.getLogger("retryexec.journal")


def rescue(directory: Directory, lock: Lock, error: Exception, log: Log, *, power: bool) -> str:
    """Save what can be read of a damaged file into a new one, for the next look, and say what.

    Args:
        lock: of that file, held; removed with it.
        log: of that file, as it was before SQLite looked at it.
    """
    if _is_moved(directory, lock):
        return _set_aside(lock)
    saved = salvage(lock.database, JOBS, log)
    rows: list[JobRow] = []
    for values in saved.rows:
        row, wrong = read_job(values)
        row.seq, row.parked = len(rows) + 1, row.parked if wrong is None else wrong
        rows.append(row)
    if rows:
        _save(directory, rows, lock.owner, power=power)
    # Only now: a crash in between loses none.
    aside = set_aside(lock.database)
    logger.error(
        "%s is damaged (%s): %d jobs saved, %s, the old file is %s",
        lock.database,
        error,
        len(rows),
        saved.words,
        aside,
    )
    lock.remove()
    return f"{aside}: set aside ({error}): {len(rows)} jobs saved, {saved.words}"


def finish(directory: Directory, file: JournalFile) -> bool:
    """Set aside the files that the rows of *file* come from.

    Returns:
        False if somebody has one of them in hand.
    """
    # The first row of the table is about the file itself.
    for (owner,) in file.sql.execute("SELECT owner FROM meta WHERE rowid>1").fetchall():
        if not (OWNER.fullmatch(str(owner)) and (directory.path / f"{owner}.db").exists()):
            continue
        lock = None
        with suppress(OSError):
            lock = directory.claim(owner)
        if lock is None:
            return False
        _set_aside(lock)
    return True


def _set_aside(lock: Lock) -> str:
    aside = set_aside(lock.database)
    logger.error(
        "%s was damaged, and its jobs have been saved before: the old file is %s",
        lock.database,
        aside,
    )
    lock.remove()
    return f"{aside}: set aside: its jobs have been saved before"


def _is_moved(directory: Directory, lock: Lock) -> bool:
    """Return whether another file has the rows of that of *lock*."""
    copies = Copies()
    for owner in directory.owners():
        path = directory.path / f"{owner}.db"
        if owner == lock.owner or not (is_plain(path) and path.exists()):
            continue
        with suppress(sqlite3.Error, OSError), copies.reading(path) as sql:
            query = "SELECT 1 FROM meta WHERE rowid>1 AND owner=?"
            if sql.execute(query, (lock.owner,)).fetchone():
                return True
    return False


def _save(directory: Directory, rows: list[JobRow], source: str, *, power: bool) -> None:
    lock = directory.new()
    file: JournalFile | None = None
    try:
        file = JournalFile.create(lock, power=power)
        file.insert_rows(rows, (source,))
        directory.sync()
    except BaseException:
        if file is not None:
            file.close_database()
        lock.remove()
        raise
    file.close()
