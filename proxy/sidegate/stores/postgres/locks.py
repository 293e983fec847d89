"""Keep the locks of sessions in Postgres: each verb is one statement, and its clock decides."""

from datetime import timedelta
from typing import Final

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import SessionId
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.lock_rows import contended_of, hold_of
from sidegate.stores.sql.rows import is_canonical

# A fence is the time, if that is higher than the last one plus one: it grows even when a failover
# or an old backup has lost the last ones. Whoever finds the lock held has only read, and who looked
# too early to see it finds out at the conflict. The session is not purged meanwhile.
_ACQUIRE: Final = """
    INSERT INTO session_locks AS lock (session_id, fence, lease, holder, expires_at)
    SELECT id, (extract(epoch FROM now()) * 1000000)::bigint, $2, $3, now() + $4::interval
    FROM sessions WHERE id = $1 AND NOT EXISTS (
        SELECT FROM session_locks WHERE session_id = $1 AND expires_at > now()
    ) FOR KEY SHARE
    ON CONFLICT (session_id) DO UPDATE SET fence = greatest(lock.fence + 1, excluded.fence),
        lease = excluded.lease, holder = excluded.holder, expires_at = excluded.expires_at
    WHERE (lock.expires_at > now()) IS NOT TRUE
    RETURNING fence, expires_at
"""
# Asked by who could not acquire it. What is free by now is free at once.
_HELD: Final = """
    SELECT greatest(lock.expires_at, now()) AS expires_at,
        greatest(lock.expires_at, now()) - now() AS remaining, lock.holder
    FROM sessions LEFT JOIN session_locks AS lock ON lock.session_id = sessions.id
    WHERE sessions.id = $1
"""
_RENEW: Final = """
    UPDATE session_locks SET expires_at = greatest(expires_at, now() + $3::interval)
    WHERE session_id = $1 AND lease = $2 AND expires_at > now() RETURNING fence, expires_at
"""
_RELEASE: Final = """
    UPDATE session_locks SET lease = NULL, holder = NULL, expires_at = NULL
    WHERE session_id = $1 AND lease = $2 AND expires_at > now() RETURNING fence
"""


class PostgresLocks:
    """SessionLocks."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._ask = database.ask

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        if not is_canonical(session_id):
            return None
        taken = await self._ask(_ACQUIRE, session_id, lease, holder, ttl)
        if taken:
            return hold_of(taken[0])
        held = await self._ask(_HELD, session_id)
        return contended_of(held[0]) if held else None

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        if not is_canonical(session_id):
            return None
        rows = await self._ask(_RENEW, session_id, lease, ttl)
        return hold_of(rows[0]) if rows else None

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        return is_canonical(session_id) and bool(await self._ask(_RELEASE, session_id, lease))
