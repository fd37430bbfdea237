"""Keys of jobs on PostgreSQL: order, the newest of a key, and letters that are stale."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from helpers.jobs import Gate, InThread
from helpers.journal_kit import FakeHost, Save, crash_on_server
from helpers.postgres import Schema, until
from journal.test_executor import Save as Work

from retryexec import RetryingExecutor
from retryexec.journal import Journal, JournalError
from retryexec.journal.postgres import _taker

Open = Callable[..., tuple[Journal, FakeHost]]


def test_keys_come_back_in_the_order_of_acceptance(on_server: Open, schema: Schema) -> None:
    first, _ = on_server()
    keys = [("user", 1), None, "ana", ("user", 1), 7, "ana"]
    for n, key in enumerate(keys):
        first.accept(Save("", n), key=key)
    schema.expire(crash_on_server(first))
    _, host = on_server()
    until(lambda: len(host.recovered) == 6)
    keyed = [entry for entry in host.recovered if entry.key is not None]
    assert [(e.job.n, e.key.value) for e in keyed] == [  # type: ignore[union-attr]
        (n, key) for n, key in enumerate(keys) if key is not None
    ]


def test_of_latest_jobs_of_a_key_the_newest_alone_comes_back(
    on_server: Open, schema: Schema
) -> None:
    first, _ = on_server()
    entries = [first.accept(Save("", n), key="k", latest=True) for n in range(3)]
    other = first.accept(Save("", 3), key="other", latest=True)
    first.superseded(entries[0], entries[1])
    assert first.flush(10)
    assert schema.query("SELECT count(*) FROM {s}.job") == [(3,)]
    schema.expire(crash_on_server(first))
    _, host = on_server()
    until(lambda: len(host.recovered) == 2)
    assert [entry.id for entry in host.recovered] == [entries[2].id, other.id]
    assert schema.query("SELECT count(*) FROM {s}.job") == [(2,)]


def test_the_newest_of_a_key_remains_though_its_process_is_the_older(
    on_server: Open, schema: Schema
) -> None:
    elder, _ = on_server(wall_clock=lambda: 2000.0)
    younger, _ = on_server(wall_clock=lambda: 1000.0)
    old = younger.accept(Save("old"), key="k", latest=True)
    new = elder.accept(Save("new"), key="k", latest=True)
    for journal in (elder, younger):
        schema.expire(crash_on_server(journal))
    third, host = on_server()
    until(lambda: {entry.id for entry in host.recovered} == {old.id, new.id})
    assert third.flush(10)
    schema.expire(crash_on_server(third))
    _, host = on_server()
    assert host.next().id == new.id


def test_one_process_takes_over_all_jobs_with_keys(
    on_server: Open, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_taker, "LOT", 5)
    first, _ = on_server()
    others = [on_server(), on_server()]
    for n in range(100):
        first.accept(Save("", n), key=n % 3 if n % 2 else None)
    schema.expire(crash_on_server(first))
    both = threading.Barrier(2, timeout=10)
    threads = [
        InThread(lambda journal=journal: (both.wait(), journal.poll())) for journal, _ in others
    ]
    for thread in threads:
        thread.result()
    until(lambda: sum(len(host.recovered) for _, host in others) == 100)
    keyed = [[e.job.n for e in host.recovered if e.key is not None] for _, host in others]
    assert sorted(keyed) == [[], [*range(1, 100, 2)]]


def test_a_letter_is_stale_once_a_later_job_of_its_key_has_succeeded(
    on_server: Open, schema: Schema
) -> None:
    journal, host = on_server()
    old, new = journal.accept(Save("", 1), key="k"), journal.accept(Save("", 2), key="k")
    other = journal.accept(Save("", 3), key="other")
    for entry in (old, other):
        journal.died(entry, "permanent", 1, OSError("no"))
    assert journal.flush(10)
    assert [(letter.key, letter.stale) for letter in journal.dead] == [
        ("other", False),
        ("k", False),
    ]
    journal.succeeded(new)
    assert journal.flush(10)
    assert {letter.key: letter.stale for letter in journal.dead} == {"k": True, "other": False}
    with pytest.raises(JournalError, match="stale"):
        journal.dead.rerun(old.id)
    assert journal.dead.rerun_all() == 1
    until(lambda: [entry.id for entry in host.recovered] == [other.id])
    journal.dead.rerun(old.id, force=True)
    until(lambda: len(host.recovered) == 2)
    again = host.recovered[1]
    assert (again.id, again.key.value, again.key.stale) == (old.id, "k", True)  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Work.seen.clear()
    Work.gates.clear()
    yield
    for gate in Work.gates.values():
        gate.open()


def test_an_executor_keeps_the_newest_of_a_key(schema: Schema) -> None:
    gate = Work.gates["k0"] = Gate()
    journal = schema(jobs={"work": Work}, poll=3600)
    with RetryingExecutor(4, journal=journal) as executor:
        saver = executor.using(key="k", keep="latest")
        futures = [saver.submit(Work("k0"))]
        assert gate.reached()
        futures += [saver.submit(Work(f"k{n}")) for n in range(1, 5)]
        assert journal.flush(10)
        assert len(schema.query("SELECT FROM {s}.job")) <= 2
        gate.open()
        assert [future.result(10) for future in futures] == ["k0", *["k4"] * 4]
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]
