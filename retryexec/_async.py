"""Waiting in a coroutine, on asyncio or on trio, whichever is running."""

import math
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class AsyncEvent:
    """An event that one coroutine waits for, with a time limit, and any thread may set."""

    def __init__(self) -> None:
        self._library = current_library()
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

    async def wait(self, seconds: float) -> None:
        """Return once the event is set, or after so many real *seconds*, which may be infinite."""
        if self._library == "trio":
            import trio

            with trio.move_on_after(seconds):
                await self._event.wait()
        else:
            import asyncio

            with suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._event.wait()

    async def give_way(self) -> None:
        """Let the other coroutines of this loop have a turn."""
        if self._library == "trio":
            import trio

            await trio.lowlevel.checkpoint()
        else:
            import asyncio

            await asyncio.sleep(0)


async def outcome_of(
    future: Future[T], until_set: Callable[[AsyncEvent], Coroutine[Any, Any, None]]
) -> T:
    """Return the result of *future*, as awaiting it does, but wait for its end by *until_set*."""
    import asyncio

    ended = asyncio.wrap_future(future)
    event = AsyncEvent()
    future.add_done_callback(lambda _: event.set())
    try:
        await until_set(event)
    except asyncio.CancelledError:
        ended.cancel()  # and the future, as where it is awaited itself
        raise
    return await ended


async def in_thread(function: Callable[[], T]) -> T:
    """Call *function*, which blocks, on another thread."""
    if current_library() == "trio":
        import trio

        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)
    import asyncio

    return await asyncio.to_thread(function)


def current_library() -> str:
    """Return the name of the async library that runs here: "trio" or "asyncio"."""
    sniffio = sys.modules.get("sniffio")  # imported by trio and anyio; without them it is asyncio
    if sniffio is not None:
        try:
            return str(sniffio.current_async_library())
        except sniffio.AsyncLibraryNotFoundError:
            pass
    return "asyncio"
