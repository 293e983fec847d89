"""Session locks that are specific to Postgres: concurrent statements. See tests/contracts too."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import Session
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import build_record, build_session
from tests.stores.postgres.raw_connection import connect_directly, wait_for_blocked_query
from tests.support.database_time import migrate_for_test_clock

# Longer than any of these tests lasts.
TTL = timedelta(minutes=5)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[PostgresDatabase]:
    await migrate_for_test_clock(database_url)
    database = await PostgresDatabase.open(database_url)
    yield database
    await database.close()


@pytest.fixture
async def session(database: PostgresDatabase) -> Session:
    session = build_session()
    await PostgresSessions(database).create(build_record(session))
    return session


async def acquire(database: PostgresDatabase, session: Session) -> Hold | Contended | None:
    lease = LeaseDigest(secrets.token_bytes(32))
    return await PostgresLocks(database).acquire(session.id, lease, ttl=TTL, holder=None)


async def test_acquire_during_purge_finds_no_session(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    async with connect_directly(database_url) as connection:
        async with connection.transaction():
            await connection.execute("DELETE FROM sessions")
            acquiring = asyncio.create_task(acquire(database, session))
            await wait_for_blocked_query(database_url)
        assert await acquiring is None


async def test_acquire_during_a_late_renewal_is_contended(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    assert isinstance(await acquire(database, session), Hold)
    async with connect_directly(database_url) as connection:
        await connection.execute("UPDATE session_locks SET expires_at = now() - interval '1 s'")
        async with connection.transaction():
            renew = "UPDATE session_locks SET expires_at = now() + interval '300 s' RETURNING *"
            renewed = await connection.fetchrow(renew)
            acquiring = asyncio.create_task(acquire(database, session))
            await wait_for_blocked_query(database_url)
        contended = await acquiring
    assert renewed is not None
    assert isinstance(contended, Contended)
    assert contended.free_at == renewed["expires_at"]


async def test_contended_acquire_writes_nothing(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    """Not even a row lock: waiting clients cause no disk writes."""
    rows = (
        "SELECT lock.xmin, lock.xmax, lock.ctid, sessions.xmin, sessions.xmax, sessions.ctid"
        " FROM session_locks AS lock, sessions"
    )
    assert isinstance(await acquire(database, session), Hold)
    async with connect_directly(database_url) as connection:
        before = await connection.fetch(rows)
        assert isinstance(await acquire(database, session), Contended)
        assert await connection.fetch(rows) == before
