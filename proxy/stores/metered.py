"""Count and time what a finder answers; answer nothing differently."""

from collections.abc import Callable
from time import perf_counter

from proxy.core.protocols import HotStore, SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest

Observe = Callable[[str, str, float], None]
"""Told of each look-up: store, outcome (hit, miss or error), seconds."""


class Metered:
    """A finder under observation."""

    def __init__(self, finder: SessionFinder, *, store: str, observe: Observe) -> None:
        self._finder = finder
        self._store = store
        self._observe = observe

    async def find(self, digest: Digest) -> Session | None:
        start = perf_counter()
        outcome = "error"
        try:
            session = await self._finder.find(digest)
            outcome = "miss" if session is None else "hit"
        finally:
            self._observe(self._store, outcome, perf_counter() - start)
        return session


class MeteredHot(Metered):
    """A hot store under observation."""

    def __init__(self, hot: HotStore, *, store: str, observe: Observe) -> None:
        super().__init__(hot, store=store, observe=observe)
        self._hot = hot

    async def put(self, session: Session) -> Session:
        return await self._hot.put(session)
