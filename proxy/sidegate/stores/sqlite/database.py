"""A SQLite database: one file, and three connections to it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from sidegate.stores.sql.rows import Row
from sidegate.stores.sqlite.connection import SqliteConnection, prepare

Values = Mapping[str, Any] | Sequence[Any]


class SqliteDatabase:
    """What every store in one file shares.

    One connection for looking and one for changing, so that look-ups do not wait for the disk to
    confirm a change; and one for surveys, so that they do not wait for what reads every row either.
    Whatever was begun runs to its end even if the caller leaves.
    """

    def __init__(
        self, looking: SqliteConnection, changing: SqliteConnection, surveying: SqliteConnection
    ) -> None:
        self._looking = looking
        self._changing = changing
        self._surveying = surveying

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: timedelta = timedelta(seconds=5)) -> Self:
        """Open the file, create it (for its owner only) if there is none, and bring it up to date.

        `busy_timeout` is how long a change waits for another process that changes something.
        StoreUnavailable: the file cannot be used. SchemaMismatch: it is newer than this program.
        """
        await prepare(path, busy_timeout)
        return cls(*(SqliteConnection(path, busy_timeout) for _ in range(3)))

    async def look(self, query: str, values: Values) -> list[Row]:
        """Run one statement that changes nothing, and return its rows."""
        return await self._looking.ask(query, values)

    async def survey(self, query: str, values: Values) -> list[Row]:
        """Run one statement that changes nothing and may take seconds, and return its rows."""
        return await self._surveying.ask(query, values)

    async def change(self, query: str, values: Values) -> list[Row]:
        """Run one statement, which is its own transaction, and return its rows."""
        return await self._changing.ask(query, values)

    async def change_all(self, *statements: tuple[str, Values]) -> list[list[Row]]:
        """Run several statements as one transaction, and return the rows of each."""
        return await self._changing.ask_all(*statements)

    async def close(self) -> None:
        await self._looking.close()
        await self._changing.close()
        await self._surveying.close()
