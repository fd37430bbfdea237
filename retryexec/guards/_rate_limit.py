"""RateLimit: attempts start at most at a rate."""

import math
from collections import OrderedDict, deque
from time import monotonic

from retryexec._typing import override
from retryexec._validate import Seconds, number_between, seconds, whole_number
from retryexec.guards._guard import AttemptRequest, Outcome
from retryexec.guards._keyed import GuardState, Key, KeyedGuard

# Threads that wait by the machine's clock are no more punctual than that, now and then. Where
# starts follow each other faster, one that is late by less counts as punctual; otherwise each
# delay would put off all that follow, for good. A clock that tests move is exact, and so are the
# starts then.
_PUNCTUAL = 0.1

# What a start costs beyond its job is mostly the waking of threads. So by that clock, those that
# wait in a line are asked in lots: at multiples of so many seconds, or of fewer, and at most an
# eighth of their wait. So they are a little late, and punctual all the same.
_LOT = 1 / 32


class _Schedule(GuardState):
    """The starts of one key: those that have been, and the times that are reserved.

    `_spent` alone decides whether an attempt may start: it is what GCRA calls the theoretical
    arrival time, the *tat*, of the next start, after those that have been. Reserved times say
    when to ask. A request that asks at its time finds that it may start, unless starts were late:
    since workers were busy, or since another guard held back whoever had reserved an earlier
    time. Then it gets a new time, in the order of asking, behind others that are late.
    """

    __slots__ = (
        "_end_of_late",
        "_interval",
        "_last",
        "_late",
        "_reserved",
        "_spent",
        "_started",
        "_window",
    )

    def __init__(self, interval: float, burst: int, woken: "deque[AttemptRequest]") -> None:
        super().__init__(woken)
        self._interval = interval
        self._window = (burst - 1) * interval  # how long before its arrival time a start may be
        self._spent = -math.inf
        # Of those that have not started, in the order of their times: the arrival time that each
        # has reserved, and when it is asked again: once it may start, or at the time of its lot.
        self._reserved: OrderedDict[AttemptRequest, tuple[float, float]] = OrderedDict()
        self._last: tuple[float, float] | None = None  # of these
        self._late: OrderedDict[AttemptRequest, tuple[float, float]] = OrderedDict()
        self._end_of_late = -math.inf  # the arrival time after those
        # Of those that have: what was spent before that start, and after it.
        self._started: dict[AttemptRequest, tuple[float, float]] = {}

    @override
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        slot = self._reserved.get(request)
        is_late = False
        if slot is None:
            if request in self._started:
                return None
            slot = self._late.get(request)
            is_late = slot is not None
            if slot is None and not (request.turns and self in request.turns):
                ask = self._reserve(request, now)
                if ask is not None:
                    return ask
        if slot is not None and now < slot[0] - self._window:
            return slot[1]
        start, free = now, self._spent
        if slot is not None and self._is_lenient(request):
            start = self._punctual_start(request, slot[0] - self._window, now)
            if not is_late:
                # Behind those that are late, which have earlier times. They are asked in lots, too,
                # and would find those times taken again and again.
                free = max(free, self._end_of_late)
        if now < free - self._window:
            return self._reserve_late(request)
        spent = max(self._spent, start) + self._interval
        self._started[request] = self._spent, spent
        self._spent = spent
        self._forget(request)
        return None

    def _is_lenient(self, request: AttemptRequest) -> bool:
        return self._interval < _PUNCTUAL and request.now is monotonic

    def _reserve(self, request: AttemptRequest, now: float) -> float | None:
        """Reserve a time behind all others, and return when to ask; None if that is now."""
        arrival = max(now, self._spent, self._end_of_late)
        last = self._last
        if last is not None and last[0] + self._interval > arrival:
            arrival = last[0] + self._interval
        at = arrival - self._window
        ask = self._ask_at(request, at, last, wait=at - now)
        if ask <= now:
            return None
        self._reserved[request] = self._last = arrival, ask
        return ask

    def _reserve_late(self, request: AttemptRequest) -> float:
        """Reserve another time for one that was late, behind others that were."""
        self._forget(request)
        last = self._late[next(reversed(self._late))] if self._late else None
        arrival = max(self._spent, self._end_of_late)
        ask = self._ask_at(request, arrival - self._window, last)
        self._late[request] = arrival, ask
        self._end_of_late = arrival + self._interval
        return ask

    def _ask_at(
        self,
        request: AttemptRequest,
        at: float,
        last: tuple[float, float] | None,
        wait: float = math.inf,
    ) -> float:
        """Return when to ask one that may start at the time *at*, and stands behind *last*."""
        if last is None or not self._is_lenient(request):
            return at
        if last[1] >= at:
            return last[1]  # it is of the same lot, or would overtake others
        # A power of two, of which a float holds each multiple exactly: up to an eighth of the wait.
        step = _LOT if wait >= 8 * _LOT else 2.0 ** (math.frexp(wait)[1] - 4)
        return at - at % -step if step > self._interval else at

    def _punctual_start(self, request: AttemptRequest, at: float, now: float) -> float:
        """Return what counts as the time at which *request* starts, for which *at* was reserved.

        Of a lot, one may ask before another, in another thread. So it is the time of the first that
        has not started: if it were its own, the earlier ones would be lost.
        """
        if request in self._reserved:
            first = self._reserved[next(iter(self._reserved))][0] - self._window
            at = first if now - first <= _PUNCTUAL else at
        return max(at, now - _PUNCTUAL)

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:  # noqa: ARG002  Guard's
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
        slot = self._reserved.pop(request, None)
        if slot is not None and slot is self._last:
            reserved = self._reserved
            self._last = reserved[next(reversed(reserved))] if reserved else None
        if not self._late:
            return
        slot = self._late.pop(request, None)
        if not self._late:
            self._end_of_late = -math.inf
        elif slot is not None and slot[0] + self._interval == self._end_of_late:
            self._end_of_late = slot[0]

    @override
    def is_idle(self, now: float) -> bool:
        in_use = self._reserved or self._late or self._started
        return not in_use and self._spent <= now

    def waiting(self) -> int:
        """Return how many have reserved a time."""
        return len(self._reserved) + len(self._late)


