"""``retryexec journal``: what it shows, what it changes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, start
from helpers.journal_kit import JOBS, Call, FakeHost, Process, Save, killed, left_by, opened

from retryexec.cli.output import clean, format_size
from retryexec.journal import ErrorText, Inspector, Journal
from retryexec.journal import _backup as backups
from retryexec.journal._last_error import last_error

Command = Callable[..., Result]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def owner(directory: Path) -> Iterator[tuple[Journal, FakeHost]]:
    """A living owner, of the test's own process."""
    made = opened(directory)
    yield made
    made[0].close()


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


def die(journal: Journal, *jobs: Any) -> list[str]:
    """Let *jobs* fail for good, one after the other; return their ids."""
    ids = []
    for job in jobs:
        entry = journal.accept(job)
        try:
            raise ConnectionError(f"no {job}")
        except ConnectionError as error:
            journal.died(entry, "max_attempts", 3, error)
        assert journal.flush(10)
        ids.append(entry.id)
    return ids


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


# ---- ls


def test_ls_tells_where_each_job_stands(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, host = owner
    waiting, running, queued = (journal.accept(Save("a@b", n)) for n in range(3))
    call = journal.accept(Call("u"))
    journal.retrying(waiting, 2, 3600, ConnectionError("try\x1b[31m again"))
    host.at_work.append(running)
    journal.succeeded(call)
    assert journal.flush(10)
    found = documents(command("journal", "ls", directory, "--json"))
    assert [(job["id"], job["state"], job["attempts"]) for job in found] == [
        (waiting.id, "waiting", 2),
        (running.id, "running", 0),
        (queued.id, "queued", 0),
    ]
    assert list(found[0]) == [
        *("id", "kind", "version", "state", "attempts", "crashes", "accepted_at", "first_at"),
        *("due_at", "parked", "owner", "owner_alive", "owner_pid", "key", "last_error"),
    ]
    assert (found[0]["owner_alive"], found[0]["owner_pid"]) == (True, os.getpid())
    assert found[0]["last_error"]["type"] == "ConnectionError"
    assert "a@b" not in str(found)
    table = command("journal", "ls", directory).out.splitlines()
    assert table[0].split() == ["id", "kind", "state", "attempts", "due", "age", "owner", "remarks"]
    assert re.search(r"waiting +2 +in 59 min \d\d s|in 1 h", table[1])
    assert table[1].endswith(f"alive (pid {os.getpid()})  ConnectionError: try\\x1b[31m again")
    assert "\x1b" not in "".join(table)


def test_ls_takes_a_kind_and_a_limit(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    ids = [journal.accept(job).id for job in (Save("1"), Call("2"), Save("3"), Save("4"))]
    limited = command("journal", "ls", directory, "--kind", "save", "--limit", "2")
    assert [line.split()[0] for line in limited.out.splitlines()[1:]] == [ids[0], ids[2]]
    assert limited.err == "there are more than these 2: --limit none lists them all\n"
    everything = command("journal", "ls", directory, "--limit", "none", "--json")
    assert [job["id"] for job in documents(everything)] == ids
    assert command("journal", "ls", directory, "--kind", "none").out == (
        "no unfinished jobs of kind 'none'\n"
    )


def test_jobs_of_many_pages_and_owners_come_in_the_order_they_were_accepted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retryexec.journal._inspect._PAGE", 3)
    owners = [opened(directory, wall_clock=lambda n=n: next(times[n])) for n in range(2)]  # type: ignore[misc]
    times = [iter(range(0, 1000, 2)), iter(range(1, 1000, 2))]
    for n in range(20):
        owners[n % 2][0].accept(Save("", n))
    fields = [job.fields["n"] for job in Inspector(directory).jobs()]
    assert fields == list(range(20))
    for journal, _ in owners:
        journal.close()


def test_what_a_dead_owner_has_left_is_listed_and_stays_as_it_is(
    command: Command, directory: Path
) -> None:
    killed(directory, "for n in range(3): journal.accept(Save('', n))\nhost.at_work = []")
    before = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".db-shm"}
    assert any(name.endswith("-wal") and data for name, data in before.items())
    found = documents(command("journal", "ls", directory, "--json"))
    assert [(job["owner_alive"], job["owner_pid"]) for job in found] == [(False, None)] * 3
    assert command("journal", "stats", directory).status == 0
    assert command("journal", "check", directory).status == 0
    after = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".db-shm"}
    assert after == before
    assert modes(directory) == {0o600}
    assert left_by(directory) == [Save("", n) for n in range(3)]


