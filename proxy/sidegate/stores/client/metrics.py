"""Count and time the look-ups of a store, without changing their results."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from sidegate.core.digest import Digest
from sidegate.core.protocols import BatchCache, SessionFinder
from sidegate.core.session import Session

Observe = Callable[[str, str, float], None]
"""Called for each look-up with store, outcome (hit, miss or error) and seconds."""


class Metered:
    """A finder whose look-ups are observed."""

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


class MeteredCache:
    """A cache backend whose look-ups are observed, one for each digest of a batch."""

    def __init__(self, backend: BatchCache, *, store: str, observe: Observe) -> None:
        self._backend = backend
        self._store = store
        self._observe = observe

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        start = perf_counter()
        outcomes = ["error"] * len(digests)
        try:
            found = await self._backend.find_many(digests)
            outcomes = ["hit" if digest in found else "miss" for digest in digests]
        finally:
            seconds = perf_counter() - start
            for outcome in outcomes:
                self._observe(self._store, outcome, seconds)
        return found

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._backend.put_many(sessions)
