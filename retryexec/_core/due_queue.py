"""DueQueue: entries in the order they are due. No thread, no lock, no clock."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain, count, islice, repeat
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from retryexec._core.signals import in_one_call

# Below this many, dead entries are not worth a sweep.
SWEEP_MIN = 64


class Entry(Protocol):
    """Something that can wait in a `DueQueue`."""

    due: float | None
    """When its wait ends; None while it does not wait, which marks its place here as dead."""


E = TypeVar("E", bound=Entry)

# (due, entry) in the lane, (due, order of arrival, entry) in the heap.
_Place: TypeAlias = tuple[Any, ...]


class DueQueue(Generic[E]):
    """Entries in the order they are due; those that are due at one time, in order of arrival.

    A discarded entry is only marked as dead, by ``due = None``. Its place is dropped when it
    comes to the front, or when the dead are the majority, since searching for it would cost more.

    `add` may be called by any thread at any time. All other methods want one lock of the
    caller's. Those that a main thread calls (`discard`, `clear`, `len`, iteration) leave the
    queue consistent if an interrupt strikes in them.
    """

    def __init__(self) -> None:
        # Entries that were added and have no place yet: `add` is one append, so that the threads
        # that call it, which are many, need not queue up for the lock.
        self._inbox: deque[E] = deque()
        self.add: Callable[[E], None] = self._inbox.append
        """Take an entry that waits until its `due`, or that was discarded meanwhile."""
        # Entries that arrive in the order they are due, as all do whose delay is the same, stand
        # in the lane, which costs a fifth of a heap. Whatever is due before the lane's latest
        # goes into the heap. So of two that are due at one time, one here and one there, the one
        # in the lane arrived first.
        self._lane: deque[_Place] = deque()
        self._heap: list[_Place] = []
        # When the latest entry that ever was in the lane is due. That entry may have gone, but
        # others may be in the heap because of it, and the rule above must hold for them.
        self._lane_end = -math.inf
        self._arrivals = count()
        self._dead = 0  # how many of all these places are of no use any more

    def discard(self, entry: E) -> bool:
        """Forget *entry*; False if it is not waiting."""
        if entry.due is None:
            return False
        # To an interrupt these two are one step, since there is no call in them.
        entry.due = None
        self._dead += 1
        if self._dead > SWEEP_MIN:
            # The sum is that of _places, which would be one more call for each.
            places = len(self._lane) + len(self._heap) + len(self._inbox)
            if self._dead * 2 > places:
                self._sweep()
        return True

    def next_due(self) -> float:
        """Return when the earliest entry is due; infinity if there is none."""
        self._absorb()
        lane, heap = self._lane, self._heap
        while heap and not _is_live(heap[0]):
            self._dead -= 1
            heappop(heap)
        while lane and not _is_live(lane[0]):
            self._dead -= 1
            lane.popleft()
        due: float = min(heap[0][0] if heap else math.inf, lane[0][0] if lane else math.inf)
        return due

    def take_due(self, now: float, into: deque[E]) -> None:
        """Move the entries that are due at *now* to the end of *into*; their `due` becomes None."""
        self._absorb()
        lane, heap = self._lane, self._heap
        while lane or heap:
            from_heap = bool(heap) and (not lane or heap[0][0] < lane[0][0])
            place = heap[0] if from_heap else lane[0]
            if place[0] > now:
                return
            if _is_live(place):
                entry = place[-1]
                into.append(entry)  # first: if there is no memory for it, it stays here
                entry.due = None
            else:
                self._dead -= 1
            if from_heap:
                heappop(heap)
            else:
                lane.popleft()

    def clear(self) -> None:
        """Forget all entries; the `due` of each becomes None. A second call does no harm."""
        self._inbox.extend(())  # as in _absorb
        arrived, waiting = len(self._inbox), list(self)
        dropped = len(self._lane) + len(self._heap) + arrived - len(waiting)
        forget = chain(
            map(setattr, waiting, repeat("due"), repeat(None)),
            islice(iter(self._inbox.popleft, None), arrived),
        )
        lane: deque[_Place] = deque()
        # From here on this is one step to an interrupt, which strikes after a call, if at all.
        self._lane, self._heap = lane, []
        self._dead -= dropped
        in_one_call(forget)

    def __len__(self) -> int:
        """Return how many entries are waiting."""
        return max(0, self._places() - self._dead)

    def __iter__(self) -> Iterator[E]:
        """Iterate over those that are waiting now, in no particular order."""
        entries = [*map(_entry_of, self._lane), *map(_entry_of, self._heap), *list(self._inbox)]
        if self._dead:  # an entry that was discarded and added again has two places
            entries = list({entry for entry in entries if entry.due is not None})
        return iter(entries)

    def _places(self) -> int:
        return len(self._lane) + len(self._heap) + len(self._inbox)

    def _absorb(self) -> None:
        """Give the entries in the inbox their places."""
        inbox = self._inbox
        inbox.extend(())  # takes the deque's own lock: see docs/free-threading.md
        while inbox:
            entry = inbox[0]
            due = entry.due
            if due is None:
                self._dead -= 1
            elif due >= self._lane_end or not (self._lane or self._heap):
                self._lane.append((due, entry))
                self._lane_end = due
            else:
                heappush(self._heap, (due, next(self._arrivals), entry))
            # Only now: if there was no memory for its place, the entry is still here.
            inbox.popleft()

    def _sweep(self) -> None:
        """Drop all dead places, and let the others stand in the lane."""
        old_lane, arrived = self._lane, list(self._inbox)
        places = len(old_lane) + len(self._heap) + len(arrived)
        live = self._live_places(arrived)
        live.sort(key=_due_of)  # leaves those that are due at one time in the order they arrived
        lane, lane_end = deque(live), live[-1][0] if live else -math.inf
        dropped = places - len(live)
        moved = islice(iter(self._inbox.popleft, None), len(arrived))
        # A signal handler, which runs in between like an interrupt, may have swept meanwhile.
        if self._lane is old_lane:
            # From here on this is one step to an interrupt, which strikes after a call, if at all.
            self._lane, self._heap, self._lane_end = lane, [], lane_end
            self._dead -= dropped
            in_one_call(moved)

    def _live_places(self, arrived: list[E]) -> list[_Place]:
        """Return the place of each entry that waits, of one due time in order of arrival."""
        # As _is_live, which would be a call for each.
        live = [p for p in chain(self._lane, sorted(self._heap)) if p[-1].due == p[0]]
        live += [(due, entry) for entry in arrived if (due := entry.due) is not None]
        if len(live) <= len(self._lane) + len(self._heap) + len(arrived) - self._dead:
            return live
        # An entry that was discarded and added again has two; both look alive if it is due at the
        # same time as before. Looked through from behind, so that the first one is kept.
        kept = {id(place[-1]): place for place in reversed(live)}
        return list(reversed(kept.values()))


_due_of = itemgetter(0)
_entry_of = itemgetter(-1)


def _is_live(place: _Place) -> bool:
    return bool(place[-1].due == place[0])
