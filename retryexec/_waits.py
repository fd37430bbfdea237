"""Waiting between attempts, in a thread or in a coroutine, until a time or a token's cancelling."""

from collections.abc import Callable

from retryexec._async import AsyncEvent
from retryexec._cancel import CancelToken
from retryexec._clock import EngineClock
from retryexec._ticker import Timer


def wait(
    timer: Timer,
    seconds: float,
    cancel: CancelToken | None,
    is_woken: Callable[[], bool] = lambda: False,
) -> None:
    """Wait *seconds* by *timer*, or until *cancel* is cancelled, or the timer is stopped.

    Args:
        is_woken: whether there is no need to wait any more; who makes it so stops the timer.
    """
    timer.start(seconds)
    # Asked and registered after start(), which would undo a stop().
    if is_woken():
        return
    if cancel is None:
        timer.wait()
        return
    unregister = cancel.on_change(timer.stop)  # if it is cancelled by now, this stops
    try:
        # What is left of the token's time may be rounded down, or be told by another clock.
        while (
            (left := cancel.remaining()) != 0.0
            and not timer.wait(left)
            and left is not None
            and not is_woken()
        ):
            pass
    finally:
        unregister()


async def wait_async(
    clock: EngineClock, until: float, cancel: CancelToken | None, event: AsyncEvent
) -> None:
    """Wait in a coroutine until the time *until*, or *event* is set, or *cancel* is cancelled."""
    unregister = None if cancel is None else cancel.on_change(event.set)
    try:
        while (
            clock.now() < until
            and not event.is_set
            and not (cancel is not None and cancel.cancelled)
        ):
            left = None if cancel is None else cancel.remaining()
            await clock.wait_async(event, until if left is None else min(until, clock.now() + left))
    finally:
        if unregister is not None:
            unregister()
