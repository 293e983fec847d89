"""Open the SQLite file, bring it up to date, and say what SQLite's errors mean to us."""

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
from sidegate.stores.sql.migrations import NOTED, NOTES, pending
from sidegate.stores.sql.rows import Row

OUTAGES: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "another process keeps the database locked",
    sqlite3.SQLITE_LOCKED: "another connection keeps a table locked",
    sqlite3.SQLITE_PROTOCOL: "the database's locks are in disorder",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
    sqlite3.SQLITE_NOMEM: "it has no memory left",
    sqlite3.SQLITE_PERM: "a permission is missing",
    sqlite3.SQLITE_AUTH: "a permission is missing",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is no database",
    sqlite3.SQLITE_NOLFS: "the file system cannot hold large files",
    sqlite3.SQLITE_SCHEMA: "the schema keeps changing",
}
"""The primary result codes that mean "could not answer"."""

# After these a connection may go on failing when the file is whole again: it keeps what it read.
_SPOILING: Final = frozenset(
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
_File = tuple[int, int]
"""Device and inode: which file it is, whatever it is called."""

# STRICT tables came with 3.37 (2021), RETURNING with 3.35.
_OLDEST: Final = (3, 37)


class SqliteConnection:
    """One connection to the file, with a thread of its own.

    It is opened when asked, and again when the last one was spoilt or another file is in its place:
    SQLite would go on with a file that has been moved away or deleted.
    """

    def __init__(self, path: Path, busy_timeout: timedelta) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._current: aiosqlite.Connection | None = None
        self._file: _File | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self._closed = False
        # Statements of others must not become part of a transaction, and be undone with it.
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[list[list[Row]]]] = set()

    async def ask(self, query: str, values: _Values) -> list[Row]:
        """Run one statement, which is its own transaction, and return its rows.

        It runs to its end even if the caller leaves.
        """
        with understood():
            async with self._turn:
                return await self._ask(await self._connection(), query, values)

    async def ask_all(self, *statements: tuple[str, _Values]) -> list[list[Row]]:
        """Run several statements as one transaction, and return the rows of each.

        It runs to its end even if the caller leaves.
        """
        with understood():
            task = asyncio.create_task(self._ask_all(statements))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            return await asyncio.shield(task)

    async def close(self) -> None:
        """Let go of the file. Whoever asks later is told that the store cannot answer."""
        self._closed = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
        async with self._turn:  # what has begun is finished
            if self._current is not None:
                await self._drop(self._current)

    async def _ask(
        self, connection: aiosqlite.Connection, query: str, values: _Values
    ) -> list[Row]:
        try:
            rows = await connection.execute_fetchall(query, values)
        except (ValueError, sqlite3.ProgrammingError) as error:
            if self._current is not connection:
                raise StoreUnavailable("sqlite", "the connection was closed") from error
            raise
        except sqlite3.Error as error:
            if _primary_code(error) in _SPOILING:
                await self._drop(connection)
            raise
        return cast("list[Row]", rows)  # a sqlite3.Row is a mapping in all but name

    async def _ask_all(self, statements: Iterable[tuple[str, _Values]]) -> list[list[Row]]:
        async with self._turn:
            connection = await self._connection()
            try:
                await self._ask(connection, "BEGIN IMMEDIATE", ())
                done = [await self._ask(connection, *statement) for statement in statements]
                await self._ask(connection, "COMMIT", ())
            except BaseException:
                await self._undo(connection)
                raise
            return done

    async def _undo(self, connection: aiosqlite.Connection) -> None:
        """Leave no transaction open; a connection in which that fails is of no use any more."""
        if self._current is connection and connection.in_transaction:
            try:
                await connection.execute_fetchall("ROLLBACK")
            except sqlite3.Error:
                await self._drop(connection)

    async def _connection(self) -> aiosqlite.Connection:
        current = self._current
        if current is not None and _file_at(self._path) != self._file:
            await self._drop(current)
        if self._closed:
            raise StoreUnavailable("sqlite", "it is closed")
        return self._current or await self._opened()

    async def _opened(self) -> aiosqlite.Connection:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)  # others may wait for it too

    async def _open(self) -> aiosqlite.Connection:
        try:
            self._file = _file_at(self._path)
            if self._file is None:
                raise StoreUnavailable("sqlite", OUTAGES[sqlite3.SQLITE_CANTOPEN])
            self._current = await _connect(self._path, self._busy_timeout)
            return self._current
        finally:
            self._opening = None

    async def _drop(self, connection: aiosqlite.Connection) -> None:
        if self._current is connection:  # else another caller has dropped it
            self._current = None
            with suppress(sqlite3.Error):
                await connection.close()


