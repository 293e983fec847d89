"""Session locks in the SQLite file, on the clock of its machine."""

from datetime import timedelta
from typing import Final

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import SessionId
from sidegate.stores.sql.lock_rows import decode_contended, decode_hold
from sidegate.stores.sqlite.database import NOW, SqliteDatabase

_MICROSECOND: Final = timedelta(microseconds=1)
# The fence is the time, or the last fence plus one if that is higher: it grows even if an old copy
# of the file lost the last ones.
_ACQUIRE: Final = (
    "INSERT INTO session_locks (session_id, fence, lease, holder, expires_at)"  # noqa: S608
    f" SELECT id, {NOW}, :lease, :holder, {NOW} + :ttl FROM sessions WHERE id = :id"
    " ON CONFLICT (session_id) DO UPDATE SET fence = max(fence + 1, excluded.fence),"
    " lease = excluded.lease, holder = excluded.holder, expires_at = excluded.expires_at"
    f" WHERE (expires_at > {NOW}) IS NOT TRUE RETURNING fence, expires_at"
)
# In the transaction of a failed acquire: the lock is held, even if it has expired since.
_SELECT_HOLD: Final = (
    f"SELECT expires_at, max(0, expires_at - {NOW}) AS remaining, holder"  # noqa: S608
    " FROM session_locks WHERE session_id = :id"
)
_RENEW: Final = (
    f"UPDATE session_locks SET expires_at = max(expires_at, {NOW} + :ttl)"  # noqa: S608
    f" WHERE session_id = :id AND lease = :lease AND expires_at > {NOW}"
    " RETURNING fence, expires_at"
)
_RELEASE: Final = (
    "UPDATE session_locks SET lease = NULL, holder = NULL, expires_at = NULL"  # noqa: S608
    f" WHERE session_id = :id AND lease = :lease AND expires_at > {NOW} RETURNING fence"
)


class SqliteLocks:
    """Implements SessionLocks."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        values = {"id": session_id, "lease": lease, "holder": holder, "ttl": ttl // _MICROSECOND}
        acquired, current = await self._database.write_all(
            (_ACQUIRE, values), (_SELECT_HOLD, values)
        )
        if acquired:
            return decode_hold(acquired[0])
        return decode_contended(current[0]) if current else None

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        values = {"id": session_id, "lease": lease, "ttl": ttl // _MICROSECOND}
        rows = await self._database.write(_RENEW, values)
        return decode_hold(rows[0]) if rows else None

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        values = {"id": session_id, "lease": lease}
        return bool(await self._database.write(_RELEASE, values))
