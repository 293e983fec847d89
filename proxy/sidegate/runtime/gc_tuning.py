"""Keep Python's garbage collector from stopping everybody while it looks at every session there is.

A full collection visits every object that may be part of a cycle: with 100,000 sessions in memory
that was seen to take 265 ms, longer than a check may last. Nearly all of them are no part of one:
they are freed when nobody refers to them any more, and need not be looked at again and again.
"""

import asyncio
import gc
import time
from typing import Final, NoReturn

_EVERY: Final = 2.0
# So long a pause is nobody's trouble: a gateway waits 150 ms at least.
_LONG: Final = 0.010
# The collector's own full collections never come between.
_NEVER: Final = 1_000_000_000


async def keep_short(every: float = _EVERY, *, long: float = _LONG) -> NoReturn:
    """Look at all objects every so many seconds, until cancelled; after a look that took `long`
    seconds or more, what is there by then is set aside and not looked at again.

    A cycle among what was set aside is not found when it dies. Those are few: what lives for
    seconds is a session, or a piece of the program.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        while True:
            began = time.perf_counter()
            gc.collect()
            if time.perf_counter() - began >= long:
                gc.freeze()
            await asyncio.sleep(every)
    finally:
        gc.unfreeze()
        gc.set_threshold(young, middle, old)
