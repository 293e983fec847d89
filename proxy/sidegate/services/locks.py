"""Session locks: one of an application's instances at a time works on a session.

The durable store decides, alone and by its own clock. A cache may evict entries, and an evicted
lock would be granted twice.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sidegate.core.clock import Clock
from sidegate.core.errors import SessionEnded
from sidegate.core.lock import Contended, Hold, Lease
from sidegate.core.protocols import SessionLocks
from sidegate.core.session import Session, SessionId, SessionRecord


@dataclass(frozen=True, slots=True)
class Acquired:
    """A lock that is held. `lease` renews and releases it; only its digest is stored."""

    lease: Lease
    hold: Hold


class Locks:
    """Acquires, renews and releases session locks. No session is changed by it."""

    def __init__(
        self,
        locks: SessionLocks,
        *,
        get: Callable[[SessionId], Awaitable[SessionRecord | None]],
        clock: Clock,
        count: Callable[[str], None],
        has_ended: Callable[[Session, datetime], bool],
    ) -> None:
        """`get` returns a session, judged by `clock`; locks expire by the store's clock.

        `has_ended` raises StoreUnavailable if the session that it gets may only look idle.

        Call `count` with `acquired`, `contended`, `renewed`, `released`, or `lost`: a renewal or
        release of a lock that was no longer held.
        """
        self._locks = locks
        self._get = get
        self._clock = clock
        self._count = count
        self._is_ended = has_ended

    async def acquire(
        self, session_id: SessionId, *, ttl: timedelta, holder: str | None = None
    ) -> Acquired | Contended | None:
        """Hold the lock for `ttl` unless it is held; None: there is no such session.

        `holder` is returned to callers that contend for it. Raise SessionEnded if the session has
        ended. After StoreUnavailable the lock may be held under a lease that was not returned; it
        is free after `ttl` at the latest.
        """
        if await self._has_ended(session_id):
            raise SessionEnded(f"session {session_id} has ended")
        lease = Lease.mint()
        got = await self._locks.acquire(session_id, lease.digest(), ttl=ttl, holder=holder)
        if isinstance(got, Hold):
            self._count("acquired")
            return Acquired(lease, got)
        if got is not None:
            self._count("contended")
        return got

    async def renew(self, session_id: SessionId, lease: Lease, *, ttl: timedelta) -> Hold | None:
        """Hold the lock for `ttl` from now, or for its remaining time if that is longer.

        Return None if it is lost: it expired or was released, or its session has ended.
        """
        hold = None
        if not await self._has_ended(session_id):
            hold = await self._locks.renew(session_id, lease.digest(), ttl=ttl)
        self._count("lost" if hold is None else "renewed")
        return hold

    async def release(self, session_id: SessionId, lease: Lease) -> bool:
        """Release the lock. Return False, with no change, if `lease` does not hold it."""
        released = await self._locks.release(session_id, lease.digest())
        self._count("released" if released else "lost")
        return released

    async def _has_ended(self, session_id: SessionId) -> bool:
        """Return whether the session has ended; False if there is none.

        The lock store reports a missing session itself. A session may end right after this call:
        the holder then finds the lock lost at its next renewal.
        """
        record = await self._get(session_id)
        return record is not None and self._is_ended(record.session, self._clock.now())
