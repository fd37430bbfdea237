"""What every journal promises, whatever it keeps its jobs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Call, FakeHost, Save

from retryexec.journal import JobRefused, Journal, JournalError, MemoryJournal

AnyJournal = Journal | MemoryJournal


class Wall:
    """The time of day, set by hand."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture(params=["memory", "sqlite", "sqlite-async", "postgres", "postgres-async"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, wall: Wall) -> Iterator[AnyJournal]:
    made: AnyJournal
    if request.param == "memory":
        made = MemoryJournal(jobs=JOBS, wall_clock=wall)
    else:
        accept: Any = "async" if request.param.endswith("-async") else "wait"
        options: Any = {"jobs": JOBS, "wall_clock": wall, "accept": accept, "poll": 3600}
        if request.param.startswith("sqlite"):
            made = Journal(tmp_path, **options)
        else:
            made = request.getfixturevalue("schema")(**options)
    yield made
    made.close()


@pytest.fixture
def host(journal: AnyJournal) -> FakeHost:
    host = FakeHost()
    journal.open(host)
    return host


def reopened(journal: AnyJournal) -> FakeHost:
    """Return the host of the journal's next life, with what it was handed."""
    assert journal.flush(10)
    journal.close()
    host = FakeHost()
    journal.open(host)
    return host


def test_what_is_accepted_comes_back_in_order(journal: AnyJournal, host: FakeHost) -> None:
    jobs = [Save("john@example.com", n) for n in range(700)] + [Call("/", ["a", "b"])]
    ids = [journal.accept(job).id for job in jobs]
    again = reopened(journal)
    assert again.jobs == jobs
    assert [entry.id for entry in again.recovered] == ids
    assert [entry.kind for entry in again.recovered] == ["save"] * 700 + ["call"]


