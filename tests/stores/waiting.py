"""Wait for what nobody announces, with a deadline."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any


async def until(holds: Callable[[], bool], *, within: float = 10.0) -> None:
    """Return when `holds` does. TimeoutError: it never did."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.002)


async def until_answered(asks: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Return when `asks`, put to somebody else's process, is answered with yes."""
    async with asyncio.timeout(within):
        while not await asks():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.002)


@asynccontextmanager
async def nothing_is_left() -> AsyncIterator[list[dict[str, Any]]]:
    """Fail if the loop complains meanwhile, or if a task outlives the block.

    Yields the list of complaints.
    """
    loop = asyncio.get_running_loop()
    before, complaints = asyncio.all_tasks(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    try:
        yield complaints
        ending = asyncio.current_task()  # of a fixture, another one than began
        await until(lambda: asyncio.all_tasks() - {ending} <= before)
        await _forget_everything()
    finally:
        loop.set_exception_handler(None)
    assert not complaints, complaints


async def all_leave(callers: list[asyncio.Task[Any]]) -> None:
    """Let every caller leave, and forget them: who remembers one keeps alive what it waited for."""
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    callers.clear()


async def _forget_everything() -> None:
    """Let callbacks run and futures die, so that one nobody looked at can complain."""
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
