"""Run statistics: what has happened so far, counted as it happens, and told at the end.

Their size does not grow with INPUT's.
"""

import heapq
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from retryexec._shapes import shape_of
from retryexec.cli.output import counted, format_duration, ordinal

_SLOWEST = 5  # of the slowest jobs that are kept
_SHAPES = 1000  # of errors that are told apart; what differs in its words would fill the memory
_OTHER_ERRORS = "(further errors, each with another text)"
_COMMONEST = 5  # errors that are shown
_ROWS = 10  # of attempts at most; the last one then stands for all later ones
_BAR = 30  # columns of the longest bar


@dataclass(slots=True)
class ErrorCount:
    """How often attempts failed with errors of one shape.

    Attributes:
        attempts: how many failed so.
        example: the text of the first one.
        alike: whether all of them have that text.
    """

    attempts: int
    example: str
    alike: bool = True


@dataclass(slots=True)
class Totals:
    """The counts of `RunStats` at one moment.

    Attributes:
        succeeded: at which attempt (from 1) how many jobs succeeded.
        failed: jobs that failed for good.
        superseded: records that a later one of their key has replaced.
        bad: records that made no job.
        blank: rows of nothing but delimiters, which are not records.
        unstarted: records read whose job never started.
        unfinished: jobs stopped between two attempts, or in the middle of one.
        errors: failed attempts, by the shape of their errors.
        slowest: seconds from first attempt to outcome, line and attempts, slowest first.
        last_error: the error of the attempt that failed last; None before the first.
        before: of all these, records that earlier processes have finished.
    """

    succeeded: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    superseded: int = 0
    bad: int = 0
    blank: int = 0
    unstarted: int = 0
    unfinished: int = 0
    errors: dict[str, ErrorCount] = field(default_factory=dict)
    slowest: list[tuple[float, int, int]] = field(default_factory=list)
    last_error: str | None = None
    before: int = 0

    @property
    def records(self) -> int:
        """How many records have met their end."""
        return self.settled + self.failed + self.bad + self.left

    @property
    def settled(self) -> int:
        """How many records have succeeded, or need not any more."""
        return self.succeeded.total() + self.superseded

    @property
    def left(self) -> int:
        """How many records have neither succeeded nor failed, since the run was stopped."""
        return self.unstarted + self.unfinished

    @property
    def all_succeeded(self) -> bool:
        """Whether every record so far has succeeded, or a later one of its key stands for it."""
        return self.records == self.settled


