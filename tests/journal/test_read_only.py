"""A disk that is read-only, from the beginning or from one moment on."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result
from helpers.journal_kit import Save, killed, left_by
from journal.conftest import Open

from retryexec.cli import main
from retryexec.journal import Journal, JournalError


@pytest.fixture
def read_only(directory: Path) -> Iterator[Path]:
    """A directory with jobs of a dead process, which nobody can write to."""
    killed(directory, "for n in range(3): journal.accept(Save('', n))")
    place = str(directory)

    def run(*command: str) -> bool:
        return not subprocess.run(command, capture_output=True, check=False).returncode

    if not run("mount", "--bind", place, place):
        pytest.skip("nothing can be mounted here")
    try:
        if not run("mount", "-o", "remount,bind,ro", place):
            pytest.skip("nothing can be mounted read-only here")
        yield directory
    finally:
        run("umount", "-l", place)


def test_a_read_only_directory_is_refused_with_the_reason(read_only: Path) -> None:
    with pytest.raises(JournalError, match="Read-only file system"):
        Journal(read_only, jobs={"save": Save})


def test_the_command_says_what_it_cannot_read(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs that are in a log are read from a copy, and nothing is written where nothing can be."""
    assert main(["journal", "ls", str(read_only)]) == 0
    result = Result(0, *capsys.readouterr())
    assert result.out.count("queued") == 3
    assert main(["journal", "check", str(read_only)]) == 0
    assert main(["journal", "check", str(read_only), "--repair"]) != 0
    assert "Read-only file system" in capsys.readouterr().err


class ReadOnly(sqlite3.Connection):
    """A connection to a file on a disk that an error has made read-only."""

    on = False

    def _check(self, sql: str) -> None:
        if ReadOnly.on and sql.split(maxsplit=1)[0] in {
            "BEGIN",
            "INSERT",
            "UPDATE",
            "DELETE",
            "COMMIT",
        }:
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = 8
            raise error

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self._check(sql)
        return super().execute(sql, *values)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ReadOnly]]:
    monkeypatch.setattr(
        "retryexec.journal._sqlite.connect",
        lambda path, **options: sqlite3.connect(path, factory=ReadOnly, **options),
    )
    yield ReadOnly
    ReadOnly.on = False


def test_a_disk_that_becomes_read_only_is_told_once_and_recovers(
    open_journal: Open,
    directory: Path,
    disk: type[ReadOnly],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    first, second = journal.accept(Save("", 1)), journal.accept(Save("", 2))
    disk.on = True
    for n in range(3):
        with pytest.raises(JournalError, match="readonly"):
            journal.accept(Save("", n))
    journal.succeeded(first)
    assert not journal.flush(0.2)
    assert not journal.stats().healthy
    assert caplog.text.count("cannot be written") == 1
    assert [*directory.glob("*.corrupt-*")] == []  # the data are not to blame
    disk.on = False
    assert journal.flush(20)
    assert journal.stats().healthy
    journal.succeeded(second)
    journal.close()
    assert left_by(directory) == []


def test_closing_on_a_read_only_disk_comes_to_an_end(
    open_journal: Open, directory: Path, disk: type[ReadOnly], caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("kept"))
    disk.on = True
    journal.succeeded(entry)
    journal.close(timeout=10)
    assert "before 1 ends of jobs could be written" in caplog.text
    disk.on = False
    assert left_by(directory) == [Save("kept")]  # and so it runs again
