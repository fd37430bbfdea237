"""A journal whose server goes away: restarts, hangs, cut connections and lost answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from time import monotonic
from typing import Any

import psycopg
import pytest
from helpers.jobs import InThread
from helpers.journal_kit import JOBS, FakeHost, Save, crash_on_server
from helpers.postgres import Schema, Server, serving, until

from retryexec.journal import Journal, JournalError
from retryexec.journal.postgres._connection import Database
from retryexec.journal.postgres._lane import PostgresLane

pytestmark = pytest.mark.timeout(120)

_numbers = count(1)


@pytest.fixture(scope="module")
def frail() -> Iterator[Server]:
    """A server that tests stop and start again."""
    with serving() as server:
        yield server


@pytest.fixture
def place(frail: Server) -> Iterator[Schema]:
    made = Schema(frail.url, f"outage_{next(_numbers)}")
    yield made
    made.drop()


@pytest.fixture
def journal(place: Schema) -> Iterator[Journal]:
    made = place(jobs=JOBS, poll=3600, accept_timeout=0.5)
    made.open(FakeHost())
    yield made
    made.close()


def ids(place: Schema) -> set[str]:
    return {name for (name,) in place.query("SELECT encode(uuid_send(id),'hex') FROM {s}.job")}


def terminate_all(place: Schema) -> int:
    """Cut all connections of journals; return how many."""
    found = place.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='retryexec'"
    )
    return len(found)


def test_cut_connections_are_made_anew(journal: Journal, place: Schema) -> None:
    accepted = set()
    for _ in range(10):
        assert terminate_all(place) >= 1
        accepted.add(journal.accept(Save("")).id)
    assert ids(place) == accepted
    assert len(journal.dead) == 0


def test_while_the_server_is_away_submitters_hear_it_soon(
    journal: Journal, place: Schema, frail: Server
) -> None:
    kept = journal.accept(Save("kept"))
    frail.stop("immediate")
    began = monotonic()
    for _ in range(5):
        with pytest.raises(JournalError, match=r"cannot be reached|not accepted"):
            journal.accept(Save("refused"))
    assert monotonic() - began < 20
    assert not journal.stats.__self__._engine.writer.healthy  # type: ignore[attr-defined]
    frail.start()
    journal.succeeded(kept)
    until(lambda: _accepts(journal))
    assert journal.flush(20)
    # What was refused is not there, whatever became of it meanwhile.
    rows = place.query("SELECT data FROM {s}.job")
    assert [("refused" in data) for (data,) in rows] == [False]


def _accepts(journal: Journal) -> bool:
    try:
        journal.accept(Save("new"))
    except JournalError:
        return False
    return True


def test_a_restart_within_accept_timeout_is_not_noticed(place: Schema, frail: Server) -> None:
    patient = place(jobs=JOBS, poll=3600, accept_timeout=60)
    patient.open(FakeHost())
    patient.accept(Save(""))
    frail.stop("immediate")
    waits = InThread(patient.accept, Save("waits"))
    frail.start()
    assert waits.result().accepted.result(30) is None
    assert len(ids(place)) == 2
    patient.close()


def test_nobody_takes_over_after_an_outage_longer_than_the_lease(
    place: Schema, frail: Server
) -> None:
    both = []
    for _ in range(2):
        host = FakeHost()
        made = place(jobs=JOBS, poll=3600, lease=2.0, grace=2.0)
        made.open(host)
        both.append((made, host, made.accept(Save("")), made._store.new_lane()))
    frail.stop("immediate")
    until(lambda: not any(lane.is_sure() for *_, lane in both))
    threading.Event().wait(2.0)  # the rest of the lease, by the clock of a server that is away
    frail.start()
    for made, _, _, _ in both:
        until(lambda made=made: _accepts(made))  # type: ignore[misc]
    until(lambda: all(lane.is_sure() for *_, lane in both))
    for made, host, entry, lane in both:
        assert made.poll() == 0
        assert (host.recovered, host.lost, lane.lost, entry.moved) == ([], [], False, False)
    for made, _, _, _ in both:
        made.close()


def test_a_server_that_answers_nothing_is_not_waited_for(
    journal: Journal, place: Schema, frail: Server
) -> None:
    journal.accept(Save("before"))
    with frail.hung():
        began = monotonic()
        with pytest.raises(JournalError):
            journal.accept(Save("refused"))
        assert monotonic() - began < 30
    until(lambda: _accepts(journal))
    assert journal.flush(30)
    rows = place.query("SELECT data FROM {s}.job")
    assert [data for (data,) in rows if "refused" in data] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_transaction_whose_answer_is_lost_is_made_once(
    journal: Journal, place: Schema, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whether it was committed before the connection broke or not."""
    entries = [journal.accept(Save("", n)) for n in range(3)]
    write, cuts = PostgresLane._write, iter([True])

    def write_and_lose(lane: PostgresLane, link: Any, *rest: Any) -> int:
        lose = next(cuts, False)
        if lose and when == "before":
            link.get().close()
        missing = write(lane, link, *rest)
        if lose:
            link.get().close()
            raise psycopg.OperationalError("the answer is lost")
        return missing

    monkeypatch.setattr(PostgresLane, "_write", write_and_lose)
    for entry in entries[:2]:
        journal.succeeded(entry)
    new = journal.accept(Save("", 3))
    assert journal.flush(10)
    assert new.accepted.result(10) is None
    assert ids(place) == {entries[2].id, new.id}
    assert next(cuts, None) is None


