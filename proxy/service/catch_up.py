"""Hear what other instances changed, and hand it to this instance's stores."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import DurableStore, HotStore
from proxy.service.outward import offer


class CatchUp:
    """Asks the truth, again and again, what has changed: slower than the feed, but loses nothing.

    What it finds is offered to every hot store, so that a tombstone reaches a Redis that was away
    when the session was revoked.
    """

    def __init__(self, durable: DurableStore, *, hot: Sequence[HotStore], every: float) -> None:
        """Take the hot stores from the nearest to the farthest; ask each `every` seconds.

        A round that takes longer than ten times that counts as not answered.
        """
        self._durable = durable
        self._hot = hot
        self._every = every
        self._mark = 0

    async def run(self, up: Callable[[bool], None]) -> NoReturn:
        """Go round until cancelled. `up` is told after each round whether the truth answered."""
        while True:
            try:
                async with asyncio.timeout(self._every * 10):
                    await self.once()
            except (StoreUnavailable, TimeoutError):
                up(False)
            else:
                up(True)
            await asyncio.sleep(self._every)

    async def once(self) -> int:
        """Pass on what has changed since the last time, and return how many sessions that were."""
        self._mark, changed = await self._durable.changed_since(self._mark)
        await offer(changed, self._hot)
        return len(changed)
