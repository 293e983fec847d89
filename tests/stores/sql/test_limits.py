"""Session limits, where they are specific to one database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.limits import AtLimit, Limit
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_record, build_session
from tests.support.clock import NOON
from tests.support.database_time import migrate_for_test_clock

MINUTE = timedelta(minutes=1)
BUSY_TIMEOUT = timedelta(milliseconds=20)


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_for_test_clock(database_url)
    store = await PostgresSessions.open(database_url, pool_max=1)
    yield store
    await store.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(tmp_path / "sidegate.db", busy_timeout=BUSY_TIMEOUT)
    yield store
    await store.close()


async def test_create_works_after_a_newer_version_added_a_column(
    postgres: PostgresSessions, database_url: str
) -> None:
    await postgres.create(build_record(), limit=Limit(1))
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE sessions ADD COLUMN future_column text")
    await connection.close()
    tombstones = await postgres.create(
        build_record(build_session(at=NOON + MINUTE)), limit=Limit(1)
    )
    assert len(tombstones) == 1


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_create_waits_for_no_other_user(
    postgres: PostgresSessions, database_url: str, at_limit: AtLimit
) -> None:
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.fetch(
            "SELECT sidegate_enforce_limit('bob', 'web', 1, 'evict_oldest', now(), 'x', 'x')"
        )
        limit, bob = Limit(1, at_limit), build_record(build_session(user_id="bob"))
        await asyncio.wait_for(postgres.create(build_record(), limit=limit), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(postgres.create(bob, limit=limit), 0.2)
    await connection.close()


async def test_connection_is_usable_after_a_failed_create(
    sqlite: SqliteSessions, tmp_path: Path
) -> None:
    old, new = build_session(), build_session(at=NOON + MINUTE)
    await sqlite.create(build_record(old))
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        with pytest.raises(ValueError, match="full"):
            await sqlite.create(build_record(new), limit=Limit(1))
        other.execute("DROP TRIGGER full")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await sqlite.create(build_record(new), limit=Limit(1))
        other.execute("COMMIT")
    assert await sqlite.find(old.digest) == old
    assert await sqlite.create(build_record(new), limit=Limit(1)) == [
        ChangedSession(old.revoked(NOON + MINUTE))
    ]


async def test_rollback_of_a_create_keeps_concurrent_writes(
    sqlite: SqliteSessions,
) -> None:
    taken = build_record()
    await sqlite.create(taken)
    others = [build_session(user_id=f"user-{n}") for n in range(20)]
    await asyncio.gather(
        *(sqlite.create(taken, limit=Limit(1)) for _ in range(20)),
        *(sqlite.create(build_record(session)) for session in others),
        return_exceptions=True,
    )
    assert len(await sqlite.find_many([session.digest for session in others])) == 20


async def test_close_completes_statements_in_flight(tmp_path: Path) -> None:
    store = await SqliteSessions.open(tmp_path / "sidegate.db")
    creates = [
        asyncio.create_task(
            store.create(build_record(build_session(at=NOON + n * MINUTE)), limit=Limit(1))
        )
        for n in range(10)
    ]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*creates, return_exceptions=True)
    completed = [outcome for outcome in outcomes if not isinstance(outcome, StoreUnavailable)]
    assert all(isinstance(outcome, list) for outcome in completed)
    reopened = await SqliteSessions.open(tmp_path / "sidegate.db")
    assert len(await reopened.list_where(Condition("ada"), limit=99)) == len(completed)
    await reopened.close()
