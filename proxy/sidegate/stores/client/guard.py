"""A store behind a deadline and a breaker: it answers soon, or is unavailable at once."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import BatchCache, BatchFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.core.within import within
from sidegate.stores.client.circuit_breaker import CircuitBreaker

_T = TypeVar("_T")


class Guard:
    """The deadline and the breaker of one store, shared by everything that is asked of it."""

    def __init__(self, store: str, *, seconds: float, breaker: CircuitBreaker) -> None:
        self._store = store
        self._seconds = seconds
        self._breaker = breaker

    async def __call__(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask, unless the breaker is open. A caller that leaves tells nothing about the store."""
        if not self._breaker.admits():
            raise StoreUnavailable(self._store, "breaker open")
        try:
            answer = await within(self._seconds, self._store, ask())
        except StoreUnavailable:
            self._breaker.failed()
            raise
        except UnreadableRecord:
            self._breaker.succeeded()  # the store has answered; it is the record that is bad
            raise
        self._breaker.succeeded()
        return answer


class Guarded:
    """A leaf whose every look-up is guarded."""

    def __init__(self, leaf: BatchFinder, *, guard: Guard) -> None:
        self._leaf = leaf
        self._guard = guard

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        return await self._guard(lambda: self._leaf.find_many(digests))


class GuardedCache(Guarded):
    """A hot leaf, of which putting is guarded too."""

    def __init__(self, leaf: BatchCache, *, guard: Guard) -> None:
        super().__init__(leaf, guard=guard)
        self._hot = leaf

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._guard(lambda: self._hot.put_many(sessions))
