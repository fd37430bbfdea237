"""Takeovers, and locks, that go wrong in the middle, each staged."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journal_faults import databases, full
from helpers.journal_kit import JOBS, Call, FakeHost, Save, crash, killed, left_by
from journal.conftest import Open

from retryexec.journal import Journal, JournalError, _directory
from retryexec.journal._directory import Directory
from retryexec.journal._file import JournalFile


def test_takeover_with_a_full_disk_is_tried_again(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(directory, "journal.accept(Save('waits'))")
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "taken_over", full)
        journal, host = open_journal(directory)
        assert journal.poll() == 0
        assert host.jobs == []
    assert journal.poll() == 1
    assert host.jobs == [Save("waits")]
    assert caplog.text.count("is tried again") == 1


def test_full_disk_keeps_no_lock(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the name of its owner cannot be written into it is no matter."""
    killed(directory, "journal.accept(Save('waits'))")

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        journal, host = open_journal(directory)
        journal.accept(Save("new"))
    assert host.jobs == [Save("waits")]
    crash(journal)
    assert {job.email for job in left_by(directory)} == {"waits", "new"}


def test_an_open_that_fails_leaves_the_journal_closed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(directory, jobs=JOBS)
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "owners", full)
        with pytest.raises(sqlite3.OperationalError):
            journal.open(FakeHost())
    assert "closed" in repr(journal)
    with journal:
        journal.open(FakeHost())
        assert os.fspath(journal.directory) == str(directory)
    assert "closed" in repr(journal)


def test_records_that_are_known_again_are_parked_no_more(
    open_journal: Open, directory: Path
) -> None:
    killed(directory, "journal.accept(Call('/')); journal.accept(Save(''))")
    journal, _ = open_journal(directory, jobs={"save": Save})
    assert journal.stats().parked == 1
    journal.close()
    journal, _ = open_journal(directory, jobs={"save": Save})  # which says nothing new of it
    journal.close()
    journal, host = open_journal(directory)
    assert sorted(map(repr, host.jobs)) == sorted(map(repr, [Call("/"), Save("")]))
    (database,) = databases(directory)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
        assert sql.execute("SELECT count(*) FROM job WHERE parked IS NOT NULL").fetchone() == (0,)


def test_a_lock_is_made_anew_when_somebody_tidied_it_away(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking."""
    journal, _ = open_journal(directory)
    same, answers = _directory._same, [False]
    monkeypatch.setattr(
        _directory, "_same", lambda fd, path: answers.pop() if answers else same(fd, path)
    )
    journal.accept(Save("here"))
    assert answers == []
    monkeypatch.undo()
    crash(journal)
    assert left_by(directory) == [Save("here")]


def test_owner_that_ends_during_the_lookup_is_ignored(directory: Path) -> None:
    assert Directory(directory).claim("0" * 32) is None


def test_missing_kernel_facts_are_not_guessed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Directory(directory)
    (directory / f"{'0' * 32}.lock").write_text("1 2")
    assert place.pid_of("0" * 32) is None

    def unreadable(*_: object, **__: object) -> str:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(Path, "stat", unreadable)
    assert place.pid_of("0" * 32) is None
    assert _directory._boot() == "-"
    assert _directory._started(os.getpid()) is None
    assert _directory.is_young(directory)


def test_a_lock_that_cannot_be_tried_is_an_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(JournalError, match="no locks"):
        Directory(directory)


def test_lock_recreated_by_another_process_is_not_taken(directory: Path) -> None:
    lock = Directory(directory).new()
    lock.path.unlink()
    other = os.open(lock.path, os.O_RDWR | os.O_CREAT)
    assert not lock.regain()
    os.close(other)
    lock.release()
    lock.release()


def test_lock_taken_during_recovery_stays_with_the_other_process(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Directory(directory).new()
    lock.path.unlink()
    monkeypatch.setattr(_directory, "_try_lock", lambda fd: False)
    assert not lock.regain()
    lock.release()
