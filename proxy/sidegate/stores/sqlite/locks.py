"""Keep the locks of sessions in the SQLite file; the clock of its machine decides."""

from datetime import timedelta
from typing import Final

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import SessionId
from sidegate.stores.sql.lock_rows import contended_of, hold_of
from sidegate.stores.sqlite.database import SqliteDatabase

_MICROSECOND: Final = timedelta(microseconds=1)
# SQLite's own clock, which has milliseconds and stands still within a statement: here as elsewhere
# in this room microseconds since 1970.
_NOW: Final = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
# A fence is the time, if that is higher than the last one plus one: it grows even when an old copy
# of the file has lost the last ones.
_ACQUIRE: Final = (
    "INSERT INTO session_locks (session_id, fence, lease, holder, expires_at)"  # noqa: S608 - our own words
    f" SELECT id, {_NOW}, :lease, :holder, {_NOW} + :ttl FROM sessions WHERE id = :id"
    " ON CONFLICT (session_id) DO UPDATE SET fence = max(fence + 1, excluded.fence),"
    " lease = excluded.lease, holder = excluded.holder, expires_at = excluded.expires_at"
    f" WHERE (expires_at > {_NOW}) IS NOT TRUE RETURNING fence, expires_at"
)
# In the transaction that could not acquire it: it is held, even if its time is over by now.
_HELD: Final = (
    f"SELECT expires_at, max(0, expires_at - {_NOW}) AS remaining, holder"  # noqa: S608 - our own words
    " FROM session_locks WHERE session_id = :id"
)
_RENEW: Final = (
    f"UPDATE session_locks SET expires_at = max(expires_at, {_NOW} + :ttl)"  # noqa: S608 - our own words
    f" WHERE session_id = :id AND lease = :lease AND expires_at > {_NOW}"
    " RETURNING fence, expires_at"
)
_RELEASE: Final = (
    "UPDATE session_locks SET lease = NULL, holder = NULL, expires_at = NULL"  # noqa: S608 - our own words
    f" WHERE session_id = :id AND lease = :lease AND expires_at > {_NOW} RETURNING fence"
)


class SqliteLocks:
    """SessionLocks."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        values = {"id": session_id, "lease": lease, "holder": holder, "ttl": ttl // _MICROSECOND}
        taken, held = await self._database.change_all((_ACQUIRE, values), (_HELD, values))
        if taken:
            return hold_of(taken[0])
        return contended_of(held[0]) if held else None

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        values = {"id": session_id, "lease": lease, "ttl": ttl // _MICROSECOND}
        rows = await self._database.change(_RENEW, values)
        return hold_of(rows[0]) if rows else None

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        values = {"id": session_id, "lease": lease}
        return bool(await self._database.change(_RELEASE, values))
