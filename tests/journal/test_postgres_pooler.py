"""A journal behind pgbouncer, which gives each transaction another session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from helpers.journal_kit import JOBS, FakeHost, Save, crash_on_server
from helpers.postgres import Schema, Server, pooled, until

from retryexec import RetryingExecutor
from retryexec.journal import Journal
from retryexec.journal.postgres._connection import Database


@pytest.fixture(scope="module")
def pool(server: Server) -> Iterator[str]:
    with pooled(server) as url:
        yield url


@pytest.fixture
def behind(pool: str, schema: Schema) -> Schema:
    """The schema, by way of the pooler."""
    made = Schema(pool, schema.name)
    made(jobs=JOBS).close()
    return made


def test_a_pooler_is_noticed(pool: str, server: Server) -> None:
    for url, pooled_ in ((pool, True), (server.url, False)):
        with Database(url, "any", patience=5.0, power=True).connect() as connection:
            assert connection.pooled is pooled_


def test_nothing_is_left_in_the_sessions_of_others(pool: str, behind: Schema) -> None:
    journal, host = behind(jobs=JOBS, poll=3600), FakeHost()
    journal.open(host)
    journal.accept(Save(""))
    with psycopg.connect(pool, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(10):
            assert connection.execute("SHOW enable_seqscan").fetchone() == ("on",)
            found = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
            assert found == (0,)
            channels: Any = connection.execute("SELECT pg_listening_channels()").fetchall()
            assert channels == []
    journal.close()


def test_the_life_of_jobs_is_the_same(behind: Schema) -> None:
    first, host = behind(jobs=JOBS, poll=3600), FakeHost()
    first.open(host)
    entries = [first.accept(Save("", n)) for n in range(50)]
    for entry in entries[::2]:
        first.succeeded(entry)
    first.died(entries[1], "permanent", 1, OSError("no"))
    first.retrying(entries[3], 1, 0.0, OSError("busy"))
    assert first.flush(10)
    behind.expire(crash_on_server(first))
    second, host = behind(jobs=JOBS, poll=3600), FakeHost()
    second.open(host)
    assert [job.n for job in host.jobs] == [*range(3, 50, 2)]
    assert host.recovered[0].attempts == 1
    assert [letter.id for letter in second.dead] == [entries[1].id]
    second.close()


def test_what_is_put_is_found_by_looking(behind: Schema) -> None:
    producer: Journal = behind(jobs=JOBS)
    with RetryingExecutor(1, journal=behind(jobs=JOBS, poll=0.05)) as executor:
        producer.put_many([Save("", n) for n in range(100)])
        with psycopg.connect(behind.url, prepare_threshold=None) as connection:
            producer.put(Save("", 100), connection=connection)
        until(lambda: len(executor.recovered) == 101)
        assert executor.recovered.wait(10)
    assert behind.query("SELECT count(*) FROM {s}.job") == [(0,)]
    producer.close()
