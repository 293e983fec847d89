"""Clock synchronization: every instance follows the database's clock."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn

from sidegate.core.clock import SharedClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.timeouts import with_timeout

# Seconds for one reading. A slower one leaves open when in between it was taken.
_TIMEOUT: Final = 0.25

# Seconds. Until the first reading succeeds, the retry interval starts at twice this and doubles.
_RETRY_DELAY: Final = 0.1

# Seconds. A smaller correction changes no session's verdict noticeably, and is not logged.
_LOGGED_OFFSET: Final = 1.0

_log: Final = logging.getLogger("sidegate.clock")


class ClockSync:
    """Sets a SharedClock from the durable store's clock, periodically."""

    def __init__(self, clock: SharedClock, read_time: Callable[[], Awaitable[datetime]]) -> None:
        """`read_time` returns the durable store's time, or raises StoreUnavailable."""
        self._clock = clock
        self._read_time = read_time
        self._synced = False

    async def run(self, interval: float) -> NoReturn:
        """Synchronize every `interval` seconds until cancelled.

        Without the store the clock runs on. Until the first success it follows this machine's
        clock, so the first attempts are made sooner.
        """
        pause = _RETRY_DELAY
        while True:
            with suppress(StoreUnavailable):
                await self.sync()
            pause = interval if self._synced else min(interval, 2 * pause)
            await asyncio.sleep(pause)

    async def sync(self) -> None:
        """Synchronize now. Raise StoreUnavailable if the reading fails or times out."""
        sent_at = self._clock.monotonic()
        timestamp = await with_timeout(self._read_time(), _TIMEOUT, store="durable")
        received_at = self._clock.monotonic()
        if received_at - sent_at > _TIMEOUT:  # the process was suspended, and its timers with it
            raise StoreUnavailable("durable", "the time was read too slowly to be used")
        jump = self._clock.set_time(timestamp, between=(sent_at, received_at))
        self._synced = True
        if abs(jump) >= _LOGGED_OFFSET:
            _log.warning("clock corrected", extra={"correction_seconds": round(jump, 1)})
