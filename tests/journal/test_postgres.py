"""A journal on PostgreSQL: owners, leases, fences and takeovers, and what is wrong with a URL."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from helpers.jobs import Gate, InThread
from helpers.journal_kit import JOBS, Call, FakeHost, Save, crash_on_server, settled
from helpers.postgres import Schema, Server, until
from journal.test_executor import Save as Work

from retryexec import MovedError, RetryingExecutor, RetryPolicy, StopReason
from retryexec.journal import Journal, JournalError
from retryexec.journal._entry import EntryState
from retryexec.journal.postgres import _taker

Open = Callable[..., tuple[Journal, FakeHost]]


def died(journal: Journal, schema: Schema) -> int:
    """Let the process of *journal* die, and its lease run out."""
    life = crash_on_server(journal)
    schema.expire(life)
    return life


def declare_dead(schema: Schema, journal: Journal) -> None:
    """Declare the life of an open *journal* dead, as another process would."""
    life = journal._store.new_lane().life
    schema.query("UPDATE {s}.owner SET dead=true,dead_xid=pg_current_xact_id() WHERE id=%s", life)


# ---- owners


def test_jobs_of_a_dead_owner_are_taken_over_once_its_lease_has_run_out(
    on_server: Open, schema: Schema
) -> None:
    first, _ = on_server()
    ids = [first.accept(Save("", n)).id for n in range(1200)]
    life = crash_on_server(first)
    second, host = on_server()
    assert second.poll() == 0
    schema.expire(life)
    until(lambda: second.poll() >= 0 and len(host.recovered) == 1200)
    assert [entry.id for entry in host.recovered] == ids
    assert schema.query("SELECT count(*) FROM {s}.job WHERE owner=%s", life) == [(0,)]


def test_several_processes_share_what_a_dead_one_has_left(
    on_server: Open, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_taker, "LOT", 10)
    first, _ = on_server()
    others = [on_server(), on_server()]
    for n in range(500):
        first.accept(Save("", n))
    died(first, schema)
    both = threading.Barrier(2, timeout=10)
    threads = [
        InThread(lambda journal=journal: (both.wait(), journal.poll())) for journal, _ in others
    ]
    assert sum(thread.result()[1] for thread in threads) == 500
    assert sorted(job.n for _, host in others for job in host.jobs) == [*range(500)]


def test_a_process_with_much_in_its_hands_takes_over_the_rest_later(
    on_server: Open, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_taker, "LOT", 10)
    monkeypatch.setattr(_taker, "ENOUGH", 20)
    first, _ = on_server()
    for n in range(95):
        first.accept(Save("", n))
    died(first, schema)
    second, host = on_server()
    assert second.poll() == 0
    assert len(host.recovered) == 20
    ended = 0
    while ended < 95:
        until(lambda ended=ended: len(host.recovered) > ended)  # type: ignore[misc]
        for entry in host.recovered[ended:]:
            second.succeeded(entry)
            ended += 1
            assert second.flush(10)
    assert sorted(job.n for job in host.jobs) == [*range(95)]


def test_a_job_is_blamed_for_the_death_of_its_process_if_it_was_at_work(
    on_server: Open, schema: Schema
) -> None:
    first, host = on_server()
    entries = [first.accept(Save("", n)) for n in range(3)]
    host.at_work = [entries[1]]
    first._engine.poll()  # type: ignore[union-attr]
    assert first.flush(10)
    died(first, schema)
    second, host = on_server()
    assert settled(second) is False
    assert {entry.job.n: entry.crashes for entry in host.recovered} == {0: 0, 1: 1, 2: 0}
    assert [entry.suspect for entry in host.recovered if entry.job.n == 1] == [True]


def test_a_job_that_failed_since_it_was_seen_at_work_is_not_blamed(
    on_server: Open, schema: Schema
) -> None:
    first, host = on_server()
    entry = first.accept(Save(""))
    host.at_work = [entry]
    first._engine.poll()  # type: ignore[union-attr]
    assert first.flush(10)
    host.at_work = []
    first.retrying(entry, 1, 0.0, OSError("busy"))
    assert first.flush(10)
    life = died(first, schema)
    schema.query("UPDATE {s}.owner SET running=%s WHERE id=%s", [entry.row, 0], life)
    _, host = on_server()
    assert [(e.attempts, e.crashes) for e in host.recovered] == [(1, 0)]


def test_poison_becomes_a_dead_letter(on_server: Open, schema: Schema) -> None:
    journal, host = on_server()
    poison = journal.accept(Save("poison"))
    bystander = journal.accept(Save("bystander"))
    host.at_work = [poison]
    for _ in range(3):
        journal._engine.poll()  # type: ignore[union-attr]
        assert journal.flush(10)
        died(journal, schema)
        journal, host = on_server()
        settled(journal)
        host.at_work = [entry for entry in host.recovered if entry.id == poison.id]
        for entry in host.at_work:
            journal.starting(entry)
    assert [(letter.id, letter.reason, letter.crashes) for letter in journal.dead] == [
        (poison.id, "crashes", 3)
    ]
    assert [(entry.id, entry.crashes) for entry in host.recovered] == [(bystander.id, 0)]


def test_jobs_of_owners_that_crash_without_a_word_are_run_one_at_a_time(
    on_server: Open, schema: Schema
) -> None:
    """One that kills its process before any renewal tells of it."""
    journal, host = on_server()
    for n in range(3):
        journal.accept(Save("", n))
    for alone in (False, True):
        died(journal, schema)
        journal, host = on_server()
        assert settled(journal) is not alone
        assert len(host.recovered) == (1 if alone else 3)
    assert host.recovered[0].suspect


def test_records_that_nobody_can_read_are_parked_and_come_back(
    on_server: Open, schema: Schema
) -> None:
    first, _ = on_server()
    first.accept(Save("", 1))
    first.accept(Call("/"))
    first.close()
    second, host = on_server(jobs={"save": Save})
    assert host.jobs == [Save("", 1)]
    assert second.stats().parked == 1
    second.close()
    third, host = on_server(jobs={"save": Save})
    assert (host.jobs, third.stats().parked) == ([Save("", 1)], 0)  # and it looks no more
    third.close()
    _, host = on_server()
    assert sorted(map(repr, host.jobs)) == sorted(map(repr, [Save("", 1), Call("/")]))


# ---- fences


def test_an_owner_that_was_declared_dead_writes_nothing_more(
    on_server: Open, schema: Schema
) -> None:
    journal, host = on_server()
    entries = [journal.accept(Save("", n)) for n in range(4)]
    declare_dead(schema, journal)
    journal.succeeded(entries[0])
    journal.died(entries[1], "permanent", 1, OSError("no"))
    journal.retrying(entries[2], 1, 0.0, OSError("no"))
    assert journal.flush(10)
    rows = schema.query("SELECT attempts FROM {s}.job")
    assert rows == [(0,)] * 4
    assert len(journal.dead) == 0
    until(lambda: bool(host.lost))
    assert {entry.job.n for entry in host.lost} >= {3}


def test_after_it_was_declared_dead_a_process_begins_another_life(
    on_server: Open, schema: Schema
) -> None:
    journal, host = on_server()
    old = journal.accept(Save("", 1))
    declare_dead(schema, journal)
    new = journal.accept(Save("", 2))
    assert new.accepted.result(10) is None
    assert old.moved
    until(lambda: host.lost == [old])
    # Nobody else is there, so it takes the old one over from itself.
    until(lambda: journal.poll() == 1 or host.jobs == [Save("", 1)])
    assert host.recovered[0].id == old.id
    journal.succeeded(new)
    journal.succeeded(host.recovered[0])
    assert journal.flush(10)
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]


def test_nobody_is_declared_dead_for_one_lease_after_the_server_has_started(
    on_server: Open, schema: Schema
) -> None:
    first, _ = on_server()
    first.accept(Save(""))
    died(first, schema)
    second, host = on_server(grace=5000.0)
    assert second.poll() == 0
    second._store._taker.grace = second._store._taker._judge_after = 0.0
    until(lambda: second.poll() == 1 or bool(host.jobs))
    assert host.jobs == [Save("")]


def test_nobody_is_declared_dead_for_one_lease_after_an_outage(
    on_server: Open, schema: Schema
) -> None:
    second, host = on_server()
    taker = second._store._taker
    first, _ = on_server()
    first.accept(Save(""))
    taker.grace = 5000.0
    second._store._keeper._reconnected()
    taker.grace = 0.0
    died(first, schema)
    assert second.poll() == 0
    taker._judge_after = 0.0
    until(lambda: second.poll() == 1 or bool(host.jobs))
    assert host.jobs == [Save("")]


def test_a_lane_is_kept_while_a_transaction_may_still_add_to_it(
    on_server: Open, schema: Schema
) -> None:
    """An insert that was under way as its owner was declared dead is found."""
    first, _ = on_server()
    first.accept(Save("", 1))
    life = first._store.new_lane().life
    with psycopg.connect(schema.url) as late:
        late.execute(
            f'INSERT INTO "{schema.name}".job(owner,seq,id,kind,ver,data) '  # noqa: S608
            'SELECT %s,%s,gen_random_uuid(),\'save\',1,\'{"email":"","n":2}\' '
            f'WHERE EXISTS(SELECT FROM "{schema.name}".owner WHERE id=%s AND NOT dead)',
            [life, (life << 36) + 77, life],
        )
        died(first, schema)
        second, host = on_server()
        assert host.jobs == [Save("", 1)]
        assert second.poll() == 0
        late.commit()
    until(lambda: second.poll() >= 0 and host.jobs == [Save("", 1), Save("", 2)])
    until(lambda: second.poll() == 0 and schema.query("SELECT FROM {s}.owner WHERE dead") == [])


def test_a_forked_child_has_a_life_of_its_own(on_server: Open, schema: Schema) -> None:
    journal, _ = on_server()
    kept = journal.accept(Save("parent", 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:  # pragma: no cover  in the child
        code = 1
        try:
            journal.put(Save("put", 2))
            entry = journal.accept(Save("child", 3))
            journal.succeeded(journal.accept(Save("child", 4)))
            code = 0 if journal.flush(10) and entry.accepted.done() else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert journal.accept(Save("parent", 5)).accepted.done()
    journal.succeeded(kept)
    assert journal.flush(10)
    assert len(schema.query("SELECT FROM {s}.owner")) == 2
    rows = schema.query("SELECT (data::json->>'n')::int FROM {s}.job ORDER BY 1")
    assert [n for (n,) in rows] == [2, 3, 5]


# ---- with an executor


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Work.seen.clear()
    Work.gates.clear()
    yield
    for gate in Work.gates.values():
        gate.open()


def test_futures_of_jobs_that_were_taken_end_as_moved(schema: Schema) -> None:
    """The one at work ends as it ends; those that waited or were queued are the other's."""
    gate = Work.gates["at work"] = Gate()
    given_up: list[Any] = []
    policy = RetryPolicy(backoff=[100.0])
    with RetryingExecutor(
        1, journal=schema(jobs={"work": Work}, poll=3600), policy=policy, on_give_up=given_up.append
    ) as executor:
        waits = executor.submit(Work("waits", fails=1))
        until(lambda: waits.next_attempt_at is not None)
        at_work = executor.submit(Work("at work"))
        assert gate.reached()
        queued = executor.submit(Work("queued"))
        journal: Any = executor._link._journal  # type: ignore[union-attr]
        # The other one takes them, and runs none of them.
        journal._store._taker.grace = 5000.0
        declare_dead(schema, journal)
        other = FakeHost()
        taker = schema(jobs={"work": Work}, poll=3600)
        taker.open(other)
        assert len(other.recovered) == 3
        executor.submit(Work("new"))
        assert isinstance(waits.exception(10), MovedError)
        assert isinstance(queued.exception(10), MovedError)
        assert {waits.stop_reason, queued.stop_reason} == {StopReason.MOVED}
        assert isinstance(waits.exception().__cause__, OSError)  # type: ignore[union-attr]
        gate.open()
        assert at_work.result(10) == "at work"
    assert {event.stop_reason for event in given_up} == {StopReason.MOVED}
    assert [key for key, *_ in Work.seen] == ["waits", "at work", "new"]
    taker.close()


