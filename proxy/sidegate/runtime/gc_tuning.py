"""Keep Python's garbage collector from pausing the event loop on a full collection.

A full collection visits every object that may be part of a cycle. With 100,000 sessions in memory
one took 265 ms, longer than a check may take. Nearly all of these objects belong to no cycle: they
are freed by reference counting, and need not be visited again and again.
"""

import asyncio
import gc
import time
from typing import Final, NoReturn

_COLLECTION_INTERVAL: Final = 2.0
# A pause this long does no harm: a gateway waits at least 150 ms.
_FREEZE_AFTER: Final = 0.010
# High enough that the collector never starts a full collection itself.
_FULL_COLLECTION_DISABLED: Final = 1_000_000_000


async def limit_gc_pauses(
    interval: float = _COLLECTION_INTERVAL, *, freeze_after: float = _FREEZE_AFTER
) -> NoReturn:
    """Run a full collection every `interval` seconds until cancelled.

    If a collection takes `freeze_after` seconds or more, freeze the objects that remain: later
    collections do not visit them. Garbage cycles among frozen objects are not found. They are few:
    what is in memory for seconds is a session or a part of the program.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_DISABLED)
    try:
        while True:
            started = time.perf_counter()
            gc.collect()
            if time.perf_counter() - started >= freeze_after:
                gc.freeze()
            await asyncio.sleep(interval)
    finally:
        gc.unfreeze()
        gc.set_threshold(young, middle, old)