async def prepare(path: Path, busy_timeout: timedelta) -> None:
    """Create the file, for its owner only, if there is none, and bring its tables up to date."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StoreUnavailable("sqlite", f"SQLite {sqlite3.sqlite_version} is older than 3.37")
    with understood():
        _create(path)
        connection = await _connect(path, busy_timeout)
        try:
            await _into_wal(connection, busy_timeout)
            await _migrate(connection)
        finally:
            await connection.close()


@contextmanager
def understood() -> Iterator[None]:
    """Raise what SQLite's errors mean. The reasons given hold no path, value or digest."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        means = meaning(error)
        if means is error:
            raise
        raise means from (error if isinstance(means, StoreUnavailable) else None)


def meaning(error: Exception) -> Exception:
    """Return what to raise for an error of sqlite3: it itself when it is none of the stores'."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
        return SessionExists("a session with this id or digest is stored already")
    if isinstance(error, sqlite3.IntegrityError):
        return ValueError(f"the database refuses a value: {error}")
    if isinstance(error, OSError):
        return StoreUnavailable("sqlite", "the database file cannot be created")
    why = OUTAGES.get(_primary_code(error))
    return _meaning_of_words(error) if why is None else StoreUnavailable("sqlite", why)


def _meaning_of_words(error: Exception) -> Exception:
    """For the errors that have no code of their own."""
    words = str(error)
    if words.startswith("no such table"):
        return StoreUnavailable("sqlite", "a table is missing")
    if words.startswith("Could not decode"):
        return UnreadableRecord("a row holds text that is no UTF-8")
    return error


def _primary_code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return int(code) & 0xFF  # the rest says which read or which lock it was


def _file_at(path: Path) -> _File | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # O_EXCL: to open and close a file which SQLite has open elsewhere in this process would
    # silently drop its locks.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


async def _connect(path: Path, busy_timeout: timedelta) -> aiosqlite.Connection:
    # mode=rw: a file that has vanished is an outage, not a reason to begin an empty one.
    # isolation_level: the module is not to begin transactions by itself.
    connection = await aiosqlite.connect(
        f"{_uri(path)}?mode=rw",
        uri=True,
        timeout=busy_timeout.total_seconds(),
        isolation_level=None,
    )
    try:
        connection.row_factory = sqlite3.Row
        # An acknowledged change must survive a power cut; WAL's own default would not see to that.
        await connection.execute_fetchall("PRAGMA synchronous = FULL")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _into_wal(connection: aiosqlite.Connection, busy_timeout: timedelta) -> None:
    """Switch to WAL. SQLite's own patience does not hold for this: others may be switching too."""
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
    """Apply what is missing, or nothing: after an error the connection must be closed."""
    await connection.execute_fetchall("BEGIN IMMEDIATE")
    await connection.execute_fetchall(NOTES)
    applied = [row["name"] for row in await connection.execute_fetchall(NOTED)]
    for migration in pending("sqlite", applied):
        for statement in _statements(migration.sql):
            await connection.execute_fetchall(statement)
        note = "INSERT INTO sidegate_migrations VALUES (?)"
        await connection.execute_fetchall(note, (migration.name,))
    await connection.execute_fetchall("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite sees a statement end. (sqlite3's own runner would commit.)"""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
