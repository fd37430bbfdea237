"""CircuitBreaker: attempts wait while what they call is down."""

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from retryexec._exceptions import logger, report
from retryexec._groups import is_control_flow
from retryexec._typing import override
from retryexec._validate import Seconds, number_between, seconds, whole_number
from retryexec.guards._guard import AttemptRequest, Outcome
from retryexec.guards._keyed import GuardState, Key, KeyedGuard
from retryexec.guards._line import Line
from retryexec.guards._window import Window

TripsOn: TypeAlias = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]
)

# After the breaker has closed, the attempts that it has held follow at this rate, which doubles
# each time so many seconds have passed. After the last number of seconds, all that are left go.
RAMP_RATE = 100.0
RAMP_DOUBLES = 5.0
RAMP_SECONDS = 60.0


class BreakerState(StrEnum):
    """The state of a `CircuitBreaker`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class _Terms:
    """The arguments of a breaker, as numbers."""

    failure_rate: float
    minimum_attempts: int
    window: float
    open_for: float
    probes: int


class _Circuit(GuardState):
    """The breaker of one key."""

    __slots__ = (
        "_answered",
        "_begun",
        "_closed_at",
        "_line",
        "_logged",
        "_next",
        "_phase",
        "_probes",
        "_state",
        "_terms",
        "_until",
        "_window",
    )

    def __init__(
        self, terms: _Terms, woken: "deque[AttemptRequest]", logged: "deque[tuple[Any, ...]]"
    ) -> None:
        super().__init__(woken)
        self._terms = terms
        self._logged = logged  # to be logged once the lock is free
        self._state = BreakerState.CLOSED
        # A token of what has been since the last change of state. An attempt that began in an
        # earlier phase says nothing about this one.
        self._phase = object()
        self._window = Window(terms.window)
        self._begun: dict[AttemptRequest, object] = {}  # and in which phase
        self._line = Line(woken)
        # While open, and half open: when probes may go.
        self._until = math.inf
        # While half open: the probes that are out, and when each counts as lost; and how many
        # have succeeded.
        self._probes: dict[AttemptRequest, float] = {}
        self._answered = 0
        # While closed: since when, and when the next one of the line may go.
        self._closed_at = self._next = -math.inf

    @override
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        if self._state is BreakerState.OPEN and now >= self._until:
            self._change(BreakerState.HALF_OPEN)
            self._logged.append(
                (logging.INFO, "is half open: %d may go to see if it answers", self._terms.probes)
            )
        if self._state is BreakerState.OPEN:
            told: float | None = self._line.wait(request, self._until)
        elif self._state is BreakerState.HALF_OPEN:
            told = self._probe(request, now)
        else:
            told = self._pass(request, now)
        if told is None:
            self._line.leave(request)
        return told

    def _probe(self, request: AttemptRequest, now: float) -> float | None:
        """Let *request* go as a probe, if there is a permit left for it."""
        if request in self._probes:
            return None
        for lost in [probe for probe, until in self._probes.items() if until <= now]:
            del self._probes[lost]
        if len(self._probes) + self._answered >= self._terms.probes:
            return self._line.wait(request, min(self._probes.values()))
        if not self._line.is_next(request, now):
            return self._line.wait(request, math.inf)
        self._probes[request] = now + max(self._terms.open_for, request.attempt_timeout or 0.0)
        return None

    def _pass(self, request: AttemptRequest, now: float) -> float | None:
        """Let *request* go; as long as there is a line, only the first, and at the ramp."""
        if request in self._begun and self._begun[request] is self._phase:
            return None
        if self._line and now >= self._closed_at + RAMP_SECONDS:
            self._line.dissolve()
        had_its_turn = request.turns is not None and self._phase in request.turns
        if self._line and not had_its_turn:
            if not self._line.is_next(request, now):
                return self._line.wait(request, math.inf)
            if now < self._next:
                return self._line.wait(request, self._next)
            rate = RAMP_RATE * 2.0 ** ((now - self._closed_at) / RAMP_DOUBLES)
            self._next = now + 1.0 / rate
        self._begun[request] = self._phase
        return None

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:
        self._line.leave(request)
        phase = self._begun.pop(request, None)
        if self._probes.pop(request, None) is not None:
            self._probe_ended(outcome, now)
        elif phase is self._phase and outcome is None:
            # It did not start after all. It may come back, and then it is no newcomer.
            request.turns = {*(request.turns or ()), phase}
        elif phase is self._phase and outcome is not None:
            self._count(outcome, now)

    def _probe_ended(self, outcome: Outcome | None, now: float) -> None:
        if outcome is None:
            self._line.wake_first()  # there is a permit again
        elif not outcome.succeeded:
            self._trip(now, "a probe failed")
        else:
            self._answered += 1
            if self._answered >= self._terms.probes:
                self.close(now)
                self._logged.append((logging.INFO, "is closed: what is called has answered"))

    def _count(self, outcome: Outcome, now: float) -> None:
        terms, window = self._terms, self._window
        window.add(now, failed=not outcome.succeeded)
        enough = window.attempts >= terms.minimum_attempts
        # Multiplied: 0.3 of 10 attempts are 3.0, and 3 / 10 need not be the same as 0.3.
        limit = terms.failure_rate * window.attempts - 1e-9
        if enough and window.failures and window.failures >= limit:
            counts = f"{window.failures} of {window.attempts} attempts failed"
            self._trip(now, f"{counts} in the last {terms.window:g} s")

    def _trip(self, now: float, why: str) -> None:
        self.open(now + self._terms.open_for)
        message = "is open for %g s: %s"
        self._logged.append((logging.WARNING, message, self._terms.open_for, why))

    def open(self, until: float) -> None:
        """Let nobody go before the time *until*."""
        self._until = until
        self._change(BreakerState.OPEN)

    def close(self, now: float) -> None:
        """Let newcomers go, and those that wait at a ramp."""
        self._closed_at = self._next = now
        self._change(BreakerState.CLOSED)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._phase = object()
        self._window.clear()
        self._probes.clear()
        self._answered = 0
        self._line.wake_first()

    @override
    def is_idle(self, now: float) -> bool:
        if self._begun or self._probes or self._line:
            return False
        if self._state is BreakerState.CLOSED:
            self._window.expire(now)
            return not self._window.attempts
        return now >= self._until + self._terms.window

    def state_at(self, now: float) -> BreakerState:
        """Return the state, which time alone may have changed."""
        is_over = self._state is BreakerState.OPEN and now >= self._until
        return BreakerState.HALF_OPEN if is_over else self._state

    def waiting(self) -> int:
        """Return how many it holds back."""
        return len(self._line)


class CircuitBreaker(KeyedGuard[_Circuit]):
    """A guard that holds attempts while the service they call is down, and lets a few probe it.

    While *closed*, it lets attempts through, and counts those that ended in the last *window*
    seconds. Once there are at least *minimum_attempts*, and at least the share *failure_rate* of
    them has failed, it becomes *open*: attempts are held, first come first served, and none is
    spent. After *open_for* seconds it becomes *half open*, and lets *probes* attempts through. When
    all of them have succeeded, it is closed; when one has failed, it is open again.

    After it has closed, held attempts follow at a growing rate, so that they do not knock down a
    service that has just come up: 100 a second, doubling every 5 seconds, and all the rest after a
    minute.

    A probe's permit is given back whatever becomes of it. If a probe does not end, another may
    replace it after *open_for* seconds, or after the attempt's own timeout if that is longer. An
    attempt that began before the latest change of state does not count, and neither does one that
    was cancelled or interrupted.

    Defaults elsewhere: resilience4j opens at 50 % of at least 100 calls, for 60 s, and lets 10
    through when half open; Polly at 10 % of at least 100 in 30 s, for 5 s, and lets 1 through.

    Each change of state is logged. You can set a breaker's `name`, for the log and `held_by`.

    Args:
        failure_rate: the share of failed attempts that opens it, above 0 and at most 1.
        minimum_attempts: how many attempts there must be in the window before it opens.
        window: seconds (or a timedelta) for which attempts count.
        open_for: seconds (or a timedelta) for which it stays open.
        probes: how many attempts it lets through when half open; all must succeed to close it.
        trips_on: the exceptions that count as failures: a type, a tuple of types, or a callable
            exception -> bool. Any other exception shows that the service has answered, and counts
            as a success; so does a refused result. ``trips_on=(ConnectionError, TimeoutError)``
            leaves out what a faulty job raises.
        key: a callable that returns the hashable for which a separate breaker is kept, as in
            ``key=lambda save: save.host``. It is called with the arguments of the attempt, with a
            `Retriable` itself first. Without it, there is one breaker for all attempts. A key is
            forgotten once nothing is known about it any more.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        *,
        failure_rate: float = 0.5,
        minimum_attempts: int = 20,
        window: Seconds = 60.0,
        open_for: Seconds = 30.0,
        probes: int = 1,
        trips_on: TripsOn = Exception,
        key: Key = None,
    ) -> None:
        self._terms = _Terms(
            number_between("failure_rate", failure_rate, 0.0, 1.0),
            whole_number("minimum_attempts", minimum_attempts, least=1),
            seconds("window", window),
            seconds("open_for", open_for),
            whole_number("probes", probes, least=1),
        )
        for name in ("failure_rate", "window", "open_for"):
            if getattr(self._terms, name) == 0.0:
                msg = f"{name} takes a number above 0 (got 0)"
                raise ValueError(msg)
        self._trips_on = _checked_trips_on(trips_on)
        self.name = "CircuitBreaker"
        self._logged: deque[tuple[Any, ...]] = deque()
        self._is_forced = False  # whether it was opened by hand, for keys yet to come
        self._now: Callable[[], float] | None = None  # the clock of the latest attempt
        super().__init__(key)

    @property
    def state(self) -> BreakerState:
        """Whether it is closed, open or half open: "closed", "open" or "half_open".

        With keys: open if it is open for any key, else half open if it is for any, else closed.
        """
        now = self._time()
        with self._lock:
            found = {state.state_at(now) for state in self.states()}
            if self._is_forced:
                return BreakerState.OPEN
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            if state in found:
                return state
        return BreakerState.CLOSED

    def open(self) -> None:
        """Open it by hand, for all keys: no attempt starts, not even a probe, until `close`."""
        with self._lock:
            self._is_forced = True
            for state in self.states():
                state.open(math.inf)
            self._logged.append((logging.WARNING, "is open until it is closed by hand"))
        self._wake()

    def close(self) -> None:
        """Close it by hand, for all keys; forget the failures, and release the held gradually."""
        now = self._time()
        with self._lock:
            self._is_forced = False
            for state in self.states():
                state.close(now)
            self._logged.append((logging.INFO, "is closed by hand"))
        self._wake()

    @override
    def admit(self, request: AttemptRequest) -> float | None:
        """Let the attempt go, or say when to ask again; see `Guard.admit`."""
        self._now = request.now
        return super().admit(request)

    @override
    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        """Take back what *request* holds here; see `Guard.release`."""
        judged: Outcome | None = None
        try:
            if outcome is not None:
                judged = self._judge(outcome)
        finally:
            super().release(request, judged)

    def _judge(self, outcome: Outcome) -> Outcome | None:
        """Return what *outcome* says of what was called; None if it says nothing."""
        exception = outcome.exception
        if exception is None:
            return Outcome(None, succeeded=True, seconds=outcome.seconds)
        try:
            if isinstance(self._trips_on, (type, tuple)):
                failed = isinstance(exception, self._trips_on)
            else:
                failed = bool(self._trips_on(exception))
        except Exception:
            report("trips_on failed; the attempt does not count for %s", self.name)
            return None
        if not failed and is_control_flow(exception):
            return None
        return Outcome(exception, succeeded=not failed, seconds=outcome.seconds)

    @override
    def _new_state(self) -> _Circuit:
        state = _Circuit(self._terms, self._woken, self._logged)
        if self._is_forced:
            state.open(math.inf)
        return state

    @override
    def _wake(self) -> None:
        while self._logged:
            try:
                level, message, *arguments = self._logged.popleft()
            except IndexError:  # another thread was faster
                break
            with suppress(Exception):  # a log handler's
                logger.log(level, "%s " + message, self.name, *arguments)
        super()._wake()

    def _time(self) -> float:
        now = self._now
        return -math.inf if now is None else now()

    @override
    def __repr__(self) -> str:
        state = self.state
        with self._lock:
            held = sum(circuit.waiting() for circuit in self.states())
        return f"<{self.name} {state}: {held} held>"


def _checked_trips_on(value: Any) -> TripsOn:
    kinds = value if isinstance(value, tuple) else (value,) if isinstance(value, type) else None
    if kinds is None and callable(value):
        return value  # type: ignore[no-any-return]  # checked above
    if kinds and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return value  # type: ignore[no-any-return]  # checked above
    msg = (
        "trips_on takes an exception type, a tuple of types, or a callable exception -> bool "
        f"(got {value!r})"
    )
    raise TypeError(msg)
