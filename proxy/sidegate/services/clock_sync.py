"""Clock synchronization: every instance follows the database's clock.

Instances whose clock comes from the database keep the difference between it and a second clock,
that of Redis. So an instance or a command that begins during an outage of the database knows the
time nevertheless, and not from a machine that may be wrong.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NoReturn, TypeVar

from sidegate.core.clock import MIN_ADJUSTMENT, SharedClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import ReferenceClock
from sidegate.core.timeouts import with_timeout

# Seconds for one reading. A slower one leaves open when in between it was taken.
_TIMEOUT: Final = 0.25

# Before the first reading any is better than none, as it may have to connect to a database far
# away: the timeout grows by this factor with each attempt, to so many seconds.
_TIMEOUT_GROWTH: Final = 4
_MAX_TIMEOUT: Final = 4.0

# Attempts with the database, before a command takes the time from the second clock.
_ATTEMPTS: Final = 3

# Seconds. Until the first reading succeeds, the retry interval starts at twice this and doubles.
_RETRY_DELAY: Final = 0.1

# Seconds. A smaller correction changes no session's verdict noticeably, and is not logged.
_LOGGED_OFFSET: Final = 1.0

_log: Final = logging.getLogger("sidegate.clock")

_Reading = TypeVar("_Reading")


class ClockSync:
    """Sets a SharedClock from the durable store's clock, periodically."""

    def __init__(
        self,
        clock: SharedClock,
        read_time: Callable[[], Awaitable[datetime]],
        *,
        reference: ReferenceClock | None = None,
    ) -> None:
        """`read_time` returns the durable store's time, or raises StoreUnavailable.

        `reference` sets the clock while the durable store does not answer and it was never set.
        """
        self._clock = clock
        self._read_time = read_time
        self._reference = reference
        self._synced = False  # with the durable store
        self._timeout = _TIMEOUT

    async def run(self, interval: float) -> NoReturn:
        """Synchronize, and keep the difference, every `interval` seconds until cancelled.

        Without the store the clock runs on. Until the first success checks are refused, or the time
        is that of the reference, so the first attempts are made sooner.
        """
        pause = _RETRY_DELAY
        while True:
            with suppress(StoreUnavailable):
                await self.sync_or_use_reference(attempts=1)
            with suppress(StoreUnavailable):  # during an outage of the database, too
                await self.keep_difference()
            pause = interval if self._synced else min(interval, 2 * pause)
            await asyncio.sleep(pause)

    async def sync_or_use_reference(self, *, attempts: int = _ATTEMPTS) -> None:
        """Synchronize now; if the store does not answer and the clock was not set, by `reference`.

        Raise StoreUnavailable if the store has not answered and the clock is not set.
        """
        for rest in reversed(range(attempts)):
            try:
                await self.sync()
                break
            except StoreUnavailable:
                if not rest and not self._clock.is_set and not await self._set_by_reference():
                    raise
        if self._timeout > _TIMEOUT and self._synced:  # the reading took long, maybe to connect
            with suppress(StoreUnavailable):
                await self.sync()

    async def sync(self) -> None:
        """Synchronize now. Raise StoreUnavailable if the reading fails or times out."""
        try:
            timestamp, between = await self._measure(self._read_time(), store="durable")
        except StoreUnavailable as error:
            self._clock.unset_reason = str(error)
            if not self._synced:
                self._timeout = min(_TIMEOUT_GROWTH * self._timeout, _MAX_TIMEOUT)
            raise
        sent_at, received_at = between
        # A slow reading corrects only what is beyond its own inaccuracy.
        self._timeout = min(max(_TIMEOUT, 2 * (received_at - sent_at)), _MAX_TIMEOUT)
        self._synced = True
        self._set(timestamp, between)

    async def keep_difference(self) -> None:
        """Keep the reference's difference to the clock, if that comes from the durable store.

        Raise StoreUnavailable if the reference does not answer.
        """
        if self._reference is None or not self._synced:
            return
        (own, kept), (sent, received) = await self._measure(self._reference.read(), store="redis")
        half = (received - sent) / 2
        ago = self._clock.monotonic() - received + half
        difference = self._clock.now() - own - timedelta(seconds=ago)
        if kept is None or abs(difference - kept).total_seconds() > MIN_ADJUSTMENT + half:
            await self._reference.keep(difference)

    async def _set_by_reference(self) -> bool:
        """Set the clock by the reference; return False if that does not know the time."""
        if self._reference is None:
            return False
        with suppress(StoreUnavailable):
            (own, difference), between = await self._measure(self._reference.read(), store="redis")
            if difference is not None:
                self._set(own + difference, between)
                return True
        return False

    async def _measure(
        self, reading: Awaitable[_Reading], *, store: str
    ) -> tuple[_Reading, tuple[float, float]]:
        """Return a reading, and the times between which it was taken."""
        timeout = self._timeout
        sent_at = self._clock.monotonic()
        result = await with_timeout(reading, timeout, store=store)
        received_at = self._clock.monotonic()
        if received_at - sent_at > timeout:  # the process was suspended, and its timers with it
            raise StoreUnavailable(store, "the time was read too slowly to be used")
        return result, (sent_at, received_at)

    def _set(self, timestamp: datetime, between: tuple[float, float]) -> None:
        jump = self._clock.set_time(timestamp, between=between)
        if abs(jump) >= _LOGGED_OFFSET:
            _log.warning("clock corrected", extra={"correction_seconds": round(jump, 1)})
