"""Keep every instance on one time, the database's: they judge the same sessions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn

from sidegate.core.clock import SharedClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.within import within

# Whoever was told after longer than this does not know when it was said.
_PATIENCE: Final = 0.25

# Whoever was never told tries again after twice so many seconds, and then ever later.
_SOON: Final = 0.1

# Seconds that are worth a line in the log: nobody's sessions notice a smaller jump.
_NOTICED: Final = 1.0

_log: Final = logging.getLogger("sidegate.clock")


class ClockSync:
    """Tells a clock, again and again, what time it is where the sessions are stored."""

    def __init__(self, clock: SharedClock, ask: Callable[[], Awaitable[datetime]]) -> None:
        """`ask` returns the time of the durable store, or raises StoreUnavailable."""
        self._clock = clock
        self._ask = ask
        self._told = False

    async def run(self, every: float) -> NoReturn:
        """Tell it every so many seconds, until cancelled. Without the store it goes on alone.

        Until it was told for the first time it goes by its own machine's, so that is tried sooner.
        """
        pause = _SOON
        while True:
            with suppress(StoreUnavailable):
                await self.sync()
            pause = every if self._told else min(every, 2 * pause)
            await asyncio.sleep(pause)

    async def sync(self) -> None:
        """Tell it now. StoreUnavailable: nobody said what time it is, or too late."""
        asked = self._clock.monotonic()
        moment = await within(_PATIENCE, "durable", self._ask())
        heard = self._clock.monotonic()
        if heard - asked > _PATIENCE:  # this process was stopped, and its timers with it
            raise StoreUnavailable("durable", "nobody knows when it told the time")
        jump = self._clock.told(moment, between=(asked, heard))
        self._told = True
        if abs(jump) >= _NOTICED:
            _log.warning(
                "the time here was %+.1f s from the database's, and follows it now",
                -jump,
            )
