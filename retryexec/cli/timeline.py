"""What a run does when, for the picture of it: each attempt, or, of many, sums over time.

Its size is bounded: beyond `MOST_ATTEMPTS` only the sums are kept.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from retryexec._typing import override
from retryexec.cli.options import UsageError
from retryexec.cli.output import describe
from retryexec.cli.work import Work
from retryexec.guards import AttemptRequest, Guard, Outcome

MOST_ATTEMPTS = 2000
"""How many attempts are drawn one by one."""

BINS = 240
"""Into how many equal parts the time of a run is divided, for sums, at most."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt, in seconds since the run began.

    Attributes:
        line: of the record in INPUT.
        number: from 1.
        worker: which of the workers ran it, from 0.
        ready: when the record was submitted, or when its wait ended.
        held: since when it was held back by its key or a guard; None if it was not.
        start, end: when it ran; *end* is None while it does.
        error: what it failed with; None if it succeeded.
        delay: how long the record was to wait after it; None if no attempt was to follow.
    """

    line: int
    number: int
    worker: int
    ready: float
    held: float | None
    start: float
    end: float | None = None
    error: str | None = None
    delay: float | None = None


@dataclass(slots=True)
class Bin:
    """A part of the time of a run.

    Attributes:
        ok, failed: seconds that each worker has spent in attempts that succeeded, or failed.
        most: the most records that waited, and that were held, at one of the looks; None if
            nobody looked.
    """

    ok: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    failed: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    most: tuple[int, int] | None = None

    def add(self, other: "Bin") -> None:
        """Take the sums of *other*, too."""
        for ours, theirs in ((self.ok, other.ok), (self.failed, other.failed)):
            for worker, seconds in theirs.items():
                ours[worker] += seconds
        if other.most is not None:
            self.look(*other.most)

    def look(self, waiting: int, held: int) -> None:
        """Take into account how many wait, and are held."""
        most = self.most or (0, 0)
        self.most = max(waiting, most[0]), max(held, most[1])


class Timeline:
    """Keeps what a run does when; from any thread.

    Args:
        now: the time, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        # Guards all below.
        self._lock = threading.Lock()
        self._workers: dict[int, int] = {}
        self._running: dict[int, Attempt] = {}  # by the line of the record
        self._latest: dict[int, Attempt] = {}  # of records that wait, by line
        self._ready: dict[int, float] = {}  # when a record was submitted, by line
        self._held: dict[int, float] = {}  # since when a record has been held, by line
        self._lines: dict[Hashable, int] = {}  # how many records of a key are unfinished
        self.attempts: list[Attempt] = []  # those that are drawn one by one
        self.counts: Counter[str] = Counter()  # of "attempts", and of those "ok" or "failed"
        self.bins: list[Bin] = [Bin()]
        self.bin_seconds = 0.05

    @property
    def workers(self) -> int:
        """How many workers have run something."""
        return len(self._workers)

    @property
    def complete(self) -> bool:
        """Whether all attempts are kept one by one."""
        return self.counts["attempts"] <= MOST_ATTEMPTS

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self._now() - self._began

    def submitted(self, line: int, key: Hashable) -> None:
        """Note that the record of *line* has been submitted."""
        now = self.elapsed()
        with self._lock:
            self._ready[line] = now
            if key is not None:
                if self._lines.get(key):
                    self._held[line] = now
                self._lines[key] = self._lines.get(key, 0) + 1

    def asked(self, line: int) -> None:
        """Note that nothing but the guards keeps the record of *line* from starting."""
        now = self.elapsed()
        with self._lock:
            self._held.setdefault(line, now)

    def begun(self, line: int, number: int) -> None:
        """Note that an attempt begins, in this thread."""
        now, thread = self.elapsed(), threading.get_ident()
        with self._lock:
            worker = self._workers.setdefault(thread, len(self._workers))
            before = self._latest.pop(line, None)
            ready = self._ready.pop(line, now)
            if before is not None and before.end is not None:
                ready = before.end + (before.delay or 0.0)
            attempt = Attempt(line, number, worker, ready, self._held.pop(line, None), now)
            self._running[line] = attempt
            self.counts["attempts"] += 1
            if self.complete:
                self.attempts.append(attempt)
            elif self.attempts:
                self.attempts = []

    def finished(self, line: int, error: str | None) -> None:
        """Note that the attempt at the record of *line* has ended."""
        now = self.elapsed()
        with self._lock:
            attempt = self._running.pop(line)
            attempt.end, attempt.error = now, error
            self.counts["ok" if error is None else "failed"] += 1
            self._spread(attempt.worker, attempt.start, now, ok=error is None)
            if error is not None:
                self._latest[line] = attempt

    def retried(self, line: int, delay: float) -> None:
        """Note that the record of *line* waits for *delay* seconds."""
        with self._lock:
            if (attempt := self._latest.get(line)) is not None:
                attempt.delay = delay

    def ended(self, line: int, key: Hashable) -> None:
        """Note that nothing follows for the record of *line*."""
        with self._lock:
            for kept in (self._latest, self._ready, self._held):
                kept.pop(line, None)
            if key is not None and key in self._lines:
                self._lines[key] -= 1
                if not self._lines[key]:
                    del self._lines[key]

    def look(self, waiting: int, held: int) -> None:
        """Note how many records wait, and are held, now."""
        now = self.elapsed()
        with self._lock:
            self._bin(now).look(waiting, held)

    def noted(self, work: Work) -> "Noted":
        """Return what notes one attempt, while it is entered."""
        return Noted(self, work)

    # ---- sums, with _lock held

    def _spread(self, worker: int, start: float, end: float, *, ok: bool) -> None:
        self._bin(end)
        width, at = self.bin_seconds, start
        for place in range(int(start / width), len(self.bins)):
            upto = min(end, (place + 1) * width)
            if upto > at:
                found = self.bins[place]
                (found.ok if ok else found.failed)[worker] += upto - at
                at = upto

    def _bin(self, at: float) -> Bin:
        while at >= self.bin_seconds * BINS:
            self.bin_seconds *= 2
            for place in range(0, len(self.bins), 2):
                self.bins[place // 2] = self.bins[place]
                if place + 1 < len(self.bins):
                    self.bins[place // 2].add(self.bins[place + 1])
            del self.bins[-(-len(self.bins) // 2) :]
        place = int(at / self.bin_seconds)
        while len(self.bins) <= place:
            self.bins.append(Bin())
        return self.bins[place]


class NotesAsking(Guard):
    """Lets every attempt go, and notes when it asks: as the first guard, before those that hold."""

    reserves = True  # it holds nothing that it would have to give back

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    @override
    def admit(self, request: AttemptRequest) -> None:
        """Note it, and let the attempt go."""
        if isinstance(request.job, Work):
            self._timeline.asked(request.job.record.line)

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        """Do nothing."""


class Noted:
    """Notes one attempt, while it is entered."""

    def __init__(self, timeline: Timeline, work: Work) -> None:
        self._timeline, self._work = timeline, work

    def __enter__(self) -> None:
        self._timeline.begun(self._work.record.line, self._work.attempts)

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timeline.finished(self._work.record.line, None if error is None else describe(error))


class PictureFile:
    """The file of ``--timeline``: opened before the run, and written after it.

    What it held is kept until then.

    Raises:
        UsageError: it cannot be written, or its name is not that of a picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() != ".svg":
            msg = f"--timeline {str(path)!r} is not a picture: its name ends in .svg"
            raise UsageError(msg)
        try:
            self._new = not path.exists()
            self._file: IO[Any] = path.open("ab")
        except OSError as error:
            msg = f"--timeline {str(path)!r} cannot be written: {error.strerror}"
            raise UsageError(msg) from error
        self._written = False

    def write(self, picture: str) -> None:
        """Put *picture* into the file, in place of what it held.

        Raises:
            OSError: that failed.
        """
        self._written = True
        with suppress(OSError):  # a pipe, or a device
            self._file.truncate(0)
        self._file.write(picture.encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file; if nothing was written to it, it is as if it had never been opened."""
        with suppress(OSError):  # what could not be written has been told
            self._file.close()
        if self._new and not self._written:
            self.path.unlink(missing_ok=True)
