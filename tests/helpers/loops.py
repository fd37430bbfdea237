"""The two libraries that coroutines run on here, each behind the same few words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import hypothesis  # noqa: F401  imports trio too, and must before conftest freezes the heap
import trio

Main = Callable[[], Awaitable[Any]]


class OnAsyncio:
    """Coroutines on asyncio."""

    name = "asyncio"

    def run(self, main: Main) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(20):
                return await main()

        return asyncio.run(limited())

    async def gather(self, *mains: Main) -> None:
        async with asyncio.TaskGroup() as group:
            for main in mains:
                group.create_task(main())  # type: ignore[arg-type]

    async def give_up_soon(self, main: Main) -> None:
        """Cancel *main* at its first real wait."""
        task = asyncio.ensure_future(main())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def turn(self) -> None:
        await asyncio.sleep(0)


class OnTrio:
    """Coroutines on trio."""

    name = "trio"

    def run(self, main: Main) -> Any:
        async def limited() -> Any:
            with trio.fail_after(20):
                return await main()

        return trio.run(limited)

    async def gather(self, *mains: Main) -> None:
        async with trio.open_nursery() as nursery:
            for main in mains:
                nursery.start_soon(main)

    async def give_up_soon(self, main: Main) -> None:
        """Cancel *main* at its first real wait."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()


LOOPS = [OnAsyncio(), OnTrio()]
