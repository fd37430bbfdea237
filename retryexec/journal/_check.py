"""Whether a journal is sound: its directory, its files, and what is in them."""

import re
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retryexec.journal._directory import DEAD, _is_young, filesystem_of, is_network
from retryexec.journal._file import Newer, check_version
from retryexec.journal._inspect import (
    Inspector,
    Owner,
    check_dead_version,
    reading,
    why_unreadable,
)

_OURS = re.compile(
    r"[0-9a-f]{32}\.(db|db-wal|db-shm|lock)|dead\.db(-journal)?|run\.(db(-wal|-shm)?|lock)"
)
_PROBE = re.compile(r"[0-9a-f]{32}\.probe")
_ASIDE = re.compile(r".+\.db\.corrupt-[0-9-]+(-wal|-shm|-journal)?")


class Finding(NamedTuple):
    """Something that is wrong with a journal.

    Attributes:
        about: ``permissions``, ``network``, ``foreign``, ``damaged``, ``version``, ``parked``,
            ``lock`` or ``aside``.
        path: where.
        text: what is wrong, and the way out.
    """

    about: str
    path: Path
    text: str


def check(inspector: Inspector, *, full: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with a journal; nothing is written to it.

    Args:
        inspector: of that journal.
        full: whether to have every index compared with its table as well, which takes longer.
    """
    directory = inspector.path
    yield from _check_mode(directory, 0o700)
    kind = filesystem_of(directory.resolve())
    if is_network(kind):
        yield Finding(
            "network",
            directory,
            f"it is on a network file system ({kind}), where locks and shared memory cannot be "
            "relied on: move the journal to a local disk",
        )
    for name in inspector.names():
        yield from _check_name(directory / name)
    pragma = "integrity_check" if full else "quick_check"
    for owner in inspector.owners():
        yield from _check_jobs(owner, pragma)
    dead = directory / DEAD
    if dead.exists():
        yield from _check_content(dead, pragma, dead=True)


def _check_mode(path: Path, right: int) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # it has just been removed
    if mode & 0o077:
        yield Finding(
            "permissions",
            path,
            f"others may use it (its mode is {mode:04o}): chmod {right:o} {path}",
        )


def _check_name(path: Path) -> Iterator[Finding]:
    name = path.name
    if _OURS.fullmatch(name):
        yield from _check_mode(path, 0o600)
    elif _ASIDE.fullmatch(name):
        yield from _check_mode(path, 0o600)
        if not name.endswith(("-wal", "-shm", "-journal")):
            yield Finding(
                "aside",
                path,
                "it was damaged and has been set aside; what could be read was saved: look whether "
                "you miss anything, and remove it",
            )
    elif _PROBE.fullmatch(name):
        if not _is_young(path):
            yield Finding("foreign", path, "a process left it when it was starting: remove it")
    else:
        yield Finding("foreign", path, "it is none of the journal's files: move it elsewhere")


def _check_jobs(owner: Owner, pragma: str) -> Iterator[Finding]:
    if not owner.path.with_suffix(".lock").exists() and owner.path.exists():
        yield Finding(
            "lock",
            owner.path,
            "its lock file is not there: its owner makes a new one within seconds, or others adopt "
            "it after a minute",
        )
    yield from _check_content(owner.path, pragma, dead=False)


def _check_content(path: Path, pragma: str, *, dead: bool) -> Iterator[Finding]:
    parked = 0
    try:
        with reading(path) as sql:
            if dead:
                check_dead_version(sql, path)
            else:
                check_version(sql, path)
            words = [row[0] for row in sql.execute(f"PRAGMA {pragma}(5)")]
            if words != ["ok"]:
                yield Finding("damaged", path, f"{pragma} says: {'; '.join(words)}")
            elif not dead and sql.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
                (parked,) = sql.execute("SELECT count(parked) FROM job").fetchone()
                reasons = sql.execute(
                    "SELECT parked FROM job WHERE parked IS NOT NULL GROUP BY parked LIMIT 3"
                ).fetchall()
                if parked:
                    yield Finding("parked", path, _of_parked(parked, [row[0] for row in reasons]))
    except Newer as error:
        yield Finding("version", path, f"{error}: upgrade the library, or leave it to who has")
    except sqlite3.Error as error:
        if path.exists():
            yield Finding("damaged", path, why_unreadable(path, error))


def _of_parked(count: int, reasons: list[str]) -> str:
    records = "1 record is" if count == 1 else f"{count:,} records are"
    return (
        f"{records} parked, since no job can be made of it ({'; '.join(reasons)}): open the "
        "journal with a class registered that can"
    )
