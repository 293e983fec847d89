"""The databases of durable stores: direct SQL access, and outages on demand."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import asyncpg

from sidegate.core.protocols import (
    AnalyticsStore,
    AuditLog,
    DurableStore,
    LogoutTokenStore,
    SessionLocks,
)
from sidegate.stores.postgres import database as postgres_database
from sidegate.stores.postgres.analytics import PostgresAnalytics
from sidegate.stores.postgres.audit import PostgresAudit
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.logout_tokens import PostgresLogoutTokens
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite import database as sqlite_database
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server


class Database(Protocol):
    """The database of a durable store."""

    async def open(self) -> DurableStore:
        """Open a store with connections of its own, as another process would."""
        ...

    def audit_log(self) -> AbstractAsyncContextManager[AuditLog]:
        """Open the audit log, with connections of its own."""
        ...

    def analytics(self) -> AbstractAsyncContextManager[AnalyticsStore]:
        """Open the analytics store, with connections of its own."""
        ...

    def locks(self) -> AbstractAsyncContextManager[SessionLocks]:
        """Open the session locks, with connections of its own."""
        ...

    async def age_locks(self, by: timedelta) -> None:
        """Age every hold on a lock by this time."""
        ...

    def logout_tokens(self) -> AbstractAsyncContextManager[LogoutTokenStore]:
        """Open the logout token store, with connections of its own."""
        ...

    async def execute(self, statement: str) -> None:
        """Run a statement past the stores."""
        ...


class StoppableDatabase(Database, Protocol):
    """A database that can be stopped and restarted."""

    def fail(self) -> None: ...

    def recover(self) -> None: ...


@dataclass
class PostgresDatabase:
    url: str

    async def open(self) -> DurableStore:
        await migrate_for_test_clock(self.url)
        return await PostgresSessions.open(self.url)

    @asynccontextmanager
    async def audit_log(self) -> AsyncIterator[AuditLog]:
        database = await postgres_database.PostgresDatabase.open(self.url)
        yield PostgresAudit(database)
        await database.close()

    @asynccontextmanager
    async def analytics(self) -> AsyncIterator[AnalyticsStore]:
        database = await postgres_database.PostgresDatabase.open(self.url)
        yield PostgresAnalytics(database)
        await database.close()

    @asynccontextmanager
    async def locks(self) -> AsyncIterator[SessionLocks]:
        database = await postgres_database.PostgresDatabase.open(self.url)
        yield PostgresLocks(database)
        await database.close()

    async def age_locks(self, by: timedelta) -> None:
        seconds = by.total_seconds()
        await self.execute(
            f"UPDATE session_locks SET expires_at = expires_at - interval '{seconds} seconds'"
        )

    @asynccontextmanager
    async def logout_tokens(self) -> AsyncIterator[LogoutTokenStore]:
        database = await postgres_database.PostgresDatabase.open(self.url)
        yield PostgresLogoutTokens(database)
        await database.close()

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@dataclass
class StoppablePostgres(PostgresDatabase):
    server: Server

    def fail(self) -> None:
        self.server.kill()

    def recover(self) -> None:
        self.server.restart()


@dataclass
class SqliteDatabase:
    path: Path

    async def open(self) -> DurableStore:
        return await SqliteSessions.open(self.path)

    @asynccontextmanager
    async def audit_log(self) -> AsyncIterator[AuditLog]:
        database = await sqlite_database.SqliteDatabase.open(self.path)
        yield SqliteAudit(database)
        await database.close()

    @asynccontextmanager
    async def analytics(self) -> AsyncIterator[AnalyticsStore]:
        database = await sqlite_database.SqliteDatabase.open(self.path)
        yield SqliteAnalytics(database)
        await database.close()

    @asynccontextmanager
    async def locks(self) -> AsyncIterator[SessionLocks]:
        database = await sqlite_database.SqliteDatabase.open(self.path)
        yield SqliteLocks(database)
        await database.close()

    async def age_locks(self, by: timedelta) -> None:
        microseconds = by // timedelta(microseconds=1)
        await self.execute(f"UPDATE session_locks SET expires_at = expires_at - {microseconds}")

    @asynccontextmanager
    async def logout_tokens(self) -> AsyncIterator[LogoutTokenStore]:
        database = await sqlite_database.SqliteDatabase.open(self.path)
        yield SqliteLogoutTokens(database)
        await database.close()

    async def execute(self, statement: str) -> None:
        # the statements are valid in both databases
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)

    def fail(self) -> None:
        self.path.rename(self._moved_path)

    def recover(self) -> None:
        self._moved_path.rename(self.path)

    @property
    def _moved_path(self) -> Path:
        return self.path.with_name("moved.db")
