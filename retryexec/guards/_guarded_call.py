"""GuardedCall: how a call of `retry` waits for its guards, in its thread or coroutine."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from retryexec._async import AsyncEvent, in_thread
from retryexec._cancel import CancelToken
from retryexec._clock import EngineClock
from retryexec._ticker import EventTimer, Timer, weak_callback
from retryexec._waits import wait, wait_async
from retryexec.guards._guard import AttemptRequest, Guard, Outcome, Passage

# A timer of the user's may not know an infinite time. It fires now and then, and the guards are
# asked again.
_A_DAY = 86400.0


class GuardedCall:
    """The guards of one call that is retried: asked before each attempt, and told how it went."""

    def __init__(
        self,
        guards: tuple[Guard, ...],
        call: tuple[Any, tuple[Any, ...], Mapping[str, Any]],
        clock: EngineClock,
        timer: Timer | None,
    ) -> None:
        self._guards = guards
        self._call = call  # what is called, and with what
        self._clock = clock
        self._timer = timer
        self._passage: Passage | None = None
        # What wakes the one that waits now. New for each time the guards are asked, since a guard
        # may call wake() late: when this call waits for its next attempt, say.
        self._waiter: _Waiter | _AsyncWaiter | None = None

    def ask(self, number: int, attempt_timeout: float | None, *, is_async: bool) -> float | None:
        """Ask the guards; return None if the attempt may go, else how long to `wait` for them."""
        if self._timer is None and is_async:
            self._waiter = _AsyncWaiter(self._clock)
        else:
            self._waiter = _Waiter(self._clock, self._timer)
        if self._passage is None:
            job, args, kwargs = self._call
            request = AttemptRequest(
                number,
                job,
                args,
                kwargs,
                now=self._clock.now,
                # Weakly: a guard must not keep alive what an interrupt has ended.
                wake=weak_callback(self._wake),
                attempt_timeout=attempt_timeout,
                by_exec=False,
            )
            self._passage = Passage(self._guards, request)
        return self._passage.ask()

    def settle_attempt(
        self, exception: BaseException | None, seconds: float, *, succeeded: bool
    ) -> None:
        """Give back what the attempt holds, and tell how it went."""
        self.settle(Outcome(exception, succeeded, seconds))

    def settle(self, outcome: Outcome | None) -> None:
        """Give back what the attempt holds; None if it did not start, or that is not known."""
        passage, self._passage, self._waiter = self._passage, None, None
        if passage is not None:
            passage.settle(outcome)

    def wait(self, until: float, cancel: CancelToken | None) -> None:
        """Wait until the guards are to be asked again, or *cancel* is cancelled."""
        assert isinstance(self._waiter, _Waiter)
        self._waiter.wait(until, cancel)

    async def wait_async(self, until: float, cancel: CancelToken | None) -> None:
        """Do as `wait`, in a coroutine."""
        if isinstance(self._waiter, _AsyncWaiter):
            await self._waiter.wait(until, cancel)
        else:
            await in_thread(functools.partial(self.wait, until, cancel))

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()


class _Waiter:
    """Waits in a thread."""

    def __init__(self, clock: EngineClock, timer: Timer | None) -> None:
        self._clock = clock
        self._timer = EventTimer(clock) if timer is None else timer
        self._longest = math.inf if timer is None else _A_DAY
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        self._timer.stop()

    def wait(self, until: float, cancel: CancelToken | None) -> None:
        seconds = min(max(0.0, until - self._clock.now()), self._longest)
        wait(self._timer, seconds, cancel, lambda: self._woken)


class _AsyncWaiter:
    """Waits in a coroutine."""

    def __init__(self, clock: EngineClock) -> None:
        self._clock = clock
        self._event = AsyncEvent()
        self.wake = self._event.set

    async def wait(self, until: float, cancel: CancelToken | None) -> None:
        await wait_async(self._clock, until, cancel, self._event)
