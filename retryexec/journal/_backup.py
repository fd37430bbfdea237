"""A copy of a journal, taken while it is in use."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from retryexec.journal._copies import Copies
from retryexec.journal._directory import DEAD
from retryexec.journal._errors import JournalError
from retryexec.journal._inspect import Inspector
from retryexec.journal._letter_file import LETTERS
from retryexec.journal._sqlite import BUSY_MS, check_version, columns_of, reading, size_of

_ROUNDS = 5  # looks for owners that have come meanwhile


class Copied(NamedTuple):
    """A file of the copy: its path, its bytes, and how many jobs or letters it holds."""

    path: Path
    bytes: int
    records: int


def backup(inspector: Inspector, to: "str | os.PathLike[str]") -> list[Copied]:
    """Copy a journal into the directory *to*, which is made, and return the files.

    Each file is as it was at one moment. A job may change files meanwhile: then it is in both, or
    in the one where it was, never in neither. The copy is a journal like any other; open it
    where the first one will not be opened again, or its jobs are run twice.

    Raises:
        JournalError: *to* holds something already, or a file cannot be read or written.
    """
    target = _fresh(Path(to).absolute())
    source = inspector.path
    copies: list[Path] = []
    try:
        # The letters first and last. A job that dies goes from its own file to the letters, so
        # those must be read later; one that is run again goes back, so they must be read before.
        before = target / "dead.before"
        has_before = _copy(source / DEAD, before)
        for _ in range(_ROUNDS):
            known = {path.name for path in copies}
            new = [owner for owner in inspector.owners() if owner.path.name not in known]
            for owner in new:
                copy = target / owner.path.name
                if _copy(owner.path, copy):
                    copies.append(copy)
                    os.close(_make(copy.with_suffix(".lock")))
            if not new:
                break
        dead = target / DEAD
        has_dead = _copy(source / DEAD, dead)
        if has_before and not has_dead:
            before.rename(dead)
        elif has_before:
            _keep_moved(dead, before, copies)
            before.unlink()
        if has_before or has_dead:
            copies.append(dead)
        copied = [Copied(path, size_of(path), _records(path)) for path in copies]
        _sync(target)
    except (sqlite3.Error, OSError) as error:
        msg = f"the backup to {target} is not complete: {error}"
        raise JournalError(msg) from error
    return copied


def _fresh(target: Path) -> Path:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            msg = f"{target} is not empty: name a directory that is, or that is not there yet"
            raise JournalError(msg)
        target.chmod(0o700)
    except OSError as error:
        msg = f"{target} cannot hold a backup: {error.strerror}"
        raise JournalError(msg) from error
    return target


def _make(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _copy(source: Path, target: Path) -> bool:
    """Copy one file, as it is at this moment; return False if it is not there."""
    if not source.exists():
        return False
    fd = _make(target)
    try:
        try:
            with (
                Copies().reading(source) as old,
                closing(sqlite3.connect(target, isolation_level=None)) as new,
            ):
                # Synced below: a disk that takes its time must not make the owners wait.
                new.execute("PRAGMA synchronous=OFF")
                old.backup(new)
        except sqlite3.Error:
            if source.exists():
                raise
            target.unlink()  # its owner was done with it
            return False
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _keep_moved(dead: Path, before: Path, copies: list[Path]) -> None:
    """Add to *dead* the letters of *before* that have left it for a file that was not copied."""
    with closing(sqlite3.connect(dead, isolation_level=None, timeout=BUSY_MS / 1000)) as sql:
        if not check_version(sql, dead, LETTERS):
            return
        sql.execute("ATTACH ? AS old", (str(before),))
        query = "SELECT id FROM old.dead WHERE id NOT IN (SELECT id FROM main.dead)"
        missing = {row[0] for row in sql.execute(query)}
        for path in copies if missing else ():
            with reading(path) as jobs:
                missing.difference_update(
                    id_ for (id_,) in jobs.execute("SELECT id FROM job") if id_ in missing
                )
        sql.execute("BEGIN IMMEDIATE")
        columns = columns_of(sql, LETTERS)
        known = ",".join(str(row[1]) for row in sql.execute("PRAGMA old.table_info(dead)"))
        columns = min(columns, known, key=len)  # one of them may be of an older version
        sql.executemany(
            f"INSERT INTO main.dead({columns}) SELECT {columns} FROM old.dead WHERE id=?",  # noqa: S608  ours
            [(id_,) for id_ in missing],
        )
        sql.execute("COMMIT")


def _records(path: Path) -> int:
    table = "dead" if path.name == DEAD else "job"
    with reading(path) as sql:
        if not sql.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            return 0
        return int(sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  ours


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
