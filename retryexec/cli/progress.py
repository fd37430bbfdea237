"""Progress on standard error: live on a terminal, a line now and then elsewhere, or none."""

import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from retryexec._typing import override
from retryexec.cli.output import format_duration, say

_PLAIN_INTERVAL = 5.0  # seconds between two plain lines
_WINDOW = 10.0  # seconds over which the rate is taken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands.

    Attributes:
        seconds: since this process began.
        done: records that have met their end, the failed ones and those of earlier processes
            included.
        failed: of these, the ones that failed for good or were bad.
        running, waiting: jobs in an attempt, and between two.
        held: jobs that their key or a guard holds back.
        held_by: what holds them, and how many, commonest first.
        total: how many records there are in all; None if nobody knows.
        exact: whether all of them have been counted; else *total* is an estimate.
        last_error: the latest error of any attempt; None before the first.
    """

    seconds: float = 0.0
    done: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    held: int = 0
    held_by: tuple[tuple[str, int], ...] = ()
    total: int | None = None
    exact: bool = True
    last_error: str | None = None

    @property
    def percent(self) -> int:
        """How much is done; never 100 before the end."""
        if not self.total:
            return 0
        ended = self.exact and self.done >= self.total
        return 100 if ended else min(99, round(100 * self.done / self.total))

    @property
    def holds(self) -> str:
        """How many are held, and by what: ``12 held (key 10, CircuitBreaker 2)``."""
        by = ", ".join(f"{name} {jobs:,}" for name, jobs in self.held_by)
        return f"{self.held:,} held ({by})" if by else f"{self.held:,} held"

    @property
    def counts(self) -> str:
        """How many are done: ``1,518 of 3,000 done``."""
        if self.total is None or self.done > self.total:
            return f"{self.done:,} done"
        return f"{self.done:,} of {'' if self.exact else 'about '}{self.total:,} done"


class Display(ABC):
    """How a run tells where it stands, and what goes wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  most do not have anything to put back
        """Leave standard error as it was."""

    def say(self, text: str) -> None:
        """Put *text* on a line of its own; from any thread."""
        say(text)

    @abstractmethod
    def update(self, now: Snapshot) -> None:
        """Show where the run stands, if it is time to."""


class Quiet(Display):
    """Shows no progress; errors are printed all the same."""

    @override
    def update(self, now: Snapshot) -> None:
        """Do nothing."""


class Plain(Display):
    """A line every few seconds, if something has changed: for logs and pipes."""

    def __init__(self, interval: float = _PLAIN_INTERVAL) -> None:
        self._interval = interval
        self._told = Snapshot()
        self._rate = Rate()

    @override
    def update(self, now: Snapshot) -> None:
        """Say where the run stands, unless that was said just now or is still the same."""
        self._rate.add(now)
        changed = replace(self._told, seconds=now.seconds) != now
        if changed and now.seconds - self._told.seconds >= self._interval:
            last = f", last error: {now.last_error}" if now.last_error else ""
            self.say(
                f"{now.counts}, {now.running:,} running, {now.waiting:,} waiting, "
                f"{f'{now.holds}, ' if now.held else ''}{now.failed:,} failed, {self._rate}{last}"
            )
            self._told = now


class Live(Display):
    """A display that stays at the bottom of a terminal and moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = Rate()
        self._lines = _Lines(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._lines.add_task("", total=None)

    @override
    def __enter__(self) -> Self:
        self._lines.start()
        return self

    @override
    def close(self) -> None:
        """Take the display away."""
        self._lines.stop()

    @override
    def say(self, text: str) -> None:
        """Put *text* above the display."""
        try:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        except (OSError, ValueError):  # the terminal is gone, or cannot show a character
            say(text)

    @override
    def update(self, now: Snapshot) -> None:
        """Draw it anew."""
        self._rate.add(now)
        self._lines.snapshot = now
        total = now.total
        if total is not None and now.percent < 100:  # nor is the bar full before the end
            total = max(total, now.done + 1)
        self._lines.update(self._task, total=total, completed=now.done, description=str(self._rate))
        with suppress(OSError, ValueError):
            self._lines.refresh()


class _Lines(Progress):
    """A bar as wide as the terminal, and below it counts and the last error."""

    snapshot = Snapshot()

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        # Three short lines, for 80 columns to hold them.
        now = self.snapshot
        yield self.make_tasks_table(self.tasks)
        yield Text("  ").join(
            (
                Text(now.counts, style="green"),
                Text(f"{now.running:,} running"),
                Text(f"{now.waiting:,} waiting", style="yellow" if now.waiting else "dim"),
                *([Text(now.holds, style="yellow")] if now.held else ()),
                Text(f"{now.failed:,} failed", style="red" if now.failed else "dim"),
            )
        )
        last = f"last error: {now.last_error}" if now.last_error else ""
        yield Text(last, style="dim", no_wrap=True, overflow="ellipsis")


class Rate:
    """How fast it goes and how long it will take, judged by the last few seconds."""

    def __init__(self, window: float = _WINDOW) -> None:
        self._window = window
        self._seen: deque[Snapshot] = deque()

    def add(self, now: Snapshot) -> None:
        """Take *now* into account."""
        self._seen.append(now)
        while len(self._seen) > 2 and self._seen[1].seconds <= now.seconds - self._window:
            self._seen.popleft()

    @override
    def __str__(self) -> str:
        first, now = self._seen[0], self._seen[-1]
        seconds = now.seconds - first.seconds
        rate = (now.done - first.done) / seconds if seconds else 0.0
        text = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        if now.total is None:
            return f"{text}, {format_duration(now.seconds)}"
        left = now.total - now.done
        if rate and left > 0:
            wait = math.ceil(left / rate)
            text += f", ETA {f'{wait} s' if wait < 60 else format_duration(wait)}"
        return f"{text}, {now.percent}%"


def for_terminal(*, quiet: bool) -> Display:
    """Return what suits standard error as it is now."""
    if quiet:
        return Quiet()
    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return Live(console)
    return Plain()
