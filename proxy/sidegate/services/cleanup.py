"""Cleanup: delete long ended sessions from the durable store, in batches."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import PurgeInProgress, StoreUnavailable
from sidegate.core.protocols import Purger
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Seconds between two batches, so that a large backlog leaves the store to other clients.
_BATCH_PAUSE: Final = 0.05
# Seconds for one batch. One that takes longer waits for a lock, on a connection others need.
_TIMEOUT: Final = 10.0


class CleanupJob:
    """Deletes sessions whose absolute deadline passed more than `retention` ago.

    Revoked sessions are kept until then, too: a tombstone outlives every cached copy.
    """

    def __init__(
        self,
        purger: Purger,
        *,
        retention: timedelta,
        batch: int,
        clock: Clock,
        count: Callable[[str, int], None],
        timeout: float = _TIMEOUT,
    ) -> None:
        """Call `count` with `purged` and a number of sessions, or with `failed` and 1.

        `timeout` is in seconds, for one batch.
        """
        self._purger = purger
        self._retention = retention
        self._batch = batch
        self._clock = clock
        self._count = count
        self._timeout = timeout
        self._outage = watch_job("cleanup", clock)

    async def run(self, interval: float) -> NoReturn:
        """Clean up every `interval` seconds until cancelled; retry a failed run then.

        A run ends while another process is cleaning up: that one deletes what is left.
        """
        while True:
            try:
                with suppress(PurgeInProgress):
                    async for _ in self.clean():
                        await asyncio.sleep(_BATCH_PAUSE)
            except StoreUnavailable as error:
                self._count("failed", 1)
                self._outage.record_failure(error)
            else:
                self._outage.record_success()
            await asyncio.sleep(interval)

    async def clean(self) -> AsyncIterator[int]:
        """Delete batch by batch, and yield the number of sessions after each.

        Raise PurgeInProgress while another process is cleaning up, and StoreUnavailable if a batch
        fails; the batches that were yielded are committed.
        """
        expired_before = self._clock.now() - self._retention
        while True:
            purging = self._purger.purge(expired_before, limit=self._batch)
            purged = await with_timeout(purging, self._timeout, store="durable")
            self._count("purged", purged)
            yield purged
            if purged < self._batch:
                return
