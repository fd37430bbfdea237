"""A batch of changes, and the answers to those who wait for it."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from retryexec.journal._entry import Entry, EntryState
from retryexec.journal._errors import JournalError, JournalFull
from retryexec.journal._store import Lane, Store

_DOUBTS, _DOUBT_PAUSE = 5, 0.05  # looks at a lane before an outcome stays unknown; seconds

NEW, WRITING, STORED, DETACHED, ENDED = EntryState


class Batch(NamedTuple):
    """What one look at some entries has found to do."""

    inserts: list[Entry]
    updates: list[Entry]
    deletes: list[Entry]
    marks: list[Entry]

    def __bool__(self) -> bool:
        return any(self)

    @property
    def size(self) -> int:
        """How many changes that is."""
        return sum(map(len, self))

    def by_lane(self, own: Lane | None) -> "Iterable[tuple[Lane, Batch]]":
        """Return the parts that belong to one lane each; new entries go to the *own* one."""
        parts: dict[Any, Batch] = {}
        for place, group in enumerate(self):
            for entry in group:
                lane = entry.lane or own
                if lane not in parts:
                    parts[lane] = Batch([], [], [], [])
                parts[lane][place].append(entry)
        return parts.items()

    def without_inserts(self) -> "Batch":
        """Return what is left of it when the new entries have been refused."""
        return Batch([], *([e for e in part if e.state is not ENDED] for part in self[1:]))

    def halves(self) -> "tuple[Batch, Batch]":
        """Return two batches, the first of which is to be done first."""
        first, second, room = list[list[Entry]](), list[list[Entry]](), self.size // 2
        for part in self:
            first.append(part[:room])
            second.append(part[room:])
            room -= len(first[-1])
        return Batch(*first), Batch(*second)


def landed_in(lane: Lane, entry: Entry) -> bool | None:
    """Return whether the transaction that *entry* was in took place; None if unknown."""
    for _ in range(_DOUBTS):
        try:
            return lane.holds(entry)
        except Exception:
            threading.Event().wait(_DOUBT_PAUSE)
    return None


class Answers:
    """Answers those who wait for an entry: it is accepted, or refused and why."""

    def __init__(self, store: Store, later: Callable[[Callable[[], object]], object]) -> None:
        self._store = store
        self._later = later

    def tell(self, entry: Entry) -> None:
        """Tell those who wait for *entry* that it is accepted, or refused."""
        if entry.waiter is not None:
            entry.waiter.release()
        if entry.future is not None:
            self._later(entry.resolve)

    def end(self, entry: Entry) -> None:
        """Note that nothing of *entry* is on disk, or has to be."""
        entry.state = ENDED
        if entry.waiter is not None or entry.future is not None:
            self.tell(entry)

    def end_new(self, entries: Iterable[Entry]) -> None:
        """Note that those of *entries* that are new need not be written."""
        for entry in entries:
            if entry.state is NEW:
                self.end(entry)

    def refuse(self, entries: Iterable[Entry], error: Exception) -> None:
        """Refuse *entries*, which are on no disk."""
        refusal = self.refusal(error)
        for entry in entries:
            entry.refusal = refusal
            self.end(entry)

    def refusal(self, error: Exception) -> JournalError:
        """Return what the submitter of a job hears when *error* kept it from the disk."""
        if isinstance(error, JournalError):
            return error
        if self._store.is_full(error):
            refusal: JournalError = JournalFull(
                f"the disk is full: the job was not accepted ({error})"
            )
        else:
            refusal = JournalError(
                f"the job could not be written down, so it was not accepted: {error}"
            )
        refusal.__cause__ = error
        return refusal
