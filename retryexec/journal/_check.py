"""Whether a journal is sound: its directory, its files, and what is in them."""

import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from retryexec.journal._directory import (
    DEAD,
    filesystem_of,
    is_network,
    is_of_this_boot,
    is_young,
)
from retryexec.journal._errors import JournalError, Newer
from retryexec.journal._inspect import Inspector, Owner, holder, why_unreadable
from retryexec.journal._job_table import JOBS
from retryexec.journal._letter_file import LETTERS
from retryexec.journal._log import Log
from retryexec.journal._rows import DAMAGED, read_job, read_letter
from retryexec.journal._sqlite import (
    WAL_HEADER,
    Format,
    check_content,
    check_version,
    columns_of,
    damage,
    has_known_format,
    is_plain,
    size_of,
)

_OURS = re.compile(
    r"[0-9a-f]{32}\.(db|db-wal|db-shm|lock|spare)|dead\.db(-journal)?|run\.(db(-wal|-shm)?|lock)"
)
_PROBE = re.compile(r"[0-9a-f]{32}\.probe")
_ASIDE = re.compile(r".+\.(db|lock)\.corrupt-[0-9-]+(-wal|-shm|-journal)?")

_GONE = (
    "the file of jobs that belongs here is gone, or empty, and so is its log: nobody can say how "
    "many jobs were in it; the next process to open the journal tidies up"
)


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
    owners = inspector.owners()
    for owner in owners:
        yield from _check_lock(owner)
        if not owner.alive:
            yield from _check_log(owner.path)
        yield from _check_file(inspector, owner.path, JOBS, pragma, alive=owner.alive)
    if os.path.lexists(directory / DEAD):
        yield from _check_file(inspector, directory / DEAD, LETTERS, pragma)


def _check_log(path: Path) -> Iterator[Finding]:
    """Yield what SQLite silently leaves out of the log of a dead owner."""
    try:
        log = Log(path)
        same_boot = is_of_this_boot(_said(path.with_suffix(".lock")), path) is True
        left_out = log.left_out(same_boot=same_boot)
    except OSError:
        return  # which is told of the file
    count = "1 transaction" if left_out == 1 else f"{left_out} transactions"
    if left_out and same_boot:
        text = (
            f"{count} in it cannot be read by SQLite, which takes it to end where it is damaged: "
            "the next process to open the journal saves what can be read"
        )
        yield Finding("damaged", Path(f"{path}-wal"), text)
    elif left_out:
        text = (
            f"{count} at the end of it cannot be read: the machine may have been switched off "
            "before they were on disk"
        )
        yield Finding("damaged", Path(f"{path}-wal"), text)
    elif same_boot and (missing := log.missing()):
        text = (
            f"its log is shorter than it was, by about {missing} pages: what was in them last, new "
            "jobs or ends, is lost"
        )
        yield Finding("damaged", path, text)


def _said(lock: Path) -> bytes:
    if not (is_plain(lock) and lock.exists()):
        return b""
    with lock.open("rb") as file:
        return file.read(200)


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
        if _is_alone(path) and size_of(path) > WAL_HEADER:
            text = (
                "the file that this log belongs to is not there: the next process to open the "
                "journal saves what can be read"
            )
            yield Finding("damaged", path, text)
        elif name.endswith(".spare") and not size_of(path.with_suffix(".db")) and _is_left(path):
            yield Finding("damaged", path, _GONE)
        if name.endswith(".spare") and not is_plain(path):
            yield Finding("foreign", path, "it is not a plain file: move it elsewhere")
    elif _ASIDE.fullmatch(name):
        yield from _check_mode(path, 0o600)
        # Of a file and what belongs to it, one is enough.
        if not name.endswith(("-wal", "-shm", "-journal")) or _is_alone(path):
            yield Finding(
                "aside",
                path,
                "it was damaged and has been set aside; what could be read was saved: look whether "
                "you miss anything, and remove it",
            )
    elif _PROBE.fullmatch(name):
        if not is_young(path):
            yield Finding("foreign", path, "a process left it when it was starting: remove it")
    else:
        yield Finding("foreign", path, "it is not a file of the journal: move it elsewhere")


def _is_alone(path: Path) -> bool:
    """Return whether *path* is a log, and the file that it belongs to is not there."""
    name = str(path)
    return name.endswith("-wal") and not os.path.lexists(name.removesuffix("-wal"))


def _is_left(spare: Path) -> bool:
    """Return whether *spare* is of a dead owner, and there is no log."""
    if not (is_plain(spare) and size_of(spare)) or size_of(spare.with_suffix(".db-wal")):
        return False
    with suppress(JournalError):
        return not holder(spare.with_suffix(".lock"))[0]
    return False


def _check_lock(owner: Owner) -> Iterator[Finding]:
    lock = owner.path.with_suffix(".lock")
    if not is_plain(lock):
        yield Finding(
            "lock",
            lock,
            "it is not a plain file, so nobody can hold it: the next process to open the journal "
            "moves it out of the way",
        )
    elif not lock.exists() and owner.path.exists():
        yield Finding(
            "lock",
            owner.path,
            "its lock file is not there: its owner makes a new one within seconds, or others take "
            "it over after a minute",
        )


def _check_file(
    inspector: Inspector, path: Path, form: Format, pragma: str, *, alive: bool = False
) -> Iterator[Finding]:
    try:
        with inspector.copies.reading(path) as sql:
            if check_version(sql, path, form):
                check_content(sql, form, pragma)
                if not (alive or has_known_format(path)):
                    msg = "its header says that only a later SQLite can write to it"
                    raise damage(msg)
                yield from _check_rows(sql, path, form)
            elif form is JOBS and not alive and _is_left(path.with_suffix(".spare")):
                yield Finding("damaged", path, _GONE)
    except Newer as error:
        yield Finding("version", path, f"{error}: upgrade the library, or leave it to who has")
    except sqlite3.Error as error:
        if os.path.lexists(path):
            yield Finding("damaged", path, why_unreadable(path, error))


def _check_rows(sql: sqlite3.Connection, path: Path, form: Format) -> Iterator[Finding]:
    """Yield what is wrong with single records."""
    reasons: Counter[str] = Counter()
    names = columns_of(sql, form)
    if form is JOBS:
        for columns in sql.execute(f"SELECT {names} FROM job"):  # noqa: S608  ours
            row, wrong = read_job(columns)
            if wrong is not None or row.parked is not None:
                reasons[wrong or row.parked or ""] += 1
        if reasons:
            yield Finding("parked", path, _of_parked(reasons))
        return
    for columns in sql.execute(f"SELECT {names} FROM dead"):  # noqa: S608  ours
        letter = read_letter(columns)
        if letter.reason.startswith(DAMAGED):
            reasons[letter.reason] += 1
    if reasons:
        count, words = reasons.total(), "; ".join(reason for reason, _ in reasons.most_common(3))
        letters = "1 dead letter is" if count == 1 else f"{count:,} dead letters are"
        text = f"{letters} not as written ({words}): discard what is of no use"
        yield Finding("damaged", path, text)


def _of_parked(reasons: Counter[str]) -> str:
    count, words = reasons.total(), "; ".join(reason for reason, _ in reasons.most_common(3))
    records = "1 record is" if count == 1 else f"{count:,} records are"
    return (
        f"{records} parked, since no job can be made of it ({words}): open the journal with a "
        "class registered that can, or discard what is damaged"
    )
