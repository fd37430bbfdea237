"""Records: of what size and version, in which order, and with one end."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_faults import databases, own_file
from helpers.journal_kit import Call, Save, killed, left_by
from journal.conftest import Open

from retryexec.journal import JobRefused, _file

# ---- 20: one end


def test_first_outcome_counts(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    first, second = journal.accept(Save("done")), journal.accept(Save("dead"))
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:  # neither is on disk before the other is said
        journal.succeeded(first)
        journal.died(first, "permanent", 1)
        journal.died(second, "permanent", 1)
        journal.succeeded(second)
    assert journal.flush(10)
    assert [letter.fields["email"] for letter in journal.dead] == ["dead"]
    journal.close()
    assert left_by(directory) == []


def test_entry_written_twice_in_one_batch_is_not_late(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(2)]
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:
        for entry in entries:
            journal.retrying(entry, 1, 0.0, OSError("busy"))
            journal.succeeded(entry)
    assert journal.flush(10)
    assert caplog.records == []
    journal.close()
    assert left_by(directory) == []


def test_late_outcome_is_logged(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner's lock was removed, a minute passed, somebody else took its jobs."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    (database,) = databases(directory)
    database.with_suffix(".lock").unlink()
    os.utime(database, (1, 1))
    other, host = open_journal(directory)
    assert host.jobs == [entry.job for entry in entries]
    for entry in host.recovered[:2]:
        other.succeeded(entry)
    assert other.flush(10)
    assert caplog.records == []
    journal.succeeded(entries[0])
    journal.succeeded(entries[1])
    assert journal.flush(10)
    (record,) = caplog.records
    assert record.getMessage().startswith("2 jobs that have ended here were no longer in")
    other.succeeded(host.recovered[2])
    assert other.flush(10)


# ---- 21: order


def test_retry_may_run_after_jobs_accepted_later(open_journal: Open, directory: Path) -> None:
    """A limit, and no promise: a save that must not overwrite a later one has to see to that."""
    journal, _ = open_journal(directory)
    first = journal.accept(Save("john@example.com", 1))
    second = journal.accept(Save("john@example.com", 2))
    journal.retrying(first, 1, 60.0, OSError("busy"))
    assert journal.flush(10)
    journal.close()
    _, host = open_journal(directory)
    due = {entry.job.n: entry.due_in for entry in host.recovered}
    assert due[1] > 50.0 > due[2] == 0.0
    # What such a save has to go by.
    assert first.id < second.id
    assert [entry.accepted_at for entry in host.recovered] == [
        first.accepted_at,
        second.accepted_at,
    ]


# ---- 22: history


def test_no_statement_scans_the_history(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    entry = journal.accept(Save(""))
    assert journal.flush(10)
    own = own_file(journal)

    def plan(sql: sqlite3.Connection, statement: str) -> str:
        values = (1,) * statement.count("?")
        rows = sql.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        return " ".join(str(row[-1]) for row in rows)

    for statement in (_file.UPDATE, _file.MARK, _file.DELETE):
        assert "USING INTEGER PRIMARY KEY" in plan(own.sql, statement), statement
    with closing(sqlite3.connect(directory / "dead.db")) as sql:
        for where in ("id=?", "source=? OR rerun_to=?", "kind=?"):
            words = plan(sql, f"SELECT id FROM dead WHERE {where}")  # noqa: S608  ours
            assert "SCAN" not in words, words
            assert "INDEX" in words, words
    journal.succeeded(entry)


# ---- 23, 26


def test_too_large_a_job_is_refused_and_the_rest_goes_on(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory, max_bytes=1000)
    with pytest.raises(JobRefused, match="max_bytes=1,000"):
        journal.accept(Call("x" * 1000))
    journal.accept(Call("y"))
    journal.close()
    assert left_by(directory) == [Call("y")]


# ---- 23: a storm at start


def test_overdue_retries_are_released_a_few_at_a_time(open_journal: Open, directory: Path) -> None:
    time = [1000.0]
    options: dict[str, Any] = {"wall_clock": lambda: time[0], "accept": "async"}
    journal, _ = open_journal(directory, **options)
    for n in range(1500):
        journal.retrying(journal.accept(Save("", n)), 1, 10.0 if n % 2 else 0.5, OSError("down"))
    fresh = journal.accept(Save("fresh"))
    journal.close()
    time[0] += 3600
    _, host = open_journal(directory, **options)
    due = [entry.due_in for entry in host.recovered]
    assert sum(wait == 0.0 for wait in due[:1500]) == 100
    for second in range(1, 10):
        assert sum(second <= wait < second + 1 for wait in due[1:1500:2]) == 50
    # None has to wait longer than it asked for, and one that has not failed not at all.
    assert max(due[::2]) == 0.5
    assert max(due) == 10.0
    assert [e.due_in for e in host.recovered if e.id == fresh.id] == [0.0]


# ---- 27: versions


def test_newer_file_is_left_for_newer_versions(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('future'))")
    (database,) = databases(directory)
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA user_version=4")
    before = database.read_bytes()
    journal, host = open_journal(directory)
    assert journal.poll() == 0
    assert host.jobs == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "version 4" in caplog.text
    assert database.read_bytes() == before
    journal.accept(Save("mine"))  # which goes on as ever
    journal.close()
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA user_version=2")
    assert sorted(job.email for job in left_by(directory)) == ["future", "mine"]


def test_unknown_records_are_parked_and_come_back(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(
        directory,
        """
        for n in range(3):
            journal.accept(Save("", n))
            journal.accept(Call(str(n)))
        """,
    )
    journal, host = open_journal(directory, jobs={"save": Save})
    assert host.jobs == [Save("", n) for n in range(3)]
    assert journal.stats().parked == 3
    (database,) = databases(directory)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
        reasons = sql.execute("SELECT kind, parked FROM job WHERE parked IS NOT NULL").fetchall()
    assert reasons == [("call", "kind 'call' is not registered here")] * 3
    for entry in host.recovered:
        journal.succeeded(entry)
    assert journal.flush(10)
    # With nothing but them in it the file is let go, and not looked at for ever.
    assert journal.stats().files == 0
    stamp = database.stat().st_mtime_ns
    assert journal.poll() == 0
    assert database.stat().st_mtime_ns == stamp
    assert len([record for record in caplog.records if "parked" in record.getMessage()]) == 1
    _, other = open_journal(directory)  # in another process, with the class
    assert other.jobs == [Call(str(n)) for n in range(3)]
    assert all(entry.crashes == 0 for entry in other.recovered)
