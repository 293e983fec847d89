"""Lock a session: of an application's instances one at a time works on it.

The durable store decides, alone and by its own clock. A hot store may forget, and what it forgot
here would let two in at once.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from sidegate.core.clock import Clock
from sidegate.core.errors import SessionEnded
from sidegate.core.lock import Contended, Hold, Lease
from sidegate.core.protocols import SessionLocks
from sidegate.core.session import SessionId, SessionRecord


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lock is held, and `lease` is what to renew and release it with; nobody keeps that."""

    lease: Lease
    hold: Hold


class Locks:
    """What there is to do with the lock of a session. It changes nothing about the session."""

    def __init__(
        self,
        locks: SessionLocks,
        *,
        get: Callable[[SessionId], Awaitable[SessionRecord | None]],
        clock: Clock,
        counted: Callable[[str], None],
    ) -> None:
        """`get` returns a session as it is. `clock` judges it, as everywhere; locks run by the
        store's.

        `counted` is told `acquired`, `contended`, `renewed`, `released`, or `lost`: somebody came
        to renew or release what they did not hold any more.
        """
        self._locks = locks
        self._get = get
        self._clock = clock
        self._counted = counted

    async def acquire(
        self, session_id: SessionId, *, ttl: timedelta, holder: str | None = None
    ) -> Acquired | Contended | None:
        """Hold the lock for `ttl`, unless somebody does; `holder` is told to those who come then.

        None: there is no such session. SessionEnded: it has ended. StoreUnavailable: it may be held
        under a lease that nobody knows; it is free after `ttl` at the latest.
        """
        if await self._has_ended(session_id):
            raise SessionEnded(f"session {session_id} has ended")
        lease = Lease.mint()
        got = await self._locks.acquire(session_id, lease.digest(), ttl=ttl, holder=holder)
        if isinstance(got, Hold):
            self._counted("acquired")
            return Acquired(lease, got)
        if got is not None:
            self._counted("contended")
        return got

    async def renew(self, session_id: SessionId, lease: Lease, *, ttl: timedelta) -> Hold | None:
        """Hold it for `ttl` from now, or for as long as before if that is longer.

        None: it is lost. Its time was over, or it was released, or its session has ended.
        """
        hold = None
        if not await self._has_ended(session_id):
            hold = await self._locks.renew(session_id, lease.digest(), ttl=ttl)
        self._counted("lost" if hold is None else "renewed")
        return hold

    async def release(self, session_id: SessionId, lease: Lease) -> bool:
        """Let go of it. False: it was not held by `lease` any more, and nothing changed."""
        released = await self._locks.release(session_id, lease.digest())
        self._counted("released" if released else "lost")
        return released

    async def _has_ended(self, session_id: SessionId) -> bool:
        """Say whether the session has ended; of one that does not exist the store says so itself.

        It may end right after this, as after any answer: whoever has the lock then finds it lost
        when it renews.
        """
        record = await self._get(session_id)
        return record is not None and record.session.ended(self._clock.now())
