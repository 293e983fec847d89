"""Count and time what a store answers; answer nothing differently."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from sidegate.core.protocols import BatchCache, SessionFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest

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


class MeteredCache:
    """A hot leaf under observation: each digest is one look-up, and takes as long as the batch."""

    def __init__(self, leaf: BatchCache, *, store: str, observe: Observe) -> None:
        self._leaf = leaf
        self._store = store
        self._observe = observe

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        start = perf_counter()
        outcomes = ["error"] * len(digests)
        try:
            found = await self._leaf.find_many(digests)
            outcomes = ["hit" if digest in found else "miss" for digest in digests]
        finally:
            seconds = perf_counter() - start
            for outcome in outcomes:
                self._observe(self._store, outcome, seconds)
        return found

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._leaf.put_many(sessions)
