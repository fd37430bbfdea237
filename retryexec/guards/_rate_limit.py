"""RateLimit: attempts start at most at a rate."""

import math
from collections import OrderedDict, deque
from time import monotonic
from typing import NamedTuple

from retryexec._typing import override
from retryexec._validate import Seconds, number_between, seconds, whole_number
from retryexec.guards._guard import AttemptRequest, Outcome
from retryexec.guards._keyed import GuardState, Key, KeyedGuard

# Threads that wait by the machine's clock are no more punctual than that, now and then. Where
# starts follow each other faster, one that is late by less counts as punctual; otherwise each
# delay would put off all that follow, for good. A clock that tests move is exact, and so are the
# starts then.
_PUNCTUAL = 0.1


class _Slot(NamedTuple):
    """A time that is reserved for a start.

    Attributes:
        arrival: the theoretical arrival time of GCRA that it stands for.
        at: when the start may be; earlier than *arrival* by up to the burst.
    """

    arrival: float
    at: float


class _Schedule(GuardState):
    """The starts of one key: those that have been, and the times that are reserved.

    `_spent` alone decides whether an attempt may start: it is what GCRA calls the theoretical
    arrival time, the *tat*, of the next start, after those that have been. Reserved times say
    when to ask. A request that asks at its time finds that it may start, unless starts were late:
    since workers were busy, or since another guard held back whoever had reserved an earlier
    time. Then it gets a new time, in the order of asking, behind others that are late.
    """

    __slots__ = ("_end_of_late", "_interval", "_late", "_reserved", "_spent", "_started", "_window")

    def __init__(self, interval: float, burst: int, woken: "deque[AttemptRequest]") -> None:
        super().__init__(woken)
        self._interval = interval
        self._window = (burst - 1) * interval  # how long before its arrival time a start may be
        self._spent = -math.inf
        # Of those that have not started, in the order of their times.
        self._reserved: OrderedDict[AttemptRequest, _Slot] = OrderedDict()
        self._late: dict[AttemptRequest, _Slot] = {}
        self._end_of_late = -math.inf  # the arrival time after those
        # Of those that have: what was spent before that start, and after it.
        self._started: dict[AttemptRequest, tuple[float, float]] = {}

    @override
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        if request in self._started:
            return None
        slot = self._late.get(request) or self._reserved.get(request)
        if slot is None and not (request.turns and self in request.turns):
            arrival = max(now, self._spent, self._end_of_reserved(), self._end_of_late)
            slot = _Slot(arrival, max(now, arrival - self._window))
            if now < slot.at:
                self._reserved[request] = slot
        if slot is not None and now < slot.at:
            return slot.at
        if now < self._spent - self._window:
            self._forget(request)
            arrival = max(self._spent, self._end_of_late)
            self._late[request] = _Slot(arrival, arrival - self._window)
            self._end_of_late = arrival + self._interval
            return arrival - self._window
        is_lenient = self._interval < _PUNCTUAL and request.now is monotonic
        tolerance = _PUNCTUAL if is_lenient else 0.0
        start = slot.at if slot is not None and now - slot.at <= tolerance else now
        spent = max(self._spent, start) + self._interval
        self._started[request] = self._spent, spent
        self._spent = spent
        self._forget(request)
        return None

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:  # noqa: ARG002
        self._forget(request)
        started = self._started.pop(request, None)
        if started is not None and outcome is None:
            # It did not start after all. It may come back, and then it is no newcomer.
            request.turns = {*(request.turns or ()), self}
            before, after = started
            if after == self._spent:
                self._spent = before

    def _forget(self, request: AttemptRequest) -> None:
        """Drop the time that *request* has reserved; what was reserved last can be had again."""
        self._reserved.pop(request, None)
        slot = self._late.pop(request, None)
        if not self._late:
            self._end_of_late = -math.inf
        elif slot is not None and slot.arrival + self._interval == self._end_of_late:
            self._end_of_late = slot.arrival

    def _end_of_reserved(self) -> float:
        """Return the arrival time after the last one that is reserved."""
        if not self._reserved:
            return -math.inf
        return self._reserved[next(reversed(self._reserved))].arrival + self._interval

    @override
    def is_idle(self, now: float) -> bool:
        in_use = self._reserved or self._late or self._started
        return not in_use and self._spent <= now

    def waiting(self) -> int:
        """Return how many have reserved a time."""
        return len(self._reserved) + len(self._late)


class RateLimit(KeyedGuard[_Schedule]):
    """A guard that lets attempts start at most at a rate.

    In any *t* seconds, at most ``burst + rate * t / per`` of them start. An attempt that has to
    wait reserves its time once, first come first served, and is asked again at that time. One
    that is cancelled gives its time back if no later one is reserved. What is counted are starts:
    if an attempt starts late, because all workers are busy, those behind it keep their distance.

    This is GCRA, the generic cell rate algorithm of ITU-T I.371, in its reserving form: with
    T = per / rate, each start has a theoretical arrival time, ``tat = max(now, tat) + T``, and
    may be (burst - 1) · T seconds earlier.

    At more than ten starts a second, one that is late by less than 0.1 s counts as punctual,
    because threads are no more exact than that; so there may be as many more as belong to 0.1 s.
    Under a clock that tests move, there are not.

    Args:
        rate: how many attempts may start in *per* seconds; 0.5 is one in two.
        per: the seconds (or timedelta) that *rate* counts for.
        burst: how many may start at once after a time without any.
        key: called with what the attempt is called with (a `Retriable` itself first), it returns
            the hashable whose rate counts: ``key=lambda save: save.tenant``. Without it, one
            rate counts for all attempts. A key takes a kilobyte; once it is idle, it is forgotten
            as others come.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
    """

    reserves = True  # see Passage

    def __init__(self, rate: float, per: Seconds = 1.0, *, burst: int = 1, key: Key = None) -> None:
        self.rate = number_between("rate", rate, 0.0, math.inf)
        self.per = seconds("per", per)
        self.burst = whole_number("burst", burst, least=1)
        for name, value in (("rate", self.rate), ("per", self.per)):
            if value == 0.0:
                msg = f"{name} takes a number above 0 (got {value!r}): nothing would ever start"
                raise ValueError(msg)
        if self.per / self.rate == math.inf:
            msg = (
                "rate and per make more seconds between two starts than a float can hold "
                f"(got {rate!r} and {per!r})"
            )
            raise ValueError(msg)
        self.name = f"RateLimit({self.rate:g}/{'' if self.per == 1.0 else f'{self.per:g} '}s)"
        super().__init__(key)

    @override
    def _new_state(self) -> _Schedule:
        return _Schedule(self.per / self.rate, self.burst, self._woken)

    @override
    def __repr__(self) -> str:
        with self._lock:
            held = sum(state.waiting() for state in self.states())
        return f"<{self.name}: {held} held>"