class RunStats:
    """Counts outcomes from any thread."""

    def __init__(self) -> None:
        # Guards both below; nothing else is done while it is held.
        self._lock = threading.Lock()
        self._totals = Totals()
        self._slowest: list[tuple[float, int, int]] = []  # a heap: the quickest leaves first

    def restore(
        self,
        succeeded: Counter[int],
        failed: int,
        errors: Counter[str],
        slowest: list[tuple[float, int, int]],
        superseded: int = 0,
    ) -> None:
        """Begin with what earlier processes have finished."""
        with self._lock:
            totals = self._totals
            totals.succeeded += succeeded
            totals.failed += failed
            totals.superseded += superseded
            totals.before = succeeded.total() + failed + superseded
            for error, jobs in errors.items():
                self._count_error(error, jobs)
            totals.last_error = None
            self._slowest = heapq.nlargest(_SLOWEST, slowest)
            heapq.heapify(self._slowest)

    def count_success(self, line: int, attempts: int, seconds: float) -> None:
        """Count a job that took *seconds* from first attempt to success."""
        with self._lock:
            self._totals.succeeded[attempts] += 1
            self._keep_slowest(line, attempts, seconds)

    def count_failure(self, line: int, attempts: int, seconds: float, error: str) -> None:
        """Count a job that failed for good, its last attempt with *error*."""
        with self._lock:
            self._totals.failed += 1
            self._count_error(error)
            self._keep_slowest(line, attempts, seconds)

    def count_superseded(self) -> None:
        """Count a record that a later one of its key has replaced."""
        with self._lock:
            self._totals.superseded += 1

    def count_left(self, attempts: int) -> None:
        """Count a job that was stopped after *attempts* attempts, none of them its last."""
        with self._lock:
            if attempts:
                self._totals.unfinished += 1
            else:
                self._totals.unstarted += 1

    def count_bad(self) -> None:
        """Count a record that made no job."""
        with self._lock:
            self._totals.bad += 1

    def count_blank(self) -> None:
        """Count a row of nothing but delimiters."""
        with self._lock:
            self._totals.blank += 1

    def count_retry(self, error: str) -> None:
        """Count an attempt that failed with *error* and will be followed by another."""
        with self._lock:
            self._count_error(error)

    def totals(self) -> Totals:
        """Return what has happened so far."""
        with self._lock:
            return replace(
                self._totals,
                succeeded=self._totals.succeeded.copy(),
                errors={shape: replace(count) for shape, count in self._totals.errors.items()},
                slowest=sorted(self._slowest, reverse=True),
            )

    def progress(self) -> tuple[int, int, int, str | None]:
        """Return records done, and of those failed or bad, finished before, and the last error."""
        with self._lock:
            totals = self._totals
            failed = totals.failed + totals.bad
            return totals.records, failed, totals.before, totals.last_error

    def _keep_slowest(self, line: int, attempts: int, seconds: float) -> None:
        heapq.heappush(self._slowest, (seconds, line, attempts))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)

    def _count_error(self, error: str, attempts: int = 1) -> None:
        errors = self._totals.errors
        self._totals.last_error = error
        shape = shape_of(error)
        if shape not in errors and len(errors) >= _SHAPES:
            shape = error = _OTHER_ERRORS
        count = errors.setdefault(shape, ErrorCount(0, error))
        count.attempts += attempts
        count.alike = count.alike and count.example == error


# ---- the summary


def summary(totals: Totals, seconds: float) -> str:
    """Return the summary of a run that took *seconds*, as lines of text."""
    return "\n".join([headline(totals, seconds), *_details(totals)])


def headline(totals: Totals, seconds: float) -> str:
    """Return how many records there were and what became of them, in one line."""
    parts = [f"{totals.succeeded.total():,} succeeded"]
    if totals.failed:
        parts.append(f"{totals.failed:,} failed")
    if totals.superseded:
        parts.append(f"{totals.superseded:,} superseded")
    if totals.bad:
        parts.append(f"{totals.bad:,} bad")
    if totals.unfinished:
        parts.append(f"{totals.unfinished:,} stopped unfinished")
    if totals.unstarted:
        parts.append(f"{totals.unstarted:,} never started")
    blank = f" ({counted(totals.blank, 'blank row')} skipped)" if totals.blank else ""
    records = counted(totals.records, "record")
    return f"{records} in {format_duration(seconds)}: {', '.join(parts)}{blank}"


def _details(totals: Totals) -> Iterator[str]:
    if totals.succeeded:
        yield "succeeded at attempt"
        yield from _attempts(totals)
    if totals.slowest:
        yield "slowest, from first attempt to outcome"
        for seconds, line, attempts in totals.slowest:
            yield f"  {format_duration(seconds):>12}  line {line}, {counted(attempts, 'attempt')}"
    if totals.errors:
        yield "commonest errors, by failed attempts"
        errors = sorted(totals.errors.values(), key=lambda count: -count.attempts)
        for error in errors[:_COMMONEST]:
            like_it = "" if error.alike else "  (and others like it)"
            yield f"  {error.attempts:>12,}  {error.example}{like_it}"
        if rest := errors[_COMMONEST:]:
            attempts = sum(error.attempts for error in rest)
            yield f"  {attempts:>12,}  others, {len(rest):,} of them"


def _attempts(totals: Totals) -> Iterator[str]:
    rows = [(ordinal(n), jobs) for n, jobs in sorted(totals.succeeded.items())]
    if len(rows) > _ROWS:
        rows[_ROWS - 1 :] = [("later", sum(jobs for _, jobs in rows[_ROWS - 1 :]))]
    most = max(jobs for _, jobs in rows)
    for name, jobs in rows:
        yield f"  {name:>12}  {jobs:>9,}  {'#' * max(1, round(_BAR * jobs / most))}"
