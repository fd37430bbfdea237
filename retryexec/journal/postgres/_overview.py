"""A journal on PostgreSQL as a whole: who has it, where its jobs stand, what fails most."""

from collections import Counter
from itertools import islice
from typing import Any

from retryexec._typing import override
from retryexec.journal._inspect import UnfinishedJob
from retryexec.journal._overview import (
    MOST_ERRORS,
    Errors,
    Grouping,
    OwnerJobs,
    first_due,
    owner_jobs,
)
from retryexec.journal.postgres._arrays import Int8s
from retryexec.journal.postgres._browse import PostgresBrowser
from retryexec.journal.postgres._connection import Connection
from retryexec.journal.postgres._schema import FREE, LIFE_BITS

_PAGE = 2000
_LAST = (float("inf"), "f" * 32)


class PostgresOverview(PostgresBrowser):
    """Looks at a journal in a schema, as a whole, page by page, and job by job."""

    _letters_at: tuple[Any, ...] | None = None  # which dead letters those below are of
    _letter_groups: Grouping | None = None

    @override
    def _rows(self, name: str, values: Any = ()) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY", prepare=False)
                return connection.execute(self._sql[name], values).fetchall()

        return self._desk.use(read)

    def owner_jobs(self) -> list[OwnerJobs]:
        """Return each owner, and where its jobs stand."""
        states = {life: row for life, *row in self._rows("job_states", {"now": self._wall()})}
        found: list[OwnerJobs] = []
        for life, (owner, at_work) in self._owners().items():
            if life not in states and life <= FREE:
                continue
            total, parked, oldest, waiting, held = states.get(life, (0, 0, None, 0, 0))
            running = 0
            if at_work:
                rows = self._rows("marks", [life, Int8s.of(at_work)])
                running = sum(at_work[row] == attempts for row, _, attempts in rows)
            found.append(
                owner_jobs(
                    owner,
                    total=total,
                    running=running,
                    waiting=waiting,
                    held=held,
                    parked=parked,
                    oldest_at=oldest,
                    accepted=self._accepted(life),
                )
            )
        return found

    def _accepted(self, life: int) -> int | None:
        """Return the number of the latest row that was made in *life*, from 1."""
        if life <= FREE:
            ((latest,),) = self._rows("latest_free") if life == FREE else [(None,)]
            return None if latest is None else int(latest)
        first = life << LIFE_BITS
        last = first + (1 << LIFE_BITS) - 1
        ((latest,),) = self._rows("latest_row", [life, first, last])
        return None if latest is None else int(latest) - first

    def oldest(self) -> UnfinishedJob | None:
        """Return the unfinished job that was accepted first."""
        return next(self.jobs(limit=1), None)

    def due_next(self, limit: int) -> list[UnfinishedJob]:
        """Return the waiting jobs that are due first."""
        owners = self._owners()
        gone = owners[FREE]
        rows = self._rows("due_next", {"now": self._wall(), "most": limit})
        jobs = [self._seen(row, *owners.get(life, gone)) for life, *row in rows]
        return first_due(jobs, limit)

    def dead_by_kind(self) -> "Counter[str]":
        """Return how many dead letters there are."""
        return Counter({str(kind): int(count) for kind, count in self._rows("letter_counts")})

    def died_since(self, at: float) -> int:
        """Return how many of the dead letters have died since *at*, by the wall clock."""
        ((count,),) = self._rows("died_since", [at])
        return int(count)

    def errors(self) -> Errors:
        """Return the latest errors of dead letters and unfinished jobs, by what is common."""
        version = tuple(self._rows("letters_version")[0])
        if self._letter_groups is None or version != self._letters_at:
            self._letters_at, self._letter_groups = version, Grouping()
            for row in islice(self._dead_rows(), MOST_ERRORS):
                self._letter_groups.add(*row, dead=True)
        groups = self._letter_groups.copy()
        for row in self._rows("job_errors", [MOST_ERRORS]):
            groups.add(*row, dead=False)
        return groups.result()

    def _dead_rows(self) -> Any:
        at, id_ = _LAST
        while rows := self._rows("letter_errors", [at, id_, _PAGE]):
            yield from rows
            at, id_ = rows[-1][2:]