def test_ids_are_uuids_in_the_order_of_acceptance(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    import uuid

    ids = []
    for n in range(20):
        wall.time += 0.001
        ids.append(journal.accept(Save("", n)).id)
    assert ids == sorted(set(ids))
    assert len(ids) == 20
    uuids = [uuid.UUID(text) for text in ids]
    assert {(made.version, made.variant) for made in uuids} == {(7, uuid.RFC_4122)}


def test_accepted_is_resolved(journal: AnyJournal, host: FakeHost) -> None:
    entry = journal.accept(Save(""))
    assert entry.accepted is entry.accepted
    assert entry.accepted.result(10) is None


def test_ids_are_whole_where_the_clock_was_never_set(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    wall.time = -5.0
    name = journal.accept(Save("")).id
    assert len(name) == 32
    assert int(name, 16) < 1 << 80


@pytest.mark.parametrize("end", ["succeeded", "cancelled"])
def test_what_has_ended_does_not_come_back(journal: AnyJournal, host: FakeHost, end: str) -> None:
    entries = [journal.accept(Save("", n)) for n in range(9)]
    for entry in entries[::2]:
        getattr(journal, end)(entry)
    assert [job.n for job in reopened(journal).jobs] == [1, 3, 5, 7]
    assert len(journal.dead) == 0


def test_an_end_is_recorded_once(journal: AnyJournal, host: FakeHost) -> None:
    entry = journal.accept(Save(""))
    journal.succeeded(entry)
    journal.succeeded(entry)
    assert journal.flush(10)
    journal.died(entry, "late", 1)
    journal.retrying(entry, 1, 0.0, None)
    assert reopened(journal).jobs == []
    assert len(journal.dead) == 0


def test_a_job_comes_back_where_it_was(journal: AnyJournal, host: FakeHost, wall: Wall) -> None:
    entry = journal.accept(Save(""))
    wall.time += 10
    journal.retrying(entry, 1, 1.0, OSError("first"), elapsed=2.0)
    wall.time += 1
    journal.retrying(entry, 2, 60.0, None)
    assert entry.attempts == 2
    wall.time += 20
    (again,) = reopened(journal).recovered
    assert again.id == entry.id
    assert again.attempts == 2
    assert again.due_in == 40.0
    assert again.elapsed == 3.0  # until the second failure; nobody has run it since
    assert [(e.attempt, e.type, e.text) for e in again.errors] == [
        (1, "OSError", "first"),
        (2, "", ""),
    ]


@pytest.mark.parametrize(("jump", "due_in"), [(-365 * 86400, 60.0), (365 * 86400, 0.0)])
def test_clock_that_jumps_a_year(
    journal: AnyJournal, host: FakeHost, wall: Wall, jump: float, due_in: float
) -> None:
    """A wait is at most what was asked for, and never negative; nor is what has passed."""
    entry = journal.accept(Save(""))
    journal.retrying(entry, 1, 60.0, None)
    wall.time += jump
    (again,) = reopened(journal).recovered
    assert again.due_in == due_in
    assert again.elapsed == 0.0


def test_recovered_jobs_end_like_any_other(journal: AnyJournal, host: FakeHost) -> None:
    for n in range(3):
        journal.accept(Save("", n))
    first, second, third = reopened(journal).recovered
    journal.succeeded(first)
    journal.retrying(second, 1, 0.5, ValueError("bad"))
    journal.died(third, "max_attempts", 7, OSError("over"))
    (again,) = reopened(journal).recovered
    assert (again.job.n, again.attempts) == (1, 1)
    (letter,) = journal.dead
    assert letter.id == third.id


def test_the_errors_kept_are_the_latest(journal: AnyJournal, host: FakeHost) -> None:
    entry = journal.accept(Save(""))
    for n in range(1, 31):
        journal.retrying(entry, n, 0.0, OSError("x" * 9999))
    (again,) = reopened(journal).recovered
    assert [error.attempt for error in again.errors] == list(range(21, 31))
    assert all(len(error.text) <= 500 for error in again.errors)


# ---- refusals


def test_a_job_that_would_change_is_refused(journal: AnyJournal, host: FakeHost) -> None:
    with pytest.raises(JobRefused, match=r"'save'.*\bn\b"):
        journal.accept(Save("", True))
    assert reopened(journal).jobs == []


@pytest.mark.parametrize("job", [len, lambda: None, Save, object(), "text", None])
def test_what_is_no_registered_job_is_refused(
    journal: AnyJournal, host: FakeHost, job: Any
) -> None:
    with pytest.raises(TypeError, match=r"jobs=|instance"):
        journal.accept(job)
    assert reopened(journal).jobs == []


def test_a_closed_journal_refuses_jobs(journal: AnyJournal) -> None:
    with pytest.raises(JournalError, match="closed"):
        journal.accept(Save(""))
    journal.open(FakeHost())
    entry = journal.accept(Save(""))
    journal.close()
    journal.succeeded(entry)  # too late: the file is anybody's by now
    with pytest.raises(JournalError, match="closed"):
        journal.accept(Save(""))
    host = FakeHost()
    journal.open(host)
    assert host.jobs == [Save("")]


def test_it_is_opened_once_at_a_time(journal: AnyJournal, host: FakeHost) -> None:
    with pytest.raises(JournalError, match="open already"):
        journal.open(FakeHost())
    journal.close()
    journal.close()


# ---- dead letters


def test_a_dead_letter_tells_the_story(journal: AnyJournal, host: FakeHost, wall: Wall) -> None:
    entry = journal.accept(Call("/", ["a"]))
    wall.time += 5
    journal.retrying(entry, 1, 0.0, OSError("first"))
    wall.time += 5
    try:
        raise ValueError("second")
    except ValueError as error:
        journal.died(entry, "max_attempts", 2, error)
    assert journal.flush(10)
    (letter,) = journal.dead.list()
    assert letter == journal.dead.get(entry.id)
    assert (letter.id, letter.kind, letter.version) == (entry.id, "call", 1)
    assert letter.fields == {"url": "/", "tags": ["a"]}
    assert (letter.reason, letter.attempts, letter.crashes) == ("max_attempts", 2, 0)
    assert (letter.accepted_at, letter.died_at) == (1_000_000.0, 1_000_010.0)
    first, second = letter.errors
    assert (first.attempt, first.type, first.text) == (1, "OSError", "first")
    assert (second.attempt, second.type) == (2, "ValueError")
    assert "Traceback" in second.text
    assert "second" in second.text
    assert "/" not in repr(letter)  # which ends in logs
    assert reopened(journal).jobs == []


def test_dead_letters_are_rerun_under_the_same_id(journal: AnyJournal, host: FakeHost) -> None:
    entry = journal.accept(Save("", 1))
    journal.died(entry, "max_attempts", 2, OSError("no"))
    assert journal.flush(10)
    journal.dead.rerun(entry.id)
    again = host.next()
    assert (again.id, again.job, again.attempts) == (entry.id, Save("", 1), 0)
    assert len(journal.dead) == 0
    journal.died(again, "again", 1, OSError("no"))
    assert journal.flush(10)
    assert [letter.reason for letter in journal.dead] == ["again"]
    assert reopened(journal).jobs == []


def test_a_rerun_has_all_its_time_again(journal: AnyJournal, host: FakeHost, wall: Wall) -> None:
    """However long it lay among the dead, and however often the process ends meanwhile."""
    entry = journal.accept(Save(""))
    journal.retrying(entry, 1, 5.0, OSError("no"), elapsed=2.0)
    journal.died(entry, "max_elapsed", 2, OSError("no"))
    assert journal.flush(10)
    wall.time += 5000
    journal.dead.rerun(entry.id)
    again = host.next()
    assert (again.attempts, again.due_in, again.elapsed) == (0, 0.0, 0.0)
    wall.time += 100
    journal.retrying(again, 1, 5.0, OSError("no"), elapsed=3.0)
    wall.time += 10
    (again,) = reopened(journal).recovered
    assert (again.attempts, again.elapsed) == (1, 3.0)


def test_dead_letters_are_rerun_by_kind(journal: AnyJournal, host: FakeHost) -> None:
    jobs = [Save("", 1), Call("/"), Save("", 2)]
    for job in jobs:
        journal.died(journal.accept(job), "permanent", 1, OSError("no"))
    assert journal.flush(10)
    assert journal.dead.rerun_all("save") == 2
    assert sorted(host.next().job.n for _ in range(2)) == [1, 2]
    assert [letter.kind for letter in journal.dead] == ["call"]
    assert journal.dead.rerun_all() == 1
    assert journal.dead.rerun_all() == 0
    assert host.next().job == Call("/")


def test_dead_letters_are_mended(journal: AnyJournal, host: FakeHost) -> None:
    entry = journal.accept(Save("jon@example.com", 1))
    journal.died(entry, "permanent", 1, OSError("no"))
    assert journal.flush(10)
    letter = journal.dead.edit(entry.id, email="john@example.com")
    assert letter.fields == {"email": "john@example.com", "n": 1}
    with pytest.raises(JobRefused, match="n"):
        journal.dead.edit(entry.id, n="seven")
    with pytest.raises(JobRefused, match="mail"):
        journal.dead.edit(entry.id, mail="")
    journal.dead.rerun(entry.id)
    assert host.next().job == Save("john@example.com", 1)


def test_dead_letters_are_discarded(journal: AnyJournal, host: FakeHost) -> None:
    entries = [journal.accept(job) for job in (Save(""), Call("/"), Call("/"))]
    for entry in entries:
        journal.died(entry, "permanent", 1, OSError("no"))
    assert journal.flush(10)
    journal.dead.discard(entries[0].id)
    assert journal.dead.discard_all("save") == 0
    assert len(journal.dead) == 2
    assert journal.dead.discard_all() == 2
    assert list(journal.dead) == []


def test_what_is_no_dead_letter_is_named(journal: AnyJournal, host: FakeHost) -> None:
    calls = [journal.dead.get, journal.dead.rerun, journal.dead.discard, journal.dead.edit]
    journal.died(journal.accept(Save("")), "permanent", 1)
    assert journal.flush(10)
    for call in calls:
        with pytest.raises(LookupError, match="'nobody'"):
            call("nobody")


def test_letters_are_listed_the_latest_first(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    for n in range(5):
        wall.time += 1
        journal.died(journal.accept(Save("", n)), "permanent", 1)
        assert journal.flush(10)
    assert [letter.fields["n"] for letter in journal.dead.list(limit=3)] == [4, 3, 2]
    assert journal.dead.list("call") == []


# ---- keys


KEYS: list[Any] = ["ana@example.com", 7, ("user", 7), b"\x00\xff", 1.5, True, ("a", (None, "b"))]


def test_keys_come_back_equal(journal: AnyJournal, host: FakeHost) -> None:
    for latest in (False, True):
        for key in KEYS:
            journal.accept(Save(f"{key!r}"), key=(key, latest), latest=latest)
    journal.accept(Save("none"))
    again = reopened(journal)
    found = [entry.key and (entry.key.value, entry.key.latest) for entry in again.recovered]
    assert found == [*(((k, latest), latest) for latest in (False, True) for k in KEYS), None]


def test_jobs_of_a_key_come_back_in_order_and_of_a_latest_key_the_newest(
    journal: AnyJournal, host: FakeHost
) -> None:
    for number in range(5):
        journal.accept(Save("all", number), key="all")
        journal.accept(Save("latest", number), key="latest", latest=True)
    again = reopened(journal)
    assert again.jobs == [*(Save("all", n) for n in range(5)), Save("latest", 4)]
    assert reopened(journal).jobs == again.jobs


def test_a_replaced_job_does_not_come_back(journal: AnyJournal, host: FakeHost) -> None:
    older = journal.accept(Save("", 1), key="k", latest=True)
    for number in range(2, 50):
        newer = journal.accept(Save("", number), key="k", latest=True)
        journal.superseded(older, newer)
        older = newer
    assert journal.flush(10)
    assert journal.stats().unfinished == 1
    assert reopened(journal).jobs == [Save("", 49)]


def test_a_replaced_job_and_its_newer_one_end_together(journal: AnyJournal, host: FakeHost) -> None:
    older = journal.accept(Save("older"), key="k", latest=True)
    newer = journal.accept(Save("newer"), key="k", latest=True)
    journal.superseded(older, newer)
    journal.succeeded(newer)
    assert reopened(journal).jobs == []


def test_a_letter_is_stale_once_a_later_job_of_its_key_has_succeeded(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    old = journal.accept(Save("old"), key=("user", 7), latest=True)
    journal.died(old, "permanent", 1)
    assert journal.flush(10)
    assert [(letter.key, letter.stale) for letter in journal.dead] == [(("user", 7), False)]
    wall.time += 1.0
    journal.succeeded(journal.accept(Save("newer"), key=("user", 7)))
    assert journal.flush(10)
    assert journal.dead.get(old.id).stale
    with pytest.raises(JournalError, match=r"\('user', 7\).*force=True"):
        journal.dead.rerun(old.id)
    assert (journal.dead.rerun_all(), len(journal.dead)) == (0, 1)
    journal.dead.rerun(old.id, force=True)
    again = reopened(journal)
    (entry,) = again.recovered
    assert entry.key is not None
    assert (entry.id, entry.key.value, entry.key.latest) == (old.id, ("user", 7), True)
    journal.died(entry, "permanent", 1)
    assert journal.flush(10)
    assert journal.dead.get(old.id).stale  # as it was before


def test_an_earlier_job_of_its_key_makes_no_letter_stale(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    first = journal.accept(Save("first"), key="k")
    wall.time += 1.0
    later = journal.accept(Save("later"), key="k")
    journal.died(later, "permanent", 1)
    journal.succeeded(first)
    assert journal.flush(10)
    assert not journal.dead.get(later.id).stale


def test_a_key_that_cannot_be_kept_is_refused(journal: AnyJournal, host: FakeHost) -> None:
    with pytest.raises(TypeError, match="cannot be kept"):
        journal.accept(Save("x"), key=frozenset({1}))
    assert reopened(journal).jobs == []


def test_a_letter_that_is_rerun_replaces_no_newer_job_of_its_key(
    journal: AnyJournal, host: FakeHost
) -> None:
    old = journal.accept(Save("old"), key="k", latest=True)
    journal.died(old, "permanent", 1, OSError("no"))
    assert journal.flush(10)
    journal.accept(Save("new"), key="k", latest=True)
    journal.dead.rerun(old.id)
    assert host.next().id == old.id
    assert Save("new") in reopened(journal).jobs


def test_a_newer_job_has_the_greater_id_though_the_clock_is_set_back(
    journal: AnyJournal, host: FakeHost, wall: Wall
) -> None:
    """Also if the older one was accepted by another process."""
    ids = []
    for _ in range(3):
        for _ in range(2):
            ids.append(journal.accept(Save("", len(ids)), key=len(ids)).id)
            wall.time -= 1000.0
        reopened(journal)
    assert ids == sorted(ids)
    journal.accept(Save("newest"), key=0, latest=True)
    assert Save("newest") in reopened(journal).jobs
