"""Time the round trips of a store and count the outcome of each lookup, changing nothing."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.protocols import BatchFinder, Fill, Found, OnFound, RemoteBatchCache
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
        outcome: Mapping[Digest, Session] | BaseException
        try:
            found = outcome = await self._backend.find_many(digests)
        except BaseException as error:
            outcome = error
            raise
        finally:
            self._record(digests, outcome, seconds=perf_counter() - start)
        return found

    def _record(
        self,
        digests: Sequence[Digest],
        found: Mapping[Digest, Session] | BaseException,
        *,
        seconds: float,
    ) -> None:
        if isinstance(found, UnreadableRecord) and len(digests) > 1:
            return  # each is looked up again, alone
        store, observe = self._store, self._observe
        if isinstance(found, BaseException):
            for _ in digests:
                observe(store, "error", seconds)
        else:
            for digest in digests:
                observe(store, "hit" if digest in found else "miss", seconds)


class MeteredCache(Metered):
    """A remote cache backend whose lookups are observed."""

    def __init__(self, backend: RemoteBatchCache, *, store: str, observe: Observe) -> None:
        super().__init__(backend, store=store, observe=observe)
        self._cache = backend

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        start = perf_counter()

        def record(found: Found) -> None:
            if found is not None:
                self._record(digests, found, seconds=perf_counter() - start)
            on_found(found)

        return self._cache.start_many(digests, record)

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        return await self._cache.fill_many(fills)

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        return await self._cache.restrict_many(copies)
