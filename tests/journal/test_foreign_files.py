"""Files that say they are of another version, or that this process may not open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers import TESTS
from helpers.journal_kit import Save, killed, memory, opened
from journal.conftest import Open

from retryexec.journal import Inspector
from retryexec.journal._check import check


def with_version(directory: Path, version: Callable[[int], int], change: str = "") -> None:
    """Leave three jobs and a letter, in files that say that they are of another *version*."""
    journal, _ = opened(directory)
    journal.died(journal.accept(Save("dead")), "permanent", 1)
    for n in range(3):
        journal.accept(Save("", n))
    journal.close()
    for path in directory.glob("*.db"):
        with closing(sqlite3.connect(path)) as sql:
            (was,) = sql.execute("PRAGMA user_version").fetchone()
            sql.execute(f"PRAGMA user_version={version(was)}")
            if change and path.name != "dead.db":
                sql.execute(change)


@pytest.mark.parametrize("bit", range(32))
def test_a_version_with_a_flipped_bit_is_damage(
    open_journal: Open, directory: Path, bit: int
) -> None:
    flip = 1 << bit if bit < 31 else -(1 << 31)
    with_version(directory, lambda version: version ^ flip)
    findings = [*check(Inspector(directory))]
    assert {finding.about for finding in findings} <= {"damaged"}
    journal, host = open_journal(directory)
    assert sorted(job.n for job in host.jobs) == [0, 1, 2]
    assert len(journal.dead) == 1


@pytest.mark.parametrize(
    ("version", "change"), [(4, ""), (3, "ALTER TABLE job ADD COLUMN more TEXT")]
)
def test_a_later_version_is_left_alone(
    open_journal: Open, directory: Path, version: int, change: str
) -> None:
    with_version(directory, lambda _: version, change)
    (directory / "dead.db").unlink()
    before = {path: path.read_bytes() for path in directory.glob("*.db")}
    assert {finding.about for finding in check(Inspector(directory))} == {"version"}
    assert open_journal(directory)[1].jobs == []
    assert {path: path.read_bytes() for path in before} == before


# ---- permissions


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users can reach."""
    path = Path(tempfile.mkdtemp(dir=memory()))
    path.chmod(0o777)
    yield path / "journal"
    shutil.rmtree(path)


OTHER = 65534  # a user without rights

AS_ANOTHER_USER = """\
import os, sys
from pathlib import Path
from helpers.journal_kit import *
import logging
logging.basicConfig(stream=sys.stdout)
# All modules are loaded while they can be: they may be where no other user can look.
journal, _ = opened(Path(sys.argv[1]).with_name("first"))
journal.died(journal.accept(Save("")), "permanent", 1)
journal.close()
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
journal, host = opened(Path(sys.argv[1]))
print("jobs", sorted(job.n for job in host.jobs))
for entry in host.recovered:
    journal.died(entry, "permanent", 1, OSError("no"))
print("flushed", journal.flush(20), journal.stats().healthy)
print("letters", len(journal.dead))
journal.close()
"""


def as_another_user(directory: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-W", "ignore", "-c", AS_ANOTHER_USER, str(directory)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_letters_that_may_not_be_opened_keep_no_job_waiting(shared: Path, mode: int) -> None:
    killed(shared, "for n in range(3): journal.accept(Save('', n))")
    journal, _ = opened(shared.with_name("letters"))
    journal.died(journal.accept(Save("")), "permanent", 1)
    journal.close()
    dead = Path(shutil.copy(shared.with_name("letters") / "dead.db", shared / "dead.db"))
    for path in (shared, *shared.iterdir()):
        if os.getuid() == 0 and path != dead:
            os.chown(path, OTHER, OTHER)
    dead.chmod(mode if os.getuid() else mode | mode >> 3 | mode >> 6)
    said = as_another_user(shared)
    assert "jobs [0, 1, 2]" in said
    assert "flushed True True" in said
    assert f"letters {3 + (mode != 0)}" in said
    assert any("dead.db.corrupt-" in line for line in said)


def test_jobs_that_may_not_be_opened_wait_and_the_others_run(shared: Path) -> None:
    killed(shared, "for n in range(3): journal.accept(Save('', n))")
    (closed,) = shared.glob("*.db")
    killed(shared.with_name("other"), "journal.accept(Save('', 7))")
    for path in shared.with_name("other").iterdir():
        shutil.copy(path, shared)
    for path in (shared, *shared.iterdir()):
        if os.getuid() == 0 and path != closed:
            os.chown(path, OTHER, OTHER)
    closed.chmod(0)
    said = as_another_user(shared)
    assert "jobs [7]" in said
    assert any(closed.name in line for line in said)
    assert closed.exists()


# ---- parts that are something else


@pytest.mark.parametrize("part", ["db", "db-wal", "db-shm", "spare", "lock", "dead.db"])
def test_a_part_that_is_a_directory_is_told_and_costs_itself(
    open_journal: Open, directory: Path, part: str
) -> None:
    killed(directory, "for n in range(3): journal.accept(Save('', n))")
    journal, _ = opened(directory.with_name("letters"))
    journal.died(journal.accept(Save("")), "permanent", 1)
    journal.close()
    shutil.copy(directory.with_name("letters") / "dead.db", directory)
    (path,) = directory.glob(part if part == "dead.db" else f"{'[0-9a-f]' * 32}.{part}")
    path.unlink()
    path.mkdir(mode=0o700)
    for left in directory.iterdir():
        os.utime(left, (1, 1))
    assert [finding for finding in check(Inspector(directory)) if finding.about != "permissions"]
    journal, host = open_journal(directory)
    jobs = sorted(job.n for job in host.jobs)
    # Of a log that has gone nothing can be read, and all was in it.
    assert jobs == ([] if part == "db-wal" else [0, 1, 2])
    assert len(journal.dead) == (part != "dead.db")
    for entry in host.recovered:
        journal.succeeded(entry)
    journal.close()
    assert open_journal(directory)[1].jobs == []


def test_letters_that_are_a_dangling_link_are_moved_out_of_the_way(
    open_journal: Open, directory: Path
) -> None:
    directory.mkdir(mode=0o700)
    (directory / "dead.db").symlink_to("nowhere")
    assert {finding.about for finding in check(Inspector(directory))} == {"damaged"}
    assert len(open_journal(directory)[0].dead) == 0
    assert {finding.about for finding in check(Inspector(directory))} <= {"aside", "permissions"}
