"""What the pages show: jobs of the journal and of live executors, by the same words."""

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from retryexec import PendingJob, RetryingExecutor
from retryexec.journal import DeadLetter, JournalError, UnfinishedJob
from retryexec.journal._letters import DeadLetters
from retryexec.journal._look import Overview, inspector_of, letters_of
from retryexec.journal._overview import OwnerJobs
from retryexec.journal._redact import Redact
from retryexec.web._counting import Counting
from retryexec.web._filter import Filter
from retryexec.web._lines import Line, job_line, letter_line, live_line
from retryexec.web._tally import OTHER, Counter, Tally

PAGE = 50
"""Jobs on a page."""

_SCAN = 500  # records in one statement, where few of them may be meant
_FIRST = 200  # in the first one
_BUDGET = 0.08  # seconds for which a page looks for those that are meant
_REST = 20.0  # times what it took to look at all jobs, until all are looked at again
_SHORT = 0.02  # seconds; what takes no longer is done each time


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        lines: what was found.
        next: where the next page begins; None after the last one.
        looked: how many records were looked at.
        further: whether the time was up before the page was full.
    """

    lines: list[Line]
    next: tuple[Any, ...] | None
    looked: int
    further: bool


T = TypeVar("T")


class Paced(Generic[T]):
    """What is asked for; where that takes long, the latest answer for a while.

    So whoever looks at a page every second takes no more than a share of a processor.
    """

    def __init__(self) -> None:
        self._answer: T | None = None
        self._until = float("-inf")

    def __call__(self, ask: Callable[[], T]) -> T:
        began = time.monotonic()
        if self._answer is not None and began < self._until:
            return self._answer
        answer = ask()
        ended = time.monotonic()
        # What is asked for quickly is not kept: it holds futures, and so their results.
        self._answer = answer if ended - began > _SHORT else None
        self._until = ended + _REST * (ended - began)
        return answer

    def forget(self) -> None:
        """Ask the next time, however long it takes."""
        self._answer = None


class Desk:
    """Looks into a journal and at live executors, for the pages.

    Args:
        where: a directory or URL; None if there are executors alone.
        executors: those that live in this process.
        letters: the dead letters, if a journal object has brought them.
        jobs: the classes of the jobs, by kind, by which edited fields are checked.
        redact: as `Journal` has it.
    """

    def __init__(
        self,
        where: "str | os.PathLike[str] | None",
        *,
        executors: Sequence[RetryingExecutor] = (),
        letters: DeadLetters | None = None,
        jobs: Mapping[str, type] | None = None,
        redact: Redact | None = None,
        schema: str = "retryexec",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.executors = tuple(executors)
        self.redact = letters.redact if redact is None and letters is not None else redact
        self.wall = wall
        self._jobs = jobs
        self._letters = letters
        # Held while the browser is in use.
        self._io = threading.RLock()
        self._browser: Overview | None = None
        self.counter: Counter | None = None
        if where is not None:
            open_browser = partial(inspector_of, where, schema=schema)
            self._browser = open_browser()
            self.counter = Counter(open_browser, wall=wall)
        self.counting = Counting(self.chosen)
        self._live = Paced[list[PendingJob]]()
        self._disk = Paced[list[OwnerJobs]]()

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal."""
        return self._browser is not None

    @property
    def where(self) -> str:
        """What the page calls it."""
        return "this process" if self._browser is None else self._browser.where

    @property
    def browser(self) -> Overview:
        """The journal's browser.

        Raises:
            JournalError: there is no journal.
        """
        if self._browser is None:
            msg = "there is no journal: the page shows the executors of this process alone"
            raise JournalError(msg)
        return self._browser

    def close(self) -> None:
        """Let go of connections."""
        self.counting.close()
        close(self._browser, self.counter)

    def close_with(self, owner: object) -> None:
        """Let go of connections when *owner* is gone."""
        weakref.finalize(owner, close, self._browser, self.counter)

    def letters(self) -> DeadLetters:
        """Return the dead letters, to be changed."""
        if self._letters is None:
            self._letters = letters_of(self.browser, self._jobs)
        return self._letters

    def problems(self) -> list[str]:
        """Return what could not be read so far, and why."""
        return [] if self._browser is None else list(self._browser.unreadable.values())

    def forget_problems(self) -> None:
        """Begin anew to note what cannot be read."""
        if self._browser is not None:
            with self._io:
                self._browser.unreadable.clear()

    # ---- live executors

    def live(self) -> list[PendingJob]:
        """Return the unfinished jobs of this process; of many, those of a moment ago."""
        return self._live(lambda: [job for one in self.executors for job in one.pending()])

    def disk(self) -> list[OwnerJobs]:
        """Return how many jobs each owner has on disk; of many, those of a moment ago."""
        return [] if self._browser is None else self._disk(self._count_disk)

    def _count_disk(self) -> list[OwnerJobs]:
        with self._io:
            return self.browser.owner_jobs()

    def look_again(self, gone: Sequence[Line] = ()) -> None:
        """Let what follows see what has just been changed: *gone* are dead letters no more."""
        self._live.forget()
        self._disk.forget()
        if self.counter is not None:
            self.counter.refresh([(one.kind, one.cause, one.since or 0.0) for one in gone])

    def live_lines(self, filter_: Filter) -> list[Line]:
        """Return those of the live jobs that are meant."""
        lines = [live_line(job) for job in self.live()]
        return [line for line in lines if self._is_meant(line, filter_)]

    def _is_meant(self, line: Line, filter_: Filter) -> bool:
        if filter_.state is not None and line.state != filter_.state:
            return False
        now = self.wall()
        since = now if line.since is None else line.since
        return filter_.matches(kind=line.kind, key=line.key, since=since, cause=line.cause, now=now)

    # ---- lists

    def jobs(self, filter_: Filter, after: tuple[Any, ...] | None) -> Page:
        """Return a page of jobs on disk that have not ended."""

        def read(place: Any, size: int) -> _Found:
            with self._io:
                page = self.browser.job_page(place, size, filter_.kind)
            return [(job_line(job), place) for job, place in page.found], page.more

        return self._page(read, filter_, after)

    def dead(self, filter_: Filter, after: tuple[Any, ...] | None) -> Page:
        """Return a page of dead letters, the latest first."""
        if after is None:
            after = self._place_of(filter_, self._latest_of(filter_))
        return self._page(partial(self._letter_lines, filter_), filter_, after)

    def _place_of(self, filter_: Filter, latest: float | None = None) -> tuple[Any, ...] | None:
        """Return where the letters begin that are meant: none of them died after *latest*."""
        older = None if filter_.older is None else self.wall() - filter_.older
        times = [at for at in (latest, filter_.until, older) if at is not None]
        return (math.nextafter(min(times), math.inf), "0" * 32) if times else None

    def _latest_of(self, filter_: Filter) -> float | None:
        """Return when the latest of the letters that are meant died, if it has been counted."""
        if self.counter is None or filter_.error is None:
            return None
        tally = self.counter.get()
        if not tally.complete or OTHER.type in {
            group.cause.type for group in tally.groups.values()
        }:
            return None
        times = [
            group.latest
            for group in tally.groups.values()
            if filter_.kind in {None, group.kind}
            and filter_.error == group.cause.type
            and filter_.shape in {None, group.cause.shape}
        ]
        return max(times, default=None)

    def _letter_lines(self, filter_: Filter, place: Any, size: int) -> "_Found":
        with self._io:
            page = self.browser.letter_page(place, size, filter_.kind)
        return [(letter_line(row), place) for row, place in page.found], page.more

    def _page(
        self,
        read: "Callable[[Any, int], _Found]",
        filter_: Filter,
        after: tuple[Any, ...] | None,
    ) -> Page:
        """Look from *after* on for a page of lines that are meant, as long as there is time."""
        lines: list[Line] = []
        began, looked, place, last, size = time.monotonic(), 0, after, after, _FIRST
        while True:
            found, more = read(place, size)
            for line, place in found:
                looked += 1
                if len(lines) == PAGE:
                    return Page(lines, last, looked, further=False)
                if self._is_meant(line, filter_):
                    lines.append(line)
                last = place
            if not more:
                return Page(lines, None, looked, further=False)
            if time.monotonic() - began > _BUDGET:
                return Page(lines, place, looked, further=True)
            size = _SCAN

    def chosen(self, filter_: Filter) -> "Iterator[list[Line]]":
        """Yield all dead letters that are meant, some at a time, the latest first."""
        place: Any = self._place_of(filter_)
        more = True
        while more:
            before = time.monotonic()
            found, more = self._letter_lines(filter_, place, _SCAN)
            if found and found[-1][1] == place:
                return
            if found:
                place = found[-1][1]
            meant = [line for line, _ in found if self._is_meant(line, filter_)]
            yield meant
            time.sleep(time.monotonic() - before)  # others want to use the file, too

    def find(self, job_id: str) -> "list[UnfinishedJob | DeadLetter]":
        """Return what the journal knows of *job_id*, or of the only id that begins so."""
        if self._browser is None:
            return []
        with self._io:
            return self._browser.find(job_id)

    def tally(self, *, wait: float = 0.0) -> Tally:
        """Return the counts of dead letters."""
        return Tally(complete=True) if self.counter is None else self.counter.get(wait=wait)


def close(browser: "Overview | None", counter: Counter | None) -> None:
    """Let go of the connections of a desk, for whoever must not hold the desk itself."""
    if counter is not None:
        counter.close()
    if browser is not None:
        browser.close()


_Found = tuple[list[tuple[Line, Any]], bool]
