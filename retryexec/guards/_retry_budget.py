"""RetryBudget: retries are at most a share of first attempts."""

import math
from collections import deque

from retryexec._typing import override
from retryexec._validate import Seconds, number_between, seconds
from retryexec.guards._guard import AttemptRequest, Outcome
from retryexec.guards._keyed import GuardState, KeyedGuard
from retryexec.guards._line import Line

# Deposits made within such a part of the window are kept as one.
_CELLS = 256

# A sum of fractions that should make a whole retry may be smaller by a rounding error.
_ROUNDING = 1e-6


class _Budget(GuardState):
    """How many retries may start, and those that wait for that."""

    __slots__ = ("_deposits", "_line", "_ratio", "_reserve", "_reserved_at", "_spare", "_started")

    def __init__(
        self, ratio: float, reserve: float, window: float, woken: "deque[AttemptRequest]"
    ) -> None:
        super().__init__(woken)
        self._ratio = ratio
        self._reserve = reserve
        self._deposits = _Deposits(window)
        # What the reserve had at that time: at most one retry.
        self._spare = 1.0 if reserve else 0.0
        self._reserved_at = -math.inf
        self._started: dict[AttemptRequest, bool] = {}  # and whether as a retry
        self._line = Line(woken)

    @override
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        if request in self._started:
            return None
        is_retry = request.number > 1
        if not is_retry:
            self._line.leave(request)  # a new job may have taken the place of one that waits here
            self._deposit(self._ratio, now)
        else:
            had_its_turn = request.turns is not None and self in request.turns
            if not had_its_turn and not self._line.is_next(request, now):
                return self._line.wait(request, math.inf)
            missing = self._missing(now)
            if missing > _ROUNDING:
                return self._line.wait(request, self._time_of(missing, now), ahead=had_its_turn)
            self._spend(now)
            self._line.leave(request)
        self._started[request] = is_retry
        return None

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:
        self._line.leave(request)
        was_retry = self._started.pop(request, None)
        if outcome is not None or was_retry is None:
            return
        # It did not start after all.
        if was_retry:
            # It may come back, and then it is no newcomer.
            request.turns = {*(request.turns or ()), self}
            self._deposit(1.0, now)
        else:
            self._deposits.take(self._ratio, now, newest=True)

    def _deposit(self, retries: float, now: float) -> None:
        self._deposits.add(retries, now)
        if self._line and self._missing(now) <= _ROUNDING:
            self._line.wake_first()

    def _missing(self, now: float) -> float:
        """Return how much of a retry is missing before the next one may start."""
        if self._reserve and now > self._reserved_at:
            if self._reserved_at > -math.inf:
                gained = (now - self._reserved_at) * self._reserve
                self._spare = min(1.0, self._spare + gained)
            self._reserved_at = now
        return 1.0 - self._spare - self._deposits.sum_at(now)

    def _spend(self, now: float) -> None:
        """Take one retry: first from the reserve, which would be full soon and gain no more."""
        from_reserve = min(1.0, self._spare)
        self._spare -= from_reserve
        self._deposits.take(1.0 - from_reserve, now)

    def _time_of(self, missing: float, now: float) -> float:
        """Return when the reserve will have made up for what is *missing*."""
        if not self._reserve:
            return math.inf
        return max(now + missing / self._reserve, math.nextafter(now, math.inf))

    @override
    def is_idle(self, now: float) -> bool:  # it has no keys  # noqa: ARG002
        return False

    def waiting(self) -> int:
        """Return how many retries wait."""
        return len(self._line)


class _Deposits:
    """Sums that count until they are spent, for as long as the window."""

    __slots__ = ("_cells", "_window")

    def __init__(self, window: float) -> None:
        self._window = window
        self._cells: deque[tuple[float, float]] = deque()  # when, and what is left; oldest first

    def add(self, amount: float, now: float) -> None:
        """Put *amount* in."""
        cells = self._cells
        if cells and now - cells[-1][0] < self._window / _CELLS:
            cells[-1] = cells[-1][0], cells[-1][1] + amount
        else:
            self.sum_at(now)
            cells.append((now, amount))

    def sum_at(self, now: float) -> float:
        """Return what there is."""
        while self._cells and now - self._cells[0][0] >= self._window:
            self._cells.popleft()
        return math.fsum(amount for _, amount in self._cells)

    def take(self, amount: float, now: float, *, newest: bool = False) -> None:
        """Take *amount* out, as far as it is there."""
        self.sum_at(now)
        cells = self._cells
        while cells and amount > 0.0:
            time, there = cells[-1] if newest else cells[0]
            if there > amount:
                cells[-1 if newest else 0] = time, there - amount
                return
            amount -= there
            if newest:
                cells.pop()
            else:
                cells.popleft()


class RetryBudget(KeyedGuard[_Budget]):
    """A guard that limits retries to a share of first attempts, so that they cannot pile up.

    First attempts always start. The number of retries may be *ratio* times the first attempts of
    the last *window* seconds, plus *reserve* per second, for times of little traffic. A retry
    beyond that is postponed, first come first served; it does not fail. So if everything fails, the
    service gets 1.2 times as many attempts as there are jobs, and not the policy's *max_attempts*
    times as many.

    The design is that of Finagle's RetryBudget (there 0.2, 10 per second, 10 s): a bucket to which
    each first attempt adds *ratio*, which counts for *window* seconds or until it is spent, and
    from which each retry takes 1. Unlike there, an unused reserve does not add up to more than one
    retry. If several executors share the guard, it counts the attempts of all of them.

    Args:
        ratio: retries per first attempt, 0 or more; 0.2 is one for every five.
        reserve: additional retries per second. With 0, a retry may wait for ever for first
            attempts.
        window: seconds (or a timedelta) for which a first attempt counts.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self, ratio: float = 0.2, *, reserve: float = 10.0, window: Seconds = 10.0
    ) -> None:
        self.ratio = number_between("ratio", ratio, 0.0, math.inf)
        self.reserve = number_between("reserve", reserve, 0.0, math.inf)
        self.window = seconds("window", window)
        if self.window == 0.0:
            msg = f"window takes seconds above 0 (got {window!r})"
            raise ValueError(msg)
        if self.ratio == self.reserve == 0.0:
            msg = (
                f"ratio and reserve are both 0 (got {ratio!r} and {reserve!r}), so no retry would "
                "ever start: use a policy without retries, RetryPolicy.never()"
            )
            raise ValueError(msg)
        self.name = f"RetryBudget({self.ratio:g})"
        super().__init__(None)

    @override
    def _new_state(self) -> _Budget:
        return _Budget(self.ratio, self.reserve, self.window, self._woken)

    @override
    def __repr__(self) -> str:
        with self._lock:
            held = sum(state.waiting() for state in self.states())
        return f"<{self.name}: {held} held>"
