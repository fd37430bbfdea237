"""What has happened so far, counted as it happens: its size does not grow with INPUT's."""

import heapq
import threading
from collections import Counter
from dataclasses import dataclass, field, replace

SLOWEST = 5
"""How many of the slowest jobs are kept."""

OTHER_ERRORS = "(further errors, each with another text)"

_DISTINCT = 1000  # errors told apart; texts with an id in them would otherwise fill the memory


@dataclass(slots=True)
class Totals:
    """The counts of a `Tally` at one moment.

    Attributes:
        succeeded: at which attempt (from 1) how many jobs succeeded.
        failed: jobs that failed for good.
        bad: records that made no job.
        unstarted: records read whose job never started.
        unfinished: jobs stopped between two attempts, or in the middle of one.
        retries: attempts that failed and were followed by a wait.
        errors: how many attempts failed with each error, by type and text.
        slowest: seconds from first attempt to outcome, line and attempts, slowest first.
        last_error: the error of the attempt that failed last; None before the first.
        bytes: how much of INPUT is dealt with.
    """

    succeeded: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    bad: int = 0
    unstarted: int = 0
    unfinished: int = 0
    retries: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, int, int]] = field(default_factory=list)
    last_error: str | None = None
    bytes: int = 0

    @property
    def records(self) -> int:
        """How many records have met their end."""
        return self.succeeded.total() + self.failed + self.bad + self.unstarted + self.unfinished

    @property
    def all_succeeded(self) -> bool:
        """Whether every record so far has succeeded."""
        return self.records == self.succeeded.total()


class Tally:
    """Counts outcomes from any thread."""

    def __init__(self) -> None:
        # Guards both below; nothing else is done while it is held.
        self._lock = threading.Lock()
        self._totals = Totals()
        self._slowest: list[tuple[float, int, int]] = []  # a heap: the quickest leaves first

    def restore(
        self,
        *,
        succeeded: Counter[int],
        failed: int,
        retries: int,
        errors: Counter[str],
        slowest: list[tuple[float, int, int]],
    ) -> None:
        """Begin with what earlier processes have counted."""
        with self._lock:
            self._totals.succeeded += succeeded
            self._totals.failed += failed
            self._totals.retries += retries
            self._totals.errors += errors
            self._slowest = [*slowest]
            heapq.heapify(self._slowest)

    def passed(self, size: int) -> None:
        """Count *size* bytes of INPUT as dealt with, by an earlier process."""
        with self._lock:
            self._totals.bytes += size

    def succeeded(self, line: int, attempts: int, seconds: float, size: int) -> None:
        """Count a job of *size* bytes that took *seconds* from first attempt to success."""
        with self._lock:
            self._totals.succeeded[attempts] += 1
            self._totals.bytes += size
            self._ended(line, attempts, seconds)

    def failed(self, line: int, attempts: int, seconds: float, size: int, error: str) -> None:
        """Count a job that failed for good, its last attempt with *error*."""
        with self._lock:
            self._totals.failed += 1
            self._totals.bytes += size
            self._error(error)
            self._ended(line, attempts, seconds)

    def left(self, attempts: int, size: int) -> None:
        """Count a job that was stopped after *attempts* attempts, none of them its last."""
        with self._lock:
            self._totals.bytes += size
            if attempts:
                self._totals.unfinished += 1
            else:
                self._totals.unstarted += 1

    def bad(self, size: int) -> None:
        """Count a record that made no job."""
        with self._lock:
            self._totals.bad += 1
            self._totals.bytes += size

    def retried(self, error: str) -> None:
        """Count an attempt that failed with *error* and will be followed by another."""
        with self._lock:
            self._totals.retries += 1
            self._error(error)

    def totals(self) -> Totals:
        """Return what has happened so far."""
        with self._lock:
            return replace(
                self._totals,
                succeeded=self._totals.succeeded.copy(),
                errors=self._totals.errors.copy(),
                slowest=sorted(self._slowest, reverse=True),
            )

    def _ended(self, line: int, attempts: int, seconds: float) -> None:
        heapq.heappush(self._slowest, (seconds, line, attempts))
        if len(self._slowest) > SLOWEST:
            heapq.heappop(self._slowest)

    def _error(self, error: str) -> None:
        errors = self._totals.errors
        self._totals.last_error = error
        errors[error if error in errors or len(errors) < _DISTINCT else OTHER_ERRORS] += 1
