"""Dead letters that are in nobody's way: unknown, damaged, claimed; and those in memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Call, FakeHost, Save, killed
from journal.conftest import Open

from retryexec.journal import Journal, JournalError, MemoryJournal
from retryexec.journal._directory import Directory, Lock

# ---- dead letters


def test_no_dead_letters_is_not_an_error(directory: Path) -> None:
    dead = Journal(directory, jobs=JOBS).dead
    assert (len(dead), list(dead), bool(dead)) == (0, [], True)
    assert (dead.rerun_all(), dead.discard_all()) == (0, 0)
    for call in (dead.get, dead.discard, dead.rerun, dead.edit):
        with pytest.raises(LookupError):
            call("nobody")
    assert not (directory / "dead.db").exists()


def test_shown_dead_letter_is_redacted(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory, redact=lambda kind, fields: {**fields, "email": kind})
    journal.died(journal.accept(Save("secret", 3)), "permanent", 1)
    assert journal.flush(10)
    (letter,) = journal.dead
    assert journal.dead.shown(letter) == {"email": "save", "n": 3}
    plain = Journal(directory, jobs=JOBS)
    assert plain.dead.shown(letter) == {"email": "secret", "n": 3}


def test_a_letter_in_place_of_its_id_is_refused(open_journal: Open) -> None:
    journal, _ = open_journal()
    journal.died(journal.accept(Save("ann", 3)), "permanent", 1)
    assert journal.flush(10)
    (letter,) = journal.dead
    given: Any = letter
    for call in (journal.dead.get, journal.dead.discard, journal.dead.rerun, journal.dead.edit):
        with pytest.raises(TypeError, match=r"an id is a str, as a letter's \.id .*DeadLetter"):
            call(given)
    assert list(journal.dead) == [letter]


@dataclass
class Renamed:
    email: str
    n: int

    def exec(self) -> None:
        """The tests run nothing."""


def test_letters_of_unknown_or_odd_kinds_cannot_be_edited(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("", 3)), "permanent", 1)
    assert journal.flush(10)
    (letter,) = journal.dead
    with pytest.raises(JournalError, match="'save' is not registered"):
        Journal(directory, jobs={"call": Call}).dead.edit(letter.id, n=4)
    with closing(sqlite3.connect(directory / "dead.db")) as sql, sql:
        sql.execute("UPDATE dead SET data='[1]'")
    with pytest.raises(JournalError, match="have names"):
        journal.dead.edit(letter.id, n=4)
    with closing(sqlite3.connect(directory / "dead.db")) as sql, sql:
        sql.execute("UPDATE dead SET data='{'")
    (broken,) = journal.dead
    assert broken.fields == "{"
    assert journal.dead.shown(broken) == "{"


def test_damaged_dead_letters_are_found_at_a_takeover(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('left'))")
    (directory / "dead.db").write_bytes(b"no database at all" * 1000)
    _, host = open_journal(directory)
    assert host.jobs == [Save("left")]
    assert "dead letters are damaged" in caplog.text


def test_letter_claimed_for_a_rerun_is_left_to_its_process(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    assert journal.flush(10)
    (letter,) = journal.dead
    place = Directory(directory)

    def about_to(lock: Lock | None) -> None:
        with closing(sqlite3.connect(directory / "dead.db")) as sql, sql:
            sql.execute("UPDATE dead SET rerun_to=?", (lock.owner if lock else "0" * 32,))

    lock = place.new()
    about_to(lock)
    assert journal.dead.rerun_all() == 0  # he has its lock
    lock.database.touch()
    assert journal.dead.rerun_all() == 0  # and its file
    lock.remove()
    assert journal.dead.rerun_all() == 1  # he has gone
    assert len(journal.dead) == 0
    del letter


def test_letter_whose_claimer_died_before_the_rerun(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    assert journal.flush(10)
    lock = Directory(directory).new()
    with closing(sqlite3.connect(directory / "dead.db")) as sql, sql:
        sql.execute("UPDATE dead SET rerun_to=?", (lock.owner,))
    lock.release()
    assert journal.dead.rerun_all() == 1


# ---- in memory


def test_memory_journal_ignores_outcomes_after_close() -> None:
    journal = MemoryJournal(jobs=JOBS)
    journal.open(FakeHost())
    entry = journal.accept(Save(""))
    journal.close()
    journal.died(entry, "late", 1)
    assert list(journal.dead) == []
    assert bool(journal.dead)
    journal.cancelled(entry)
    assert journal.poll() == 0


def test_a_letter_is_rerun_in_a_memory_journal_that_is_closed() -> None:
    journal, host = MemoryJournal(jobs=JOBS), FakeHost()
    journal.open(host)
    journal.died(journal.accept(Save("")), "permanent", 1)
    journal.close()
    assert journal.dead.rerun_all() == 1
    journal.open(host)
    assert host.jobs == [Save("")]
    journal.close()
