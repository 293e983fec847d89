"""Each durable store in turn, and its database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidegate.core.protocols import DurableStore
from tests.support.databases import (
    Database,
    PostgresDatabase,
    SqliteDatabase,
    StoppableDatabase,
    StoppablePostgres,
)
from tests.support.processes import Server


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return a database for the test that has no sessions."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    return PostgresDatabase(request.getfixturevalue("database_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return a database for the test without any schema."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    return PostgresDatabase(request.getfixturevalue("empty_database_url"))


@pytest.fixture
async def durable(database: Database) -> AsyncIterator[DurableStore]:
    """A durable store in `database`, empty."""
    store = await database.open()
    yield store
    await store.close()


@pytest.fixture
async def other_store(database: Database, durable: DurableStore) -> AsyncIterator[DurableStore]:
    """A second store in the same database, as another process would open it."""
    del durable  # opened first
    store = await database.open()
    yield store
    await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def stoppable(request: pytest.FixtureRequest, tmp_path: Path) -> StoppableDatabase:
    """Return an empty database that the test may stop and restart."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    server: Server = request.getfixturevalue("own_postgres")
    return StoppablePostgres(server.url, server)


@pytest.fixture
async def stoppable_store(stoppable: StoppableDatabase) -> AsyncIterator[DurableStore]:
    """A store in `stoppable`."""
    store = await stoppable.open()
    yield store
    await store.close()
