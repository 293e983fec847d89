"""The databases that a durable store can live in, seen from behind: SQL, damage, and repair."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg

from proxy.core.protocols import DurableStore
from proxy.stores.migrate import migrate_postgres
from proxy.stores.postgres import PostgresStore
from proxy.stores.sqlite import SqliteStore
from tests.processes import Server


class Database(Protocol):
    """Where a durable store keeps its sessions."""

    async def open(self) -> DurableStore:
        """Open a store in it: each as separate as one of another process."""
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
        return await PostgresStore.open(self.url)

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
        return await SqliteStore.open(self.path)

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