class RateLimit(KeyedGuard[_Schedule]):
    """A guard that limits the rate at which attempts start.

    In any *t* seconds, at most ``burst + rate * t / per`` attempts start. An attempt that has to
    wait reserves a time once, first come first served, and asks again at that time. If it is
    cancelled, it gives its time back, unless a later time is reserved. The limit counts starts: if
    an attempt starts late, because all workers are busy, those behind it keep their distance.

    This is GCRA, the generic cell rate algorithm of ITU-T I.371, in its reserving form: with
    T = per / rate, each start has a theoretical arrival time, ``tat = max(now, tat) + T``, and
    may be (burst - 1) · T seconds earlier.

    Threads are only exact to a few milliseconds, and waking one costs more than running a small
    job. So with the machine's clock and more than ten starts a second, a start that is up to 0.1 s
    late counts as punctual; there may be as many extra starts as belong to 0.1 s. Attempts that
    wait in a line start in batches: all that belong to 1/32 s, or to an eighth of their wait, start
    at the end of it, which is 31 at a time at a rate of 1000. The rate is still kept, since each
    start counts for its reserved time. Under a clock that tests move, all starts are exact.

    Args:
        rate: how many attempts may start in *per* seconds; 0.5 is one in two seconds.
        per: the seconds (or timedelta) to which *rate* refers.
        burst: how many may start at once after a time without any.
        key: a callable that returns the hashable for which a separate rate is kept, as in
            ``key=lambda save: save.tenant``. It is called with the arguments of the attempt, with
            a `Retriable` itself first. Without it, there is one rate for all attempts. A key takes
            a kilobyte; once it is idle, it is forgotten when others arrive.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
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
