"""Hear from the truth what has changed, hand it to the hot stores, and mend what they missed."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from proxy.core.clock import Clock
from proxy.core.errors import MarkLost, StoreUnavailable
from proxy.core.protocols import DurableStore, HotStore
from proxy.core.session import Session
from proxy.core.within import within
from proxy.service.outward import offer

# Seconds for one round: two, so that a busy store is not taken for one that has fallen silent.
_PATIENCE: Final = 2.0
# Seconds between two rounds, however often it rings: at most forty of them a second.
_SPACING: Final = 0.025
# Longer than any look-up takes. What was being read when the session changed has been put by then,
# and the tombstone comes to lie on top of it.
_LATE: Final = 1.0


_Due = tuple[float, Sequence[Session]]
"""From when on the far stores are told of what."""


class CatchUp:
    """Asks the truth, when it rings and again and again, what has changed: it loses nothing.

    Our own memory is told at once. The stores beyond were told by whoever made the change; we tell
    them once more, late on purpose. If one cannot take it, the next generation begins, and what
    that store has kept is believed by nobody: a tombstone that never reached a Redis must not be
    missed when that Redis is back, not even by an instance that starts later.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[HotStore],
        believe: Callable[[int], None],
        gap: Callable[[], None],
        clock: Clock,
        every: float,
    ) -> None:
        """Ask each `every` seconds. `believe` is told of each new generation, and `gap` is called
        when the truth has lost track: something was missed.

        `hot` runs from near to far.
        """
        self._durable = durable
        self._near, self._far = hot[:1], hot[1:]
        self._believe = believe
        self._gap = gap
        self._clock = clock
        self._every = every
        self._mark = 0
        self._generation: int | None = None
        self._due = deque[_Due]()
        self._bell = asyncio.Event()

    def wake(self) -> None:
        """Look soon: something has changed."""
        self._bell.set()

    def owe(self, changed: Sequence[Session]) -> None:
        """Note, and mend soon, that a store beyond could not be told of a change made here."""
        self._due.appendleft((self._clock.monotonic(), changed))
        self.wake()

    async def run(self, up: Callable[[bool], None]) -> NoReturn:
        """Go round until cancelled. `up` is told after each round whether the truth answered."""
        try:
            while True:
                up(await self._round())
                await asyncio.sleep(_SPACING)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await self._bell.wait()
                self._bell.clear()
        finally:
            with suppress(StoreUnavailable):
                await within(_PATIENCE, "durable", self.settle())

    async def once(self) -> int:
        """Pass on what has changed since the last time, and return how many sessions that were."""
        due, taken = await self._offered()
        changed = await self._heard()
        await self._settled(due, taken=taken)
        return changed

    async def settle(self) -> None:
        """Tell the stores beyond what is due. What they do not take ends their generation."""
        due, taken = await self._offered()
        await self._settled(due, taken=taken)

    async def _heard(self) -> int:
        try:
            mark, changed = await self._durable.changed_since(self._mark)
        except MarkLost:
            self._gap()
            self._mark = 0
            return await self._heard()
        await offer(changed, self._near)
        if changed:
            self._due.append((self._clock.monotonic() + _LATE, changed))
        self._mark = mark  # only now: whoever was interrupted hears it again
        return len(changed)

    async def _offered(self) -> tuple[list[_Due], bool]:
        """Offer what is due, also while the truth is away: whoever believes these stores meanwhile
        should know. Return it, and whether all was taken.
        """
        due = [each for each in self._due if each[0] <= self._clock.monotonic()]
        return due, await self._taken(due)

    async def _settled(self, due: list[_Due], *, taken: bool) -> None:
        # It is read after these changes were committed: whoever ended it since did so after them.
        generation = await self._durable.generation()
        if generation != self._generation:
            self._live_by(generation)
            taken = await self._taken(due)
        if not taken:
            self._live_by(await self._durable.next_generation(generation))
        for each in due:
            self._due.remove(each)

    async def _taken(self, due: list[_Due]) -> bool:
        return await offer([session for _, changed in due for session in changed], self._far)

    def _live_by(self, generation: int) -> None:
        self._generation = generation
        self._believe(generation)

    async def _round(self) -> bool:
        try:
            await within(_PATIENCE, "durable", self.once())
        except StoreUnavailable:
            return False
        return True
