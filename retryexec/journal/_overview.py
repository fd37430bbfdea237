"""A journal as a whole: who has it, where its jobs stand, what fails most, what is due next.

`inspector_of` in `_look` opens what answers, for either store. All of it only reads, in short
statements, and so may be asked every second beside owners at full load.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from retryexec._shapes import shape_of
from retryexec._typing import override
from retryexec.journal._browse import DirectoryBrowser
from retryexec.journal._directory import DEAD
from retryexec.journal._inspect import Owner, UnfinishedJob
from retryexec.journal._job_table import JOBS
from retryexec.journal._last_error import last_error
from retryexec.journal._rows import ErrorText, printable, shown_errors
from retryexec.journal._sqlite import Format, columns_of, select

T = TypeVar("T")

MOST_ERRORS = 20_000
"""How many dead letters, and how many unfinished jobs, are looked at for their errors."""

_PAGE = 500  # rows in one statement: a writer of dead letters has to wait for it
_TIME_STEP = 0.1  # seconds; by more, each file system's clock goes on


class OwnerJobs(NamedTuple):
    """Where the jobs of one owner stand.

    Attributes:
        owner: whose they are.
        queued: those that may start, or that a guard holds back, which only their process knows.
        running: those that were seen at work.
        waiting: those whose next attempt is not due yet.
        held: those behind an earlier job of their key.
        parked: those that nobody could make jobs of.
        oldest_at: when the oldest was accepted, by the wall clock; None if there is none.
        accepted: how many jobs the owner has accepted so far, as far as one can see: the number of
            its latest row; None if it has no row.
    """

    owner: Owner
    queued: int
    running: int
    waiting: int
    held: int
    parked: int
    oldest_at: float | None
    accepted: int | None

    @property
    def unfinished(self) -> int:
        """How many there are in all."""
        return self.queued + self.running + self.waiting + self.held + self.parked


class ErrorGroup(NamedTuple):
    """Jobs of one kind whose latest errors are of one type and differ in names and numbers only.

    Attributes:
        kind: of the jobs.
        type: of the errors.
        text: what the latest of them says, on one line.
        alike: whether all of them say just that.
        dead: how many dead letters.
        unfinished: how many jobs that go on.
        first_at, last_at: when the first and the latest of the errors came, by the wall clock.
        example: the id of the job whose error is the latest.
    """

    kind: str
    type: str
    text: str
    alike: bool
    dead: int
    unfinished: int
    first_at: float
    last_at: float
    example: str

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return self.dead + self.unfinished


class Errors(NamedTuple):
    """The errors of a journal by what they have in common, the commonest first.

    Attributes:
        groups: the commonest first.
        dead, unfinished: of how many dead letters, the latest, and of how many unfinished jobs that
            have failed; `MOST_ERRORS` at most.
    """

    groups: tuple[ErrorGroup, ...]
    dead: int
    unfinished: int


class DirectoryOverview(DirectoryBrowser):
    """Looks at a journal in a directory, as a whole, page by page, and job by job."""

    _letters_at: tuple[int, ...] | None = None  # of which file of dead letters those below are
    _letter_groups: "Grouping | None" = None
    _dead: "Counter[str] | None" = None

    @override
    def _guarded(
        self, path: Path, form: Format, ask: Callable[[sqlite3.Connection], T]
    ) -> T | None:
        # One question finds out that a file is locked or damaged; the others need not wait, too.
        return None if path in self.unreadable else super()._guarded(path, form, ask)

    def owner_jobs(self) -> list[OwnerJobs]:
        """Return each owner, and where its jobs stand."""
        return [self._owner_jobs(owner) for owner in self.owners()]

    def _owner_jobs(self, owner: Owner) -> OwnerJobs:
        def count(sql: sqlite3.Connection) -> Any:
            key = "key" if columns_of(sql, JOBS) == JOBS.tables["job"] else "NULL"
            sound = "parked IS NULL"
            query = f"""SELECT count(*), count(parked), min(accepted_at), max(seq),
                count(CASE WHEN {sound} AND started>0 AND :alive THEN 1 END),
                count(CASE WHEN {sound} AND NOT(started>0 AND :alive) AND due_at>:now THEN 1 END),
                count(CASE WHEN {sound} THEN {key} END)
                    - count(DISTINCT CASE WHEN {sound} THEN {key} END)
                FROM job"""  # noqa: S608  ours
            return sql.execute(query, {"alive": owner.alive, "now": self._wall()}).fetchone()

        found = self._ask(owner, count)
        if found is None:
            return OwnerJobs(owner, 0, 0, 0, 0, 0, None, None)
        total, parked, oldest, latest, running, waiting, held = found
        return owner_jobs(
            owner,
            total=total,
            running=running,
            waiting=waiting,
            held=held,
            parked=parked,
            oldest_at=oldest if isinstance(oldest, (int, float)) else None,
            accepted=latest,
        )

    def oldest(self) -> UnfinishedJob | None:
        """Return the unfinished job that was accepted first."""
        return next(self.jobs(limit=1), None)

    def due_next(self, limit: int) -> list[UnfinishedJob]:
        """Return the waiting jobs that are due first."""
        rest = "WHERE due_at>? AND parked IS NULL ORDER BY due_at LIMIT ?"
        values = (self._wall(), limit)
        found: list[UnfinishedJob] = []
        for owner in self.owners():
            rows = self._ask(
                owner, lambda sql: sql.execute(select(sql, JOBS, rest), values).fetchall()
            )
            found += [self._job(row, owner) for row in rows or ()]
        return first_due(found, limit)

    # ---- dead letters: read again only when their file has changed

    def dead_by_kind(self) -> "Counter[str]":
        """Return how many dead letters there are."""
        if self._has_changed() or self._dead is None:
            query = "SELECT kind,count(*) FROM dead GROUP BY kind"
            rows = self._ask_dead(lambda sql: sql.execute(query).fetchall()) or ()
            self._dead = Counter({printable(kind or ""): count for kind, count in rows})
            self._forget_unless_read()
        return self._dead

    def died_since(self, at: float) -> int:
        """Return how many of the dead letters have died since *at*, by the wall clock."""
        query = "SELECT count(*) FROM dead WHERE died_at>=?"
        return self._ask_dead(lambda sql: int(sql.execute(query, (at,)).fetchone()[0])) or 0

    def errors(self) -> Errors:
        """Return the latest errors of dead letters and unfinished jobs, by what is common."""
        if self._has_changed() or self._letter_groups is None:
            self._letter_groups = Grouping()
            for row in islice(self._dead_rows(), MOST_ERRORS):
                self._letter_groups.add(*row, dead=True)
            self._forget_unless_read()
        groups = self._letter_groups.copy()
        query = (
            "SELECT kind,errors,accepted_at,id FROM job WHERE attempts>0 AND parked IS NULL "
            "AND errors IS NOT NULL LIMIT ?"
        )
        for owner in self.owners():
            left = (MOST_ERRORS - groups.unfinished,)
            rows = self._ask(owner, lambda sql, left=left: sql.execute(query, left).fetchall())  # type: ignore[misc]
            for row in rows or ():
                groups.add(*row, dead=False)
        return groups.result()

    def _dead_rows(self) -> Iterator[Any]:
        """Yield kind, errors, time and id of the dead letters, the latest first."""
        query = (
            "SELECT kind,errors,died_at,id FROM dead WHERE (died_at,id)<(?,CAST(? AS TEXT)) "
            "ORDER BY died_at DESC,id DESC LIMIT ?"
        )
        at, id_ = float("inf"), b""
        while True:
            values = (at, id_, _PAGE)
            rows = self._ask_dead(lambda sql, v=values: sql.execute(query, v).fetchall()) or []  # type: ignore[misc]
            yield from rows
            if len(rows) < _PAGE:
                return
            at, id_ = rows[-1][2], rows[-1][3].encode("utf-8", "surrogateescape")

    def _forget_unless_read(self) -> None:
        if self.path / DEAD in self.unreadable:
            self._letters_at = None

    def _has_changed(self) -> bool:
        """Return whether there are other dead letters than were read; then forget those."""
        try:
            found = (self.path / DEAD).stat()
            at: tuple[int, ...] = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            at = ()
        if at == self._letters_at:
            return False
        # Changes in short succession may leave the same time of the last change.
        settled = not at or abs(time.time() - at[-1] / 1e9) > _TIME_STEP
        self._letters_at = at if settled else None
        self._letter_groups = self._dead = None
        return True


class Grouping:
    """Puts errors together that have kind, type and shape in common."""

    def __init__(self) -> None:
        self.dead = self.unfinished = 0
        self._groups: dict[tuple[str, str, str], ErrorGroup] = {}

    def copy(self) -> "Grouping":
        """Return another one with the same errors, to be added to."""
        made = Grouping()
        made.dead, made.unfinished, made._groups = self.dead, self.unfinished, {**self._groups}
        return made

    def add(self, kind: Any, errors: Any, at: Any, job_id: Any, *, dead: bool) -> None:
        """Add the latest of *errors*, JSON, of a job that has no time of its own but *at*."""
        self.dead += dead
        self.unfinished += not dead
        known = shown_errors(errors if isinstance(errors, str) else None)
        error = known[-1] if known else ErrorText(0, at if isinstance(at, float) else 0.0, "", "")
        line = last_error([error])
        text = line.partition(": ")[2] if error.type else ""
        kind = printable("" if kind is None else kind)
        key = kind, error.type, shape_of(f"{error.type}: {text}")
        before = self._groups.get(key)
        new = ErrorGroup(
            kind,
            error.type,
            text,
            alike=True,
            dead=int(dead),
            unfinished=int(not dead),
            first_at=error.at,
            last_at=error.at,
            example=printable(job_id),
        )
        self._groups[key] = new if before is None else _joined(before, new)

    def result(self) -> Errors:
        """Return the groups, the commonest first."""
        groups = sorted(self._groups.values(), key=lambda g: (-g.jobs, g.kind, g.type, g.text))
        return Errors(tuple(groups), self.dead, self.unfinished)


def _joined(one: ErrorGroup, other: ErrorGroup) -> ErrorGroup:
    latest = max(one, other, key=attrgetter("last_at"))
    return latest._replace(
        alike=one.alike and other.alike and one.text == other.text,
        dead=one.dead + other.dead,
        unfinished=one.unfinished + other.unfinished,
        first_at=min(one.first_at, other.first_at),
    )


def owner_jobs(
    owner: Owner,
    *,
    total: int,
    running: int,
    waiting: int,
    held: int,
    parked: int,
    oldest_at: float | None,
    accepted: int | None,
) -> OwnerJobs:
    """Return where *total* jobs stand; those of which nothing else is known are queued."""
    queued = max(0, total - running - waiting - held - parked)
    return OwnerJobs(owner, queued, running, waiting, held, parked, oldest_at, accepted)


def first_due(jobs: Iterable[UnfinishedJob], limit: int) -> list[UnfinishedJob]:
    """Return those of *jobs* that wait, the first that is due first."""
    due: Callable[[UnfinishedJob], float] = lambda job: job.due_at or 0.0  # noqa: E731
    return sorted((job for job in jobs if job.state == "waiting"), key=due)[:limit]
