"""Answer from near; on a miss ask far, and leave a copy near."""

from contextlib import suppress

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import judge, may_have_moved
from sidegate.core.protocols import SessionCache, SessionFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest


class SkipCache:
    """A finder that asks far only, for those who have asked near already."""

    def __init__(self, near: SessionCache, far: SessionFinder) -> None:
        self._near = near
        self._far = far

    async def find(self, digest: Digest) -> Session | None:
        """Return the fresher of what far says and what near knows by now."""
        session = await self._far.find(digest)
        if session is None:
            return None
        with suppress(StoreUnavailable):
            return await self._near.put(session)
        return session


class ReadThrough:
    """A finder made of a near hot store and a far finder. A near store that is down is empty.

    A near copy that has run out of time is not believed: another instance may have touched or
    extended the session a moment ago, so far is asked before the answer is no.
    """

    def __init__(self, near: SessionCache, far: SessionFinder, *, clock: Clock) -> None:
        self._near = near
        self._beyond = SkipCache(near, far)
        self._clock = clock

    async def find(self, digest: Digest) -> Session | None:
        copy = await self._near_copy(digest)
        if copy is not None and not may_have_moved(judge(copy, self._clock.now())):
            return copy
        return await self._beyond.find(digest)

    async def _near_copy(self, digest: Digest) -> Session | None:
        with suppress(StoreUnavailable):
            return await self._near.find(digest)
        return None
