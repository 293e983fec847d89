"""Each durable store in turn, and the database behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidegate.core.protocols import DurableStore
from tests.support.databases import (
    Database,
    Mortal,
    MortalPostgres,
    PostgresDatabase,
    SqliteDatabase,
)
from tests.support.processes import Server


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty database that lives as long as the test."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    return PostgresDatabase(request.getfixturevalue("database_url"))


@pytest.fixture
async def durable(database: Database) -> AsyncIterator[DurableStore]:
    """A durable store in `database`, empty."""
    store = await database.open()
    yield store
    await store.close()


@pytest.fixture
async def another(database: Database, durable: DurableStore) -> AsyncIterator[DurableStore]:
    """A second store in the same database, as another process would open it."""
    del durable  # it is to be there first
    store = await database.open()
    yield store
    await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Mortal:
    """Return an empty database that the test may take away and give back."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    server: Server = request.getfixturevalue("own_postgres")
    return MortalPostgres(server.url, server)


@pytest.fixture
async def survivor(mortal: Mortal) -> AsyncIterator[DurableStore]:
    """A store in `mortal`."""
    store = await mortal.open()
    yield store
    await store.close()
