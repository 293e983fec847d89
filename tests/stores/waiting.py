"""Wait for conditions without an event, with a timeout, and check that no task is left."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

# Seconds between two looks at another process, which has to work for each of them.
_POLL_INTERVAL: Final = 0.02


async def wait_until(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Return when the condition holds. Raise TimeoutError if it does not in time."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.002)


async def wait_until_async(
    condition: Callable[[], Awaitable[bool]], *, within: float = 10.0
) -> None:
    """Return when the condition holds, whose evaluation needs another process."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(_POLL_INTERVAL)


@asynccontextmanager
async def no_leaks() -> AsyncIterator[list[dict[str, Any]]]:
    """Fail if the loop's exception handler is called, or if a task outlives the block.

    Yield the list of the handler's contexts.
    """
    loop = asyncio.get_running_loop()
    before, errors = asyncio.all_tasks(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        yield errors
        current = asyncio.current_task()  # in a fixture, not the one that began
        await wait_until(lambda: asyncio.all_tasks() - {current} <= before)
        await _collect_garbage()
    finally:
        loop.set_exception_handler(None)
    assert not errors, errors


async def cancel_all(callers: list[asyncio.Task[Any]]) -> None:
    """Cancel the callers and drop them: a reference to a task keeps what it waited for."""
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    callers.clear()


async def _collect_garbage() -> None:
    """Run callbacks and delete futures, so that one with an unretrieved error reports it."""
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
