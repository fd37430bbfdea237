"""Disks that are full, and files that are damaged, torn, or taken away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journal_faults import Faulty, damage, databases, error
from helpers.journal_kit import Process, Save, killed, left_by
from journal.conftest import Open

from retryexec.journal import Journal, JournalError, JournalFull
from retryexec.journal._entry import Entry


def accept_five(journal: Journal, attempts: int) -> list[Entry]:
    """Accept five jobs, and let the first fail so many times."""
    entries = [journal.accept(Save("", n)) for n in range(5)]
    journal.retrying(entries[0], attempts, 60.0, OSError("busy"))
    assert journal.flush(10)
    return entries


# ---- 3: the disk is full


def test_full_disk_refuses_jobs_and_keeps_outcomes(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    first, second, third = (journal.accept(Save("", n)) for n in range(3))
    failures = []

    def full(sql: str) -> None:
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            failures.append(sql)
            raise error(sqlite3.SQLITE_FULL, "database or disk is full")

    faults.before = full
    with pytest.raises(JournalFull, match="disk is full"):
        journal.accept(Save("refused"))
    journal.succeeded(first)
    journal.retrying(second, 1, 5.0, OSError("busy"))
    journal.died(third, "permanent", 1)
    assert not journal.flush(0.3)
    assert not journal.stats().healthy
    assert any(sql.startswith("DELETE") for sql in failures) or len(failures) > 1
    assert caplog.text.count("cannot be written") == 1
    faults.before = None
    assert journal.flush(10)
    assert journal.stats().healthy
    assert "can be written again" in caplog.text
    assert [letter.fields["n"] for letter in journal.dead] == [2]
    journal.accept(Save("welcome"))
    journal.close()
    assert left_by(directory) == [Save("", 1), Save("welcome")]


def test_full_disk_fails_the_accepted_future_in_async_mode(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    journal, _ = open_journal(directory, accept="async")
    journal.accept(Save("first")).accepted.result(10)

    def full(sql: str) -> None:
        if sql.startswith("INSERT"):
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    entry = journal.accept(Save("refused"))
    assert isinstance(entry.accepted.exception(10), JournalFull)
    assert isinstance(entry.refusal, JournalFull)
    faults.before = None
    journal.succeeded(entry)  # which it cannot be, and nobody minds
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("first")]


def test_disk_that_is_really_full(open_journal: Open, tmp_path: Path) -> None:
    """Nothing staged: a file may grow no further, as with a quota."""
    directory = tmp_path / "small"
    lines = Process(
        directory,
        """
        import resource
        from retryexec.journal import JournalError
        first = [journal.accept(Save("x" * 500, n)) for n in range(20)]
        (wal,) = Path(sys.argv[1]).glob("*.db-wal")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
        try:
            journal.accept(Save("refused"))
        except JournalError as error:
            say("refused")
        for entry in first[:10]:
            journal.succeeded(entry)
        say(journal.flush(0.2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        say(journal.flush(10))
        journal.accept(Save("welcome"))
        journal.close()
        """,
        wait=False,
    ).end()
    assert lines == ["refused", "False", "True"]
    assert left_by(directory) == [*(Save("x" * 500, n) for n in range(10, 20)), Save("welcome")]


def test_full_disk_before_the_first_job(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    journal, _ = open_journal(directory)

    def full(sql: str) -> None:
        if sql.startswith("CREATE"):
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    with pytest.raises(JournalFull):
        journal.accept(Save("refused"))
    faults.before = None
    assert list(directory.iterdir()) == []
    journal.accept(Save("welcome"))
    journal.close()
    assert left_by(directory) == [Save("welcome")]


def test_dead_letters_wait_while_the_disk_is_full(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    entry, other = journal.accept(Save("dies")), journal.accept(Save("done"))

    def full(sql: str) -> None:
        if "INTO dead" in sql:
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    journal.died(entry, "permanent", 1)
    journal.succeeded(other)
    assert not journal.flush(0.3)
    assert journal.stats().unfinished == 1  # the other one is through
    faults.before = None
    assert journal.flush(10)
    assert len(journal.dead) == 1
    assert journal.stats().unfinished == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


# ---- 4: a damaged file


def test_damaged_file_is_set_aside_and_salvaged(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = 2000
    journal, _ = open_journal(directory, accept="async")
    for n in range(jobs):
        journal.accept(Save("x" * 100, n))
    assert journal.flush(10)
    journal.close()
    (database,) = databases(directory)
    pages = database.stat().st_size // 4096
    damage(database, (pages // 2) * 4096, 4096)
    journal, host = open_journal(directory)
    journal.poll()  # for what was saved into a new file
    saved = {job.n for job in host.jobs}
    assert len(saved) == len(host.jobs)
    assert jobs * 0.9 < len(saved) < jobs
    (aside,) = directory.glob("*.corrupt-*")
    assert aside.name.startswith(database.name)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"{len(saved)} jobs saved" in caplog.text
    journal.close()
    caplog.clear()
    assert len(left_by(directory)) == len(saved)
    assert caplog.text == ""  # told once


def test_file_that_is_not_a_database_is_set_aside(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('lost'))")
    (database,) = databases(directory)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    database.write_bytes(b"no database at all" * 1000)
    journal, host = open_journal(directory)
    assert host.jobs == []
    assert "0 jobs saved" in caplog.text
    assert len(list(directory.glob("*.corrupt-*"))) == 1
    assert journal.poll() == 0


def test_file_damaged_while_in_use_is_replaced(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All that was in it is in memory."""
    journal, _ = open_journal(directory)
    entries = accept_five(journal, 2)
    (database,) = databases(directory)

    def corrupt(sql: str) -> None:
        faults.before = None
        raise error(sqlite3.SQLITE_CORRUPT, "database disk image is malformed")

    faults.before = corrupt
    journal.accept(Save("", 5))
    (moved,) = databases(directory)
    assert moved != database
    assert list(directory.glob(f"{database.name}.corrupt-*"))
    journal.succeeded(entries[1])
    assert journal.flush(10)
    assert "is lost" in caplog.text
    journal.close()
    journal, host = open_journal(directory)
    assert {job.n for job in host.jobs} == {0, 2, 3, 4, 5}
    assert [entry.attempts for entry in host.recovered if entry.job.n == 0] == [2]


def test_damaged_dead_letters_are_set_aside(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    assert journal.flush(10)
    (directory / "dead.db").write_bytes(b"no database at all" * 1000)
    journal.died(journal.accept(Save("next")), "permanent", 1)
    assert journal.flush(10)
    assert [letter.fields["email"] for letter in journal.dead] == ["next"]
    assert "dead letters are damaged" in caplog.text


# ---- 5: the file is taken away


@pytest.mark.parametrize("how", ["removed", "replaced", "moved with its directory"])
def test_removed_or_replaced_file_moves_its_jobs_to_a_new_one(
    open_journal: Open, directory: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes on in the old file nobody will find: all jobs move to a new one."""
    journal, _ = open_journal(directory)
    entries = accept_five(journal, 3)
    (database,) = databases(directory)
    if how == "removed":
        for path in directory.iterdir():
            path.unlink()
    elif how == "replaced":
        other = directory / "other"
        with closing(sqlite3.connect(other)) as sql:
            sql.execute("CREATE TABLE job(seq)")
        other.replace(database)
    else:
        directory.rename(directory.with_name("elsewhere"))
        directory.mkdir()
    journal.succeeded(entries[1])
    journal.accept(Save("", 5))
    assert "is lost" in caplog.text
    # What is on disk now must do for the next process.
    rows = []
    for path in databases(directory):
        if path != database:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
                rows += sql.execute("SELECT json_extract(data,'$.n'), attempts FROM job").fetchall()
    assert journal.flush(10)
    assert min(rows) == (0, 3)
    assert {n for n, _ in rows} - {1} == {0, 2, 3, 4, 5}
    journal.close()
    if how != "replaced":
        assert sorted(job.n for job in left_by(directory)) == [0, 2, 3, 4, 5]


def test_idle_journal_notices_that_its_file_was_removed(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("waits for hours"))
    for path in directory.iterdir():
        path.unlink()
    assert journal._engine is not None
    journal._engine.poll()
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("waits for hours")]


def test_removed_directory_refuses_jobs_and_loses_none(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    elsewhere = directory.with_name("elsewhere")
    directory.rename(elsewhere)
    with pytest.raises(JournalError):
        journal.accept(Save("refused"))
    journal.succeeded(entries[0])
    assert not journal.flush(0.2)
    directory.mkdir()
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("", 1), Save("", 2)]


# ---- 6: a torn log


def test_torn_log_loses_only_the_torn_transaction(open_journal: Open, directory: Path) -> None:
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (wal,) = directory.glob("*.db-wal")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 100)
    _, host = open_journal(directory)
    assert [job.n for job in host.jobs] == list(range(19))