def test_ends_whose_answer_is_lost_for_long_are_not_taken_for_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They were committed, the server was away for longer than anybody waits, and is back."""
    entries = [journal.accept(Save("", n)) for n in range(3)]
    write, away, writer = PostgresLane._write, threading.Event(), journal._engine.writer  # type: ignore[union-attr]
    away.set()

    def write_and_lose(lane: PostgresLane, *rest: Any) -> int:
        missing = write(lane, *rest)
        if away.is_set():
            raise psycopg.OperationalError("the answer is lost")
        return missing

    monkeypatch.setattr(PostgresLane, "_write", write_and_lose)
    for entry in entries:
        journal.succeeded(entry)
    until(lambda: not writer.healthy)
    away.clear()
    assert journal.flush(20)
    assert "others have ended them" not in caplog.text


def test_what_was_taken_as_the_connection_was_lost_is_found(place: Schema) -> None:
    first = place(jobs=JOBS, poll=3600)
    first.open(FakeHost())
    for n in range(5):
        first.accept(Save("", n))
    life = crash_on_server(first)
    host = FakeHost()
    second = place(jobs=JOBS, poll=3600)
    second.open(host)
    taker, lane = second._store._taker, second._store.new_lane()
    own = second.accept(Save("own"))
    # As if it had taken them, and not heard the answer.
    place.query("UPDATE {s}.job SET owner=%s WHERE owner=%s", lane.life, life)
    taker._unsure = True
    assert second.poll() == 5
    assert [job.n for job in host.jobs] == [*range(5)]
    assert second.poll() == 0
    second.succeeded(own)
    second.close()


def test_a_takeover_that_breaks_is_made_up_for(
    place: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place(jobs=JOBS, poll=3600)
    first.open(FakeHost())
    first.accept(Save(""))
    second, host = place(jobs=JOBS, poll=3600), FakeHost()
    second.open(host)
    taker = second._store._taker
    joined, cuts = taker._joined, iter([True])

    def break_first(*arguments: Any, **more: Any) -> Any:
        if next(cuts, False):
            raise psycopg.OperationalError("gone")
        return joined(*arguments, **more)

    monkeypatch.setattr(taker, "_joined", break_first)
    place.expire(crash_on_server(first))
    until(lambda: second.poll() == 1 or bool(host.jobs))
    assert next(cuts, None) is None
    assert host.jobs == [Save("")]
    second.close()


def test_the_server_ends_the_session_of_a_client_that_vanishes(place: Schema) -> None:
    """On a network it looks after each, which a Unix socket cannot show but as settings."""
    database = Database(place.url, place.name, patience=5.0, power=True)
    with database.connect() as connection:
        query = b"SELECT name FROM pg_settings WHERE name LIKE 'tcp%' AND source='session'"
        found = {name for (name,) in connection.execute(query)}
    assert found == {
        *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
        "tcp_user_timeout",
    }
