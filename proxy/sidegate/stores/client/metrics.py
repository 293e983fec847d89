"""Time the round trips of a store and count the outcome of each lookup, changing nothing."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.protocols import BatchFinder, Fill, RemoteBatchCache
from sidegate.core.session import Session

Observe = Callable[[str, str, float], None]
"""Called for each lookup with store, outcome (hit, miss or error) and seconds."""


class Metered:
    """A backend whose lookups are observed: one outcome per digest, the time of their round trip.

    The time begins when the batch is sent; what a lookup waited before is not part of it.
    """

    def __init__(self, backend: BatchFinder, *, store: str, observe: Observe) -> None:
        self._backend = backend
        self._store = store
        self._observe = observe

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        start = perf_counter()
        outcomes = ["error"] * len(digests)
        try:
            found = await self._backend.find_many(digests)
            outcomes = ["hit" if digest in found else "miss" for digest in digests]
        except UnreadableRecord:
            if len(digests) > 1:
                outcomes = []  # each is looked up again, alone
            raise
        finally:
            seconds = perf_counter() - start
            for outcome in outcomes:
                self._observe(self._store, outcome, seconds)
        return found


class MeteredCache(Metered):
    """A remote cache backend whose lookups are observed."""

    def __init__(self, backend: RemoteBatchCache, *, store: str, observe: Observe) -> None:
        super().__init__(backend, store=store, observe=observe)
        self._cache = backend

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        return await self._cache.fill_many(fills)

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        return await self._cache.restrict_many(copies)
