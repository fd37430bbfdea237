"""The jobs of a damaged file get into one new file, whoever dies or comes meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import SECTOR, write
from helpers.journal_kit import Save, opened
from journal.conftest import Open

from retryexec.journal import Inspector, _rescue
from retryexec.journal._check import check
from retryexec.journal._directory import Directory
from retryexec.journal._file import JournalFile
from retryexec.journal._sqlite import damage
from retryexec.journal._sqlite_store import SQLiteStore


def files(directory: Path) -> set[Path]:
    return {path for path in directory.glob("*.db") if path.name != "dead.db"}


def damaged(directory: Path, jobs: int = 3) -> Path:
    """Leave a file with *jobs*, the header of which is blank."""
    journal, _ = opened(directory)
    for n in range(jobs):
        journal.accept(Save("", n))
    journal.close()
    (path,) = files(directory)
    write(path, 0, bytes(SECTOR))
    return path


class Killed(BaseException):
    """The process ends here."""


def killed_before(step: str, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let a process that opens *directory* end right before *step* of a rescue."""

    def die(*_: object) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_rescue, step, die)
        with pytest.raises(Killed):
            opened(directory)


def test_killed_between_saving_and_setting_aside(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = damaged(directory)
    killed_before("set_aside", monkeypatch, directory)
    assert len(files(directory)) == 2  # the jobs are in both
    _, host = open_journal(directory)
    assert sorted(job.n for job in host.jobs) == [0, 1, 2]
    assert not old.exists()


@pytest.mark.parametrize("first", ["the old one", "the new one"])
def test_two_that_come_upon_what_a_killed_rescue_has_left(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Whichever file the first of them comes upon first, no job is run twice."""
    old = damaged(directory)
    killed_before("set_aside", monkeypatch, directory)
    (new,) = files(directory) - {old}
    order = [old.stem, new.stem] if first == "the old one" else [new.stem, old.stem]
    monkeypatch.setattr(Directory, "owners", lambda _: iter(order))
    (journal, host), (other, other_host) = open_journal(directory), open_journal(directory)
    journal.poll()
    other.poll()
    assert sorted(job.n for job in host.jobs + other_host.jobs) == [0, 1, 2]
    assert not old.exists()


def test_who_has_the_new_file_waits_for_who_has_the_old_one(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may be about to read it; what it does is seen when it is done."""
    old = damaged(directory)
    killed_before("set_aside", monkeypatch, directory)
    lock = Directory(directory).claim(old.stem)
    assert lock is not None
    journal, host = open_journal(directory)
    assert host.jobs == []
    lock.release()
    journal.poll()
    assert sorted(job.n for job in host.jobs) == [0, 1, 2]


def test_what_has_ended_does_not_come_back_from_a_file_that_was_saved_before(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(directory)
    killed_before("set_aside", monkeypatch, directory)
    journal, host = open_journal(directory)
    for entry in host.recovered:
        journal.succeeded(entry)
    journal.close()
    _, host = open_journal(directory)
    assert host.jobs == []


def test_a_living_owner_keeps_its_damaged_file_until_its_jobs_are_in_a_new_one(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another process would take it over, and both would run its jobs."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    (old,) = files(directory)
    other, other_host = open_journal(directory)
    insert, looked = JournalFile.insert_rows, list[bool]()

    def look_first(self: JournalFile, *arguments: Any) -> None:
        other.poll()
        looked.append(old.exists())
        insert(self, *arguments)

    def malformed(changes: object) -> int:
        raise damage("database disk image is malformed")

    monkeypatch.setattr(JournalFile, "insert_rows", look_first)
    assert journal._engine is not None
    monkeypatch.setattr(journal._engine.lanes.own, "_apply", malformed)
    journal.succeeded(entries[0])
    assert journal.flush(10)
    assert looked == [True]
    other.poll()
    assert other_host.jobs == []
    assert not old.exists()
    assert journal.stats().unfinished == 2


def test_a_large_damaged_file_is_read_while_jobs_run(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged(directory)
    monkeypatch.setattr("retryexec.journal._sqlite_store._LARGE", 0)
    journal, host = open_journal(directory)
    assert host.jobs == []
    assert "is saved while other jobs run" in caplog.text
    journal.poll()
    assert len(host.jobs) == 3


# ---- the dead letters


def with_letters(directory: Path) -> None:
    journal, _ = opened(directory)
    for n in range(5):
        journal.died(journal.accept(Save("", n)), "permanent", 1, OSError("no"))
    journal.close()


def test_two_that_come_upon_damaged_letters_save_them_once(directory: Path) -> None:
    """Each has met the damage before the other one has mended it."""
    with_letters(directory)
    write(directory / "dead.db", 0, bytes(SECTOR))
    stores = [SQLiteStore(Directory(directory), Any, power=True) for _ in range(2)]  # type: ignore[arg-type]
    met = threading.Barrier(2, timeout=10)
    counts: list[int] = []

    def count(store: SQLiteStore) -> None:
        letters, first = store.letters, [True]
        opened_before = letters._open

        def open_together() -> sqlite3.Connection:
            try:
                return opened_before()
            finally:
                if first:
                    first.clear()
                    met.wait()

        letters._open = open_together  # type: ignore[method-assign]
        query = "SELECT count(*) FROM dead"
        counts.append(letters.read(lambda sql: int(sql.execute(query).fetchone()[0]), 0))

    threads = [threading.Thread(target=count, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [5, 5]
    assert len([*directory.glob("dead.db.corrupt-*")]) == 1


def test_letters_are_never_without_a_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch, open_journal: Open
) -> None:
    """Whoever dies while they are saved leaves the old file or the new one."""
    with_letters(directory)
    write(directory / "dead.db", 0, bytes(SECTOR))
    replace, there = Path.replace, list[bool]()

    def noted(self: Path, to: Path) -> Path:
        there.append(to.exists())
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", noted)
    journal, _ = open_journal(directory)
    assert len(journal.dead) == 5
    assert there == [True]
    assert {finding.about for finding in check(Inspector(directory))} == {"aside"}
