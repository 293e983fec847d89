"""Hear from the truth what other instances changed, and hand it to the hot stores."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import DurableStore, HotStore
from proxy.service.outward import offer


class CatchUp:
    """Asks the truth, again and again, what has changed: slower than the feed, but loses nothing.

    What it finds is offered to every hot store. If one cannot take it, the next generation begins,
    and what that store has kept is believed by nobody: a tombstone that never reached a Redis must
    not be missed when that Redis is back, not even by an instance that starts later.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[HotStore],
        believe: Callable[[int], None],
        every: float,
    ) -> None:
        """Ask each `every` seconds, and tell `believe` the generation each time.

        A round that takes ten times that counts as not answered.
        """
        self._durable = durable
        self._hot = hot
        self._believe = believe
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
        self._believe(await self._durable.generation())
        mark, changed = await self._durable.changed_since(self._mark)
        if not await offer(changed, self._hot):
            self._believe(await self._durable.next_generation())
        self._mark = mark  # only now: whoever was interrupted hears it again
        return len(changed)
