"""Keep Python's garbage collector from pausing the event loop for long.

A full collection visits every object that may be part of a cycle. The modules of the program alone
take 30 ms, so they are frozen: no collection visits them again. Neither does one visit the caches,
which are empty then, nor the sessions that come into them (core/session.py): these belong to no
cycle, and are freed by reference counting. What is left are connections, requests and tasks. They
are never frozen: aiohttp leaves cycles behind, which would stay forever.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

# Seconds between two full collections.
_MIN_INTERVAL: Final = 2.0
_MAX_INTERVAL: Final = 60.0
# The share of time that they take, so that of 2,000 checks one meets a collection.
_MAX_SHARE: Final = 1 / 2000
# High enough that the collector never starts a full collection itself.
_FULL_COLLECTION_DISABLED: Final = 1_000_000_000


async def limit_gc_pauses(
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    timer: Callable[[], float] = time.perf_counter,
) -> NoReturn:
    """Freeze all present objects, and run full collections, until cancelled.

    The longer one takes, the later is the next, within bounds.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_DISABLED)
    gc.collect()
    gc.freeze()
    try:
        while True:
            started = timer()
            gc.collect()
            interval = (timer() - started) / _MAX_SHARE
            await sleep(min(max(_MIN_INTERVAL, interval), _MAX_INTERVAL))
    finally:
        gc.unfreeze()
        gc.set_threshold(young, middle, old)
