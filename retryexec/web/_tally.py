"""Counts of the dead letters by job and error, kept up to date at little cost.

To tell what a million letters died of takes each of them to be looked at. That is done once, in
short statements with pauses between them, and after that for the new ones only. Letters that have
gone are noticed by their number; then all are counted anew, and no sooner than that is worth it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retryexec.journal import JournalError
from retryexec.journal._browse import Sight
from retryexec.journal._look import Overview
from retryexec.web._causes import Cause, cause_of_json

_PAGE = 1000  # letters in one statement
_SHARE = 0.2  # of a processor that counting may take
_AT_ONCE = 0.3  # seconds of it that may be taken without a pause
_GROUPS = 2000  # that are told apart
_REST = 20.0  # times what counting took, until all is counted anew
_FRESH = 1.0  # seconds for which nobody looks again where changes cannot be seen
OTHER = Cause("(further errors)", "", "")


@dataclass
class Group:
    """Dead letters of one kind and cause.

    Attributes:
        kind: what their class is registered as.
        cause: of the latest of them.
        count: how many there are.
        oldest, latest: when the first and the last of them died.
    """

    kind: str
    cause: Cause
    count: int = 0
    oldest: float = 0.0
    latest: float = 0.0


@dataclass
class Tally:
    """What was counted so far.

    Attributes:
        total: how many letters.
        groups: by kind, type and shape of the error.
        at: when counting began, in seconds of the wall clock.
        complete: whether all were counted.
        minutes: how many died in each minute of the wall clock, for the latest ones.
        error: why they could not be counted; empty if they could.
    """

    total: int = 0
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)
    at: float = 0.0
    complete: bool = False
    minutes: dict[int, int] = field(default_factory=dict)
    error: str = ""

    def sorted(self) -> list[Group]:
        """Return the groups, the largest first."""
        return sorted(self.groups.values(), key=lambda group: (-group.count, group.kind))

    def remove(self, kind: str, cause: Cause, died: float) -> None:
        """Count a letter no more."""
        name = (kind, cause.type, cause.shape)
        group, minute = self.groups.get(name), int(died // 60)
        if group is None:
            return
        group.count -= 1
        self.total -= 1
        if minute in self.minutes:
            self.minutes[minute] -= 1
        if group.count <= 0:
            del self.groups[name]

    def add(self, sight: Sight) -> None:
        """Count a letter."""
        cause = cause_of_json(sight.errors, sight.reason)
        kind = sight.kind if isinstance(sight.kind, str) else str(sight.kind)
        name = (kind, cause.type, cause.shape)
        if name not in self.groups and len(self.groups) >= _GROUPS:
            name, cause = ("", OTHER.type, ""), OTHER
            kind = ""
        group = self.groups.get(name)
        died = float(sight.died_at) if isinstance(sight.died_at, (int, float)) else 0.0
        if group is None:
            group = self.groups[name] = Group(kind, cause, 0, died, died)
        group.count += 1
        group.cause = cause
        group.oldest, group.latest = min(group.oldest, died), max(group.latest, died)
        self.total += 1
        minute = int(died // 60)
        self.minutes[minute] = self.minutes.get(minute, 0) + 1


Gone = tuple[str, Cause, float]
"""Of a letter that has gone: its kind, its cause, and when it died."""


class Counter:
    """Keeps a tally of the letters that *open_browser* shows.

    Args:
        open_browser: makes a browser of this object's own.
        wall, clock, work: the time of day, the one that measures, and this thread's work.
        pause: waits for some seconds.
    """

    def __init__(
        self,
        open_browser: Callable[[], Overview],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._open = open_browser
        self._wall, self._clock, self._work, self._pause = wall, clock, work, pause
        # Guards what follows; notified when counting has ended.
        self._changed = threading.Condition()
        self._shown = Tally()
        self._counting = False
        self._gone: list[Gone] = []
        self._version: object = None
        self._looked = float("-inf")
        self._anew = float("-inf")  # until then, nothing is counted anew
        # Of the thread that counts.
        self._browser: Overview | None = None
        self._tally = Tally()
        self._place: tuple[Any, ...] | None = None

    def get(self, *, wait: float = 0.0) -> Tally:
        """Return the latest tally, and let a thread bring it up to date.

        Args:
            wait: seconds to wait for that thread.
        """
        with self._changed:
            if not self._counting and self._is_due():
                self._counting = True
                threading.Thread(
                    target=self._count, name="retryexec-web-tally", daemon=True
                ).start()
            self._changed.wait_for(lambda: not self._counting, wait)
            return self._shown

    def refresh(self, gone: Sequence[Gone] = ()) -> None:
        """Let the next `get` look at once, and count anew if more have gone than *gone*."""
        with self._changed:
            self._gone += gone
            self._looked = self._anew = float("-inf")

    def close(self) -> None:
        """Let go of connections, once nothing is counted any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._counting, 5.0)
            browser, self._browser = self._browser, None
        if browser is not None:
            browser.close()

    def _is_due(self) -> bool:
        return not self._shown.complete or self._clock() >= self._looked + _FRESH

    def _count(self) -> None:
        try:
            self._look()
        except JournalError as error:
            self._shown = replace(self._shown, error=str(error))
        finally:
            with self._changed:
                self._counting = False
                self._looked = self._clock()
                self._changed.notify_all()

    def _look(self) -> None:
        if self._browser is None:
            self._browser = self._open()
        browser = self._browser
        browser.unreadable.clear()
        version = browser.letter_version()
        with self._changed:
            gone, self._gone = self._gone, []
        known = version is not None and version == self._version
        if known and self._shown.complete:
            return
        for one in gone:
            self._tally.remove(*one)
        self._version = version
        began = self._clock()
        if self._shown.complete:
            self._go_on(browser)
            exact = self._tally.total == browser.letter_count()
            if exact or began < self._anew:
                self._version = version if exact else None
                self._shown = self._snapshot(complete=True)
                return
        self._tally, self._place = Tally(), None
        self._go_on(browser)
        self._shown = self._snapshot(complete=True)
        self._anew = self._clock() + _REST * (self._clock() - began)

    def _go_on(self, browser: Overview) -> None:
        """Count the letters that come after the last one counted."""
        self._tally.at = self._wall()
        worked = 0.0
        while True:
            before = self._work()
            page = browser.sights(self._place, _PAGE)
            for sight in page:
                self._tally.add(sight)
            if page:
                place = (page[-1].died_at, page[-1].id)
                if place == self._place:
                    return
                self._place = place
            if len(page) < _PAGE:
                return
            took = self._work() - before
            worked += took
            if worked > _AT_ONCE:
                if not self._shown.complete:
                    self._shown = self._snapshot(complete=False)
                self._pause(took * (1 / _SHARE - 1))

    def _snapshot(self, *, complete: bool) -> Tally:
        tally = self._tally
        recent = int(self._wall() // 60) - 65
        for minute in [minute for minute in tally.minutes if minute < recent]:
            del tally.minutes[minute]
        groups = {name: replace(group) for name, group in tally.groups.items()}
        assert self._browser is not None
        error = next(iter(self._browser.unreadable.values()), "")
        if error:
            self._version = None  # it may be mended
        return replace(
            tally, groups=groups, minutes=dict(tally.minutes), complete=complete, error=error
        )
