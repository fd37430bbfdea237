"""What a job costs on the server: statements, dead rows and log, counted."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import psycopg
import pytest
from helpers.journal_kit import JOBS, FakeHost, Save, crash_on_server
from helpers.postgres import Schema, until

from retryexec.journal import Journal
from retryexec.journal.postgres import _taker
from retryexec.journal.postgres._connection import Connection

COUNT = 10_000


class Counted:
    """What the server has done between two moments."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._start = self._log()

    def _log(self) -> int:
        ((log,),) = self._schema.query("SELECT (pg_current_wal_insert_lsn()-'0/0')::int8")
        return int(log)

    def log_bytes(self) -> int:
        return self._log() - self._start

    def rows(self, inserted: int, updated: int, deleted: int) -> tuple[int, int, int]:
        """Return how many rows were inserted, updated and deleted, once so many have been told."""
        query = (
            "SELECT n_tup_ins,n_tup_upd,n_tup_del FROM pg_stat_all_tables "
            "WHERE relname='job' AND schemaname=%s"
        )
        found: list[tuple[int, int, int]] = []

        def told() -> bool:
            found[:] = self._schema.query(query, self._schema.name)
            return all(map(int.__ge__, found[0], (inserted, updated, deleted)))

        until(told)
        return found[0]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts statements by their first words."""
    counts: Counter[str] = Counter()
    execute = Connection.execute

    def counted(connection: Connection, query: Any, *rest: Any, **more: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else str(query)
        counts[" ".join(text.split()[:2])] += 1
        return execute(connection, query, *rest, **more)

    monkeypatch.setattr(Connection, "execute", counted)
    return counts


def opened(schema: Schema) -> tuple[Journal, FakeHost]:
    journal, host = schema(jobs=JOBS, poll=3600, accept="async"), FakeHost()
    schema.query("ALTER TABLE {s}.job SET (autovacuum_enabled=off)")
    journal.open(host)
    return journal, host


def test_a_job_is_inserted_and_deleted_and_that_is_all(
    schema: Schema, statements: Counter[str]
) -> None:
    journal, _ = opened(schema)
    jobs = [Save("x" * 150, n) for n in range(COUNT)]
    assert journal.flush(30)
    statements.clear()
    counted = Counted(schema)
    entries = [journal.accept(job) for job in jobs]
    assert journal.flush(30)
    for entry in entries:
        journal.succeeded(entry)
    assert journal.flush(30)
    assert statements.total() <= COUNT / 200, statements
    assert counted.log_bytes() <= 500 * COUNT
    journal.close()  # which has the server count what the session did
    assert counted.rows(COUNT, 0, COUNT) == (COUNT, 0, COUNT)


def test_a_job_that_was_put_is_claimed_by_one_update(
    schema: Schema, statements: Counter[str]
) -> None:
    producer = schema(jobs=JOBS)
    for _ in range(10):
        producer.put_many([Save("x" * 150, n) for n in range(COUNT // 10)])
    producer.close()
    journal, host = opened(schema)
    statements.clear()
    ended = 0
    while ended < COUNT:
        for entry in host.recovered[ended:]:
            journal.succeeded(entry)
        ended = len(host.recovered)
        assert journal.flush(30)
        journal.poll()
    journal.close()
    assert Counted(schema).rows(COUNT, COUNT, COUNT) == (COUNT, COUNT, COUNT)


@pytest.mark.timeout(120)
def test_an_open_transaction_does_not_make_batches_dearer(schema: Schema) -> None:
    """With dead rows that no vacuum may remove, what is read to find the next ones stays the same.

    Both for jobs that are accepted here and for those that were put.
    """

    def read() -> int:
        query = (
            "SELECT heap_blks_read+heap_blks_hit+idx_blks_read+idx_blks_hit "
            "FROM pg_statio_all_tables WHERE relname='job' AND schemaname=%s"
        )
        ((blocks,),) = schema.query(query, schema.name)
        return int(blocks)

    journal, host = opened(schema)
    producer = schema(jobs=JOBS)
    with psycopg.connect(schema.url) as held:
        held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        held.execute("SELECT txid_current()")
        spent = []
        for _ in range(8):
            before = read()
            entries = [journal.accept(Save("", n)) for n in range(2000)]
            assert journal.flush(30)
            for entry in entries:
                journal.succeeded(entry)
            producer.put_many([Save("", n) for n in range(500)])
            done = 0
            while done < 500:
                journal.poll()
                for entry in host.recovered:
                    journal.succeeded(entry)
                done += len(host.recovered)
                host.recovered.clear()
                assert journal.flush(30)
            # The server counts what a session did as that ends; the next use begins another.
            journal._store.new_lane()._link.close()
            journal._store._taker._link.close()
            until(lambda before=before: read() > before)  # type: ignore[misc]
            spent.append(read() - before)
    # Whole looks for what was put come across all dead entries, and are rationed.
    assert sum(spent[4:]) <= 1.3 * sum(spent[:4]), spent
    producer.close()
    journal.close()


def test_what_dead_owners_have_left_behind_is_not_looked_through_each_time(
    schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a transaction is open their entries stay, and a look comes across all of them."""
    ticks = count()
    monkeypatch.setattr(_taker, "monotonic", lambda: next(ticks) / 1000)
    looked: list[int] = []
    rows = _taker.Taker._rows

    def looks(self: _taker.Taker, connection: Any, lane: Any, source: int, seen: Any) -> Any:
        looked.append(source)
        return rows(self, connection, lane, source, seen)

    with psycopg.connect(schema.url) as held:
        held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        held.execute("SELECT txid_current()")
        gone = opened(schema)[0]
        gone.accept(Save(""))
        assert gone.flush(10)
        life = crash_on_server(gone)
        schema.expire(life)
        journal, host = opened(schema)
        until(lambda: host.jobs == [Save("")])
        monkeypatch.setattr(_taker.Taker, "_rows", looks)
        for _ in range(30):
            journal.poll()
        assert 1 <= looked.count(life) <= 30  # two for each time, and not all 30 times
        assert schema.query("SELECT FROM {s}.owner WHERE id=%s", life) == [()]
    for _ in range(30):  # then there is nothing to keep it for
        journal.poll()
    assert schema.query("SELECT FROM {s}.owner WHERE id=%s", life) == []
    journal.close()
