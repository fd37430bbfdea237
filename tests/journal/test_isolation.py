"""An error about one entry is about that entry: the others go on, and it has an end or a reason."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import FakeHost, Save, crash, killed, left_by, opened, settled
from journal.conftest import Open

from retryexec.journal import Journal, JournalError
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._rows import errors_json

ODD = os.fsdecode(b"caf\xe9")  # half of a surrogate pair


class OddError(Exception):
    """Its type's name, text and notes cannot be UTF-8."""


OddError.__qualname__ = ODD


def odd(text: str = ODD) -> Exception:
    error = OddError(text)
    error.add_note(f"note {ODD}")
    error.__cause__ = ValueError(f"cause {ODD}\0")
    return error


def test_whatever_an_exception_says_is_kept(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    dies, waits = journal.accept(Save("dies")), journal.accept(Save("waits"))
    journal.retrying(waits, 1, 60.0, odd())
    journal.retrying(dies, 1, 0.0, odd())
    journal.died(dies, ODD, 2, odd())
    journal.accept(Save("innocent"))
    assert journal.flush(10)
    assert journal.stats().healthy
    (letter,) = journal.dead
    assert letter.reason == "caf\\udce9"
    assert [error.type for error in letter.errors] == ["caf\\udce9"] * 2
    assert "note caf\\udce9" in letter.errors[-1].text
    journal.close()
    journal, host = open_journal(directory)
    (again,) = (entry for entry in host.recovered if entry.attempts)
    assert again.errors[0].text == "caf\\udce9"


class Refuses(sqlite3.Connection):
    """A connection that takes no statement about one row, whatever the reason."""

    word: Any = None

    def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
        rows = list(rows)
        if Refuses.word is not None and any(Refuses.word in map(str, row) for row in rows):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return super().executemany(sql, rows)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if Refuses.word is not None and values and Refuses.word in map(str, values[0]):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return super().execute(sql, *values)


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        "retryexec.journal._sqlite.connect",
        lambda path, **options: sqlite3.connect(path, factory=Refuses, **options),
    )
    yield Refuses
    Refuses.word = None


def test_a_new_job_that_cannot_be_written_is_refused_alone(
    open_journal: Open, directory: Path, refuses: Any
) -> None:
    journal, _ = open_journal(directory, accept="async")
    assert journal._engine is not None
    journal.accept(Save("first")).accepted.result(10)
    with journal._engine.writer.io:
        entries = [journal.accept(Save("", n)) for n in range(40)]
        refuses.word = entries[17].id
    assert journal.flush(10)
    refused = [n for n, entry in enumerate(entries) if entry.accepted.exception(10)]
    assert refused == [17]
    assert isinstance(entries[17].refusal, JournalError)
    assert journal.stats().healthy
    assert journal.stats().unfinished == 40


def test_failures_that_cannot_be_written_cost_their_texts(
    open_journal: Open, directory: Path, refuses: Any, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(10)]
    assert journal._engine is not None
    with journal._engine.writer.io:
        for entry in entries:
            journal.retrying(entry, 1, 60.0, OSError(f"busy {entry.job.n}"))
        refuses.word = errors_json(entries[3].errors)
    assert journal.flush(10)
    assert f"the errors of job {entries[3].id} cannot be kept" in caplog.text
    journal.close()
    _, host = open_journal(directory)
    assert [(entry.attempts, len(entry.errors)) for entry in host.recovered] == [
        (1, int(n != 3)) for n in range(10)
    ]


def test_a_letter_that_cannot_be_written_costs_its_errors(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = LetterFile.insert

    def picky(self: LetterFile, letters: Any) -> None:
        if any("bad 3" in letter.errors for letter in letters):
            raise OverflowError("no")
        insert(self, letters)

    monkeypatch.setattr(LetterFile, "insert", picky)
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(6)]
    assert journal._engine is not None
    with journal._engine.writer.io:
        for entry in entries:
            journal.died(entry, "permanent", 1, OSError(f"bad {entry.job.n}"))
    assert journal.flush(10)
    letters = {letter.fields["n"]: letter.errors for letter in journal.dead}
    assert {n for n, errors in letters.items() if errors} == {0, 1, 2, 4, 5}
    assert letters[3] == ()
    assert journal.stats().unfinished == 0


def test_a_job_of_which_no_letter_can_be_made_stays(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = LetterFile.insert

    def picky(self: LetterFile, letters: Any) -> None:
        if any(letter.data == '{"email":"","n":3}' for letter in letters):
            raise OverflowError("no")
        insert(self, letters)

    monkeypatch.setattr(LetterFile, "insert", picky)
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(6)]
    for entry in entries:
        journal.died(entry, "permanent", 1, OSError("bad"))
    assert journal.flush(10)
    assert len(journal.dead) == 5
    assert journal.stats().healthy
    journal.close()
    monkeypatch.undo()
    assert left_by(directory) == [Save("", 3)]


# ---- who is blamed


def test_a_suspect_that_has_not_started_is_not_blamed(open_journal: Open, directory: Path) -> None:
    """However many processes die while it is in their hands."""
    killed(directory, "host.at_work = [journal.accept(Save('suspect'))]; journal.accept(Save(''))")
    for _ in range(5):
        # Handed out, and in a queue: the process dies before a worker has taken it.
        killed(directory, "while not host.recovered: pass")
    journal, _ = open_journal(directory)
    assert journal._engine is not None
    (lane,) = journal._engine.lanes.all()
    crashes = {entry.job.email: entry.crashes for entry in lane.live.values()}
    assert crashes == {"": 0, "suspect": 1}
    assert len(journal.dead) == 0


def test_a_suspect_that_is_not_due_holds_up_nobody(open_journal: Open, directory: Path) -> None:
    killed(
        directory,
        """
        early, late = journal.accept(Save("early")), journal.accept(Save("late"))
        journal.retrying(late, 1, 3600.0, OSError("busy"))
        journal.flush()
        host.at_work = [early, late]
        journal.accept(Save(""))
        """,
    )
    journal, host = open_journal(directory)
    assert settled(journal) or len(host.recovered) == 3
    assert {entry.job.email: entry.crashes for entry in host.recovered} == {
        "early": 1,
        "late": 1,
        "": 0,
    }
    assert {entry.job.email for entry in host.recovered if entry.due_in > 0} == {"late"}


def test_what_is_taken_over_ends_on_disk_while_more_is_taken_over(
    directory: Path,
) -> None:
    """A kill while the constructor reads the next file must not lose what the first has done."""
    owners = [opened(directory)[0] for _ in range(2)]
    for n, owner in enumerate(owners):
        owner.accept(Save("", n))
    for owner in owners:
        crash(owner)
    found: list[int] = []

    class Eager(FakeHost):
        def recover(self, entries: Any) -> None:
            for entry in entries:
                journal.succeeded(entry)
            assert journal.flush(10)
            found.append(sum(1 for _ in directory.glob("*.db")))

    journal = Journal(directory, jobs={"save": Save}, poll=3600)
    journal.open(Eager())
    assert found == [1, 0]
    journal.close()


def test_opening_is_bounded_and_the_rest_is_taken_over_later(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level("INFO", "retryexec.journal")
    owners = [opened(directory)[0] for _ in range(3)]
    for n, owner in enumerate(owners):
        owner.accept(Save("", n))
    for owner in owners:
        crash(owner)
    monkeypatch.setattr("retryexec.journal._engine.OPENING_LIMIT", -1.0)
    _, host = open_journal(directory)
    assert sorted(host.next().job.n for _ in range(3)) == [0, 1, 2]
    assert "1 jobs of dead processes have been taken over" in caplog.text
