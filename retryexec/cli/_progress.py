"""Progress on standard error: live on a terminal, a line now and then elsewhere, or none."""

import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retryexec.cli._summary import span

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines."""

_WINDOW = 10.0  # seconds over which the rate is taken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands.

    Attributes:
        seconds: since it began.
        done: records that have met their end, the failed ones included.
        failed: of these, the ones that failed for good or were bad.
        running, waiting: jobs in an attempt, and between two.
        fraction: how much of INPUT is done, 0 to 1; None if nobody knows its size.
        last_error: the latest error of any attempt; None before the first.
    """

    seconds: float
    done: int
    failed: int
    running: int
    waiting: int
    fraction: float | None
    last_error: str | None


class Progress(ABC):
    """How a run tells where it stands, and what goes wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  most have nothing to put back
        """Leave standard error as it was."""

    def say(self, text: str) -> None:
        """Put *text* on a line of its own; from any thread."""
        # One write, so that lines of several threads do not mix.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    @abstractmethod
    def update(self, now: Snapshot) -> None:
        """Show where the run stands, if it is time to."""


class Quiet(Progress):
    """Shows nothing; errors are told all the same."""

    def update(self, now: Snapshot) -> None:
        """Do nothing."""


class Plain(Progress):
    """A line every few seconds, if something has changed: for logs and pipes."""

    def __init__(self, interval: float = PLAIN_INTERVAL) -> None:
        self._interval = interval
        self._told = Snapshot(0.0, 0, 0, 0, 0, None, None)
        self._pace = Pace()

    def update(self, now: Snapshot) -> None:
        """Say where the run stands, unless that was said just now or is still the same."""
        self._pace.add(now)
        changed = replace(self._told, seconds=now.seconds) != now
        if changed and now.seconds - self._told.seconds >= self._interval:
            last = f", last error: {now.last_error}" if now.last_error else ""
            self.say(
                f"{now.done:,} done, {now.running:,} running, {now.waiting:,} waiting, "
                f"{now.failed:,} failed, {self._pace}{last}"
            )
            self._told = now


class LiveDisplay(Progress):
    """A display that stays at the bottom of a terminal and moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def close(self) -> None:
        """Take the display away."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Put *text* above the display."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, now: Snapshot) -> None:
        """Draw it anew."""
        self._pace.add(now)
        self._live.update(self._drawn(now), refresh=True)

    def _drawn(self, now: Snapshot) -> RenderableType:
        # Three short lines, for 80 columns to hold them.
        share, counts = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        bar = ProgressBar(
            total=1.0,
            completed=now.fraction or 0.0,
            pulse=now.fraction is None,  # without a size it only shows that something moves
            animation_time=now.seconds,
            width=40,
        )
        share.add_row(bar, Text(str(self._pace)))
        counts.add_row(
            Text(f"{now.done:,} done", style="green"),
            Text(f"{now.running:,} running"),
            Text(f"{now.waiting:,} waiting", style="yellow" if now.waiting else "dim"),
            Text(f"{now.failed:,} failed", style="red" if now.failed else "dim"),
        )
        last = f"last error: {now.last_error}" if now.last_error else ""
        return Group(share, counts, Text(last, style="dim", no_wrap=True, overflow="ellipsis"))


class Pace:
    """How fast it goes and how long it will take, judged by the last few seconds."""

    def __init__(self, window: float = _WINDOW) -> None:
        self._window = window
        self._seen = deque([Snapshot(0.0, 0, 0, 0, 0, 0.0, None)])

    def add(self, now: Snapshot) -> None:
        """Take *now* into account."""
        self._seen.append(now)
        while self._seen[1].seconds <= now.seconds - self._window:
            self._seen.popleft()

    def __str__(self) -> str:
        first, now = self._seen[0], self._seen[-1]
        seconds = now.seconds - first.seconds
        rate = (now.done - first.done) / seconds if seconds else 0.0
        text = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        if now.fraction is None:
            return f"{text}, {span(now.seconds)}"
        gained = now.fraction - (first.fraction or 0.0)
        if gained > 0.0:
            left = math.ceil((1.0 - now.fraction) / gained * seconds)
            text = f"{text}, ETA {f'{left} s' if left < 60 else span(left)}"
        return f"{text}, {now.fraction:.0%}"


def for_terminal(*, quiet: bool) -> Progress:
    """Return what suits standard error as it is now."""
    if quiet:
        return Quiet()
    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveDisplay(console)
    return Plain()
