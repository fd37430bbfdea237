"""Clocks for tests: with them, hours of backoff take milliseconds."""

import math
import threading
import weakref
from collections.abc import Callable
from time import monotonic

from retryexec._async import AsyncEvent
from retryexec._attempt import running_job
from retryexec._clock import EngineClock, Participant
from retryexec._typing import override
from retryexec._validate import Seconds, seconds

__all__ = ["InstantClock", "VirtualClock"]

# Sums of the same spans, made in different ways, differ by less than so many seconds.
_ROUNDING = 0.5e-9

# How many turns a coroutine gives the others before it lets time move on.
_TURNS = 10


class _Sleeper:
    """A thread, not one of a participant, that waits for a time: in `retry`, or for a ticker."""

    def __init__(self, changed: threading.Condition, until: float) -> None:
        self.changed = changed
        self.until = until
        self.thread = threading.current_thread()
        # The clock does not wait for a worker itself: its pool says that it is busy.
        self.is_worker = running_job() is not None


class VirtualClock(EngineClock):
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
        # Guards all below, but not the state of the participants. Taken last: nobody who holds
        # it takes another.
        self._lock = threading.RLock()
        # Notified whenever something that time waits for may have come to rest.
        self._rest = threading.Condition(self._lock)
        self._rests = 0  # how often it was notified, to notice one that came before the wait
        self._participants: weakref.WeakSet[Participant] = weakref.WeakSet()
        self._asleep: list[_Sleeper] = []
        self._calls: list[tuple[float, Callable[[], object]]] = []
        self._activity = 0  # how often time moved on, or somebody asked to be called
        # Woken because their time has come, and not asleep again: time waits for them.
        self._awake: list[_Sleeper] = []

    @override
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
        # To the nanosecond, so that ten tenths are one second. What is due after three waits of a
        # tenth is due at 0.30000000000000004, and so it runs if time is moved on to 0.3.
        target = round(self._now + seconds("advance", span), 9)
        self._settle()
        while (due := self._next_due()) <= target + _ROUNDING:
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

    # ---- what the library asks of a clock; see EngineClock

    @override
    def wait(self, changed: threading.Condition, until: float) -> None:
        """Block until *changed* is notified or the time is *until*; see `Clock.wait`."""
        if self.owned_here:
            self._wait_as_owner(changed, until)
            return
        sleeper = _Sleeper(changed, until)
        with self._lock:
            self._is_not_awake(sleeper.thread)
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

    @override
    async def wait_async(self, event: AsyncEvent, until: float) -> None:
        """Return once *event* is set or the time is *until*.

        In the owner's loop, the other coroutines have their turns, and then time moves on to
        what is due first.
        """
        take_back = self.call_at(until, event.set)
        try:
            if not self.owned_here:
                await event.wait(math.inf)  # another thread moves time
            while True:
                activity = self._activity
                for _ in range(_TURNS):
                    await event.give_way()
                    if event.is_set:
                        return
                # Others that were woken meanwhile, or have just begun to wait, come first.
                if activity == self._activity and not self._step():
                    await event.wait(0.001)  # for something that is not a matter of time
        finally:
            take_back()

    @override
    def call_at(self, time: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* when it is *time*; return what takes that back."""
        call = (time, callback)
        with self._lock:
            self._activity += 1
            self._calls.append(call)
        if time <= self._now:
            callback()

        def take_back() -> None:
            with self._lock:
                if call in self._calls:
                    self._calls.remove(call)

        return take_back

    @override
    def attach(self, participant: Participant) -> Callable[[], None]:
        """Let time wait for *participant*; return what it calls whenever it has come to rest."""
        self._participants.add(participant)
        return self._at_rest

    @override
    def before_endless_wait(self, is_over: Callable[[], bool]) -> None:
        """Wait until *is_over*, or until everything is at rest, and refuse to wait any longer.

        Only in the thread that owns the clock, and if something is due later: then it is that
        thread which would have to move time, and cannot while it waits.
        """
        if threading.current_thread() is not self._owner:
            return
        while not is_over():
            if self._busy() is None and not is_over():
                if self._next_due() == math.inf:
                    return  # it is not time that is waited for
                msg = (
                    f"this thread would wait for ever: it owns the VirtualClock, which stands at "
                    f"{self._now:g} s until this thread moves it. Call "
                    "clock.run_until(future.done) first"
                )
                raise RuntimeError(msg)
            with self._rest:
                # Whoever comes to rest notifies us; what is waited for may be over before.
                self._rest.wait(0.001)

    @property
    @override
    def moves_while_awaited(self) -> bool:
        """Whether this thread owns the clock; while it awaits a future, nobody else moves time."""
        return threading.current_thread() is self._owner

    @override
    async def until_set(self, event: AsyncEvent) -> None:
        """Return once *event* is set; move time on whenever this thread has nothing else to do."""
        while not event.is_set:
            activity = self._activity
            for _ in range(_TURNS):
                await event.give_way()
            # Running attempts may need this loop, so they are not waited for here.
            if self._busy() is not None or activity != self._activity or not self._step():
                await event.wait(0.001)

    @override
    def thread_busy(self) -> None:
        """Let time wait until this thread waits by the clock itself, is idle, or ends."""
        with self._lock:
            self._awake.append(_Sleeper(threading.Condition(), self._now))

    @override
    def thread_idle(self) -> None:
        """Let time wait for this thread no more: it will not wait again for what woke it."""
        with self._lock:
            self._is_not_awake(threading.current_thread())
            self._at_rest()

    @property
    def owned_here(self) -> bool:
        """Whether this thread is the one whose waiting moves time."""
        return threading.current_thread() is self._owner or not self._owner.is_alive()

    # ---- moving

    def _at_rest(self) -> None:
        with self._lock:
            self._rests += 1
            self._rest.notify_all()

    def _is_not_awake(self, thread: threading.Thread) -> None:
        self._awake = [sleeper for sleeper in self._awake if sleeper.thread is not thread]

    def _check_outside(self, what: str) -> None:
        if running_job() is not None:
            msg = (
                f"{what}() was called inside a job, and would wait for that very job to end: "
                "move time from the test"
            )
            raise RuntimeError(msg)

    def _step(self) -> bool:
        """Move on to what is due first; False if nothing is."""
        self._settle()
        due = self._next_due()
        if due == math.inf:
            return False
        self._move_to(due)
        return True

    def _next_due(self) -> float:
        with self._lock:
            sleepers = [sleeper.until for sleeper in self._asleep]
            sleepers += [time for time, _ in self._calls]
        participants = [each.next_due() for each in list(self._participants)]
        return min(sleepers + participants, default=math.inf)

    def _move_to(self, time: float) -> None:
        with self._lock:
            self._now = max(self._now, time)
            self._activity += 1
            woken = [sleeper for sleeper in self._asleep if sleeper.until <= self._now]
            self._asleep = [sleeper for sleeper in self._asleep if sleeper.until > self._now]
            self._awake += [sleeper for sleeper in woken if not sleeper.is_worker]
            called = [call for call in self._calls if call[0] <= self._now]
            self._calls = [call for call in self._calls if call[0] > self._now]
        for _, callback in called:
            callback()
        for sleeper in woken:
            with sleeper.changed:
                sleeper.changed.notify_all()
        for participant in list(self._participants):
            participant.recheck()
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
                    # All notify us when they come to rest, but for a woken thread that simply ends.
                    self._rest.wait(0.001 if self._awake else self._patience)

    def _busy(self) -> str | None:
        with self._lock:
            self._awake = [sleeper for sleeper in self._awake if sleeper.thread.is_alive()]
            if self._awake:
                return f"thread {self._awake[0].thread.name!r} acts on the time that has come"
            asleep = {sleeper.thread for sleeper in self._asleep}
        for participant in list(self._participants):
            if (what := participant.busy(asleep)) is not None:
                return what
        return None


class InstantClock(EngineClock):
    """A clock on which nobody waits: whoever would, finds that the time has come already.

    It runs with the real clock and skips every wait; limits count what was skipped. For tests in
    which the schedule does not matter; `VirtualClock` is for those in which it does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _skipped
        self._skipped = 0.0

    @override
    def now(self) -> float:
        """Return the time in seconds."""
        return monotonic() + self._skipped

    @override
    def wait(self, changed: threading.Condition, until: float) -> None:
        """Skip to *until*; only for what never comes, wait until *changed* is notified."""
        if until == math.inf:
            changed.wait()
        else:
            self._skip_to(until)

    @override
    async def wait_async(self, event: AsyncEvent, until: float) -> None:
        """Skip to *until*; only for what never comes, wait until *event* is set."""
        if until == math.inf:
            await event.wait(math.inf)
        else:
            self._skip_to(until)
            await event.give_way()

    def _skip_to(self, time: float) -> None:
        with self._lock:
            self._skipped = max(self._skipped, time - monotonic())
