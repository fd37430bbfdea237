"""Repair of damaged files on request, and removal of parked records."""

import os
from collections.abc import Sequence

from retryexec.journal._choice import plain_id
from retryexec.journal._codec import Codec
from retryexec.journal._directory import Directory
from retryexec.journal._file import JournalFile
from retryexec.journal._rows import read_job
from retryexec.journal._sqlite_store import SQLiteStore


def repair(path: "str | os.PathLike[str]") -> list[str]:
    """Set aside what is damaged in the journal in *path*, save what can be read, and say what.

    Files of living processes are left to them. Records that are not as they must be are parked.
    """
    store = _store(path)
    before = _set_aside(store)
    done: list[str] = []

    def park(file: JournalFile) -> None:
        wrong = [(why, row.seq) for row, why in map(read_job, file.rows()) if why != row.parked]
        damaged = [(why, seq) for why, seq in wrong if why is not None]
        if damaged:
            file.park(damaged)
            done.append(f"{file.path}: {len(damaged)} damaged records are parked")

    # Twice: what was saved of a damaged file is in a new one then.
    for _ in range(2):
        for owner in store.directory.owners():
            store.visit(owner, park)
    store.letters.read(lambda sql: sql.execute("SELECT count(*) FROM dead").fetchone(), None)
    done = [*store.rescued, *store.letters.rescued, *done]
    others = [path for path in sorted(_set_aside(store) - before) if path not in "".join(done)]
    return [*done, *(f"{path}: set aside" for path in others)]


def discard_parked(path: "str | os.PathLike[str]", job_ids: Sequence[str]) -> int:
    """Remove those of *job_ids* that are parked records, for good; return how many were.

    What is in the files of living processes is left to them.
    """
    store = _store(path)
    names = {plain_id(name) for name in job_ids} | {*job_ids}
    removed: list[int] = []

    def discard(file: JournalFile) -> None:
        rows = [
            row.seq
            for row, why in map(read_job, file.rows())
            if row.id in names and (why is not None or row.parked is not None)
        ]
        file.remove_rows(rows)
        removed.extend(rows)

    for owner in store.directory.owners():
        store.visit(owner, discard)
    return len(removed)


def _store(path: "str | os.PathLike[str]") -> SQLiteStore:
    # The journal's owners have checked the file system, or have allowed a network's.
    directory = Directory(path, allow_network=True)
    return SQLiteStore(directory, Codec({}, max_bytes=1), power=True)


def _set_aside(store: SQLiteStore) -> set[str]:
    return {str(path) for path in store.directory.path.glob("*.corrupt-*[0-9]")}
