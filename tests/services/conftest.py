"""What tests of the services share: each durable store in turn, empty."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidegate.core.protocols import DurableStore
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.database_time import migrate_for_test_clock


@pytest.fixture(params=["sqlite", "postgres"])
async def durable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DurableStore]:
    """A durable store, empty."""
    store: SqliteSessions | PostgresSessions
    if request.param == "sqlite":
        store = await SqliteSessions.open(tmp_path / "sidegate.db")
    else:
        url = request.getfixturevalue("database_url")
        await migrate_for_test_clock(url)
        store = await PostgresSessions.open(url)
    yield store
    await store.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(tmp_path / "sidegate.db")
    yield store
    await store.close()
