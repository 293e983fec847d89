"""Connections to the SQLite file, its migration, and the translation of sqlite3's errors."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import aiosqlite

from sidegate.core.errors import SessionExists, StoreUnavailable, UnreadableRecord
from sidegate.stores.sql.migrations import CREATE_MIGRATIONS_TABLE, SELECT_APPLIED, list_pending
from sidegate.stores.sql.rows import Row

OUTAGES: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "a table is locked by another connection",
    sqlite3.SQLITE_PROTOCOL: "the file locks are inconsistent",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
    sqlite3.SQLITE_NOMEM: "it is out of memory",
    sqlite3.SQLITE_PERM: "a permission is missing",
    sqlite3.SQLITE_AUTH: "a permission is missing",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a database",
    sqlite3.SQLITE_NOLFS: "the file system does not support large files",
    sqlite3.SQLITE_SCHEMA: "the schema keeps changing",
}
"""The primary result codes of an outage, with their reasons."""

# A connection may go on failing after these, even if the file is repaired: it caches pages.
_BROKEN_CONNECTION_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)
_Values = Mapping[str, Any] | Sequence[Any]
_FileId = tuple[int, int]
"""Device and inode: they identify the file, whatever its path."""

# STRICT tables need 3.37 (2021), RETURNING needs 3.35.
_MIN_VERSION: Final = (3, 37)


class SqliteConnection:
    """One connection to the file, with a thread of its own.

    It is opened on first use, and reopened after a failure or if the file was replaced: SQLite
    itself would go on with a file that was moved or deleted.
    """

    def __init__(self, path: Path, busy_timeout: timedelta) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._current: aiosqlite.Connection | None = None
        self._file_id: _FileId | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self._closed = False
        # Statements of other callers must not join a transaction and be rolled back with it.
        self._lock = asyncio.Lock()
        self._in_flight: set[asyncio.Task[list[list[Row]]]] = set()

    async def execute(self, query: str, values: _Values) -> list[Row]:
        """Run one statement, which is its own transaction, and return its rows.

        It completes even if the caller is cancelled.
        """
        with translate_errors():
            async with self._lock:
                return await self._execute(await self._get_connection(), query, values=values)

    async def execute_all(self, *statements: tuple[str, _Values]) -> list[list[Row]]:
        """Run several statements as one transaction, and return the rows of each.

        It completes even if the caller is cancelled.
        """
        with translate_errors():
            task = asyncio.create_task(self._execute_all(statements))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            return await asyncio.shield(task)

    async def close(self) -> None:
        """Close the file. Later statements raise StoreUnavailable."""
        self._closed = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
        async with self._lock:  # statements in flight complete
            if self._current is not None:
                await self._drop(self._current)

    async def _execute(
        self, connection: aiosqlite.Connection, query: str, *, values: _Values
    ) -> list[Row]:
        try:
            rows = await connection.execute_fetchall(query, values)
        except (ValueError, sqlite3.ProgrammingError) as error:
            if self._current is not connection:
                raise StoreUnavailable("sqlite", "the connection was closed") from error
            raise
        except sqlite3.Error as error:
            if _primary_code(error) in _BROKEN_CONNECTION_CODES:
                await self._drop(connection)
            raise
        return cast("list[Row]", rows)  # sqlite3.Row behaves like a mapping

    async def _execute_all(self, statements: Iterable[tuple[str, _Values]]) -> list[list[Row]]:
        async with self._lock:
            connection = await self._get_connection()
            try:
                await self._execute(connection, "BEGIN IMMEDIATE", values=())
                results = [
                    await self._execute(connection, query, values=values)
                    for query, values in statements
                ]
                await self._execute(connection, "COMMIT", values=())
            except BaseException:
                await self._rollback(connection)
                raise
            return results

    async def _rollback(self, connection: aiosqlite.Connection) -> None:
        """Roll back an open transaction; drop the connection if that fails."""
        if self._current is connection and connection.in_transaction:
            try:
                await connection.execute_fetchall("ROLLBACK")
            except sqlite3.Error:
                await self._drop(connection)

    async def _get_connection(self) -> aiosqlite.Connection:
        current = self._current
        if current is not None and _read_file_id(self._path) != self._file_id:
            await self._drop(current)
        if self._closed:
            raise StoreUnavailable("sqlite", "it is closed")
        return self._current or await self._join_opening()

    async def _join_opening(self) -> aiosqlite.Connection:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)  # other callers may wait for it too

    async def _open(self) -> aiosqlite.Connection:
        try:
            self._file_id = _read_file_id(self._path)
            if self._file_id is None:
                raise StoreUnavailable("sqlite", OUTAGES[sqlite3.SQLITE_CANTOPEN])
            self._current = await _connect(self._path, self._busy_timeout)
            return self._current
        finally:
            self._opening = None

    async def _drop(self, connection: aiosqlite.Connection) -> None:
        if self._current is connection:  # else another caller dropped it
            self._current = None
            with suppress(sqlite3.Error):
                await connection.close()


async def prepare_file(path: Path, busy_timeout: timedelta) -> None:
    """Create the file, readable by its owner only, if it is missing, and migrate it."""
    if sqlite3.sqlite_version_info < _MIN_VERSION:
        raise StoreUnavailable(
            "sqlite", f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed"
        )
    with translate_errors():
        _create_file(path)
        connection = await _connect(path, busy_timeout)
        try:
            await _enable_wal(connection, busy_timeout)
            await _migrate(connection)
        finally:
            await connection.close()


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate sqlite3's errors with `translate_error`.

    The messages contain no path, value or digest.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        translated = translate_error(error)
        if translated is error:
            raise
        raise translated from (error if isinstance(translated, StoreUnavailable) else None)


def translate_error(error: Exception) -> Exception:
    """Return the error to raise for one of sqlite3, which may be `error` itself."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
        return SessionExists("a session with this id or digest is stored already")
    if isinstance(error, sqlite3.IntegrityError):
        return ValueError(f"the database rejects a value: {error}")
    if isinstance(error, OSError):
        return StoreUnavailable("sqlite", "the database file cannot be created")
    reason = OUTAGES.get(_primary_code(error))
    return _translate_message(error) if reason is None else StoreUnavailable("sqlite", reason)


