"""Limits, as far as they differ between the databases."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.limits import AtLimit, Limit
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_record, a_session
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_postgres(database_url)
    store = await PostgresSessions.open(database_url, pool_max=1)
    yield store
    await store.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    busy = timedelta(milliseconds=20)
    store = await SqliteSessions.open(tmp_path / "sidegate.db", busy_timeout=busy)
    yield store
    await store.close()


async def test_logins_go_on_while_a_newer_program_adds_a_column(
    postgres: PostgresSessions, database_url: str
) -> None:
    await postgres.create(a_record(), limit=Limit(1))
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE sessions ADD COLUMN of_tomorrow text")
    await connection.close()
    tombstones = await postgres.create(a_record(a_session(at=NOON + MINUTE)), limit=Limit(1))
    assert len(tombstones) == 1


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_nobody_waits_for_the_login_of_another_user(
    postgres: PostgresSessions, database_url: str, at_limit: AtLimit
) -> None:
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.fetch(
            "SELECT sidegate_make_room('bob', 'web', 1, 'evict_oldest', now(), 'x', 'x')"
        )
        limit, bob = Limit(1, at_limit), a_record(a_session(user_id="bob"))
        await asyncio.wait_for(postgres.create(a_record(), limit=limit), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(postgres.create(bob, limit=limit), 0.2)
    await connection.close()


async def test_after_a_failed_login_the_connection_is_as_good_as_new(
    sqlite: SqliteSessions, tmp_path: Path
) -> None:
    old, new = a_session(), a_session(at=NOON + MINUTE)
    await sqlite.create(a_record(old))
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        with pytest.raises(ValueError, match="full"):
            await sqlite.create(a_record(new), limit=Limit(1))
        other.execute("DROP TRIGGER full")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await sqlite.create(a_record(new), limit=Limit(1))
        other.execute("COMMIT")
    assert await sqlite.find(old.digest) == old
    assert await sqlite.create(a_record(new), limit=Limit(1)) == [old.revoked(NOON + MINUTE)]


async def test_what_others_change_meanwhile_is_not_undone_with_a_login(
    sqlite: SqliteSessions,
) -> None:
    taken = a_record()
    await sqlite.create(taken)
    others = [a_session(user_id=f"user-{n}") for n in range(20)]
    await asyncio.gather(
        *(sqlite.create(taken, limit=Limit(1)) for _ in range(20)),
        *(sqlite.create(a_record(session)) for session in others),
        return_exceptions=True,
    )
    assert len(await sqlite.find_many([session.digest for session in others])) == 20


async def test_a_store_that_is_closed_finishes_what_has_begun(tmp_path: Path) -> None:
    store = await SqliteSessions.open(tmp_path / "sidegate.db")
    logins = [
        asyncio.create_task(store.create(a_record(a_session(at=NOON + n * MINUTE)), limit=Limit(1)))
        for n in range(10)
    ]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*logins, return_exceptions=True)
    begun = [outcome for outcome in outcomes if not isinstance(outcome, StoreUnavailable)]
    assert all(isinstance(outcome, list) for outcome in begun)
    reopened = await SqliteSessions.open(tmp_path / "sidegate.db")
    assert len(await reopened.list_where(Condition("ada"), limit=99)) == len(begun)
    await reopened.close()
