"""Hear from the truth what other instances changed, and hand it to the hot stores."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import DurableStore, HotStore
from proxy.core.session import Session, SessionId


class CatchUp:
    """Asks the truth, again and again, what has changed: slower than the feed, but loses nothing.

    What it finds is offered to every hot store until that store has taken it, so that a tombstone
    reaches a Redis that was out of reach when the session was revoked.
    """

    def __init__(self, durable: DurableStore, *, hot: Sequence[HotStore], every: float) -> None:
        """Ask each `every` seconds. A round that takes ten times that counts as not answered."""
        self._durable = durable
        self._debts = [_Debt(store) for store in hot]
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
        mark, changed = await self._durable.changed_since(self._mark)
        for debt in self._debts:
            debt.grows(changed)
        self._mark = mark  # told once: from here on it is owed
        for debt in self._debts:
            await debt.settle()
        return len(changed)


class _Debt:
    """What a hot store has not been told yet, the latest state of each session."""

    def __init__(self, store: HotStore) -> None:
        self._store = store
        self._owed: dict[SessionId, Session] = {}

    def grows(self, changed: Sequence[Session]) -> None:
        for session in changed:
            known = self._owed.get(session.id)
            if known is None or known.freshness < session.freshness:
                self._owed[session.id] = session

    async def settle(self) -> None:
        """Tell the store until it cannot be told more; the rest stays owed."""
        for session in list(self._owed.values()):
            try:
                for copy in session.copies():
                    await self._store.put(copy)
            except StoreUnavailable:
                return
            del self._owed[session.id]
