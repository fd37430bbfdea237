"""Waiting without a thread: on asyncio, and on trio where that is what runs."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from retryexec._clock import Clock

T = TypeVar("T")

# How many turns a coroutine gives the others before it lets a virtual clock move on.
_TURNS = 10


class AsyncEvent:
    """An event that one coroutine waits for, until a time, and any thread may set."""

    def __init__(self) -> None:
        self._library = _current_library()
        self.is_set = False
        if self._library == "trio":
            import trio

            event, here = trio.Event(), trio.lowlevel.current_trio_token()
            self._event: Any = event
            self._wake: Callable[[], object] = lambda: here.run_sync_soon(event.set)
        else:
            import asyncio

            loop, woken = asyncio.get_running_loop(), asyncio.Event()
            self._event = woken
            self._wake = lambda: loop.call_soon_threadsafe(woken.set)

    def set(self) -> None:
        """Wake the coroutine, from any thread."""
        self.is_set = True
        with suppress(RuntimeError):  # its loop has ended, and the coroutine with it
            self._wake()

    async def wait(self, clock: Clock, until: float) -> None:
        """Return once the event is set or *clock* says *until*; it may come early."""
        if getattr(clock, "call_at", None) is not None:
            await self._wait_virtually(clock, until)
        else:
            await self._wait_for(max(0.0, until - clock.now()))

    async def _wait_for(self, seconds: float) -> None:
        if self._library == "trio":
            import trio

            with trio.move_on_after(seconds):
                await self._event.wait()
        else:
            import asyncio

            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._event.wait()

    async def _wait_virtually(self, clock: Any, until: float) -> None:
        """Give the others their turns, and then let time move on to what is due first."""
        forget = clock.call_at(until, self.set)
        try:
            if not clock.mine:
                await self._event.wait()  # another thread moves time
            while True:
                stirred = clock.stirred
                for _ in range(_TURNS):
                    await _turn(self._library)
                    if self.is_set:
                        return
                # Whoever else was woken meanwhile, or has just begun to wait, comes first.
                if stirred == clock.stirred and not clock.step():
                    await self._wait_for(0.001)  # for something that is no matter of time
        finally:
            forget()


async def in_thread(function: Callable[[], T]) -> T:
    """Call *function*, which blocks, on another thread."""
    if _current_library() == "trio":
        import trio

        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)
    import asyncio

    return await asyncio.to_thread(function)


async def _turn(library: str) -> None:
    if library == "trio":
        import trio

        await trio.lowlevel.checkpoint()
    else:
        import asyncio

        await asyncio.sleep(0)


def _current_library() -> str:
    sniffio = sys.modules.get("sniffio")  # imported by trio and anyio, and nobody else needs it
    if sniffio is not None:
        try:
            return str(sniffio.current_async_library())
        except sniffio.AsyncLibraryNotFoundError:
            pass
    return "asyncio"
