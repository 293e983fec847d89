"""What is true of locks in Postgres only: who waits for whom. Their promises are in contracts."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.session import Session
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import a_record, a_session
from tests.stores.postgres.postgres_behind import raw, the_server_is_waiting

# Longer than any of these tests lasts.
LONG = timedelta(minutes=5)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[PostgresDatabase]:
    await migrate_postgres(database_url)
    database = await PostgresDatabase.open(database_url)
    yield database
    await database.close()


@pytest.fixture
async def session(database: PostgresDatabase) -> Session:
    session = a_session()
    await PostgresSessions(database).create(a_record(session))
    return session


async def acquire(database: PostgresDatabase, session: Session) -> Hold | Contended | None:
    lease = LeaseDigest(secrets.token_bytes(32))
    return await PostgresLocks(database).acquire(session.id, lease, ttl=LONG, holder=None)


async def test_whoever_comes_while_the_session_is_purged_finds_none(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    async with raw(database_url) as connection:
        async with connection.transaction():
            await connection.execute("DELETE FROM sessions")
            acquiring = asyncio.create_task(acquire(database, session))
            await the_server_is_waiting(database_url)
        assert await acquiring is None


async def test_whoever_comes_while_it_is_renewed_at_the_last_moment_finds_it_held(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    assert isinstance(await acquire(database, session), Hold)
    async with raw(database_url) as connection:
        await connection.execute("UPDATE session_locks SET expires_at = now() - interval '1 s'")
        async with connection.transaction():
            renew = "UPDATE session_locks SET expires_at = now() + interval '300 s' RETURNING *"
            renewed = await connection.fetchrow(renew)
            acquiring = asyncio.create_task(acquire(database, session))
            await the_server_is_waiting(database_url)
        contended = await acquiring
    assert renewed is not None
    assert isinstance(contended, Contended)
    assert contended.free_at == renewed["expires_at"]


async def test_whoever_finds_it_held_writes_nothing(
    database: PostgresDatabase, database_url: str, session: Session
) -> None:
    """Not even the mark of a row lock: a crowd that waits costs the disk nothing."""
    rows = (
        "SELECT lock.xmin, lock.xmax, lock.ctid, sessions.xmin, sessions.xmax, sessions.ctid"
        " FROM session_locks AS lock, sessions"
    )
    assert isinstance(await acquire(database, session), Hold)
    async with raw(database_url) as connection:
        before = await connection.fetch(rows)
        assert isinstance(await acquire(database, session), Contended)
        assert await connection.fetch(rows) == before
