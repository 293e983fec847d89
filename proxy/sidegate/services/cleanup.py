"""Clean up: sessions that ended long ago leave the durable store, a batch at a time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.core.within import within

# Between two batches, so that a large backlog does not keep the store from everybody else.
_BREATH: Final = 0.05
# Seconds for one batch. One that takes longer waits for a lock, on a connection others need.
_PATIENCE: Final = 10.0

_log: Final = logging.getLogger("sidegate.janitor")


class CleanupJob:
    """Deletes what is past its absolute deadline by `retention`; revoked sessions wait for theirs.

    So a tombstone outlives every copy that a hot store may still hold.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        retention: timedelta,
        batch: int,
        clock: Clock,
        counted: Callable[[str, int], None],
        patience: float = _PATIENCE,
    ) -> None:
        """`counted` is told `purged` with how many sessions, and `failed` with 1.

        A batch that takes more than `patience` seconds has failed.
        """
        self._durable = durable
        self._retention = retention
        self._batch = batch
        self._clock = clock
        self._counted = counted
        self._patience = patience

    async def run(self, every: float) -> NoReturn:
        """Clean up every so many seconds, until cancelled. A failure is tried again next time."""
        while True:
            try:
                async for _ in self.clean():
                    await asyncio.sleep(_BREATH)
            except StoreUnavailable as outage:
                self._counted("failed", 1)
                _log.warning("cleaning up failed: %s", outage)
            await asyncio.sleep(every)

    async def clean(self) -> AsyncIterator[int]:
        """Delete batch by batch, and yield after each how many sessions that were.

        Ends at once while another instance is at it. StoreUnavailable: what was yielded is done.
        """
        expired_before = self._clock.now() - self._retention
        while True:
            purging = self._durable.purge(expired_before, limit=self._batch)
            purged = await within(self._patience, "durable", purging)
            self._counted("purged", purged)
            yield purged
            if purged < self._batch:
                return
