"""A damaged log (``-wal``) of a dead owner costs what was in the damaged place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.journal_kit import killed
from journal.conftest import Open

from retryexec.journal import Inspector
from retryexec.journal._check import check
from retryexec.journal._directory import Directory


@pytest.mark.parametrize("place", ["a frame", "the header", "a salt"])
def test_a_damaged_log_costs_a_page(
    open_journal: Open, directory: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite itself takes it to end there, without a word; what came after would be gone."""
    killed(
        directory,
        """
        for n in range(20): journal.accept(Save('', n))
        entry = journal.accept(Save('done')); journal.succeeded(entry); journal.flush()
        """,
    )
    (log,) = directory.glob("*.db-wal")
    content = bytearray(log.read_bytes())
    content[{"a frame": len(content) // 2, "the header": 5, "a salt": 18}[place]] ^= 1
    log.write_bytes(content)
    findings = [*check(Inspector(directory))]
    assert [finding.about for finding in findings] == ["damaged"]
    assert "transactions in it cannot be read" in findings[0].text
    journal, host = open_journal(directory)
    journal.poll()
    jobs = [job.n for job in host.jobs]
    assert jobs == list(range(20))
    assert "transactions in its log cannot be read" in caplog.text
    assert "20 jobs saved" in caplog.text
    assert {finding.about for finding in check(Inspector(directory))} == {"aside"}


def flip_in_the_last_transaction(directory: Path) -> None:
    (log,) = directory.glob("*.db-wal")
    content = bytearray(log.read_bytes())
    content[-4000] ^= 1
    log.write_bytes(content)


def test_a_power_cut_in_the_middle_of_a_transaction_is_no_damage(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    flip_in_the_last_transaction(directory)  # a sector that was kept from the disk
    (lock,) = directory.glob("*.lock")
    lock.write_text("1 another-boot 1")
    assert {finding.about for finding in check(Inspector(directory))} == set()
    _, host = open_journal(directory)
    assert len(host.jobs) == 19
    assert caplog.text == ""


def test_the_last_transaction_is_read_if_it_was_complete(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The memory that SQLite shares outlives the process, and tells that it was."""
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    flip_in_the_last_transaction(directory)
    findings = [*check(Inspector(directory))]
    assert [finding.about for finding in findings] == ["damaged"]
    assert "1 transaction" in findings[0].text
    _, host = open_journal(directory)
    assert [job.n for job in host.jobs] == list(range(20))
    assert "20 jobs saved, none lost" in caplog.text


@pytest.mark.parametrize("place", ["the header", "the frame", "the row"])
def test_the_only_transaction_of_a_log_is_told_and_read(
    open_journal: Open, directory: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing after it that could tell."""
    killed(
        directory,
        """
        for n in range(3): journal.accept(Save('', n))
        journal._engine.lanes.truncate_logs()
        journal.accept(Save('', 3))
        """,
    )
    (log,) = directory.glob("*.db-wal")
    content = bytearray(log.read_bytes())
    assert len(content) == 32 + 24 + 4096
    content[{"the header": 9, "the frame": 40, "the row": 32 + 24 + 2000}[place]] ^= 1
    log.write_bytes(content)
    findings = [*check(Inspector(directory))]
    assert [finding.about for finding in findings] == ["damaged"]
    _, host = open_journal(directory)
    saved = [job.n for job in host.jobs]
    assert saved == ([0, 1, 2] if place == "the frame" else [0, 1, 2, 3])
    assert "log" in caplog.text


def test_a_text_that_is_another_one_is_read_as_it_was_before(
    open_journal: Open, directory: Path
) -> None:
    """The last page of the log holds all jobs: the ones before are in an earlier page, too."""
    killed(directory, "for n in range(20): journal.accept(Save('x' * 40, n))")
    (log,) = directory.glob("*.db-wal")
    content = bytearray(log.read_bytes())
    at = content.rindex(b'"n":7}') - 10
    content[at] ^= 1  # of an x
    of_id = content.rindex(b"save", 0, at) - 5  # and a digit of the id
    content[of_id] ^= 1
    log.write_bytes(content)
    _, host = open_journal(directory)
    assert [job.n for job in host.jobs] == list(range(20))
    assert {job.email for job in host.jobs} == {"x" * 40}


@pytest.mark.parametrize("what", ["removed", "empty", "cut off"])
def test_a_log_that_is_shorter_than_it_was_is_told(
    open_journal: Open, directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (log,) = directory.glob("*.db-wal")
    if what == "removed":
        log.unlink()
    else:
        os.truncate(log, 0 if what == "empty" else 32 + 12 * (24 + 4096))
    for _ in range(2):  # and looking at it changes nothing
        findings = [*check(Inspector(directory))]
        assert "damaged" in {finding.about for finding in findings}, findings
    open_journal(directory)
    assert "is shorter than it was" in caplog.text or "nobody can say" in caplog.text


@pytest.mark.parametrize("left", [".lock .spare", ".spare", ".lock .spare .db", ".db .spare"])
def test_jobs_that_are_gone_are_told(
    open_journal: Open, directory: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The reserve is made when there are tables, and given up before they are."""
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    for path in directory.iterdir():
        if path.suffix not in left.split():
            path.unlink()
        os.utime(path, (1, 1)) if path.exists() else None
    findings = [*check(Inspector(directory))]
    assert any("nobody can say how many" in finding.text for finding in findings)
    _, host = open_journal(directory)
    assert host.jobs == []
    assert caplog.text.count("nobody can say how many") == 1
    assert [*check(Inspector(directory))] == []


def test_an_owner_that_died_while_it_made_its_file_is_not_told(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Directory(directory).new().release()
    _, host = open_journal(directory)
    assert (host.jobs, caplog.text, [*directory.iterdir()]) == ([], "", [])


def test_a_whole_log_is_no_finding(open_journal: Open, directory: Path) -> None:
    killed(
        directory,
        """
        entries = [journal.accept(Save('', n)) for n in range(50)]
        for entry in entries[:40]: journal.succeeded(entry)
        journal.flush()
        journal._engine.lanes.truncate_logs()
        for n in range(5): journal.accept(Save('', n))
        """,
    )
    inspector = Inspector(directory)
    assert [*check(inspector)] == []
    assert len([*inspector.jobs()]) == 15
    assert [*check(inspector)] == []
    assert len(open_journal(directory)[1].jobs) == 15


@pytest.mark.parametrize("instead", ["nothing", "an empty file", "a byte", "a directory"])
def test_a_log_without_its_file_is_read(
    open_journal: Open, directory: Path, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite deletes the log of an empty file, even for a reader."""
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (log,) = directory.glob("*.db-wal")
    file = log.with_suffix(".db")
    file.unlink()
    if instead == "a directory":
        file.mkdir(mode=0o700)
    elif instead != "nothing":
        file.write_bytes(b"x" if instead == "a byte" else b"")
        file.chmod(0o600)
    inspector = Inspector(directory)
    assert {finding.about for finding in check(inspector)} == {"damaged"}
    inspector.stats()
    assert [*inspector.jobs()] == []
    journal, host = open_journal(directory)
    journal.poll()
    assert [job.n for job in host.jobs] == list(range(20))
    assert "20 jobs saved" in caplog.text
    assert {finding.about for finding in check(Inspector(directory))} == {"aside"}


def test_a_log_with_frames_out_of_place_is_set_aside(open_journal: Open, directory: Path) -> None:
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (log,) = directory.glob("*.db-wal")
    content = log.read_bytes()
    log.write_bytes(content[:40] + bytes(512) + content[40:])
    open_journal(directory)[0].poll()
    assert {finding.about for finding in check(Inspector(directory))} == {"aside"}


@pytest.mark.parametrize("sector", [0, 8, 48])
def test_a_sector_of_a_log_costs_a_page(open_journal: Open, directory: Path, sector: int) -> None:
    """Within it is the header of the log or of a frame: what comes after that is not gone."""
    killed(
        directory, "for n in range(20): journal.accept(Save('', n)); journal.accept(Save('', n))"
    )
    (log,) = directory.glob("*.db-wal")
    content = bytearray(log.read_bytes())
    content[sector * 512 : sector * 512 + 512] = bytes(512)
    log.write_bytes(content)
    journal, host = open_journal(directory)
    journal.poll()
    assert len(host.jobs) >= 38
    assert {finding.about for finding in check(Inspector(directory))} == {"aside"}
