"""A SQLite database: one file and three connections to it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

from sidegate.stores.sql.rows import Row
from sidegate.stores.sqlite.connection import SqliteConnection, prepare_file

Values = Mapping[str, Any] | Sequence[Any]

NOW: Final = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
"""SQLite's own clock, in microseconds since 1970. It has milliseconds, and does not advance within
a statement."""


class SqliteDatabase:
    """The connections that the stores in one file share.

    One is for lookups and one for writes: lookups do not wait for the disk to confirm a write. The
    third is for scans: lookups do not wait for statements that read every row. A statement that was
    started completes even if the caller is cancelled.
    """

    def __init__(
        self, reader: SqliteConnection, writer: SqliteConnection, *, scanner: SqliteConnection
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._scanner = scanner

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: timedelta = timedelta(seconds=5)) -> Self:
        """Open the file and migrate it; create it, readable by its owner only, if it is missing.

        `busy_timeout` is how long a write waits for a write of another process.
        Raise StoreUnavailable if the file cannot be used, SchemaMismatch if it is newer than this
        program.
        """
        await prepare_file(path, busy_timeout)
        reader, writer, scanner = (SqliteConnection(path, busy_timeout) for _ in range(3))
        return cls(reader, writer, scanner=scanner)

    async def read(self, query: str, values: Values) -> list[Row]:
        """Run one read-only statement, and return its rows."""
        return await self._reader.execute(query, values)

    async def scan(self, query: str, values: Values) -> list[Row]:
        """Run one read-only statement that may take seconds, and return its rows."""
        return await self._scanner.execute(query, values)

    async def write(self, query: str, values: Values) -> list[Row]:
        """Run one statement, which is its own transaction, and return its rows."""
        return await self._writer.execute(query, values)

    async def write_all(self, *statements: tuple[str, Values]) -> list[list[Row]]:
        """Run several statements as one transaction, and return the rows of each."""
        return await self._writer.execute_all(*statements)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()
        await self._scanner.close()
