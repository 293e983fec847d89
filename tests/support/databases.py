"""The databases that a durable store can live in, seen from behind: SQL, damage, and repair."""

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
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite import database as sqlite_database
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.processes import Server


class Database(Protocol):
    """Where a durable store keeps its sessions."""

    async def open(self) -> DurableStore:
        """Open a store in it: each as separate as one of another process."""
        ...

    def audit_log(self) -> AbstractAsyncContextManager[AuditLog]:
        """Open the audit trail of the stores in it, over connections of its own."""
        ...

    def analytics(self) -> AbstractAsyncContextManager[AnalyticsStore]:
        """Open the counts of the stores in it, over connections of its own."""
        ...

    def locks(self) -> AbstractAsyncContextManager[SessionLocks]:
        """Open the locks of the sessions in it, over connections of its own."""
        ...

    async def age_locks(self, by: timedelta) -> None:
        """Let every hold on a lock be as old as if so much time had passed."""
        ...

    def logout_memory(self) -> AbstractAsyncContextManager[LogoutTokenStore]:
        """Open the memory of logouts in it, as another process would."""
        ...

    async def execute(self, statement: str) -> None:
        """Do behind the stores' backs what SQL can do."""
        ...


class Mortal(Database, Protocol):
    """A database that can be taken away and given back."""

    def fail(self) -> None: ...

    def heal(self) -> None: ...


@dataclass
class PostgresDatabase:
    url: str

    async def open(self) -> DurableStore:
        await migrate_postgres(self.url)
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
    async def logout_memory(self) -> AsyncIterator[LogoutTokenStore]:
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
class MortalPostgres(PostgresDatabase):
    server: Server

    def fail(self) -> None:
        self.server.kill()

    def heal(self) -> None:
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
    async def logout_memory(self) -> AsyncIterator[LogoutTokenStore]:
        database = await sqlite_database.SqliteDatabase.open(self.path)
        yield SqliteLogoutTokens(database)
        await database.close()

    async def execute(self, statement: str) -> None:
        # the same SQL for both, but for casts
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)

    def fail(self) -> None:
        self.path.rename(self._elsewhere)

    def heal(self) -> None:
        self._elsewhere.rename(self.path)

    @property
    def _elsewhere(self) -> Path:
        return self.path.with_name("elsewhere.db")
