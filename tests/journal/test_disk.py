"""A disk that is full, read-only, slow or gone, and names that a power cut must not take."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import Save, left_by, opened
from journal.conftest import Open

from retryexec import PermanentError, RetryingExecutor
from retryexec.journal import Journal, JournalFull
from retryexec.journal._directory import Directory
from retryexec.journal._file import JournalFile
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._sqlite_store import SQLiteStore


def test_closing_takes_no_longer_than_it_may(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hangs, and the process does not."""
    hang, hangs = threading.Event(), threading.Event()
    apply = JournalFile.apply

    def stuck(self: JournalFile, changes: Any) -> int:
        hangs.set()
        hang.wait(60)
        return apply(self, changes)

    journal, _ = open_journal(directory)
    entry = journal.accept(Save(""))
    engine = journal._engine
    assert engine is not None
    monkeypatch.setattr(JournalFile, "apply", stuck)
    journal.succeeded(entry)
    assert hangs.wait(10)
    assert not journal.close(timeout=0.05)
    hang.set()
    engine.writer.thread.join(10)
    assert not engine.writer.thread.is_alive()


Fault = Callable[[pytest.MonkeyPatch, Path, threading.Event], object]


def hangs_at(owner: type, name: str) -> Fault:
    def stage(patch: pytest.MonkeyPatch, directory: Path, hang: threading.Event) -> None:
        done = getattr(owner, name)

        def stuck(*arguments: Any, **options: Any) -> Any:
            hang.wait(60)
            return done(*arguments, **options)

        patch.setattr(owner, name, stuck)

    return stage


def fails_at(name: str, text: str, code: int) -> Fault:
    def stage(patch: pytest.MonkeyPatch, directory: Path, hang: threading.Event) -> None:
        def fail(*_: object) -> None:
            error = sqlite3.OperationalError(text)
            error.sqlite_errorcode = code
            raise error

        patch.setattr(JournalFile, name, fail)

    return stage


FAULTS: dict[str, Fault] = {
    "ends hang": hangs_at(JournalFile, "apply"),
    "letters hang": hangs_at(LetterFile, "insert"),
    "a takeover hangs": hangs_at(SQLiteStore, "take"),
    "leaving hangs": hangs_at(JournalFile, "leave"),
    "the disk is full": fails_at("apply", "database or disk is full", 13),
    "the disk is read-only": fails_at("apply", "attempt to write a readonly database", 8),
    "the directory is gone": lambda patch, directory, hang: shutil.rmtree(directory),
    "the letters are a pipe": lambda patch, directory, hang: os.mkfifo(directory / "dead.db"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("ends_well", [True, False])
def test_shutdown_with_a_timeout_comes_to_an_end(
    directory: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, ends_well: bool
) -> None:
    run, ran, hang = threading.Event(), threading.Event(), threading.Event()

    class Waits(Save):
        def exec(self) -> None:
            ran.set()
            run.wait(30)
            if not ends_well:
                raise PermanentError(OSError("no"))

    journal = Journal(directory, jobs={"waits": Waits}, poll=3600)
    executor = RetryingExecutor(1, journal=journal)
    future = executor.submit(Waits(""))
    assert ran.wait(10)
    engine = journal._engine
    assert engine is not None
    fault(monkeypatch, directory, hang)
    engine.tasks.put(engine.poll)
    run.set()
    assert (future.exception(10) is None) == ends_well
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(executor.shutdown(timeout=0.3)))
    thread.start()
    thread.join(30)
    assert done
    hang.set()
    monkeypatch.undo()
    for thread in (engine.writer.thread, engine.runner):
        thread.join(30)
        assert not thread.is_alive()


def test_a_new_file_s_name_is_synced(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first job is accepted: a name that is lost takes the job with it."""
    synced: list[int] = []
    sync = Directory.sync

    def noted(self: Directory) -> None:
        synced.append(sum(1 for _ in directory.glob("*.db")))
        sync(self)

    monkeypatch.setattr(Directory, "sync", noted)
    journal, _ = open_journal(directory)
    journal.accept(Save(""))
    assert synced == [1]


def test_the_name_of_a_file_with_salvaged_jobs_is_synced_before_the_damaged_one_goes(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could leave neither."""

    def files() -> set[Path]:
        return {path for path in directory.glob("*.db") if path.name != "dead.db"}

    journal, _ = open_journal(directory)
    journal.accept(Save("kept"))
    journal.close()
    (damaged,) = files()
    with damaged.open("r+b") as file:
        file.write(bytes(512))
    synced: list[set[Path]] = []
    sync = Directory.sync

    def noted(self: Directory) -> None:
        synced.append(files())
        sync(self)

    monkeypatch.setattr(Directory, "sync", noted)
    journal, host = open_journal(directory)
    journal.poll()  # for what was saved into a new file
    assert host.jobs == [Save("kept")]
    (saved,) = files()
    assert saved != damaged
    assert {saved, damaged} in synced


def test_a_damaged_file_stays_until_its_jobs_can_be_saved(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("kept"))
    journal.close()
    (damaged,) = (path for path in directory.glob("*.db") if path.name != "dead.db")
    with damaged.open("r+b") as file:
        file.write(bytes(512))
    before = damaged.read_bytes()

    def full(self: JournalFile, rows: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(JournalFile, "insert_rows", full)
    journal, host = open_journal(directory)
    assert host.jobs == []
    assert damaged.read_bytes() == before
    assert {path.stem for path in directory.glob("*.lock")} <= {damaged.stem, "dead"}
    monkeypatch.undo()
    journal.poll()  # saves it
    journal.poll()  # takes what was saved
    assert host.jobs == [Save("kept")]


def test_a_directory_that_was_removed_is_one_line(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    directory.rmdir()
    for _ in range(5):
        assert journal.poll() == 0
    (record,) = caplog.records
    assert "cannot be looked into" in record.getMessage()
    assert record.exc_info is None
    directory.mkdir()
    assert journal.poll() == 0


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of two megabytes, where one can be mounted."""

    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(path: Path) -> None:
    """Leave no byte of the disk that *path* is on."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


@pytest.mark.parametrize("size", [100, 2000, 20_000, 200_000])
def test_a_full_disk_recovers_by_itself(small_disk: Path, size: int) -> None:
    """Ends are written when new jobs are refused; and jobs are taken again once there is room."""
    journal, _ = opened(small_disk / "journal")
    filler = small_disk / "filler"
    entries = [journal.accept(Save("x" * size, n)) for n in range(5)]
    fill(filler)
    for n in range(5, 6000):
        try:
            entries.append(journal.accept(Save("x" * size, n)))
        except JournalFull:
            break
    assert n < 5999
    for entry in entries[1:]:
        journal.succeeded(entry)
    assert journal.flush(20), "the ends could not be written"
    filler.unlink()
    journal.accept(Save("again"))
    journal.close()
    assert [job.n for job in left_by(small_disk / "journal")] == [0, 0]