def _translate_message(error: Exception) -> Exception:
    """Translate the errors that have no code of their own."""
    message = str(error)
    if message.startswith("no such table"):
        return StoreUnavailable("sqlite", "a table is missing")
    if message.startswith("Could not decode"):
        return UnreadableRecord("a row holds text that is not UTF-8")
    return error


def _primary_code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return int(code) & 0xFF  # the upper bits detail the read or the lock


def _read_file_id(path: Path) -> _FileId | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _create_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # O_EXCL: opening and closing a file that SQLite has open elsewhere in this process would drop
    # its locks silently.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _to_uri(path: Path) -> str:
    return path.absolute().as_uri()


async def _connect(path: Path, busy_timeout: timedelta) -> aiosqlite.Connection:
    # mode=rw: a missing file is an outage, not a reason to create an empty one.
    # isolation_level=None: the module must not begin transactions by itself.
    connection = await aiosqlite.connect(
        f"{_to_uri(path)}?mode=rw",
        uri=True,
        timeout=busy_timeout.total_seconds(),
        isolation_level=None,
    )
    try:
        connection.row_factory = sqlite3.Row
        # An acknowledged write must survive a power failure; WAL's default does not ensure that.
        await connection.execute_fetchall("PRAGMA synchronous = FULL")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _enable_wal(connection: aiosqlite.Connection, busy_timeout: timedelta) -> None:
    """Switch to WAL; retry, since SQLite's busy timeout does not apply to this pragma."""
    deadline = time.monotonic() + busy_timeout.total_seconds()
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            await asyncio.sleep(0.01)
        else:
            return


async def _migrate(connection: aiosqlite.Connection) -> None:
    """Apply all missing migrations or none: after an error the connection must be closed."""
    await connection.execute_fetchall("BEGIN IMMEDIATE")
    await connection.execute_fetchall(CREATE_MIGRATIONS_TABLE)
    applied = [row["name"] for row in await connection.execute_fetchall(SELECT_APPLIED)]
    for migration in list_pending("sqlite", applied):
        for statement in _split_statements(migration.sql):
            await connection.execute_fetchall(statement)
        insert = "INSERT INTO sidegate_migrations VALUES (?)"
        await connection.execute_fetchall(insert, (migration.name,))
    await connection.execute_fetchall("COMMIT")


def _split_statements(script: str) -> Iterator[str]:
    """Split a script into its statements. (`executescript` would commit.)"""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
