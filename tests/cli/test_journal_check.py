"""``retryexec journal``: check, stats and backup, beside a loaded owner, too."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import Result, documents, modes, start
from helpers.journal_kit import JOBS, Call, FakeHost, Process, Save, die, killed, left_by, opened

from retryexec.journal import Inspector, Journal
from retryexec.journal import _backup as backups

Command = Callable[..., Result]


# ---- check, stats, backup


def test_check_is_content_with_a_journal_in_use(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    owner[0].accept(Save(""))
    die(owner[0], Save(""))
    for options in ((), ("--full",)):
        result = command("journal", "check", directory, *options)
        assert (result.status, result.err) == (0, "")
        assert re.fullmatch(r"\d files, all is well\n", result.out)
    assert documents(command("journal", "check", directory, "--json")) == [
        {"ok": True, "findings": []}
    ]


def findings(command: Command, directory: Path) -> dict[str, str]:
    result = command("journal", "check", directory, "--json")
    (document,) = documents(result)
    assert result.status == (0 if document["ok"] else 1)
    told = command("journal", "check", directory).out
    assert all(finding["text"] in told for finding in document["findings"])
    return {
        finding["about"]: f"{Path(finding['path']).name}: {finding['text']}"
        for finding in document["findings"]
    }


def test_check_finds_what_is_wrong(command: Command, directory: Path) -> None:
    script = """
    for n in range(300):
        journal.accept(Save('x' * 50, n))
    journal._engine.lanes.truncate_logs()
    """
    killed(directory, script)
    journal, _ = opened(directory)
    die(journal, Save(""))
    journal.close()
    (database,) = (path for path in directory.glob("*.db") if path.name != "dead.db")
    assert findings(command, directory) == {}
    directory.chmod(0o755)
    assert findings(command, directory)["permissions"].endswith(
        f"others may use it (its mode is 0755): chmod 700 {directory}"
    )
    directory.chmod(0o700)
    database.chmod(0o640)
    assert "(its mode is 0640): chmod 600" in findings(command, directory)["permissions"]
    database.chmod(0o600)
    for suffix in ("-wal", "-shm"):  # SQLite makes them like the file
        Path(f"{database}{suffix}").chmod(0o600)
    (directory / "notes.txt").touch(0o600)
    assert findings(command, directory) == {
        "foreign": "notes.txt: it is not a file of the journal: move it elsewhere"
    }
    (directory / "notes.txt").rename(directory / f"{database.name}.corrupt-20260101-000000")
    assert "it was damaged and has been set aside" in findings(command, directory)["aside"]
    (directory / f"{database.name}.corrupt-20260101-000000").unlink()
    probe = directory / f"{'0' * 32}.probe"
    probe.touch(0o600)
    assert findings(command, directory) == {}
    os.utime(probe, (0, 0))
    assert "a process left it when it was starting" in findings(command, directory)["foreign"]
    probe.unlink()
    lock = database.with_suffix(".lock")
    lock.rename(directory.parent / "lock")
    assert "its lock file is not there" in findings(command, directory)["lock"]
    (directory.parent / "lock").rename(lock)


def test_damaged_and_newer_files_are_told_and_the_rest_is_shown(
    command: Command, directory: Path
) -> None:
    killed(directory, "for n in range(3): journal.accept(Save('', n))")
    journal, _ = opened(directory)
    assert journal.flush(10)
    die(journal, Save("dead"))
    journal.close()
    (first,) = (path for path in directory.glob("*.db") if path.name != "dead.db")
    second = directory / f"{'a' * 32}.db"
    shutil.copy(first, second)
    third = directory / f"{'b' * 32}.db"
    third.write_bytes(b"no database at all " * 100)
    with sqlite3.connect(second) as sql:
        sql.execute("PRAGMA user_version=99")
    sql.close()
    for path in (second, third):
        path.chmod(0o600)
        path.with_suffix(".lock").touch(0o600)
    listed = command("journal", "ls", directory, "--json")
    assert listed.status == 1
    assert len(documents(listed)) == 3
    assert f"left out: {second} is of version 99, and this library knows up to 2" in listed.err
    assert f"left out: {third} is damaged" in listed.err
    found = findings(command, directory)
    assert "upgrade the library" in found["version"]
    assert found["damaged"].startswith(third.name)
    failed = command("journal", "backup", directory, directory.parent / "copy")
    assert failed.status == 2
    assert "is not complete" in failed.err


def test_letters_of_a_newer_library_are_left_alone(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    (dead,) = die(journal, Save(""))
    journal.close()
    with sqlite3.connect(directory / "dead.db") as sql:
        sql.execute("PRAGMA user_version=99")
    sql.close()
    for arguments in (
        ("dead", directory),
        ("stats", directory),
        ("rerun", directory, "--all"),
        ("rerun", directory, dead),
        ("discard", directory, "--all", "--yes"),
    ):
        result = command("journal", *arguments)
        assert result.status == (1 if arguments[0] in {"dead", "stats"} else 2)
        assert "dead.db is of version 99, and this library knows up to 2" in result.err
    (directory / "dead.db").write_bytes(b"no database at all " * 100)
    result = command("journal", "rerun", directory, "--all")
    assert (result.status, result.out) == (0, "0 dead letters to be run again\n")
    assert len([*directory.glob("dead.db.corrupt-*")]) == 1


def test_a_network_file_system_is_told(
    command: Command, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(mode=0o700)
    monkeypatch.setattr("retryexec.journal._check.filesystem_of", lambda path: "nfs4")
    assert "a network file system (nfs4)" in findings(command, directory)["network"]


def test_stats_counts(command: Command, directory: Path, owner: tuple[Journal, FakeHost]) -> None:
    assert command("journal", "stats", directory).out == "0 unfinished jobs; 0 dead letters, 0 B\n"
    owner[0].accept(Save(""))
    owner[0].accept(Call(""))
    die(owner[0], Save(""), Save(""))
    (stats,) = documents(command("journal", "stats", directory, "--json"))
    assert (stats["unfinished"], stats["parked"], stats["dead"]) == (2, 0, 2)
    assert stats["dead_by_kind"] == {"save": 2}
    (file,) = stats["files"]
    assert file["unfinished_by_kind"] == {"call": 1, "save": 1}
    assert file["bytes"] > 0 < file["wal_bytes"]
    out = command("journal", "stats", directory).out
    assert re.match(r"2 unfinished jobs, the oldest accepted .* ago; 2 dead letters, ", out)
    assert "save           1     2" in out


def test_a_backup_is_a_journal_of_its_own(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    journal.accept(Save("1"))
    (dead,) = die(journal, Save("2"))
    before = os.umask(0)
    try:
        result = command("journal", "backup", directory, directory.parent / "copy", "--json")
    finally:
        os.umask(before)
    copy = directory.parent / "copy"
    (told,) = documents(result)
    assert (told["unfinished"], told["dead"]) == (1, 1)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert modes(copy) == {0o600}
    assert command("journal", "check", copy).status == 0
    assert left_by(copy) == [Save("1")]
    assert [letter.id for letter in Journal(copy, jobs=JOBS).dead] == [dead]
    again = command("journal", "backup", directory, copy)
    assert again.status == 2
    assert "is not empty: name a directory that is" in again.err
    onto = command("journal", "backup", directory, __file__)
    assert onto.status == 2
    assert "cannot hold a backup" in onto.err


@pytest.mark.parametrize("last", [False, True])
def test_a_letter_that_is_rerun_while_the_backup_is_made_is_in_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """It has left the letters, for a file whose copy had been made, or that is gone again."""
    journal, host = opened(directory)
    die(journal, Save("1"), Save("2"))
    journal.accept(Save("3"))
    copy = backups._copy

    def copied(source: Path, target: Path) -> bool:
        if target.name == "dead.db":
            journal.dead.rerun_all() if last else journal.dead.rerun(journal.dead.list()[0].id)
            journal.succeeded(host.recovered[0])
            assert journal.flush(10)
        return copy(source, target)

    monkeypatch.setattr(backups, "_copy", copied)
    backups.backup(Inspector(directory), directory.parent / "copy")
    journal.close()
    letters = {
        letter.fields["email"] for letter in Journal(directory.parent / "copy", jobs=JOBS).dead
    }
    assert letters == {"1", "2"}
    assert left_by(directory.parent / "copy") == [Save("3")]


# ---- beside a loaded owner


LOADED = """
journal.close()
journal, host = opened(Path(sys.argv[1]), accept="async", durability="process")
import time
word = "x" * 200
from collections import deque
kept = deque()
count = died = 0
biggest = 0
say("loaded")
while not Path(sys.argv[1] + ".stop").exists():
    for _ in range(200):
        entry = journal.accept(Save(word, count)); count += 1
        kept.append(entry)
        if count % 50 == 0:
            journal.died(entry, "permanent", 1, ValueError("x")); died += 1
        elif len(kept) > 1000:
            journal.succeeded(kept.popleft())
    biggest = max(biggest, max((f.log_bytes() for f in journal._engine.lanes.all()), default=0))