def test_a_moved_job_that_fails_is_not_tried_again_here(schema: Schema) -> None:
    gate = Work.gates["at work"] = Gate()
    policy = RetryPolicy(backoff=[0.0] * 9)
    with RetryingExecutor(
        1, journal=schema(jobs={"work": Work}, poll=3600), policy=policy
    ) as executor:
        at_work = executor.submit(Work("at work", fails=1))
        assert gate.reached()
        journal: Any = executor._link._journal  # type: ignore[union-attr]
        declare_dead(schema, journal)
        taker = schema(jobs={"work": Work}, poll=3600)
        taker.open(FakeHost())
        executor.submit(Work("new"))  # so that it notices
        entry: Any = at_work.entry  # type: ignore[attr-defined]
        until(lambda: entry.moved)
        gate.open()
        assert isinstance(at_work.exception(10), OSError)
        assert at_work.stop_reason is StopReason.MOVED
        assert at_work.attempts == 1
    assert len(taker.dead) == 0
    taker.close()


def test_no_attempt_starts_while_the_lease_is_not_sure(schema: Schema) -> None:
    journal: Any = schema(jobs={"work": Work}, poll=3600, lease=60)
    with RetryingExecutor(1, journal=journal) as executor:
        lane = journal._store.new_lane()
        renewed, lane.renewed = lane.renewed, lambda asked: None  # by its keeper, at any moment
        lane._sure_until = 0.0
        future = executor.submit(Work("waits"))
        cancelled = executor.submit(Work("cancelled"))
        assert cancelled.cancel()
        assert not future.running()
        assert Work.seen == []
        from retryexec.journal.postgres._lane import awake

        lane.renewed = renewed
        lane.renewed(awake())
        assert future.result(10) == "waits"


