"""Analytics: take a sample of all sessions each interval, and tell what the samples say.

A request reads samples only. What has to look at every session is done here, behind everybody's
back, by one instance of all at a time: the durable store says whose turn it is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.analytics import KEPT, WINDOWS, Report, Sample, report
from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import AnalyticsStore

# What one search may find: each reads every session, so that after a long absence a few are to do.
_FOUND: Final = 50_000
_BATCH: Final = 1000
# Between two batches, so that a large backlog does not keep the store from everybody else.
_BREATH: Final = 0.01
# Samples that may go with each that comes: where a clock jumps ahead, not all of them are too old.
_FORGOTTEN_AT_ONCE: Final = 5
# Seconds after which a round counts as failed: many more than it takes to count ten million
# sessions. A backlog that is longer than that is gone on with in the next round.
_PATIENCE: Final = 60.0

_log: Final = logging.getLogger("sidegate.analytics")


class Analytics:
    """Takes the samples when it is this instance's turn, and reports from them."""

    def __init__(
        self,
        store: AnalyticsStore,
        *,
        every: timedelta,
        clock: Clock,
        counted: Callable[[str], None],
        told: Callable[[Report], None],
    ) -> None:
        """`counted` is told `taken` or `failed`, `told` the report of each round."""
        self._store = store
        self._every = every
        self._clock = clock
        self._counted = counted
        self._told = told

    async def run(self, *, sampling: bool = True) -> NoReturn:
        """Go round each interval, until cancelled. A failure is tried again next time.

        Without `sampling` it is left to others to take samples, and told what they say.
        """
        while True:
            try:
                async with asyncio.timeout(_PATIENCE):
                    if sampling:
                        await self.sample()
                    await self.tell()
            except (StoreUnavailable, UnreadableRecord, TimeoutError) as trouble:
                self._counted("failed")
                _log.warning("no sample of the sessions: %r", trouble)
            await asyncio.sleep(self._every.total_seconds())

    async def sample(self) -> bool:
        """Take a sample if one is due; say whether it was."""
        begun = self._clock.now()
        if not await self._store.take_turn(begun, self._every):
            return False
        await _all(lambda limit: self._store.note_ends(begun, limit=limit), _FOUND)
        await _all(lambda limit: self._store.add_up(limit=limit), _BATCH)
        at = self._clock.now()
        living = await self._store.living(at)
        await self._store.keep(Sample(at, living, await self._store.totals()))
        await self._store.forget(at - KEPT, limit=_FORGOTTEN_AT_ONCE)
        self._counted("taken")
        return True

    async def tell(self) -> None:
        """Tell what the samples say, whoever has taken them; nothing before the first."""
        found = await self.report()
        if found is not None:
            self._told(found)

    async def report(self) -> Report | None:
        """Return what the samples say; None: none has been taken yet."""
        last = await self._store.last()
        if last is None:
            return None
        windows = {}
        for name, length in WINDOWS.items():
            window = await self._store.window(last.at - length, last.at)
            if window is None:  # all of them have been forgotten since
                return None
            windows[name] = window
        return report(last, windows)


async def _all(step: Callable[[int], Awaitable[int]], limit: int) -> None:
    """Go step by step until there is nothing left."""
    while True:
        if await step(limit) < limit:
            return
        await asyncio.sleep(_BREATH)
