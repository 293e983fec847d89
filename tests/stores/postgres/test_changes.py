"""The change log in Postgres, where transactions overlap. See tests/contracts too."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.limits import Limit
from sidegate.core.session import Session
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.changes import list_all_changes, list_changed_sessions
from tests.contracts.values import TESTER, build_digest, build_record, build_session
from tests.stores.postgres.raw_connection import (
    RawConnection,
    connect_directly,
    wait_for_blocked_query,
)
from tests.support.database_time import migrate_for_test_clock

NOW: Final = datetime.now(UTC)
HOUR: Final = timedelta(hours=1)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_for_test_clock(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


@asynccontextmanager
async def begin(url: str) -> AsyncIterator["RawConnection[asyncpg.Record]"]:
    """Begin a transaction that has a number; commit it after the block."""
    async with connect_directly(url) as connection, connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        yield connection


async def create(store: PostgresSessions, **changes: object) -> Session:
    session = build_session(at=NOW - HOUR, idle_timeout=None, **changes)
    await store.create(build_record(session))
    return session


async def rotate(store: PostgresSessions, session: Session) -> Session:
    rotated = session.rotated(build_digest(), HOUR, at=NOW)
    assert await store.replace(build_record(rotated), expected=session.version)
    return rotated


async def revoke(store: PostgresSessions, condition: Condition) -> list[ChangedSession]:
    return await store.revoke_where(condition, at=NOW, by=TESTER, reason="test", limit=1000)


async def revoke_without_commit(connection: "RawConnection[asyncpg.Record]", user_id: str) -> None:
    await connection.execute(
        "UPDATE sessions SET revoked_at = $2, version = version + 1,"
        " changed_xid = pg_current_xact_id() WHERE user_id = $1",
        user_id,
        NOW,
    )


def name_digests(changed: ChangedSession) -> set[Digest]:
    return {copy.digest for copy in changed.copies()}


# --- The order of commits


async def test_change_that_commits_late_is_not_missed(
    store: PostgresSessions, database_url: str
) -> None:
    slow, quick = await create(store, user_id="slow"), await create(store, user_id="quick")
    mark = await store.add_mark()
    async with begin(database_url) as connection:
        await revoke_without_commit(connection, "slow")
        await revoke(store, Condition("quick"))
        page = await store.list_changes(mark, limit=9)
        assert [changed.session.id for changed in page.changes] == [quick.id]
        assert not page.position.covers(slow)
    assert await list_changed_sessions(store, page.position) == [slow.revoked(NOW)]


async def test_transaction_in_progress_for_long_does_not_repeat_old_changes(
    store: PostgresSessions, database_url: str
) -> None:
    async with begin(database_url):
        position = await store.read_position()
        session = await create(store)
        await revoke(store, Condition("ada"))
        page = await store.list_changes(position, limit=9)
        assert [changed.session.id for changed in page.changes] == [session.id]
        assert not (await store.list_changes(page.position, limit=9)).has_changed
        assert page.position.covers(page.changes[0].session)


async def test_pages_list_the_changes_of_overlapping_transactions_once(
    store: PostgresSessions, database_url: str
) -> None:
    """Two transactions are in progress at the mark, and change many sessions each."""
    for user_id in ("first", "second", "third") * 20:
        await create(store, user_id=user_id)
    async with begin(database_url) as first, begin(database_url) as second:
        await create(store)  # a higher number, which ends before the mark
        mark = await store.add_mark()
        assert len(mark.snapshot.in_progress) == 2
        await revoke_without_commit(second, "second")
        await revoke_without_commit(first, "first")
    await revoke(store, Condition("third"))
    ids = [changed.session.id for changed in await list_all_changes(store, mark, limit=7)]
    assert len(set(ids)) == len(ids) == 60


async def test_change_that_commits_between_two_pages_is_after_the_first_position(
    store: PostgresSessions, database_url: str
) -> None:
    """Its number may be lower than those listed already."""
    late = await create(store, user_id="late")
    others = [await create(store) for _ in range(6)]
    mark = await store.add_mark()
    async with begin(database_url) as connection:
        await revoke_without_commit(connection, "late")
        await revoke(store, Condition("ada"))
        first = await store.list_changes(mark, limit=3)
    second = await store.list_changes(mark, limit=9, after=first.next)
    listed = [c.session.id for c in (*first.changes, *second.changes)]
    assert sorted(listed) == sorted(session.id for session in others)
    assert await list_changed_sessions(store, first.position) == [late.revoked(NOW)]


async def test_session_changed_twice_in_the_other_order_of_numbers_is_listed(
    store: PostgresSessions, database_url: str
) -> None:
    """A transaction with a low number changes it after one with a high number did."""
    sessions = [await create(store) for _ in range(6)]
    mark = await store.add_mark()
    async with begin(database_url) as connection:
        for session in sessions:
            await rotate(store, session)
        first = await store.list_changes(mark, limit=3)
        unlisted = {s.id for s in sessions} - {c.session.id for c in first.changes}
        await revoke_without_commit(connection, "ada")
    second = await store.list_changes(mark, limit=9, after=first.next)
    assert {changed.session.id for changed in second.changes} == unlisted
    for changed in second.changes:
        assert changed.session.revoked_at == NOW
        assert changed.session.changed_xid < first.changes[0].session.changed_xid
        assert not first.position.covers(changed.session)


async def test_digest_rotated_out_by_a_transaction_in_progress_is_named(
    store: PostgresSessions, database_url: str
) -> None:
    first = await create(store)
    async with begin(database_url) as connection:
        await create(store)
        mark = await store.add_mark()
        assert mark.snapshot.in_progress
        await connection.execute(
            "INSERT INTO rotated_digests VALUES ($1, $2, now() - interval '1 hour')",
            first.digest,
            first.id,
        )
        await connection.execute(
            "UPDATE sessions SET digest = $1, version = 2, changed_xid = pg_current_xact_id()"
            " WHERE id = $2",
            build_digest(),
            first.id,
        )
    [changed] = await list_all_changes(store, mark)
    assert changed.rotated_digests == (first.digest,)


# --- Digests rotated out while a statement waits


async def rotate_twice_while_blocked(
    store: PostgresSessions, session: Session, url: str
) -> set[Digest]:
    """Return all digests of the session; a query that waits does not see the rotations yet."""
    await wait_for_blocked_query(url)
    second = await rotate(store, session)
    third = await rotate(store, second)
    return {session.digest, second.digest, third.digest}


async def test_revocation_names_digests_rotated_out_while_it_waited(
    store: PostgresSessions, database_url: str
) -> None:
    blocked, session = [await create(store), await create(store)]
    async with connect_directly(database_url) as locker, locker.transaction():
        await locker.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", blocked.id)
        revoking = asyncio.create_task(revoke(store, Condition("ada")))
        digests = await rotate_twice_while_blocked(store, session, database_url)
    assert name_digests((await revoking)[1]) == digests


async def test_eviction_names_digests_rotated_out_while_it_waited(
    store: PostgresSessions, database_url: str
) -> None:
    session, new = await create(store), build_session(at=NOW)
    async with connect_directly(database_url) as locker, locker.transaction():
        await locker.fetch("SELECT pg_advisory_xact_lock(hashtextextended('web ada', 0))")
        creating = asyncio.create_task(store.create(build_record(new), limit=Limit(1)))
        digests = await rotate_twice_while_blocked(store, session, database_url)
    [evicted] = await creating
    assert name_digests(evicted) == digests


async def test_listed_change_agrees_with_its_snapshot(store: PostgresSessions) -> None:
    """A digest is not listed as rotated out by a rotation that the page does not show."""
    position = await store.read_position()
    rotating = asyncio.create_task(rotate_often(store, await rotate(store, await create(store))))
    while not rotating.done():
        for changed in await list_all_changes(store, position):
            assert changed.session.digest not in changed.rotated_digests
            assert changed.session.previous_digest not in changed.rotated_digests
    await rotating


async def rotate_often(store: PostgresSessions, session: Session) -> None:
    for _ in range(50):
        session = await rotate(store, session)


# --- Restored and foreign rows


async def test_transaction_numbers_that_were_not_assigned_yet_are_ignored(
    store: PostgresSessions, database_url: str
) -> None:
    """As after a restore into a younger cluster."""
    session = await create(store)
    position = await store.read_position()
    async with connect_directly(database_url) as connection:
        await connection.execute("UPDATE sessions SET changed_xid = '1000000000000'")
    page = await store.list_changes(position, limit=9, created=True)
    assert not page.has_changed
    assert not page.changes
    found = await store.find(session.digest)
    assert found is not None
    assert not page.position.covers(found)


async def test_session_without_a_transaction_number_is_covered_by_every_mark(
    store: PostgresSessions, database_url: str
) -> None:
    """As sessions that were created before the migration."""
    session = await create(store)
    async with connect_directly(database_url) as connection:
        await connection.execute("UPDATE sessions SET changed_xid = NULL")
    found = await store.find(session.digest)
    assert found is not None
    position = await store.read_position()
    assert position.covers(found)
    assert not (await store.list_changes(position, limit=9)).has_changed


# --- The system


async def test_system_is_the_identifier_of_the_cluster(
    store: PostgresSessions, database_url: str
) -> None:
    async with connect_directly(database_url) as connection:
        identifier = await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
    assert (await store.read_position()).system == str(identifier)


async def test_role_that_may_not_read_the_identifier_uses_the_log(
    store: PostgresSessions, database_url: str
) -> None:
    role = f"modest_{secrets.token_hex(4)}"
    async with connect_directly(database_url) as connection:
        await connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        await connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
            modest = await PostgresSessions.open(database_url.replace("postgres@", f"{role}@"))
            session = await create(store)
            mark = await modest.add_mark()
            assert mark.system == "postgres"
            await revoke(modest, Condition("ada"))
            assert await list_changed_sessions(modest, mark) == [session.revoked(NOW)]
            await modest.close()
        finally:
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- Cost


async def test_pages_of_a_mass_change_read_their_own_rows_only(
    store: PostgresSessions, database_url: str
) -> None:
    mark = await store.add_mark()
    async with connect_directly(database_url) as connection:
        await connection.execute(
            "INSERT INTO sessions (id, digest, user_id, type, scopes, created_at, authenticated_at,"
            " last_seen_at, expires_at, version, metadata, access_count, refresh_count)"
            " SELECT gen_random_uuid(), sha256(number::text::bytea), 'ada', 'web', '{}', now(),"
            " now(), now(), now() + interval '1 hour', 2, '{}', 0, 0"
            " FROM generate_series(1, 10000) AS number"
        )
        await connection.execute("ANALYZE sessions")
        page = await store.list_changes(mark, limit=100)
        for _ in range(20):
            page = await store.list_changes(mark, limit=100, after=page.next)
        assert page.next is not None
        await store.close()  # the server writes the statistics of a connection when it ends
        async with asyncio.timeout(10):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'sidegate' AND datname = current_database()"
            ):
                pass
        read = await connection.fetchval(
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables"
            " WHERE relname = 'sessions'"
        )
    assert read < 40_000
