"""What is committed, and when: durability, isolation, and the time of a change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from sidegate.core.actor import Change
from sidegate.core.condition import Condition
from sidegate.core.limits import Limit
from sidegate.core.lock import LeaseDigest
from sidegate.core.protocols import Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, build_digest, build_record, build_session
from tests.stores.postgres.raw_connection import connect_directly, wait_for_blocked_query
from tests.support.processes import Server

MINUTE = timedelta(minutes=1)
WEAK_ISOLATIONS = ("repeatable read", "serializable")


async def set_default(url: str, name: str, value: str) -> None:
    """Set a default of the role, for connections opened from now on."""
    async with connect_directly(url) as connection:
        await connection.execute(f"ALTER ROLE postgres SET {name} = '{value}'")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_postgres(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


# --- Durability


@pytest.fixture
async def lazy_server(own_postgres: Server) -> Server:
    """A server that writes a commit to disk long after it was acknowledged, by the role's default.

    It has an active session, for what the tests change.
    """
    await migrate_postgres(own_postgres.url)
    async with connect_directly(own_postgres.url) as connection:
        await connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        await connection.execute("SELECT pg_reload_conf()")
    await set_default(own_postgres.url, "synchronous_commit", "off")
    return own_postgres


async def kill(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)


async def test_commit_of_an_unprotected_statement_is_lost(lazy_server: Server) -> None:
    """The server of these tests does lose what is not protected."""
    async with connect_directly(lazy_server.url) as connection:
        await connection.execute("CREATE TABLE unprotected (number integer)")
        await connection.execute("SET synchronous_commit = on")
        await connection.execute("INSERT INTO unprotected VALUES (1)")
        await connection.execute("SET synchronous_commit = off")
        await connection.execute("INSERT INTO unprotected VALUES (2)")
        await kill(lazy_server)
    async with connect_directly(lazy_server.url) as connection:
        assert [row["number"] for row in await connection.fetch("TABLE unprotected")] == [1]


Act = Callable[[PostgresSessions, SessionRecord], Awaitable[object]]


async def replace(store: PostgresSessions, record: SessionRecord) -> None:
    session = record.session
    rotated = session.rotated(build_digest(), MINUTE, at=session.created_at)
    assert await store.replace(SessionRecord(rotated, record.details), expected=1) is not None


async def revoke(store: PostgresSessions, record: SessionRecord) -> None:
    condition = Condition(session_id=record.session.id)
    at = record.session.created_at
    assert await store.revoke_where(condition, at=at, by=TESTER, reason="test", limit=1)


async def evict(store: PostgresSessions, record: SessionRecord) -> None:
    session = record.session
    newer = build_record(build_session(user_id=session.user_id, at=session.created_at))
    assert await store.create(newer, limit=Limit(1))


async def restore(store: PostgresSessions, record: SessionRecord) -> None:
    assert await store.revoke_again([record.session.revoked(record.session.created_at)])


@pytest.mark.parametrize("act", [replace, revoke, evict, restore])
async def test_acknowledged_change_survives_the_server(lazy_server: Server, act: Act) -> None:
    store = await PostgresSessions.open(lazy_server.url)
    record = build_record(build_session(at=await store.now()))
    await store.create(record)
    await act(store, record)
    await kill(lazy_server)
    stored = await store.get(record.session.id)
    assert stored is not None
    assert stored.session.version == 2
    await store.close()


async def test_acknowledged_creation_survives_the_server(lazy_server: Server) -> None:
    store = await PostgresSessions.open(lazy_server.url)
    record = build_record(build_session())
    await store.create(record)
    await kill(lazy_server)
    assert await store.get(record.session.id) is not None
    await store.close()


async def test_acknowledged_lock_survives_the_server(lazy_server: Server) -> None:
    store = await PostgresSessions.open(lazy_server.url)
    record = build_record(build_session())
    await store.create(record)
    database = await PostgresDatabase.open(lazy_server.url)
    locks = PostgresLocks(database)
    lease = LeaseDigest(bytes(32))
    held = await locks.acquire(record.session.id, lease, ttl=MINUTE, holder=None)
    await kill(lazy_server)
    assert held == await locks.renew(record.session.id, lease, ttl=timedelta(0))
    await database.close()
    await store.close()


@pytest.mark.usefixtures("store")
async def test_stronger_default_is_left_alone(database_url: str) -> None:
    async with connect_directly(database_url) as connection, connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = remote_apply")
        await connection.execute("UPDATE sessions SET version = version")
        assert await connection.fetchval("SHOW synchronous_commit") == "remote_apply"


# --- Isolation


@pytest.mark.parametrize("prepared_statements", [True, False])
@pytest.mark.parametrize("isolation", WEAK_ISOLATIONS)
async def test_limit_holds_under_the_isolation_of_a_role(
    own_postgres: Server, isolation: str, *, prepared_statements: bool
) -> None:
    await set_default(own_postgres.url, "default_transaction_isolation", isolation)
    await migrate_postgres(own_postgres.url)
    store = await PostgresSessions.open(
        own_postgres.url, prepared_statements=prepared_statements, pool_max=12
    )
    now = await store.now()
    records = [build_record(build_session(user_id="ada", at=now)) for _ in range(12)]
    await asyncio.gather(*(store.create(record, limit=Limit(3)) for record in records))
    assert await store.count_where(Condition("ada"), at=await store.now()) == 3
    await store.close()


@pytest.mark.parametrize("isolation", WEAK_ISOLATIONS)
async def test_concurrent_migrations_of_the_database_succeed_under_the_isolation_of_a_role(
    own_postgres: Server, isolation: str
) -> None:
    await set_default(own_postgres.url, "default_transaction_isolation", isolation)
    applied = await asyncio.gather(*(migrate_postgres(own_postgres.url) for _ in range(4)))
    assert len({name for names in applied for name in names}) == sum(map(len, applied))


# --- The time of a change


async def create_active(store: PostgresSessions) -> Session:
    session = build_session(at=await store.now())
    await store.create(build_record(session))
    return session


async def run_behind_lock(
    url: str, session_id: SessionId, write: Callable[[], Awaitable[object]]
) -> datetime:
    """Run a write while another transaction locks the session; return when that has ended."""
    async with connect_directly(url) as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", session_id)
            writing = asyncio.ensure_future(write())
            await wait_for_blocked_query(url)
            unlocked_at: datetime = await connection.fetchval("SELECT clock_timestamp()")
        await writing
        return unlocked_at


async def get(store: PostgresSessions, session_id: SessionId) -> SessionRecord:
    record = await store.get(session_id)
    assert record is not None
    return record


async def test_revocation_has_the_time_after_its_locks(
    store: PostgresSessions, database_url: str
) -> None:
    session = await create_active(store)
    revoke = partial(
        store.revoke_where,
        Condition(session_id=session.id),
        at=session.created_at,
        by=TESTER,
        reason="test",
        limit=1,
    )
    unlocked_at = await run_behind_lock(database_url, session.id, revoke)
    record = await get(store, session.id)
    assert record.session.revoked_at is not None
    assert record.session.revoked_at >= unlocked_at
    assert record.details.change == Change(record.session.revoked_at, TESTER)


async def test_acknowledged_revocation_keeps_its_time(store: PostgresSessions) -> None:
    session = await create_active(store)
    at = session.created_at + timedelta(seconds=1)
    [changed] = await store.revoke_where(
        Condition(session_id=session.id),
        at=at,
        by=TESTER,
        reason="test",
        limit=1,
        acknowledged=True,
    )
    assert changed.session.revoked_at == at


async def test_grace_begins_after_the_locks(store: PostgresSessions, database_url: str) -> None:
    session = await create_active(store)
    at = session.created_at
    rotated = session.rotated(build_digest(), MINUTE, at=at)
    record = build_record(rotated, change=Change(at, TESTER))
    replace = partial(store.replace, record, expected=1)
    unlocked_at = await run_behind_lock(database_url, session.id, replace)
    stored = await get(store, session.id)
    assert stored.session.previous_until >= unlocked_at + MINUTE
    assert stored.details.change is not None
    assert stored.details.change.at >= unlocked_at


async def test_token_that_ends_at_once_ends_before_any_clock(store: PostgresSessions) -> None:
    session = await create_active(store)
    migrated = session.migrated(build_digest(), session.created_at)
    record = build_record(migrated, change=Change(session.created_at, TESTER))
    changed = await store.replace(record, expected=1)
    assert changed is not None
    assert changed.session.previous_until == migrated.previous_until


async def test_eviction_has_the_time_after_its_locks(
    store: PostgresSessions, database_url: str
) -> None:
    session = await create_active(store)
    newer = build_record(build_session(user_id=session.user_id, at=session.created_at))
    create = partial(store.create, newer, limit=Limit(1))
    unlocked_at = await run_behind_lock(database_url, session.id, create)
    evicted = await get(store, session.id)
    assert evicted.session.revoked_at is not None
    assert evicted.session.revoked_at >= unlocked_at


async def test_replaced_clock_is_the_clock_of_changes(
    store: PostgresSessions, database_url: str
) -> None:
    later = datetime(2040, 1, 1, tzinfo=UTC)
    session = await create_active(store)
    async with connect_directly(database_url) as connection:
        await connection.execute(
            "CREATE OR REPLACE FUNCTION sidegate_now() RETURNS timestamptz LANGUAGE sql"
            f" AS $$ SELECT timestamptz '{later.isoformat()}' $$"
        )
    assert await store.now() == later
    revoked = await store.revoke_where(
        Condition(session_id=session.id),
        at=session.created_at,
        by=TESTER,
        reason="test",
        limit=1,
    )
    assert [changed.session.revoked_at for changed in revoked] == [later]


# --- The first use of a token


async def test_only_a_touch_with_the_current_token_marks_it_as_seen(
    store: PostgresSessions,
) -> None:
    session = await create_active(store)
    rotated = session.rotated(build_digest(), MINUTE, at=session.created_at)
    await store.replace(build_record(rotated), expected=1)
    at = session.created_at
    for token, is_seen in ((None, False), (session.digest, False), (rotated.digest, True)):
        [touched] = await store.touch([Touch(session.id, at, 1, token)])
        assert touched.token_seen is is_seen
