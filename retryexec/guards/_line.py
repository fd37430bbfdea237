"""Line: those who wait at a guard, of whom mostly the first alone is told a time."""

import math
from collections import OrderedDict, deque
from itertools import islice

from retryexec.guards._guard import AttemptRequest

# Seconds after which one that has been woken, and has not asked, lets the next one go before it.
# All workers of its executor may be busy, and others share the guard.
ABSENT = 1.0


class Line:
    """Those who wait, first come first served; used under the lock of its guard.

    The first is told when to ask again. The others are woken when they have become the first: so
    however many wait, there is one entry in a queue of due times, and one is woken at a time. But
    if the second is another executor's, it is told when to ask in case the first does not come.
    """

    __slots__ = ("_line", "_told", "_woken")

    def __init__(self, woken: "deque[AttemptRequest]") -> None:
        self._woken = woken  # to be woken once the lock is free
        self._line: OrderedDict[AttemptRequest, None] = OrderedDict()
        # When the first is expected to ask: infinity if it waits to be woken, and None if it has
        # been, and nobody has asked since.
        self._told: float | None = None

    def __len__(self) -> int:
        return len(self._line)

    def is_next(self, request: AttemptRequest, now: float) -> bool:
        """Return whether nobody is before *request*, which need not be in the line yet."""
        if not self._line or self._first() is request:
            return True
        if self._told is None:
            self._told = now  # it is expected from now on
        elif now > self._told + ABSENT:
            self.leave(self._first())  # when it asks after all, it is a newcomer
            return not self._line or self._first() is request
        return False

    def wait(self, request: AttemptRequest, until: float, *, ahead: bool = False) -> float:
        """Keep the place of *request*, or give it one, and return when to ask for it again.

        Args:
            until: when to ask for the first.
            ahead: whether a newcomer goes before all others.
        """
        if request not in self._line:
            self._line[request] = None
            if ahead:
                self._line.move_to_end(request, last=False)
        if self._first() is not request:
            return self._time_of_second(request, until if self._told is None else self._told)
        self._told = until
        return until

    def _time_of_second(self, request: AttemptRequest, expected: float) -> float:
        """Return when to ask for *request* if the first, *expected* at that time, does not come.

        In one executor it would not come either, since all workers are busy.
        """
        first, second = islice(self._line, 2)
        if second is request and second.origin is not first.origin:
            return math.nextafter(expected + ABSENT, math.inf)
        return math.inf

    def leave(self, request: AttemptRequest) -> None:
        """Take *request* out, if it is in, and wake the next one if it was the first."""
        if request in self._line:
            was_first = self._first() is request
            del self._line[request]
            if was_first:
                self.wake_first()

    def wake_first(self) -> None:
        """Have the first asked, so that it is told another time."""
        self._told = None
        woken = [*islice(self._line, 2)]
        if len(woken) == 2 and woken[0].origin is woken[1].origin:
            del woken[1]  # it need not be told when to ask if the first does not come
        self._woken.extend(woken)

    def dissolve(self) -> None:
        """Wake all, and let them go."""
        self._woken.extend(self._line)
        self._line.clear()

    def _first(self) -> AttemptRequest:
        return next(iter(self._line))
