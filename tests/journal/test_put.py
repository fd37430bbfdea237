"""Putting jobs into a journal for others to run, in the caller's own transaction or not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from helpers.postgres import Schema, until

from retryexec import RetryingExecutor, current_attempt
from retryexec.journal import JobRefused, Journal, JournalError, MemoryJournal

Make = Callable[..., Journal]


@dataclass
class Note:
    """Tells what it was and where it ran, and may wait to be let go."""

    n: int
    place: ClassVar[threading.local] = threading.local()
    told: ClassVar[list[tuple[int, str, str]]] = []
    busy: ClassVar[threading.Event] = threading.Event()

    def exec(self) -> None:
        self.busy.wait(10)
        name = threading.current_thread().name
        self.told.append((self.n, current_attempt().job_id, name))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Note.told.clear()
    Note.busy.set()
    yield
    Note.busy.set()


@pytest.fixture(params=["memory", "directory", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A function that returns the journal, as each process would have it."""
    jobs = {"note": Note}
    if request.param == "memory":
        memory = MemoryJournal(jobs=jobs)
        return lambda **_: memory
    if request.param == "directory":
        return lambda **options: Journal(tmp_path / "journal", jobs=jobs, **options)
    schema = request.getfixturevalue("schema")
    return lambda **options: schema(jobs=jobs, **options)


@pytest.fixture
def on_server(schema: Schema) -> Make:
    return lambda **options: schema(**{"jobs": {"note": Note}, "poll": 3600, **options})


def test_what_is_put_is_run_by_the_next_process(make: Make) -> None:
    journal = make()
    threads = threading.active_count()
    ids = [journal.put(Note(0)), *journal.put_many([Note(n) for n in range(1, 5)])]
    assert threading.active_count() == threads
    journal.close()
    with RetryingExecutor(1, journal=make()) as executor:
        assert executor.recovered.wait(10)
    assert sorted((n, name) for n, name, _ in Note.told) == [*enumerate(ids)]


def test_what_is_put_where_it_is_open_is_run_there(make: Make) -> None:
    journal = make()
    with RetryingExecutor(1, journal=journal) as executor:
        name = journal.put(Note(1))
        journal.poll()
        while not Note.told:  # a server's answer takes its time
            threading.Event().wait(0.005)
        assert executor.recovered.wait(10)
        assert [told[:2] for told in Note.told] == [(1, name)]


def test_all_are_put_or_none(make: Make) -> None:
    journal = make()
    with pytest.raises(JobRefused, match="str"):
        journal.put_many([Note(1), "text"])
    assert journal.put_many([]) == []
    journal.close()
    with RetryingExecutor(1, journal=make()) as executor:
        assert len(executor.recovered) == 0


def test_a_directory_takes_part_in_no_transaction(tmp_path: Path) -> None:
    journal = Journal(tmp_path, jobs={"note": Note})
    with pytest.raises(JournalError, match="transaction"):
        journal.put(Note(1), connection=object())


# ---- on a server


def test_what_is_put_is_picked_up_at_once(on_server: Make) -> None:
    """By a process that looks of its own accord once an hour."""
    producer = on_server()
    with RetryingExecutor(1, journal=on_server()) as executor:
        for n in range(20):
            producer.put(Note(n))
        until(lambda: len(Note.told) == 20)
        assert sorted(n for n, *_ in Note.told) == [*range(20)]
        assert len(executor.recovered) == 20
    producer.close()


def test_a_job_in_the_callers_transaction_is_there_when_that_commits(
    on_server: Make, schema: Schema
) -> None:
    producer = on_server()
    with (
        RetryingExecutor(1, journal=on_server()) as executor,
        psycopg.connect(schema.url) as connection,
    ):
        producer.put(Note(1), connection=connection)
        connection.rollback()
        name = producer.put(Note(2), connection=connection)
        producer.put_many([Note(3), Note(4)], connection=connection)
        assert len(executor.recovered) == 0
        connection.commit()
        until(lambda: len(Note.told) == 3)
    assert [n for n, *_ in Note.told] == [2, 3, 4]
    assert Note.told[0][1] == name
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]
    producer.close()


def test_a_transaction_that_commits_late_is_found(on_server: Make, schema: Schema) -> None:
    """Its rows have lower numbers than others that were run long before."""
    journal = on_server()
    with (
        RetryingExecutor(1, journal=on_server()),
        psycopg.connect(schema.url) as connection,
    ):
        journal.put(Note(1), connection=connection)
        for n in range(2, 5):
            journal.put(Note(n))
            until(lambda told=n - 1: len(Note.told) == told)  # type: ignore[misc]
        connection.commit()
        until(lambda: len(Note.told) == 4)
    assert [n for n, *_ in Note.told] == [2, 3, 4, 1]
    journal.close()


def test_the_callers_failed_transaction_is_told(on_server: Make, schema: Schema) -> None:
    journal = on_server()
    with psycopg.connect(schema.url) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        with pytest.raises(JournalError, match="aborted"):
            journal.put(Note(1), connection=connection)
        connection.rollback()
        journal.put(Note(2), connection=connection)
    assert schema.query("SELECT count(*) FROM {s}.job") == [(1,)]
    journal.close()


def test_other_connections_are_refused(on_server: Make, schema: Schema) -> None:
    journal = on_server()

    async def put() -> None:
        async with await psycopg.AsyncConnection.connect(schema.url) as connection:
            journal.put(Note(1), connection=connection)

    for wrong in (object(), "postgresql://"):
        with pytest.raises(TypeError, match=r"psycopg\.Connection"):
            journal.put(Note(1), connection=wrong)
    with pytest.raises(TypeError, match="AsyncConnection"):
        asyncio.run(put())
    journal.close()


def test_processes_share_what_is_put(on_server: Make) -> None:
    """One whose workers are busy takes no more than it can do with."""
    Note.busy.clear()
    producer = on_server()
    names = ("first", "second")
    executors = [RetryingExecutor(2, name, journal=on_server()) for name in names]
    producer.put_many([Note(n) for n in range(1000)])
    until(lambda: all(len(executor.recovered) for executor in executors))
    taken = [len(executor.recovered) for executor in executors]
    assert all(0 < count <= 100 for count in taken), taken
    Note.busy.set()
    until(lambda: len(Note.told) == 1000)
    for executor in executors:
        executor.shutdown()
    assert sorted(n for n, *_ in Note.told) == [*range(1000)]
    by = [sum(name.startswith(wanted) for *_, name in Note.told) for wanted in names]
    assert min(by) >= 50, by
    producer.close()


def test_jobs_that_wait_for_another_attempt_keep_no_others_out(
    schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers.journal_kit import JOBS, FakeHost, Save

    from retryexec.journal.postgres import _taker

    monkeypatch.setattr(_taker, "FEW", 4)
    journal, host = schema(jobs=JOBS, poll=3600), FakeHost()
    journal.open(host)
    journal.put_many([Save("", n) for n in range(10)])
    journal.poll()
    assert len(host.recovered) == 4
    for entry in [*host.recovered]:
        journal.retrying(entry, 1, 1000.0, OSError("busy"))
    assert journal.flush(10)
    journal.poll()
    assert len(host.recovered) >= 8
    journal.close()
