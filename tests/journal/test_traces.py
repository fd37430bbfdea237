"""The trace that a job was submitted in: kept by every journal, and no failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, FakeHost, Save, crash, opened

from retryexec.journal import Journal, MemoryJournal
from retryexec.journal._entry import Entry, traced_entry
from retryexec.journal._failures import ERRORS_KEPT
from retryexec.journal._inspect import Inspector
from retryexec.journal._overview import DirectoryOverview
from retryexec.journal._rows import TRACE as KIND
from retryexec.journal._takeover import TRACE_PAUSE
from retryexec.web._causes import cause_of_json

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

MAKE = partial(traced_entry, TRACE)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    options: dict[str, Any] = {"jobs": JOBS}
    if request.param == "memory":
        made: Journal = MemoryJournal(**options)
    elif request.param == "sqlite":
        made = Journal(tmp_path, **options, poll=3600)
    else:
        made = request.getfixturevalue("schema")(**options, poll=3600)
    yield made
    made.close()


@pytest.fixture
def host(journal: Journal) -> FakeHost:
    host = FakeHost()
    journal.open(host)
    return host


def reopened(journal: Journal) -> list[Entry]:
    """Return what the journal hands over in its next life."""
    assert journal.flush(10)
    journal.close()
    host = FakeHost()
    journal.open(host)
    return sorted(host.recovered, key=lambda entry: entry.id)


def test_a_trace_comes_back(journal: Journal, host: FakeHost) -> None:
    """Of jobs with keys and without, in one batch with others; and again in the third life."""
    made = [
        journal.accept(Save("", 1), make=MAKE),
        journal.accept(Save("", 2)),
        journal.accept(Save("", 3), key="k", make=MAKE),
        journal.accept(Save("", 4), key="k"),
    ]
    for _ in range(2):
        again = reopened(journal)
        assert [entry.id for entry in again] == [entry.id for entry in made]
        assert [entry.trace for entry in again] == [TRACE, None, TRACE, None]
        assert [entry.attempts for entry in again] == [0] * 4
        assert [entry.elapsed for entry in again] == [0.0] * 4


def test_a_job_with_a_trace_waits_for_telemetry(journal: Journal, host: FakeHost) -> None:
    journal.accept(Save("", 1), make=MAKE)
    journal.accept(Save("", 2))
    assert [entry.due_in for entry in reopened(journal)] == [TRACE_PAUSE, 0.0]


def test_failures_come_behind_the_trace(journal: Journal, host: FakeHost) -> None:
    entry = journal.accept(Save(""), make=MAKE)
    for number in range(1, ERRORS_KEPT + 5):
        journal.retrying(entry, number, 0.0, OSError(str(number)), elapsed=1.0)
    (again,) = reopened(journal)
    assert again.trace == TRACE
    assert again.attempts == ERRORS_KEPT + 4
    assert len(again.errors) == ERRORS_KEPT + 1
    assert again.errors[-1].text == str(ERRORS_KEPT + 4)


@pytest.mark.parametrize("error", [OSError("down"), None])
def test_a_dead_letter_does_not_show_it_as_a_failure(
    journal: Journal, host: FakeHost, error: OSError | None
) -> None:
    entry = journal.accept(Save(""), make=MAKE)
    journal.died(entry, "permanent", 1, error)
    assert journal.flush(10)
    (letter,) = journal.dead
    assert [(e.attempt, e.type) for e in letter.errors] == [(1, "OSError" if error else "")]
    assert journal.dead.count(error="(traceparent)") == 0


def test_a_dead_letter_that_runs_again_has_it(journal: Journal, host: FakeHost) -> None:
    entry = journal.accept(Save(""), make=MAKE)
    journal.died(entry, "permanent", 1, OSError("down"))
    assert journal.flush(10)
    journal.dead.rerun(entry.id)
    journal.poll()
    assert [again.trace for again in reopened(journal)] == [TRACE]


def test_what_looks_into_a_journal_shows_no_trace(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    journal.accept(Save(""), make=MAKE)
    assert journal.flush(10)
    (job,) = Inspector(tmp_path).jobs()
    assert (job.errors, job.attempts, job.state) == ((), 0, "queued")
    journal.close()


def test_a_suspect_with_a_trace_does_not_wait(tmp_path: Path) -> None:
    """It was at work when its process died, and now waits for its turn, marked and alone."""
    journal, host = opened(tmp_path)
    suspect = journal.accept(Save("", 1), make=MAKE)
    host.at_work = [suspect]
    journal.accept(Save("", 2), make=MAKE)  # whose transaction marks the other
    assert suspect.marked
    crash(journal)
    journal, host = opened(tmp_path)
    found = [host.next(), host.next()]
    assert {entry.job.n: (entry.suspect, entry.due_in) for entry in found} == {
        1: (True, 0.0),
        2: (False, TRACE_PAUSE),
    }
    assert [entry.trace for entry in found] == [TRACE, TRACE]
    journal.close()


def test_what_ended_its_process_shows_no_trace_as_its_error(tmp_path: Path) -> None:
    """Nobody knows its error; its trace, which is all that is kept, is none."""
    journal, host = opened(tmp_path, max_crashes=1)
    suspect = journal.accept(Save("", 1), make=MAKE)
    host.at_work = [suspect]
    journal.accept(Save("", 2))
    crash(journal)
    journal, host = opened(tmp_path, max_crashes=1)
    assert journal.flush(10)
    (letter,) = journal.dead
    assert (letter.reason, letter.errors) == ("crashes", ())
    with closing(DirectoryOverview(tmp_path)) as overview:
        (group,) = overview.errors().groups
    assert (group.type, group.text, group.dead) == ("", "", 1)
    kept = f'[{{"attempt":0,"at":0.0,"type":"{KIND}","text":"{TRACE}"}}]'
    assert cause_of_json(kept, "crashes") == ("(crashes)", "", "")
    journal.close()
