"""Remember in SQLite which logout tokens have been obeyed, until they would not be anyway."""

from datetime import datetime
from typing import Final

from sidegate.stores.codec import microseconds
from sidegate.stores.sqlite.database import SqliteDatabase

_OBEYED: Final = "SELECT 1 FROM obeyed_logouts WHERE id = ?1"
# Two steps of one transaction.
_FORGET: Final = "DELETE FROM obeyed_logouts WHERE until < ?1"
_REMEMBER: Final = "INSERT INTO obeyed_logouts VALUES (?1, ?2) ON CONFLICT DO NOTHING RETURNING id"


class SqliteLogoutTokens:
    """A LogoutTokenStore."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def was_processed(self, logout_id: bytes) -> bool:
        return bool(await self._database.look(_OBEYED, (logout_id,)))

    async def remember(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        _, remembered = await self._database.change_all(
            (_FORGET, (microseconds(at),)), (_REMEMBER, (logout_id, microseconds(until)))
        )
        return bool(remembered)
