"""Remember in Postgres which logout tokens have been obeyed, until they would not be anyway."""

from datetime import datetime
from typing import Final

from sidegate.stores.postgres.database import PostgresDatabase

_OBEYED: Final = "SELECT 1 FROM obeyed_logouts WHERE id = $1"
# Whoever comes second leaves the old ones to the first: nobody waits, and none crosswise.
_REMEMBER: Final = (
    "WITH old AS (SELECT id FROM obeyed_logouts WHERE until < $3 FOR UPDATE SKIP LOCKED),"
    " forgotten AS (DELETE FROM obeyed_logouts USING old WHERE obeyed_logouts.id = old.id)"
    " INSERT INTO obeyed_logouts VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id"
)


class PostgresLogoutTokens:
    """A LogoutTokenStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._ask = database.ask

    async def was_processed(self, logout_id: bytes) -> bool:
        return bool(await self._ask(_OBEYED, logout_id))

    async def remember(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        return bool(await self._ask(_REMEMBER, logout_id, until, at))
