"""The session locks."""

from datetime import timedelta
from typing import Protocol

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import SessionId


class SessionLocks(Protocol):
    """The session locks in the database. Leases expire by the database's clock.

    A lock is not part of its session: it changes no version and leaves no audit event. It is
    deleted when its session is purged.
    """

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        """Acquire the lock for `ttl`.

        Return a Hold with a new fence, Contended if another lease holds the lock, or None if there
        is no such session. Of several concurrent callers, one gets the lock. After StoreUnavailable
        `lease` may hold the lock or not.
        """
        ...

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        """Extend the hold to `ttl` from now, if that is later, and keep its fence.

        Return None if `lease` does not hold the lock; then nothing has changed.
        """
        ...

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        """Release the lock. Return False if `lease` did not hold it; then nothing has changed."""
        ...
