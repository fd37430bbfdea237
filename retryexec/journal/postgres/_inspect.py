"""Looking at a journal on PostgreSQL from outside: what is in it, whose it is, and how it does."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retryexec._typing import override
from retryexec.journal._check import Finding
from retryexec.journal._choice import is_prefix, is_whole, plain_id
from retryexec.journal._codec import Codec
from retryexec.journal._inspect import (
    DirectoryStats,
    FileStats,
    Inspector,
    Owner,
    UnfinishedJob,
)
from retryexec.journal._letters import DeadLetter, DeadLetters, letter_of
from retryexec.journal._rows import DAMAGED, read_letter
from retryexec.journal.postgres import _schema
from retryexec.journal.postgres._arrays import UUIDs
from retryexec.journal.postgres._connection import Connection, Database
from retryexec.journal.postgres._letters import Desk, PostgresLetters
from retryexec.journal.postgres._schema import FREE, PARKED
from retryexec.journal.postgres._statements import Statements

_PAGE = 5000
_ATTEMPTS, _STARTED, _ACCEPTED = 5, 7, 8  # columns of a row
# Of a row whose owner has gone in between two looks.
_GONE: tuple[Owner, dict[int, int]] = (Owner("", Path("gone"), False, None), {})


class PostgresInspector(Inspector):
    """Reads the journal in a schema of a PostgreSQL server, without being a part of it.

    Raises:
        JournalError: there is none, or it cannot be looked into.
    """

    on_server = True

    def __init__(
        self, url: str, *, schema: str = "retryexec", wall_clock: Callable[[], float] | None = None
    ) -> None:
        self._database = Database(url, schema, patience=10.0, power=True)
        self._desk = Desk(self._database)
        self._sql = Statements(schema)
        self.unreadable: dict[Path, str] = {}
        self.path = Path(self._database.name)  # for whoever wants to name it alone
        self._wall = wall_clock or (lambda: time.time() + self._database.offset)
        try:
            self._desk.use(lambda c: _schema.check(c, schema))
        except BaseException:
            self._desk.close()
            raise

    @property
    @override
    def where(self) -> str:
        return self._database.name

    @override
    def close(self) -> None:
        self._desk.close()

    def dead_letters(self, jobs: Mapping[str, type] | None = None) -> DeadLetters:
        """Return the dead letters, to be edited as far as *jobs* knows them."""
        codec = Codec(jobs or {}, max_bytes=1024 * 1024)
        return PostgresLetters(self._desk, self._sql, codec, lambda: None, None)

    @override
    def names(self) -> list[str]:
        return []  # there are no files

    def _rows(self, name: str, values: Any = ()) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            return connection.execute(self._sql[name], values).fetchall()

        return self._desk.use(read)

    # ---- owners

    @override
    def owners(self) -> list[Owner]:
        return [owner for owner, _ in self._owners().values() if owner.name != str(FREE)]

    def _owners(self) -> dict[int, tuple[Owner, dict[int, int]]]:
        """Return the owners by number, each with what it had at work at its last renewal."""
        found: dict[int, tuple[Owner, dict[int, int]]] = {}
        for life, host, pid, alive, running in self._rows("owners"):
            owner = Owner(str(life), Path(f"{host}:{life}"), alive, pid if alive else None)
            at_work = dict(zip(running[::2], running[1::2], strict=True)) if alive else {}
            found[life] = (owner, at_work)
        for lane, name in ((FREE, "nobody"), (PARKED, "parked")):
            found[lane] = (Owner(str(lane), Path(name), False, None), {})
        return found

    # ---- jobs

    @override
    def jobs(self, kind: str | None = None, *, limit: int | None = None) -> Iterator[UnfinishedJob]:
        owners = self._owners()
        after: dict[str, Any] = {"at": float("-inf"), "owner": 0, "seq": 0}
        left = limit
        while left is None or left > 0:
            most = _PAGE if left is None else min(_PAGE, left)
            rows = self._rows("jobs", {**after, "kind": kind, "most": most})
            for life, *row in rows:
                yield self._seen(row, *owners.get(life, _GONE))
            if len(rows) < most:
                return
            life, *row = rows[-1]
            after = {"at": row[_ACCEPTED], "owner": life, "seq": row[0]}
            left = None if left is None else left - most

    def _seen(self, row: Sequence[Any], owner: Owner, at_work: dict[int, int]) -> UnfinishedJob:
        values = list(row)
        values[_STARTED] = int(at_work.get(values[0]) == values[_ATTEMPTS])
        return self._job(values, owner)

    # ---- dead letters

    @override
    def letters(self, kind: str | None = None, *, limit: int | None = None) -> Iterator[DeadLetter]:
        return iter(self.dead_letters().list(kind, limit=limit))

    # ---- one of either

    @override
    def find(self, job_id: str, /) -> "list[UnfinishedJob | DeadLetter]":
        name = plain_id(job_id)
        if not is_prefix(name) and not is_whole(name):
            return []
        between = (name.ljust(32, "0"), name.ljust(32, "f"))
        owners = self._owners()
        found: list[UnfinishedJob | DeadLetter] = []
        for life, *row in self._rows("job", between):
            found.append(self._seen(row, *owners.get(life, _GONE)))
        return [*found, *(letter_of(read_letter(row)) for row in self._rows("letter", between))]

    # ---- counts, and whether all is well

    @override
    def stats(self) -> DirectoryStats:
        counts: dict[int, list[tuple[str, int, int, float]]] = {}
        for life, *row in self._rows("job_counts"):
            counts.setdefault(life, []).append((row[0], row[1], row[2], row[3]))
        ((job_bytes, dead_bytes),) = self._rows("sizes")
        owners = self._owners()
        files: list[FileStats] = []
        for life, (owner, _) in owners.items():
            rows = counts.get(life, [])
            if rows or life > FREE:
                jobs = Counter({kind: count for kind, count, _, _ in rows})
                parked = sum(count for _, _, count, _ in rows)
                oldest = min((at for *_, at in rows), default=None)
                # The table is one for all, and is counted once.
                files.append(FileStats(owner, jobs, parked, oldest, 0 if files else job_bytes, 0))
        dead = Counter({str(kind): int(count) for kind, count in self._rows("letter_counts")})
        return DirectoryStats(tuple(files), dead, dead_bytes)

    def check(self) -> Iterator[Finding]:
        """Yield what is wrong, and will not go by itself."""
        for file in self.stats().files:
            if file.jobs and not file.owner.alive and int(file.owner.name) > FREE:
                words = "its owner is dead: the next process with an executor runs them"
                yield Finding("owner", file.owner.path, f"{file.jobs.total():,} jobs; {words}")
        after = 0
        while rows := self._rows("parked", [after]):
            for row in rows:
                after, job = row[0], self._seen(row, *_GONE)
                about = "damaged" if (job.parked or "").startswith(DAMAGED) else "parked"
                yield Finding(about, Path(job.id), job.parked or "no process knows its kind")

    def discard_parked(self, job_ids: Sequence[str]) -> int:
        """Remove those of *job_ids* that are parked records, for good; return how many were."""
        ids = [name for name in map(plain_id, job_ids) if is_whole(name)]
        values = [UUIDs.of(ids)]
        return self._desk.use(lambda c: c.execute(self._sql["discard_parked"], values).rowcount)