def test_no_attempt_of_a_lost_life_starts_because_the_next_one_has_begun(
    on_server: Open, schema: Schema
) -> None:
    """In the moment before its jobs are told that they are another process's."""
    journal, _ = on_server()
    entry = journal.accept(Save(""))
    store = journal._store
    old = store.new_lane()
    old.lose()
    old.left = True
    assert store.new_lane() is not old
    waits = InThread(store.may_start, entry, lambda: False)
    waits.join(0.2)
    assert waits.is_alive()
    entry.state = EntryState.ENDED
    assert waits.result() is False


def test_a_shutdown_does_not_wait_for_a_lease(schema: Schema) -> None:
    journal: Any = schema(jobs={"work": Work}, poll=3600, lease=60)
    executor = RetryingExecutor(1, journal=journal)
    journal._store.new_lane()._sure_until = 0.0
    executor.submit(Work("waits"))
    report = executor.shutdown(timeout=0.0)
    assert report.journaled == 1
    assert Work.seen == []


# ---- what is wrong


def test_a_wrong_password_is_told(server: Server, schema: Schema) -> None:
    schema(jobs=JOBS)
    schema.query("DROP ROLE IF EXISTS locked")
    schema.query("CREATE ROLE locked LOGIN PASSWORD 'right'")
    with pytest.raises(JournalError, match="password"):
        Journal(server.url_of("locked", password="wrong"), jobs=JOBS)
    schema.query("DROP ROLE locked")


