"""``retryexec journal``: dead letters are shown, run again and discarded."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from helpers.command import Result, documents
from helpers.journal_kit import Call, FakeHost, Save, die, left_by, opened

from retryexec.journal import Inspector, Journal

Command = Callable[..., Result]


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
