"""``retryexec journal`` with the URL of a PostgreSQL server in the place of a directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result
from helpers.journal_kit import JOBS, Call, FakeHost, Save
from helpers.postgres import Schema

from retryexec.journal import Journal

Command = Callable[..., Result]
Owner = tuple[Journal, FakeHost]


@pytest.fixture
def owner(schema: Schema) -> Iterator[Owner]:
    """A living owner, of the test's own process."""
    journal, host = schema(jobs=JOBS, poll=3600), FakeHost()
    journal.open(host)
    yield journal, host
    journal.close()


@pytest.fixture
def journal_command(command: Command, schema: Schema) -> Command:
    def run(action: str, *words: Any) -> Result:
        return command("journal", action, schema.url, *words, "--schema", schema.name)

    return run


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


def die(journal: Journal, *jobs: Any) -> list[str]:
    """Let *jobs* fail for good; return their ids."""
    entries = [journal.accept(job) for job in jobs]
    for entry in entries:
        journal.died(entry, "max_attempts", 3, ConnectionError(f"no {entry.job}"))
        assert journal.flush(10)
    return [entry.id for entry in entries]


def test_ls_tells_where_each_job_stands(journal_command: Command, owner: Owner) -> None:
    journal, host = owner
    waiting, running, queued = (journal.accept(Save("a@b", n)) for n in range(3))
    journal.retrying(waiting, 2, 3600, ConnectionError("try again"))
    host.at_work = [running]
    journal._engine.poll()  # type: ignore[union-attr]
    assert journal.flush(10)
    lane = journal._store.new_lane()
    lane._mark(lane._link)
    put = journal.put(Call("/"))
    found = documents(journal_command("ls", "--json"))
    assert [(job["id"], job["state"], job["attempts"]) for job in found] == [
        (waiting.id, "waiting", 2),
        (running.id, "running", 0),
        (queued.id, "queued", 0),
        (put, "queued", 0),
    ]
    assert [job["owner_alive"] for job in found[:3]] == [True] * 3
    assert len(documents(journal_command("ls", "--json", "--limit", "2"))) == 2
    assert [job["id"] for job in documents(journal_command("ls", "--json", "--kind", "call"))] == [
        put
    ]
    assert "alive (pid" in journal_command("ls").out


def test_ls_tells_of_what_nobody_has_taken_yet(journal_command: Command, schema: Schema) -> None:
    journal = schema(jobs=JOBS)
    put = journal.put_many([Save("", n) for n in range(3)])
    journal.close()
    found = documents(journal_command("ls", "--json"))
    assert [(job["id"], job["state"], job["owner_alive"]) for job in found] == [
        (name, "queued", False) for name in put
    ]
    assert "nobody" in journal_command("ls").out


def test_dead_letters_are_listed_shown_mended_rerun_and_discarded(
    journal_command: Command, owner: Owner, schema: Schema
) -> None:
    journal, host = owner
    first, second, third = die(journal, Save("a@b", 1), Save("a@b", 2), Call("/"))
    assert [letter["id"] for letter in documents(journal_command("dead", "--json"))] == [
        third,
        second,
        first,
    ]
    assert "no Save(email='a@b', n=2)" in journal_command("show", second).out
    target = "helpers.journal_kit:Save"
    edited = journal_command("edit", second, "email=c@d", "--class", target)
    assert edited.status == 0, edited
    assert journal_command("rerun", second, "--yes").status == 0
    journal.poll()
    assert host.jobs == [Save("c@d", 2)]
    assert journal_command("discard", "--kind", "save", "--yes").status == 0
    assert [letter.id for letter in journal.dead] == [third]
    assert journal_command("rerun", "--all", "--yes").status == 0
    assert len(journal.dead) == 0


def test_stats_count_jobs_and_letters(journal_command: Command, owner: Owner) -> None:
    journal, _ = owner
    die(journal, Save("", 1))
    journal.accept(Save("", 2))
    journal.put(Call("/"))
    (found,) = documents(journal_command("stats", "--json"))
    assert (found["unfinished"], found["dead"], found["parked"]) == (2, 1, 0)
    assert sum(file["unfinished"] for file in found["files"]) == 2
    assert "2 unfinished jobs" in journal_command("stats").out


def test_check_tells_of_what_nobody_runs(journal_command: Command, schema: Schema) -> None:
    journal = schema(jobs=JOBS, poll=3600)
    assert "all is well" in journal_command("check").out
    parked = journal.put(Call("/"))
    journal.close()
    other = schema(jobs={"save": Save}, poll=3600)
    other.open(FakeHost())
    other.close()
    told = journal_command("check")
    assert told.status == 1
    assert "'call' is not registered" in told.out
    assert journal_command("discard", parked, "--yes").status == 0
    assert journal_command("check", "--repair").status == 0


def test_a_backup_is_the_databases(journal_command: Command, owner: Owner, tmp_path: Path) -> None:
    told = journal_command("backup", tmp_path / "copy")
    assert told.status == 2
    assert "pg_dump" in told.err


def test_what_is_no_journal_is_told(command: Command, schema: Schema) -> None:
    told = command("journal", "ls", schema.url, "--schema", "nowhere")
    assert told.status == 2
    assert 'no journal in schema "nowhere"' in told.err
    assert command("journal", "ls", "postgresql://[").status == 2
