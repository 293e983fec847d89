"""The logout tokens that were processed, in SQLite, until they are rejected as too old."""

from datetime import datetime
from typing import Final

from sidegate.stores.codec import to_microseconds
from sidegate.stores.sqlite.database import SqliteDatabase

_SELECT: Final = "SELECT 1 FROM processed_logout_tokens WHERE id = ?1"
# Two statements of one transaction.
_DELETE_OLD: Final = "DELETE FROM processed_logout_tokens WHERE expires_at < ?1"
_INSERT: Final = (
    "INSERT INTO processed_logout_tokens VALUES (?1, ?2) ON CONFLICT DO NOTHING RETURNING id"
)


class SqliteLogoutTokens:
    """Implements LogoutTokenStore."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def is_processed(self, logout_id: bytes) -> bool:
        return bool(await self._database.read(_SELECT, (logout_id,)))

    async def mark_processed(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        _, inserted = await self._database.write_all(
            (_DELETE_OLD, (to_microseconds(at),)), (_INSERT, (logout_id, to_microseconds(until)))
        )
        return bool(inserted)