def test_the_password_is_in_no_message(server: Server) -> None:
    with pytest.raises(JournalError) as caught:
        Journal(server.url_of("nobody", password="secret"), jobs=JOBS)
    assert "secret" not in str(caught.value)
    assert "does not exist" in str(caught.value)


def test_a_missing_privilege_is_named(server: Server, schema: Schema) -> None:
    schema(jobs=JOBS)
    schema.query("DROP ROLE IF EXISTS limited")
    schema.query("CREATE ROLE limited LOGIN")
    try:
        url = server.url_of("limited")
        with pytest.raises(JournalError, match=r'USAGE on the schema "test'):
            Journal(url, schema=schema.name, jobs=JOBS)
        schema.query("GRANT USAGE ON SCHEMA {s} TO limited")
        schema.query("GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO limited")
        with pytest.raises(JournalError, match=r"lacks INSERT on owner.*GRANT"):
            Journal(url, schema=schema.name, jobs=JOBS)
        with pytest.raises(JournalError, match="CREATE on the database"):
            Journal(url, schema="another", jobs=JOBS)
        schema.query("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO limited")
        schema.query("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {s} TO limited")
        journal = Journal(url, schema=schema.name, jobs=JOBS)
        journal.open(FakeHost())
        journal.accept(Save(""))
        journal.put(Save(""))
        journal.close()
    finally:
        schema.query("DROP OWNED BY limited")
        schema.query("DROP ROLE limited")


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be reached"):
        Journal(f"postgresql://me@/db?host={tmp_path}", jobs=JOBS)


@pytest.mark.parametrize("url", ["postgresql://[", "postgresql://me@host/db?no=such"])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Journal(url, jobs=JOBS)


def test_other_kinds_of_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mysql"):
        Journal("mysql://host/db", jobs=JOBS)


def test_tables_of_a_newer_library_are_left_alone(schema: Schema) -> None:
    schema(jobs=JOBS)
    schema.query("UPDATE {s}.meta SET version=99")
    with pytest.raises(JournalError, match="newer"):
        schema(jobs=JOBS)


def test_many_processes_may_make_the_tables_at_once(schema: Schema) -> None:
    made: list[Any] = []
    threads = [threading.Thread(target=lambda: made.append(schema(jobs=JOBS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 8
    for journal in made:
        journal.close()


def test_a_kind_that_the_server_cannot_keep_costs_itself_alone(on_server: Open) -> None:
    journal, _ = on_server(jobs={"s\0ave": Save, "call": Call})
    with pytest.raises(JournalError, match="not accepted"):
        journal.accept(Save(""))
    journal.accept(Call("/"))
    assert journal.stats().healthy
