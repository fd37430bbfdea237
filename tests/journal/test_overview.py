"""The overview of a journal: one suite for a directory and for PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Call, FakeHost, Save

from retryexec.journal import Journal, JournalError, _overview
from retryexec.journal._look import Overview, inspector_of
from retryexec.journal._overview import ErrorGroup
from retryexec.journal.postgres._arrays import UUIDs

Opened = tuple[Journal, FakeHost, Callable[[], Overview]]


@pytest.fixture(params=["directory", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """An open journal, its host, and what makes overviews of it."""
    if request.param == "postgres":
        schema = request.getfixturevalue("schema")
        where, options = schema.url, {"schema": schema.name}
    else:
        where, options = str(tmp_path / "journal"), {}
    journal, host = Journal(where, jobs=JOBS, poll=3600, **options), FakeHost()
    host.journal = journal
    journal.open(host)
    made: list[Overview] = []

    def overview() -> Overview:
        made.append(inspector_of(where, **options))
        return made[-1]

    yield journal, host, overview
    for one in made:
        one.close()
    journal.close()


def mark_running(journal: Journal) -> None:
    """Have the journal write down which jobs are at work."""
    engine: Any = journal._engine
    engine.poll()
    assert journal.flush(10)
    lane = engine.lanes.own
    if hasattr(lane, "_mark"):  # of a server: done with the next renewal
        lane._mark(lane._link)


def die(journal: Journal, *errors: Exception) -> list[str]:
    ids = []
    for error in errors:
        entry = journal.accept(Call("/"))
        journal.died(entry, "max_attempts", 3, error)
        ids.append(entry.id)
    assert journal.flush(10)
    return ids


def test_where_the_jobs_of_each_owner_stand(opened: Opened) -> None:
    journal, host, overview = opened
    jobs = [journal.accept(Save("a@b", n)) for n in range(3)]
    waiting, running, _ = jobs
    behind = [journal.accept(Save("c@d", n), key="c@d") for n in range(3)]
    journal.retrying(waiting, 2, 3600, ConnectionError("try again"))
    host.at_work = [running]
    mark_running(journal)
    reader = overview()
    (found,) = reader.owner_jobs()
    assert found.owner.alive
    assert (found.queued, found.running, found.waiting, found.held) == (2, 1, 1, 2)
    assert (found.parked, found.unfinished, found.accepted) == (0, 6, 6)
    assert found.oldest_at == pytest.approx(jobs[0].accepted_at)
    oldest = reader.oldest()
    assert oldest is not None
    assert oldest.id == jobs[0].id
    journal.succeeded(behind[0])
    assert journal.flush(10)
    (found,) = reader.owner_jobs()
    assert (found.queued, found.held, found.accepted) == (2, 1, 6)


def test_what_waits_is_due_next_the_first_one_first(opened: Opened) -> None:
    journal, _, overview = opened
    entries = [journal.accept(Save("a@b", n)) for n in range(4)]
    for entry, delay in zip(entries, (300.0, 100.0, 200.0), strict=False):
        journal.retrying(entry, 1, delay, ConnectionError("try again"))
    assert journal.flush(10)
    due = overview().due_next(2)
    assert [job.id for job in due] == [entries[1].id, entries[2].id]
    assert due[0].due_at == pytest.approx(time.time() + 100, abs=30)


def test_errors_of_one_cause_are_one_group(opened: Opened) -> None:
    journal, _, overview = opened
    ids = die(
        journal,
        ConnectionError("no route to 10.0.0.7"),
        ConnectionError("no route to 10.0.0.8"),
        ConnectionError("refused"),
        ValueError("refused"),
    )
    tried = journal.accept(Call("/"))
    journal.retrying(tried, 1, 3600, ConnectionError("no route to 10.0.0.9"))
    assert journal.flush(10)
    reader = overview()
    groups = reader.errors()
    assert (groups.dead, groups.unfinished) == (4, 1)
    first = groups.groups[0]
    assert (first.kind, first.type, first.dead, first.unfinished, first.alike) == (
        *("call", "ConnectionError", 2, 1),
        False,
    )
    assert (first.text, first.example) == ("no route to 10.0.0.9", tried.id)
    rest = {(group.type, group.text, group.alike, group.example) for group in groups.groups[1:]}
    assert rest == {
        ("ConnectionError", "refused", True, ids[2]),
        ("ValueError", "refused", True, ids[3]),
    }
    assert first.first_at <= first.last_at <= time.time() + 60


def test_a_reader_sees_what_has_died_and_was_discarded_since(opened: Opened) -> None:
    journal, _, overview = opened
    reader = overview()
    assert reader.errors().groups == ()
    assert reader.dead_by_kind() == {}
    for number in range(1, 4):
        die(journal, ConnectionError("refused"))
        assert reader.dead_by_kind() == {"call": number}
        assert [group.dead for group in reader.errors().groups] == [number]
    began = time.time() - 3600
    assert reader.died_since(began) == 3
    assert reader.died_since(time.time() + 3600) == 0
    journal.dead.discard_all()
    assert reader.dead_by_kind() == {}
    assert reader.errors().groups == ()


def test_many_dead_letters_are_looked_at_up_to_a_limit_the_latest_first(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _, overview = opened
    monkeypatch.setattr(_overview, "_PAGE", 2)
    for module in (_overview, pytest.importorskip("retryexec.journal.postgres._overview")):
        monkeypatch.setattr(module, "MOST_ERRORS", 3)
    die(journal, ValueError("old"))
    die(journal, *(ConnectionError("new") for _ in range(4)))
    found = overview().errors()
    assert [(g.text, g.dead) for g in found.groups] == [("new", 3)]
    assert found.dead == 3


def test_a_letter_without_an_error_is_in_a_group_too(opened: Opened) -> None:
    journal, _, overview = opened
    entry = journal.accept(Call("/"))
    journal.died(entry, "max_attempts", 3, None)
    assert journal.flush(10)
    (group,) = overview().errors().groups
    assert (group.type, group.text, group.jobs) == ("", "", 1)


def test_an_overview_cannot_write(opened: Opened) -> None:
    journal, _, overview = opened
    (letter,) = die(journal, ValueError("kept"))
    reader: Any = overview()
    if reader.on_server:
        with pytest.raises(JournalError, match="read-only"):
            reader._rows("discard", [UUIDs.of([letter])])
    else:
        assert reader._ask_dead(lambda sql: sql.execute("DELETE FROM dead").fetchall()) is None
        assert "readonly" in str(reader.unreadable)
        reader.unreadable.clear()
    assert reader.dead_by_kind() == {"call": 1}


def test_a_group_counts_all_of_its_jobs() -> None:
    group = ErrorGroup("call", "ValueError", "no", True, 2, 3, 0.0, 1.0, "1")
    assert group.jobs == 5
