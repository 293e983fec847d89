"""The logout tokens that were processed, in Postgres, until they are rejected as too old."""

from datetime import datetime
from typing import Final

from sidegate.stores.postgres.database import PostgresDatabase

_SELECT: Final = "SELECT 1 FROM processed_logout_tokens WHERE id = $1"
# SKIP LOCKED: concurrent statements neither wait for each other's deletes nor deadlock.
_INSERT: Final = (
    "WITH old AS (SELECT id FROM processed_logout_tokens WHERE expires_at < $3"
    " FOR UPDATE SKIP LOCKED), deleted AS (DELETE FROM processed_logout_tokens USING old"
    " WHERE processed_logout_tokens.id = old.id)"
    " INSERT INTO processed_logout_tokens VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id"
)


class PostgresLogoutTokens:
    """Implements LogoutTokenStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._execute = database.execute

    async def is_processed(self, logout_id: bytes) -> bool:
        return bool(await self._execute(_SELECT, logout_id))

    async def mark_processed(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        return bool(await self._execute(_INSERT, logout_id, until, at))
