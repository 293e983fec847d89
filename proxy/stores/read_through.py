"""Answer from near; on a miss ask far, and leave a copy near."""

from contextlib import suppress

from proxy.core.clock import Clock
from proxy.core.errors import StoreUnavailable
from proxy.core.judge import judge, may_have_moved
from proxy.core.protocols import HotStore, SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest


class ReadThrough:
    """A finder made of a near hot store and a far finder. A near store that is down is empty.

    A near copy that has run out of time is not believed: another instance may have touched or
    extended the session a moment ago, so far is asked before the answer is no.
    """

    def __init__(self, near: HotStore, far: SessionFinder, *, clock: Clock) -> None:
        self._near = near
        self._far = far
        self._clock = clock

    async def find(self, digest: Digest) -> Session | None:
        copy = await self._near_copy(digest)
        if copy is not None and not may_have_moved(judge(copy, self._clock.now())):
            return copy
        session = await self._far.find(digest)
        return None if session is None else await self._left_near(session)

    async def _near_copy(self, digest: Digest) -> Session | None:
        with suppress(StoreUnavailable):
            return await self._near.find(digest)
        return None

    async def _left_near(self, session: Session) -> Session:
        """Return the fresher of what far said and what near knows by now."""
        with suppress(StoreUnavailable):
            return await self._near.put(session)
        return session
