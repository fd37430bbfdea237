"""A damaged log (``-wal``) of a dead owner costs what was in the damaged place."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.journal_kit import killed
from journal.conftest import Open

from retryexec.journal import Inspector
from retryexec.journal._check import check


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


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