def test_parked_jobs_come_with_the_reason(command: Command, directory: Path) -> None:
    killed(directory, "journal.accept(Save(''))")
    journal = opened(directory, jobs={"call": Call})[0]
    journal.close()
    (job,) = documents(command("journal", "ls", directory, "--json"))
    assert (job["state"], job["parked"]) == ("parked", "kind 'save' is not registered here")
    assert "kind 'save' is not registered here" in command("journal", "ls", directory).out
    assert "state     parked (kind 'save'" in command("journal", "show", directory, job["id"]).out
    checked = command("journal", "check", directory)
    assert checked.status == 1
    assert "1 record is parked, since no job can be made of it (kind 'save'" in checked.out


# ---- dead, show


def test_dead_lists_the_latest_first(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    ids = die(owner[0], Save("1"), Call("2"), Save("3"))
    found = documents(command("journal", "dead", directory, "--json"))
    assert [letter["id"] for letter in found] == ids[::-1]
    assert list(found[0]) == [
        *("id", "kind", "version", "state", "reason", "attempts", "crashes", "accepted_at"),
        *("died_at", "key", "stale", "last_error"),
    ]
    table = command("journal", "dead", directory, "--kind", "save", "--limit", "1")
    (line,) = table.out.splitlines()[1:]
    assert line.startswith(f"{ids[2]}  save  20")
    assert line.endswith("max_attempts         3  ConnectionError: no Save(email='3', n=0)")
    assert "more than these 1" in table.err
    assert command("journal", "dead", directory, "--kind", "x").out == (
        "no dead letters of kind 'x'\n"
    )


def test_letters_come_in_pages_without_a_sort(
    directory: Path, owner: tuple[Journal, FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retryexec.journal._inspect._PAGE", 3)
    entries = [owner[0].accept(Save("", n)) for n in range(10)]
    for entry in entries:  # many of them at the same moment
        owner[0].died(entry, "permanent", 1)
    assert owner[0].flush(10)
    for kind in (None, "save"):
        found = [letter.id for letter in Inspector(directory).letters(kind)]
        assert sorted(found) == sorted(entry.id for entry in entries)
        assert len(list(Inspector(directory).letters(kind, limit=7))) == 7
    with sqlite3.connect(directory / "dead.db") as sql:
        for where in ("", "WHERE kind='save' "):
            query = "EXPLAIN QUERY PLAN SELECT * FROM dead ? ORDER BY died_at DESC, id DESC"
            plan = str(sql.execute(query.replace("?", where)).fetchall())
            assert "INDEX" in plan
            assert "TEMP B-TREE" not in plan
    sql.close()


def test_show_tells_all_there_is_to_know(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    (dead,) = die(journal, Save("john@example.com", 7))
    entry = journal.accept(Call("https://example.com", ["a"]))
    journal.retrying(entry, 1, 60, ConnectionError("try again"))
    assert journal.flush(10)
    hyphens = f"{dead[:8]}-{dead[8:12]}-{dead[12:16]}-{dead[16:20]}-{dead[20:]}".upper()
    shown = command("journal", "show", directory, hyphens, entry.id).out
    letter, job = shown.split("\n\n")
    assert f"id        {dead}\nkind      save, version 1\nstate     dead (max_attempts)" in letter
    assert '  email: "john@example.com"\n  n: 7\n' in letter
    assert "Traceback (most recent call last):" in letter
    assert "ConnectionError: no Save(" in letter
    assert "attempts  1 failed\n" in job
    assert "  attempt 1, 20" in job
    first, second = documents(command("journal", "show", directory, dead, entry.id, "--json"))
    assert first["fields"] == {"email": "john@example.com", "n": 7}
    assert (first["state"], second["state"]) == ("dead", "waiting")
    assert second["errors"][0]["text"] == "try again"


REDACTORS = """\
def hidden(kind, fields):
    return {**fields, "email": f"{kind} ***"}

def broken(kind, fields):
    raise LookupError(fields["email"])
"""


def test_fields_are_shown_as_the_redactor_returns_them(
    command: Command, jobs: Path, tmp_path: Path
) -> None:
    (tmp_path / "redactors.py").write_text(REDACTORS)
    journal, _ = opened(tmp_path / "journal")
    (dead,) = die(journal, Save("john@example.com"))
    journal.close()
    show = ("journal", "show", "journal", dead, "--redact")
    assert '  email: "save ***"' in command(*show, "redactors.py:hidden").out
    assert '  email: "save ***"' in command(*show, "redactors:hidden").out
    broken = command(*show, "redactors:broken")
    assert "fields    not shown: the redactor failed: LookupError\n" in broken.out
    (told,) = documents(command(*show, "redactors:broken", "--json"))
    assert (told["fields"], told["fields_withheld"]) == (None, "the redactor failed: LookupError")
    for name, expected in {
        "redactors": "names no function: expected module:function or file.py:function",
        "redactors:nothing": "redactors does not have a function 'nothing'",
        "missing.py:f": "there is no file 'missing.py'",
    }.items():
        result = command(*show, name)
        assert result.status == 2
        assert expected in result.err


def test_fields_without_names_are_not_shown_to_people_who_want_them_redacted(
    command: Command, jobs: Path, tmp_path: Path
) -> None:
    (tmp_path / "redactors.py").write_text(REDACTORS)
    journal, _ = opened(tmp_path / "journal")
    (dead,) = die(journal, Save("john@example.com"))
    journal.close()
    with sqlite3.connect(tmp_path / "journal" / "dead.db") as sql:
        sql.execute("UPDATE dead SET data='[\"john@example.com\",1]'")
    sql.close()
    result = command("journal", "show", "journal", dead, "--redact", "redactors:hidden")
    assert "fields    not shown: they do not have names" in result.out
    assert 'fields    ["john@example.com", 1]' in command("journal", "show", "journal", dead).out


# ---- rerun, discard


def test_rerun_gives_letters_to_a_living_owner(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, host = owner
    ids = die(journal, Save("1"), Save("2"), Call("3"), Call("4"))
    result = command("journal", "rerun", directory, ids[0], ids[0], ids[1])
    assert result.out == (
        "2 dead letters to be run again: a process that has the journal open takes them up within "
        "seconds\n"
    )
    assert journal.poll() == 2
    assert sorted(job.email for job in host.jobs) == ["1", "2"]
    files = {path.name for path in directory.glob("*.db")}
    assert len(files) == 3  # one for both of them, the owner's, and the letters
    result = command("journal", "rerun", directory, "--all", "--kind", "call", "--json")
    assert documents(result) == [{"rerun": 2}]
    assert journal.poll() == 2
    assert [entry.id for entry in host.recovered][2:] == ids[2:]
    assert command("journal", "rerun", directory, "--all").out == (
        "0 dead letters to be run again\n"
    )


def test_without_an_owner_a_rerun_waits_for_the_next(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    die(journal, Save("1"))
    journal.close()
    assert "the next process to open the journal runs them" in (
        command("journal", "rerun", directory, "--all").out
    )
    assert left_by(directory) == [Save("1")]


def test_discard_asks_nobody_without_a_terminal(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    ids = die(journal, Save("1"), Save("2"), Call("3"))
    refused = command("journal", "discard", directory, "--all", "--kind", "save")
    assert refused.status == 2
    assert "all 2 dead letters of kind 'save' would be gone for good, and there is no" in (
        refused.err
    )
    assert len(journal.dead) == 3
    discard = ("journal", "discard", directory)
    assert command(*discard, ids[0], "--yes").out == "1 dead letter discarded\n"
    result = command(*discard, "--all", "--kind", "save", "--yes", "--json")
    assert documents(result) == [{"discarded": 1}]
    assert [letter.id for letter in journal.dead] == [ids[2]]
    journal.close()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("no\n", 1), ("", 1)])
def test_discard_asks_whoever_is_there(
    command: Command,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    left: int,
) -> None:
    journal, _ = opened(directory)
    die(journal, Save("1"))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    result = command("journal", "discard", directory, "--all")
    assert result.err.startswith("discard all 1 dead letter for good? [y/N] ")
    assert result.status == left
    assert len(journal.dead) == left
    journal.close()


def test_nothing_is_changed_for_an_id_that_is_no_letter(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    (dead,) = die(journal, Save("1"))
    alive = journal.accept(Save("2"))
    for action in (("rerun",), ("discard", "--yes")):
        for name, expected in {
            "nope": "there is no dead letter 'nope' in",
            alive.id: "is not a dead letter: it has not ended yet; nothing was changed",
        }.items():
            result = command("journal", *action, directory, dead, name)
            assert result.status == 2
            assert expected in result.err
    assert len(journal.dead) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "which ones? name IDs, as `dead` lists them, or say --kind, --error, --"),
        (("x", "--all"), "IDs exclude --all, --kind, --error and --before"),
        (("x", "--kind", "save"), "IDs exclude --all, --kind, --error and --before"),
    ],
)
def test_which_letters_must_be_said(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    for action in ("rerun", "discard"):
        result = command("journal", action, tmp_path, *arguments)
        assert result.status == 2
        assert expected in result.err


def test_letters_are_chosen_by_what_they_are_like(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    ids = die(journal, Save("1"), Save("2"), Call("3"))
    by_error = ("--error", "ConnectionError", "--kind", "save")
    listed = documents(command("journal", "dead", directory, *by_error, "--json"))
    assert {letter["id"] for letter in listed} == set(ids[:2])
    assert command("journal", "dead", directory, "--error", "Timeout").out == "no dead letters\n"
    assert command("journal", "dead", directory, "--before", "1h").out == "no dead letters\n"
    result = command("journal", "discard", directory, "--before", "2000-01-01", "--yes")
    assert result.out == "0 dead letters discarded\n"
    assert "discard: 0 dead letters from before 2000-01-01 00:00:00Z\n" in result.err
    result = command("journal", "discard", directory, *by_error, "--before", "0s", "--yes")
    assert result.out == "2 dead letters discarded\n"
    assert "2 dead letters of kind 'save' with error 'ConnectionError' from before" in result.err
    result = command("journal", "rerun", directory, "--error", "no Call")
    assert result.err == "rerun: 1 dead letter with error 'no Call'\n"
    assert len(journal.dead) == 0
    result = command("journal", "dead", directory, "--before", "soon")
    assert "'soon' is not a time: 2026-11-22, 2026-11-22T02:19:23Z, or how long ago" in result.err
    journal.close()


def test_the_beginning_of_an_id_will_do(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    first, second = die(journal, Save("1"), Save("2"))
    same = next(place for place in range(32) if first[place] != second[place])
    common = first[:same]
    result = command("journal", "show", directory, common[:6])
    assert result.status == 2
    assert f"{common[:6]!r} is the beginning of 2 ids ({first}, {second})" in result.err
    assert "is the beginning of 2 ids" in command("journal", "rerun", directory, common[:6]).err
    unique = second[: len(common) + 1]
    assert second in command("journal", "show", directory, unique).out
    assert command("journal", "discard", directory, unique, "--yes").status == 0
    assert [letter.id for letter in journal.dead] == [first]
    assert command("journal", "rerun", directory, first[:6]).status == 0
    journal.close()


def test_a_letter_is_edited(
    command: Command, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "savers.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Save:\n    email: str\n"
        "    n: int = 0\n    def exec(self): ...\n"
    )
    journal, _ = opened(directory)
    (dead,) = die(journal, Save("1"))
    edit = ("journal", "edit", directory, dead[:20])
    result = command(*edit, "email=7", "n=12", "--class", "savers.py:Save")
    assert result.out == f"{dead} is changed; `rerun` gives it all its attempts again\n"
    assert journal.dead.get(dead).fields == {"email": "7", "n": 12}
    result = command(*edit, "email=a=b", "--class", "savers:Save", "--json")
    assert documents(result) == [{"id": dead, "fields": {"email": "a=b", "n": 12}}]
    for change, said in {
        "n=many": "nothing was changed",
        "nope=1": "does not have a field 'nope'",
        "email": "'email' is not a change: expected FIELD=VALUE",
    }.items():
        result = command(*edit, change, "--class", "savers.py:Save")
        assert result.status == 2
        assert said in result.err
    assert journal.dead.get(dead).fields == {"email": "a=b", "n": 12}
    assert "the following arguments are required: --class" in command(*edit, "n=1").err
    journal.close()


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


# ---- what is not there


def test_missing_things_are_named(command: Command, tmp_path: Path) -> None:
    for arguments, expected in {
        ("ls", tmp_path / "nowhere"): "there is no directory",
        ("ls", __file__): "there is no directory",
        ("show", tmp_path, "nope"): "there is no job 'nope' in",
        ("what", tmp_path): "invalid choice: 'what'",
    }.items():
        result = command("journal", *arguments)
        assert result.status == 2
        assert expected in result.err
    assert command("journal", "ls", tmp_path).out == "no unfinished jobs\n"
    assert command("journal", "dead", tmp_path).out == "no dead letters\n"


def test_a_transaction_that_died_is_taken_back_for_the_reader(
    command: Command, directory: Path
) -> None:
    """Half a transaction, with the file already changed: the rollback journal is hot."""
    journal, _ = opened(directory)
    (dead,) = die(journal, Save("1"))
    journal.close()
    script = """
    from retryexec.journal._letter_file import LETTERS
    from retryexec.journal._sqlite import open_database
    sql = open_database(Path(sys.argv[1]) / "dead.db", LETTERS)
    sql.execute("PRAGMA cache_size=1")
    sql.execute("PRAGMA cache_spill=1")
    sql.execute("BEGIN IMMEDIATE")
    sql.execute("UPDATE dead SET data=?", ('"' + "x" * 900_000 + '"',))
    for n in range(9):
        sql.execute("INSERT INTO dead SELECT ?,kind,ver,data,reason,attempts,crashes,accepted_at,"
                    "died_at,errors,source,rerun_to FROM dead LIMIT 1", (str(n),))
    """
    killed(directory, script)
    assert (directory / "dead.db-journal").stat().st_size > 0
    (letter,) = documents(command("journal", "dead", directory, "--json"))
    assert letter["id"] == dead


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


# ---- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x1b[2Jb\x9b", "a\\x1b[2Jb\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_plays_with_the_terminal(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_sizes_are_told_in_units() -> None:
    assert [format_size(n) for n in (0, 999, 4096, 5 * 10**6, 10**12, 3 * 10**15)] == [
        *("0 B", "999 B", "4.1 kB", "5.0 MB", "1.0 TB", "3000.0 TB"),
    ]


def test_keys_are_shown_and_a_stale_letter_is_rerun_only_by_force(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, host = owner
    old = journal.accept(Save("old"), key=("user", 7))
    journal.died(old, "permanent", 1)
    fresh = journal.accept(Save("fresh"), key="ana")
    journal.died(fresh, "permanent", 1)
    journal.succeeded(journal.accept(Save("newer"), key=("user", 7)))
    journal.accept(Save("waiting"), key=b"\x01")
    assert journal.flush(10)

    (job,) = documents(command("journal", "ls", directory, "--json"))
    assert job["key"] == {"bytes": "01"}
    table = command("journal", "ls", directory).out.splitlines()
    assert (table[0].split()[2], table[1].split()[2]) == ("key", "b'\\x01'")
    letters = documents(command("journal", "dead", directory, "--json"))
    assert {letter["id"]: (letter["key"], letter["stale"]) for letter in letters} == {
        old.id: (["user", 7], True),
        fresh.id: ("ana", False),
    }
    table = command("journal", "dead", directory).out.splitlines()
    assert ["permanent; stale" in line for line in table[1:]] == [
        line.startswith(old.id) for line in table[1:]
    ]
    shown = command("journal", "show", directory, old.id).out
    assert "key       ('user', 7)\n" in shown
    assert "dead (permanent); stale: a later job of its key has succeeded since\n" in shown
    (shown_json,) = documents(command("journal", "show", directory, old.id, "--json"))
    assert (shown_json["key"], shown_json["stale"]) == (["user", 7], True)

    refused = command("journal", "rerun", directory, old.id, "--yes")
    assert refused.status == 2
    assert "('user', 7)" in refused.err
    assert "--force" in refused.err
    some = command("journal", "rerun", directory, "--all", "--yes")
    assert some.status == 0
    assert "1 dead letter stale, and left" in some.err
    assert "1 dead letter to be run again" in some.out
    assert [letter.id for letter in journal.dead] == [old.id]
    forced = command("journal", "rerun", directory, old.id, "--force", "--yes")
    assert forced.status == 0
    assert len(journal.dead) == 0
    journal.poll()
    assert {entry.id: entry.key and entry.key.value for entry in host.recovered} == {
        fresh.id: "ana",
        old.id: ("user", 7),
    }


def test_the_last_error_is_one_line() -> None:
    def of(text: str, name: str = "Odd") -> str:
        return last_error([ErrorText(1, 0.0, name, text)])

    assert last_error([]) == ""
    assert of("", "") == ""
    assert of("") == "Odd"
    assert of("two\nlines") == "Odd: two lines"
    start_of = "Traceback (most recent call last):\n  File ...\n"
    assert of(f"{start_of}my.Odd: it is\nso\n") == "my.Odd: it is"
    assert of(f"{start_of}cut off") == "cut off"
    assert of('f()\n  File "x.py", line 1\nmy.Odd: its beginning is lost') == (
        "my.Odd: its beginning is lost"
    )
    assert of("my.Odd: never raised") == "my.Odd: never raised"
