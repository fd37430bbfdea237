"""ConcurrencyLimit: at most so many attempts at a time."""

import math
from collections import OrderedDict, deque

from retryexec._typing import override
from retryexec._validate import whole_number
from retryexec.guards._guard import AttemptRequest, Outcome
from retryexec.guards._keyed import GuardState, Key, KeyedGuard
from retryexec.guards._line import ABSENT


class _Permits(GuardState):
    """Who has a permit, and who waits for one."""

    __slots__ = ("_granted", "_limit", "_line", "_unclaimed")

    def __init__(self, limit: int, woken: "deque[AttemptRequest]") -> None:
        super().__init__(woken)
        self._limit = limit
        # Those that run, and those that were woken to run: so no newcomer overtakes them.
        self._granted: set[AttemptRequest] = set()
        # Those of them that have not come yet since they were woken, and when that was.
        self._unclaimed: OrderedDict[AttemptRequest, float] = OrderedDict()
        self._line: OrderedDict[AttemptRequest, None] = OrderedDict()

    @override
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        if request in self._granted:
            self._unclaimed.pop(request, None)
        else:
            self._line.setdefault(request)
            self._grant(now, asking=request)
        return None if request in self._granted else self._time_of(request)

    def _time_of(self, request: AttemptRequest) -> float:
        """Return when to ask again for *request*, which is in the line, if nobody wakes it."""
        if self._unclaimed and next(iter(self._line)) is request:
            absent, since = next(iter(self._unclaimed.items()))
            if absent.origin is not request.origin:
                return math.nextafter(since + ABSENT, math.inf)  # it may not come
        return math.inf

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:  # noqa: ARG002  Guard's
        self._granted.discard(request)
        self._unclaimed.pop(request, None)
        self._line.pop(request, None)
        self._grant(now)

    def _grant(self, now: float, asking: AttemptRequest | None = None) -> None:
        """Give what permits there are to the first in the line, and have them asked again."""
        while self._unclaimed:
            absent = next(iter(self._unclaimed))
            if now <= self._unclaimed[absent] + ABSENT:
                break
            self._granted.discard(absent)  # when it asks after all, it is a newcomer
            del self._unclaimed[absent]
        while self._line and len(self._granted) < self._limit:
            first = next(iter(self._line))
            if first is not asking:
                self.woken.append(first)  # before the rest, which an interrupt may prevent
                self._unclaimed[first] = now
            self._granted.add(first)
            del self._line[first]
            if first is not asking:
                self._watch(first)

    def _watch(self, woken: AttemptRequest) -> None:
        """Have the next in the line told when to ask, if it has workers that *woken* may not have.

        In one executor it is not woken for that: no worker would be free for it either.
        """
        following = next(iter(self._line), None)
        if following is not None and following.origin is not woken.origin:
            self.woken.append(following)

    @override
    def is_idle(self, now: float) -> bool:  # noqa: ARG002  GuardState's
        return not self._granted and not self._line

    def counts(self) -> tuple[int, int]:
        """Return how many have a permit, and how many wait for one."""
        return len(self._granted), len(self._line)


class ConcurrencyLimit(KeyedGuard[_Permits]):
    """A guard that limits how many attempts run at the same time, first come first served.

    When an attempt ends, however it ends, its permit goes to the attempt that has waited longest,
    and only that one is woken. If it does not start within a second, since all workers of its
    executor are busy, it loses the permit to the next.

    Other libraries call this a bulkhead (resilience4j's default is 25 calls at a time, failsafe
    and Polly have no default); here *limit* is required.

    Args:
        limit: how many attempts may run at a time, 1 or more; with *key*, for each key.
        key: a callable that returns the hashable for which a separate limit is kept, as in
            ``key=lambda save: save.tenant``. It is called with the arguments of the attempt, with
            a `Retriable` itself first. Without it, there is one limit for all attempts. A key is
            forgotten once no attempt of it runs or waits.

    Raises:
        TypeError, ValueError: *limit* is not a whole number from 1 up.
    """

    def __init__(self, limit: int, *, key: Key = None) -> None:
        self.limit = whole_number("limit", limit, least=1)
        self.name = f"ConcurrencyLimit({self.limit})"
        super().__init__(key)

    @override
    def _new_state(self) -> _Permits:
        return _Permits(self.limit, self._woken)

    @override
    def __repr__(self) -> str:
        with self._lock:
            counts = [state.counts() for state in self.states()]
        running, waiting = sum(c[0] for c in counts), sum(c[1] for c in counts)
        return f"<{self.name}: {running} running, {waiting} held>"
