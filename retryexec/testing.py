"""Time that tests move by hand, so that hours of backoff take milliseconds."""

import math
import threading
import weakref
from collections.abc import Callable, Collection
from time import monotonic
from typing import Protocol

from retryexec._attempt import running_job
from retryexec._validate import Seconds, seconds

__all__ = ["InstantClock", "VirtualClock"]


class Party(Protocol):
    """Something that acts by the clock on threads of its own: an executor's pool."""

    def next_due(self) -> float:
        """Return when its next entry is due; infinity if there is none."""
        ...

    def busy(self, asleep: Collection[threading.Thread]) -> str | None:
        """Return what it is still working at, in words, or None; threads *asleep* do nothing."""
        ...

    def poke(self) -> None:
        """Make it look at the clock again."""
        ...


class _Sleeper:
    """A thread of somebody else's that waits for a time, in `retry` or a ticker."""

    def __init__(self, changed: threading.Condition, until: float) -> None:
        self.changed = changed
        self.until = until
        self.thread = threading.current_thread()
        # A pool is busy as long as its workers are, so nobody has to mind this one.
        self.minded_by_pool = running_job() is not None


class VirtualClock:
    """A clock that stands still until a test moves it.

    It belongs to the thread that made it. That thread calls `advance` or `run_until`; and when
    it waits by the clock itself, in ``retry(..., clock=clock)`` or at the end of a ``with``
    block of an executor, time moves on to the next thing that is due, so nothing ever sleeps.

    Args:
        start: the first time, in seconds.
        patience: real seconds after which attempts that do not end are an error, since time
            cannot move before they do.
    """

    def __init__(self, start: float = 0.0, *, patience: float = 30.0) -> None:
        self._now = seconds("start", start)
        self._patience = patience
        self._owner = threading.current_thread()
        # Guards all but _parties' own state. Taken last: nobody who holds it takes another.
        self._lock = threading.RLock()
        # Notified whenever something that time waits for may have come to rest.
        self._rest = threading.Condition(self._lock)
        self._rests = 0  # how often it was notified, for a look that is older than the wait
        self._parties: weakref.WeakSet[Party] = weakref.WeakSet()
        self._asleep: list[_Sleeper] = []
        self._calls: list[tuple[float, Callable[[], object]]] = []
        self.stirred = 0  # how often time moved on, or a coroutine began to wait
        # Woken by us, and not back asleep yet: they act on the time that has come.
        self._awake: list[_Sleeper] = []

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    def advance(self, span: Seconds) -> None:
        """Move time on by *span*, stopping at everything that is due on the way.

        Returns once every attempt, tick and callback due up to then has run.

        Args:
            span: seconds, or a timedelta; 0 runs what is due already.

        Raises:
            ValueError: *span* is negative: time never goes back.
            RuntimeError: called inside a job, which time would wait for; or attempts have run
                for longer than the clock's patience.
        """
        self._check_outside("advance")
        # To the nanosecond, so that ten tenths are one second.
        target = round(self._now + seconds("advance", span), 9)
        self._settle()
        while (due := self._next_due()) <= target:
            self._move_to(due)
        self._move_to(target)

    def run_until(self, predicate: Callable[[], object]) -> None:
        """Move time from one due time to the next until *predicate* holds.

        Raises:
            RuntimeError: nothing is due any more and it still does not hold; and as `advance`.
        """
        self._check_outside("run_until")
        self._settle()
        while not predicate():
            due = self._next_due()
            if due == math.inf:
                msg = f"nothing is due any more at {self._now:g} s, and {predicate!r} is not true"
                raise RuntimeError(msg)
            self._move_to(due)

    # ---- the Clock protocol

    def wait(self, changed: threading.Condition, until: float) -> None:
        """Block until *changed* is notified or the time is *until*; see `Clock.wait`."""
        if self.mine:
            self._wait_as_owner(changed, until)
            return
        sleeper = _Sleeper(changed, until)
        with self._lock:
            self._left_or_asleep(sleeper.thread)
            if until <= self._now:
                return
            self._asleep.append(sleeper)
            self._at_rest()
        # Whoever wakes us takes *changed* first, which we hold until we wait.
        changed.wait()
        with self._lock:
            if sleeper in self._asleep:
                self._asleep.remove(sleeper)

    def _wait_as_owner(self, changed: threading.Condition, until: float) -> None:
        changed.release()
        try:
            self._settle()
            due = min(self._next_due(), until)
            if due < math.inf:
                self._move_to(due)
                return
        finally:
            changed.acquire()
        # Whatever notifies *changed* now is not a matter of time, a worker's end for one.
        changed.wait(0.001)

    def attach(self, party: Party) -> Callable[[], None]:
        """Let time wait for *party*; return what it calls whenever it has come to rest."""
        self._parties.add(party)
        return self._at_rest

    @property
    def mine(self) -> bool:
        """Whether this thread is the one whose waiting moves time."""
        return threading.current_thread() is self._owner or not self._owner.is_alive()

    def call_at(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* when it is *time*, for a coroutine; return what takes that back."""
        entry = (time, callback)
        with self._lock:
            self.stirred += 1
            self._calls.append(entry)
        if time <= self._now:
            callback()

        def forget() -> None:
            with self._lock:
                if entry in self._calls:
                    self._calls.remove(entry)

        return forget

    def step(self) -> bool:
        """Move on to what is due first; False if nothing is."""
        self._settle()
        due = self._next_due()
        if due == math.inf:
            return False
        self._move_to(due)
        return True

    def entered(self) -> None:
        """Say that this thread acts now: time waits until it waits by the clock itself, or ends."""
        with self._lock:
            self._awake.append(_Sleeper(threading.Condition(), self._now))

    def left(self) -> None:
        """Say that this thread will not wait again for what it was woken for."""
        with self._lock:
            self._left_or_asleep(threading.current_thread())
            self._at_rest()

    # ---- moving

    def _at_rest(self) -> None:
        with self._lock:
            self._rests += 1
            self._rest.notify_all()

    def _left_or_asleep(self, thread: threading.Thread) -> None:
        self._awake = [sleeper for sleeper in self._awake if sleeper.thread is not thread]

    def _check_outside(self, what: str) -> None:
        if running_job() is not None:
            msg = (
                f"{what}() was called inside a job, and would wait for that very job to end: "
                "move time from the test"
            )
            raise RuntimeError(msg)

    def _next_due(self) -> float:
        with self._lock:
            sleepers = [sleeper.until for sleeper in self._asleep]
            sleepers += [time for time, _ in self._calls]
        parties = [party.next_due() for party in list(self._parties)]
        return min(sleepers + parties, default=math.inf)

    def _move_to(self, time: float) -> None:
        with self._lock:
            self._now = max(self._now, time)
            self.stirred += 1
            woken = [sleeper for sleeper in self._asleep if sleeper.until <= self._now]
            self._asleep = [sleeper for sleeper in self._asleep if sleeper.until > self._now]
            self._awake += [sleeper for sleeper in woken if not sleeper.minded_by_pool]
            called = [call for call in self._calls if call[0] <= self._now]
            self._calls = [call for call in self._calls if call[0] > self._now]
        for _, callback in called:
            callback()
        for sleeper in woken:
            with sleeper.changed:
                sleeper.changed.notify_all()
        for party in list(self._parties):
            party.poke()
        self._settle()

    def _settle(self) -> None:
        """Wait until everything due by now has run."""
        given_up = monotonic() + self._patience
        while True:
            rests = self._rests
            if (busy := self._busy()) is None:
                return
            if monotonic() > given_up:
                msg = (
                    f"time cannot move on from {self._now:g} s: after {self._patience:g} s of "
                    f"real time, {busy}; let that end first"
                )
                raise RuntimeError(msg)
            with self._rest:
                if rests == self._rests:
                    # All come to rest with a word, but for a woken thread that simply ends.
                    self._rest.wait(0.001 if self._awake else self._patience)

    def _busy(self) -> str | None:
        with self._lock:
            self._awake = [sleeper for sleeper in self._awake if sleeper.thread.is_alive()]
            if self._awake:
                return f"thread {self._awake[0].thread.name!r} acts on the time that has come"
            asleep = {sleeper.thread for sleeper in self._asleep}
        for party in list(self._parties):
            if (what := party.busy(asleep)) is not None:
                return what
        return None


class InstantClock:
    """A clock on which nobody waits: whoever would, finds that the time has come already.

    It runs with the real clock and skips every wait, so that limits count what was skipped. For
    tests that want retries over with and care for no schedule; `VirtualClock` is for the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _skipped
        self._skipped = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return monotonic() + self._skipped

    def wait(self, changed: threading.Condition, until: float) -> None:
        """Skip to *until*; only for what never comes, wait until *changed* is notified."""
        if until == math.inf:
            changed.wait()
        else:
            self._skip_to(until)

    # As for VirtualClock, for coroutines.
    mine = True
    stirred = 0

    def call_at(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Skip to *time* and call *callback*."""
        if time < math.inf:
            self._skip_to(time)
            callback()
        return lambda: None

    def step(self) -> bool:
        """Return False: nothing is ever due later."""
        return False

    def _skip_to(self, time: float) -> None:
        with self._lock:
            self._skipped = max(self._skipped, time - monotonic())