assert journal.flush(30)
say("counts", count, died, biggest, journal.stats().healthy)
journal.close()
"""


@pytest.mark.slow("six seconds of load, then a check of every copy made meanwhile")
@pytest.mark.timeout(180)
def test_an_owner_at_full_load_does_not_notice(directory: Path) -> None:
    """Every action again and again, in processes of their own, for as long as the load lasts."""
    load = Process(directory, LOADED, wait=False)
    load.until("loaded")
    ends = time.monotonic() + 6
    rounds = 0
    try:
        while time.monotonic() < ends:
            for action in ("ls", "dead", "stats", "check", "backup"):
                to = [directory.parent / f"copy{rounds}"] if action == "backup" else []
                process = start("journal", action, directory, *to, "--json")
                out, err = process.communicate(timeout=60)
                assert (process.returncode, err) == (0, b""), (action, out, err)
                if action in {"ls", "dead"}:
                    assert len(out.splitlines()) <= 100
            rounds += 1
    finally:
        Path(f"{directory}.stop").touch()
        said = load.end()
    assert load.popen.returncode == 0
    count, died, biggest, healthy = said[-1].split()[1:]
    assert healthy == "True"
    assert int(count) > 1000
    # Readers have kept it from being reset for moments, and never for long.
    assert int(biggest) < 64 * 1024 * 1024
    left = left_by(directory)
    assert len(left) <= 1001 + int(died)
    for number in range(rounds):
        copy = directory.parent / f"copy{number}"
        process = start("journal", "check", copy)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b""), out
