"""A write whose connection is lost happens once, and its outcome is known."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from unittest.mock import ANY

import asyncpg
import pytest

from sidegate.core.actor import Change
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.errors import OutcomeUnknown, StoreUnavailable
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session import SessionId, SessionRecord
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, build_digest, build_record
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.support.clock import NOON
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server

# The CommandComplete message of a write, which Postgres sends after the commit.
COMMAND_COMPLETE = re.compile(rb"C\x00\x00\x00.(INSERT|UPDATE|SELECT) ", re.DOTALL)
# That of a transaction of several statements.
COMMITTED = re.compile(rb"C\x00\x00\x00.COMMIT\x00", re.DOTALL)


@pytest.fixture
async def proxy(postgres_server: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: TcpProxy, database_url: str) -> AsyncIterator[PostgresSessions]:
    """A store behind the proxy, with an open connection."""
    await migrate_for_test_clock(database_url)
    name = database_url.rpartition("/")[2]
    store = await PostgresSessions.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")
    await store.ping()
    yield store
    await store.close()


@pytest.fixture
async def serializable(database_url: str) -> None:
    """Make it the default isolation: statements get transactions that are read committed."""
    connection = await asyncpg.connect(database_url)
    name = database_url.rpartition("/")[2]
    await connection.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
    )
    await connection.close()


Reset = Callable[[TcpProxy], None]


def reset_before_request(proxy: TcpProxy) -> None:
    """Reset the connection before the next statement reaches the server."""

    def reset(connection: ProxiedConnection, _: bytes) -> bytes:
        proxy.client_filter = lambda _, chunk: chunk
        connection.reset()
        return b""

    proxy.client_filter = reset


def reset_after_commit(proxy: TcpProxy, *, refuse_new: bool = False) -> None:
    """Reset the connection after the next write was committed, before the client knows."""
    _reset_after(COMMAND_COMPLETE, proxy, refuse_new=refuse_new)


def reset_after_end_of_transaction(proxy: TcpProxy) -> None:
    """Reset the connection after the next transaction was committed, before the client knows."""
    _reset_after(COMMITTED, proxy, refuse_new=False)


def _reset_after(message: "re.Pattern[bytes]", proxy: TcpProxy, *, refuse_new: bool) -> None:
    def reset(connection: ProxiedConnection, chunk: bytes) -> bytes:
        if not message.search(chunk):
            return chunk
        proxy.server_filter = lambda _, chunk: chunk
        proxy.refuse_new = refuse_new
        connection.reset()
        return b""

    proxy.server_filter = reset


async def count_events(url: str, session_id: SessionId, action: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT count(*) FROM audit_events WHERE session_id = $1 AND action = $2"
        return int(await connection.fetchval(query, session_id, action))
    finally:
        await connection.close()


def build_rotated(record: SessionRecord) -> SessionRecord:
    session = record.session.rotated(build_digest(), timedelta(seconds=10), at=NOON)
    details = replace(record.details, rotation_nonce=bytes(32), change=Change(NOON, TESTER))
    return SessionRecord(session, details)


def build_migrated(record: SessionRecord) -> SessionRecord:
    session = record.session.migrated(build_digest(), NOON)
    return SessionRecord(session, replace(record.details, change=Change(NOON, TESTER)))


def build_revoked(record: SessionRecord) -> SessionRecord:
    details = replace(record.details, revoked_by=TESTER.name, revoked_reason="test")
    return SessionRecord(
        record.session.revoked(NOON), replace(details, change=Change(NOON, TESTER))
    )


async def revoke(store: PostgresSessions, record: SessionRecord) -> list[ChangedSession]:
    condition = Condition(session_id=record.session.id)
    return await store.revoke_where(condition, at=NOON, by=TESTER, reason="test", limit=1)


@dataclass(frozen=True)
class Write:
    """A write that stores `build(record)`, its result for that, and the audit event it leaves."""

    action: str
    build: Callable[[SessionRecord], SessionRecord]
    run: Callable[[PostgresSessions, SessionRecord], Awaitable[object]]
    build_result: Callable[[SessionRecord], object]


WRITES = {
    "create": Write(
        "create", lambda record: record, lambda store, new: store.create(new), lambda _: []
    ),
    "create_evicting": Write(
        "create",
        lambda record: record,
        lambda store, new: store.create(new, limit=Limit(1)),
        lambda _: [],
    ),
    "create_refusing": Write(
        "create",
        lambda record: record,
        lambda store, new: store.create(new, limit=Limit(1, AtLimit.REFUSE)),
        lambda _: [],
    ),
    "replace": Write(
        "refresh",
        build_rotated,
        lambda store, new: store.replace(new, expected=1),
        lambda new: ChangedSession(new.session),
    ),
    "replace_within_limit": Write(
        "migrate",
        build_migrated,
        lambda store, new: store.replace_within_limit(new, expected=1, limit=Limit(1), at=NOON),
        lambda new: [ChangedSession(new.session)],
    ),
    "revoke": Write("revoke", build_revoked, revoke, lambda _: ANY),
}

resets = pytest.mark.parametrize("reset", [reset_before_request, reset_after_commit])
writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


async def prepare(store: PostgresSessions, write: Write) -> SessionRecord:
    """Store the record that the write changes, if any, and return the record to write."""
    record = build_record()
    if write.action != "create":
        await store.create(record)
    return write.build(record)


@resets
@writes
async def test_write_over_a_lost_connection_happens_once(
    store: PostgresSessions, proxy: TcpProxy, database_url: str, reset: Reset, write: Write
) -> None:
    record = await prepare(store, write)
    reset(proxy)
    assert await write.run(store, record) == write.build_result(record)
    assert await store.get(record.session.id) == record
    assert await count_events(database_url, record.session.id, write.action) == 1


@pytest.mark.usefixtures("serializable", "store")
@pytest.mark.parametrize(
    "reset", [reset_before_request, reset_after_commit, reset_after_end_of_transaction]
)
@writes
async def test_write_in_a_transaction_over_a_lost_connection_happens_once(
    proxy: TcpProxy, database_url: str, reset: Reset, write: Write
) -> None:
    name = database_url.rpartition("/")[2]
    store = await PostgresSessions.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")
    record = await prepare(store, write)
    await store.ping()
    reset(proxy)
    assert await write.run(store, record) == write.build_result(record)
    assert await store.get(record.session.id) == record
    assert await count_events(database_url, record.session.id, write.action) == 1
    await store.close()


@resets
async def test_retried_create_evicts_one_session_once(
    store: PostgresSessions, proxy: TcpProxy, database_url: str, reset: Reset
) -> None:
    oldest, older = (build_record(), build_record())
    for each in (oldest, older):
        await store.create(each)
    record = build_record()
    reset(proxy)
    await store.create(record, limit=Limit(2))
    assert await count_events(database_url, oldest.session.id, "revoke") == 1
    assert await count_events(database_url, older.session.id, "revoke") == 0


async def test_retried_replace_returns_the_times_that_the_database_has_set(
    store: PostgresSessions, proxy: TcpProxy, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "CREATE OR REPLACE FUNCTION sidegate_change_time(p_asked_at timestamptz)"
        " RETURNS timestamptz LANGUAGE sql AS $$ SELECT p_asked_at + interval '4 s' $$"
    )
    await connection.close()
    record = await prepare(store, WRITES["replace"])
    reset_after_commit(proxy)
    changed = await store.replace(record, expected=1)
    assert changed is not None
    assert changed.session.previous_until == record.session.previous_until + timedelta(seconds=4)


async def test_concurrent_change_is_not_taken_for_the_lost_write(
    store: PostgresSessions, proxy: TcpProxy
) -> None:
    record = build_record()
    await store.create(record)
    assert await store.replace(build_rotated(record), expected=1)
    reset_after_commit(proxy)
    assert not await store.replace(build_rotated(record), expected=1)


async def test_retry_waits_for_a_write_still_in_progress(
    store: PostgresSessions, proxy: TcpProxy, database_url: str
) -> None:
    record = build_record()
    await store.create(record)
    after = build_rotated(record)
    locker = await asyncpg.connect(database_url)
    async with locker.transaction():
        await locker.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", record.session.id)
        replacing = asyncio.create_task(store.replace(after, expected=1))
        await wait_for_blocked_statements(database_url, 1)
        proxy.reset_connections()  # the server does not notice: it waits, and then goes on
        await wait_for_blocked_statements(database_url, 2)
    assert await replacing
    assert await count_events(database_url, record.session.id, "refresh") == 1
    await locker.close()


async def wait_for_blocked_statements(url: str, number: int) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(10):
        while await connection.fetchval(query) < number:
            pass
    await connection.close()


@writes
async def test_outcome_is_unknown_while_the_database_is_unavailable(
    store: PostgresSessions, proxy: TcpProxy, write: Write
) -> None:
    record = await prepare(store, write)
    reset_after_commit(proxy, refuse_new=True)
    with pytest.raises(OutcomeUnknown):
        await write.run(store, record)


async def test_unsent_write_is_a_plain_outage(store: PostgresSessions, proxy: TcpProxy) -> None:
    proxy.refuse_new = True
    proxy.reset_connections()
    with suppress(StoreUnavailable):
        await store.ping()  # the pool notices that its connection is lost
    with pytest.raises(StoreUnavailable) as outage:
        await store.create(build_record())
    assert not isinstance(outage.value, OutcomeUnknown)


async def test_lost_read_is_a_plain_outage(store: PostgresSessions, proxy: TcpProxy) -> None:
    reset_after_commit(proxy, refuse_new=True)
    with pytest.raises(StoreUnavailable) as outage:
        await store.find(build_digest())
    assert not isinstance(outage.value, OutcomeUnknown)
