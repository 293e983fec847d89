"""Fill the caches with sessions that were read from the database, but not changed."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import CacheTrust, Fill, MemoryCache, RemoteCache
from sidegate.core.seal import CachePosition
from sidegate.core.session import Session

# Copies in one round trip: more at once would queue behind each other within one store deadline.
_BATCH_SIZE: Final = 64


class ReadStart(NamedTuple):
    """The state of the caches before the database is read, and when that was."""

    position: CachePosition
    epoch: int
    at: float


class CacheFiller:
    """Puts what was read from the database into memory and the remote cache.

    Late copies are harmless: memory counts the age of a copy from before it was read, and the
    remote cache takes it only if it has not moved since.
    """

    def __init__(
        self,
        memory: MemoryCache,
        *,
        remote: RemoteCache | None,
        trust: CacheTrust,
        clock: Clock,
    ) -> None:
        self._memory = memory
        self._remote = remote
        self._trust = trust
        self._clock = clock

    def begin(self) -> ReadStart:
        """Return the present, to be taken before the database is read."""
        return ReadStart(self._trust.position, self._memory.epoch, self._clock.monotonic())

    async def fill(self, sessions: Sequence[Session], start: ReadStart) -> None:
        """Put the copies of sessions that were read after `start`. Best effort."""
        copies = [copy for session in sessions for copy in session.copies()]
        age = self._clock.monotonic() - start.at
        for copy in copies:
            self._memory.fill(copy, epoch=start.epoch, age=age)
        if self._remote is None or not start.position:
            return
        for begin in range(0, len(copies), _BATCH_SIZE):
            batch = copies[begin : begin + _BATCH_SIZE]
            with suppress(StoreUnavailable):
                # Concurrently: the cache sends all fills of one event loop tick in one round trip.
                await asyncio.gather(
                    *(self._remote.fill(Fill(copy, start.position)) for copy in batch)
                )
