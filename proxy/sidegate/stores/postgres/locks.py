"""Session locks in Postgres: each operation is one statement, on the server's clock."""

from datetime import timedelta
from typing import Final

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import SessionId
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.lock_rows import decode_contended, decode_hold
from sidegate.stores.sql.rows import is_canonical

# The fence is the time, or the last fence plus one if that is higher: it grows even if a failover
# or an old backup lost the last ones. If the lock is held the statement only reads; a hold that was
# committed after that read is found by the conflict. KEY SHARE keeps the session from being purged.
_ACQUIRE: Final = """
    INSERT INTO session_locks AS lock (session_id, fence, lease, holder, expires_at)
    SELECT id, (extract(epoch FROM sidegate_now()) * 1000000)::bigint, $2, $3,
        sidegate_now() + $4::interval
    FROM sessions WHERE id = $1 AND NOT EXISTS (
        SELECT FROM session_locks WHERE session_id = $1 AND expires_at > sidegate_now()
    ) FOR KEY SHARE
    ON CONFLICT (session_id) DO UPDATE SET fence = greatest(lock.fence + 1, excluded.fence),
        lease = excluded.lease, holder = excluded.holder, expires_at = excluded.expires_at
    WHERE (lock.expires_at > sidegate_now()) IS NOT TRUE
    RETURNING fence, expires_at
"""
# Run after a failed acquire. A lock that was released since then is reported as free now.
_SELECT_HOLD: Final = """
    SELECT greatest(lock.expires_at, clock.now) AS expires_at,
        greatest(lock.expires_at, clock.now) - clock.now AS remaining, lock.holder
    FROM (SELECT sidegate_now() AS now) AS clock CROSS JOIN sessions
        LEFT JOIN session_locks AS lock ON lock.session_id = sessions.id
    WHERE sessions.id = $1
"""
_RENEW: Final = """
    UPDATE session_locks SET expires_at = greatest(expires_at, sidegate_now() + $3::interval)
    WHERE session_id = $1 AND lease = $2 AND expires_at > sidegate_now() RETURNING fence, expires_at
"""
_RELEASE: Final = """
    UPDATE session_locks SET lease = NULL, holder = NULL, expires_at = NULL
    WHERE session_id = $1 AND lease = $2 AND expires_at > sidegate_now() RETURNING fence
"""


class PostgresLocks:
    """Implements SessionLocks."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._execute = database.execute

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        if not is_canonical(session_id):
            return None
        acquired = await self._execute(_ACQUIRE, session_id, lease, holder, ttl)
        if acquired:
            return decode_hold(acquired[0])
        current = await self._execute(_SELECT_HOLD, session_id)
        return decode_contended(current[0]) if current else None

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        if not is_canonical(session_id):
            return None
        rows = await self._execute(_RENEW, session_id, lease, ttl)
        return decode_hold(rows[0]) if rows else None

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        return is_canonical(session_id) and bool(await self._execute(_RELEASE, session_id, lease))
