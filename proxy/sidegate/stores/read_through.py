"""A read-through cache: on a miss, look up the origin and fill the cache."""

from contextlib import suppress

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import judge, may_be_stale
from sidegate.core.protocols import SessionCache, SessionFinder
from sidegate.core.session import Session


class SkipCache:
    """A finder that looks up the origin only and fills the cache, for use after a cache miss."""

    def __init__(self, cache: SessionCache, origin: SessionFinder) -> None:
        self._cache = cache
        self._origin = origin

    async def find(self, digest: Digest) -> Session | None:
        """Return the fresher of the session at the origin and the one cached by now."""
        session = await self._origin.find(digest)
        if session is None:
            return None
        with suppress(StoreUnavailable):
            return await self._cache.put(session)
        return session


class ReadThrough:
    """A finder with a cache in front of an origin. An unavailable cache counts as a miss.

    A cached session that has expired is not trusted: another instance may have touched or extended
    it since, so it is looked up at the origin before it is denied.
    """

    def __init__(self, cache: SessionCache, origin: SessionFinder, *, clock: Clock) -> None:
        self._cache = cache
        self._origin = SkipCache(cache, origin)
        self._clock = clock

    async def find(self, digest: Digest) -> Session | None:
        cached = await self._find_in_cache(digest)
        if cached is not None and not may_be_stale(judge(cached, self._clock.now())):
            return cached
        return await self._origin.find(digest)

    async def _find_in_cache(self, digest: Digest) -> Session | None:
        with suppress(StoreUnavailable):
            return await self._cache.find(digest)
        return None
