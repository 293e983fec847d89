"""The contract of change logs, for Postgres and SQLite."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, get_args
from uuid import RFC_4122, UUID

import pytest

from sidegate.core.actor import SIDEGATE
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import PositionLost, StoreUnavailable, TooManyChanges
from sidegate.core.limits import Limit
from sidegate.core.protocols import DurableStore, Touch
from sidegate.core.session import EPOCH, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.snapshot import Snapshot
from sidegate.stores.codec import to_microseconds
from sidegate.stores.sql import migrations
from sidegate.stores.sql.migrations import Dialect
from tests.contracts.changes import list_all_changes, list_changed_sessions
from tests.contracts.values import (
    TESTER,
    build_digest,
    build_record,
    build_session,
    build_session_id,
    build_tombstone,
)
from tests.support.databases import Database, SqliteDatabase, StoppableDatabase
from tests.support.replace import replace

NOW: Final = datetime.now(UTC)
"""The database compares the end of a grace with its own clock."""

SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


async def create(durable: DurableStore, **changes: object) -> Session:
    session = build_session(at=NOW - HOUR, idle_timeout=None, **changes)
    await durable.create(build_record(session))
    return session


async def rotate(
    durable: DurableStore, session: Session, *, at: datetime = NOW, grace: timedelta = HOUR
) -> Session:
    rotated = session.rotated(build_digest(), grace, at=at)
    assert await durable.replace(build_record(rotated), expected=session.version)
    return rotated


async def revoke(durable: DurableStore, session: Session | None = None) -> list[ChangedSession]:
    """Revoke the session, or all of the user, in one statement."""
    condition = Condition("ada", session_id=None if session is None else session.id)
    return await durable.revoke_where(condition, at=NOW, by=TESTER, reason="test", limit=1000)


ADD_MANY_SESSIONS: Final[Mapping[Dialect, str]] = {
    "postgres": "INSERT INTO sessions (id, digest, user_id, type, scopes, created_at,"
    " authenticated_at, last_seen_at, expires_at, version, metadata, access_count, refresh_count)"
    " SELECT gen_random_uuid(), sha256(uuid_send(gen_random_uuid())), 'ada', 'web', '{{}}', now(),"
    " now(), now(), now() + interval '1 hour', 2, '{{}}', 0, 0 FROM generate_series(1, {count})",
    "sqlite": "WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series"
    " WHERE n < {count}) INSERT INTO sessions (id, digest, user_id, type, scopes, created_at,"
    " authenticated_at, last_seen_at, expires_at, version, metadata, access_count, refresh_count)"
    " SELECT hex(randomblob(16)), randomblob(32), 'ada', 'web', '[]', 0, 0, 0, 1, 2, '{{}}', 0, 0"
    " FROM series",
}
ADD_MANY_MARKS: Final[Mapping[Dialect, str]] = {
    "postgres": "INSERT INTO cache_marks (id, snapshot)"
    " SELECT gen_random_uuid(), '{snapshot}' FROM generate_series(1, {count})",
    "sqlite": "WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series"
    " WHERE n < {count}) INSERT INTO cache_marks (id, snapshot, at)"
    " SELECT hex(randomblob(16)), '{snapshot}', 0 FROM series",
}
AGE_MARKS: Final[Mapping[Dialect, str]] = {
    "postgres": "UPDATE cache_marks SET at = at - interval '{seconds} seconds'",
    "sqlite": "UPDATE cache_marks SET at = at - {seconds} * 1000000",
}


async def execute_dialect(
    database: Database, statements: Mapping[Dialect, str], **values: object
) -> None:
    await database.execute(statements[get_dialect(database)].format(**values))


def get_dialect(database: Database) -> Dialect:
    return "sqlite" if isinstance(database, SqliteDatabase) else "postgres"


def name_digests(changed: ChangedSession) -> set[Digest]:
    return {copy.digest for copy in changed.copies()}


# --- Positions and changes


async def test_present_position_has_no_changes(durable: DurableStore) -> None:
    await create(durable)
    await revoke(durable)
    position = await durable.read_position()
    page = await durable.list_changes(position, limit=9, created=True)
    assert not page.has_changed
    assert not page.changes
    assert page.next is None
    assert position.id is None
    assert page.position.system == position.system


async def test_changes_of_another_process_are_listed(
    durable: DurableStore, other_store: DurableStore
) -> None:
    rotated, revoked, _ = [await create(durable) for _ in range(3)]
    position = await other_store.read_position()
    rotated = await rotate(durable, rotated)
    await revoke(durable, revoked)
    assert await list_changed_sessions(other_store, position) == [rotated, revoked.revoked(NOW)]


async def test_creation_is_a_change_that_is_listed_on_demand(durable: DurableStore) -> None:
    position = await durable.read_position()
    session = await create(durable)
    page = await durable.list_changes(position, limit=9)
    assert page.has_changed
    assert not page.changes
    page = await durable.list_changes(position, limit=9, created=True)
    assert list(page.changes) == [ChangedSession(session)]


async def test_created_tombstone_is_listed(durable: DurableStore) -> None:
    position = await durable.read_position()
    tombstone = build_tombstone(at=NOW)
    await durable.create(build_record(tombstone))
    assert await list_changed_sessions(durable, position) == [tombstone]


async def test_touch_and_failed_replace_are_not_changes(durable: DurableStore) -> None:
    session = await create(durable)
    position = await durable.read_position()
    await durable.touch([Touch(session.id, NOW, 1)])
    assert not await durable.replace(build_record(replace(session, version=5)), expected=4)
    assert not (await durable.list_changes(position, limit=9)).has_changed


async def test_position_of_a_page_continues_the_list(durable: DurableStore) -> None:
    sessions = [await create(durable) for _ in range(2)]
    position, listed = await durable.read_position(), list[list[SessionId]]()
    for session in sessions:
        await revoke(durable, session)
        page = await durable.list_changes(position, limit=9)
        listed.append([changed.session.id for changed in page.changes])
        position = page.position
    assert listed == [[session.id] for session in sessions]


async def test_several_changes_of_a_session_list_its_last_state(durable: DurableStore) -> None:
    session = await create(durable)
    position = await durable.read_position()
    for _ in range(3):
        session = await rotate(durable, session)
    assert await list_changed_sessions(durable, position) == [session]


@pytest.mark.parametrize("store_mark", [False, True])
async def test_no_change_is_missed_during_concurrent_writes(
    durable: DurableStore, other_store: DurableStore, *, store_mark: bool
) -> None:
    sessions = [await create(durable) for _ in range(60)]
    position = await other_store.add_mark()
    writing = asyncio.gather(
        *(durable.replace(build_record(s.revoked(NOW)), expected=1) for s in sessions)
    )
    listed: set[SessionId] = set()
    while not writing.done():
        page = await other_store.list_changes(position, limit=100, store_mark=store_mark)
        listed |= {changed.session.id for changed in page.changes}
        position = page.position
    listed |= {s.id for s in await list_changed_sessions(other_store, position)}
    assert listed == {s.id for s in sessions}


async def test_change_after_an_outage_is_listed(
    stoppable_store: DurableStore, stoppable: StoppableDatabase
) -> None:
    await create(stoppable_store)
    mark = await stoppable_store.add_mark()
    stoppable.fail()
    with pytest.raises(StoreUnavailable):
        await stoppable_store.list_changes(mark, limit=9)
    stoppable.recover()
    revoked = await revoke(stoppable_store)
    assert await list_all_changes(stoppable_store, mark) == revoked


async def test_mark_covers_what_was_changed_before_it_only(durable: DurableStore) -> None:
    before, session = await create(durable), await create(durable)
    mark = await durable.add_mark()
    rotated = await rotate(durable, session)
    created = await create(durable)
    [touched] = await durable.touch([Touch(before.id, NOW, 1)])
    record = await durable.get(before.id)
    found = await durable.find_many([s.digest for s in (before, session, rotated, created)])
    covered = {digest for digest, copy in found.items() if mark.covers(copy)}
    assert len(found) == 4
    assert covered == {before.digest}
    assert mark.covers(touched)
    assert record is not None
    assert mark.covers(record.session)


async def test_returned_change_is_not_covered_by_an_earlier_mark(durable: DurableStore) -> None:
    session = await create(durable)
    mark = await durable.read_position()
    rotated = await durable.replace(
        build_record(session.rotated(build_digest(), HOUR, at=NOW)), expected=1
    )
    [revoked] = await revoke(durable)
    later = await durable.read_position()
    for changed in (rotated, revoked):
        assert changed is not None
        assert not mark.covers(changed.session)
        assert later.covers(changed.session)


# --- Digests

End = Callable[[DurableStore, Session], Awaitable[ChangedSession | None]]


async def end_by_revocation(durable: DurableStore, session: Session) -> ChangedSession:
    [changed] = await revoke(durable, session)
    return changed


async def end_by_limit(durable: DurableStore, session: Session) -> ChangedSession:
    del session  # the only one of its user and type
    new = build_session(at=NOW, idle_timeout=None)
    [changed] = await durable.create(build_record(new), limit=Limit(1))
    return changed


async def end_by_limit_of_a_migration(durable: DurableStore, session: Session) -> ChangedSession:
    migrating = await create(durable, type=SessionType.SSO)
    after = replace(migrating, type=session.type, version=2)
    changed = await durable.replace_within_limit(
        build_record(after), expected=1, limit=Limit(1), at=NOW
    )
    assert changed is not None
    assert changed[0] == ChangedSession(after)
    return changed[1]


async def end_again(durable: DurableStore, session: Session) -> ChangedSession:
    [changed] = await durable.revoke_again([session.revoked(NOW)])
    return changed


async def migrate(durable: DurableStore, session: Session) -> ChangedSession | None:
    migrated = session.migrated(build_digest(), NOW)
    return await durable.replace(build_record(migrated), expected=session.version)


async def migrate_within_limit(durable: DurableStore, session: Session) -> ChangedSession:
    migrated = session.migrated(build_digest(), NOW)
    changed = await durable.replace_within_limit(
        build_record(migrated), expected=session.version, limit=Limit(9), at=NOW
    )
    assert changed is not None
    return changed[0]


async def rotate_again(durable: DurableStore, session: Session) -> ChangedSession | None:
    rotated = session.rotated(build_digest(), HOUR, at=NOW)
    return await durable.replace(build_record(rotated), expected=session.version)


async def extend(durable: DurableStore, session: Session) -> ChangedSession | None:
    extended = session.extended(session.expires_at + HOUR, NOW)
    return await durable.replace(build_record(extended), expected=session.version)


CHANGES: dict[str, End] = {
    "revocation": end_by_revocation,
    "limit": end_by_limit,
    "limit of a migration": end_by_limit_of_a_migration,
    "revocation again": end_again,
    "migration": migrate,
    "migration within a limit": migrate_within_limit,
    "rotation": rotate_again,
    "extension": extend,
}

changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


async def rotate_three_times(
    durable: DurableStore, session: Session, *, at: datetime, grace: timedelta
) -> tuple[Session, set[Digest]]:
    """Return the session after three rotations, and all digests that it has had."""
    digests = {session.digest}
    for _ in range(3):
        session = await rotate(durable, session, at=at, grace=grace)
        digests.add(session.digest)
    return session, digests


@changes
async def test_change_names_all_digests_within_their_grace(
    durable: DurableStore, change: End
) -> None:
    session, digests = await rotate_three_times(durable, await create(durable), at=NOW, grace=HOUR)
    mark = await durable.add_mark()
    changed = await change(durable, session)
    assert changed is not None
    assert name_digests(changed) >= digests
    [listed] = [c for c in await list_all_changes(durable, mark) if c.session.id == session.id]
    assert listed == replace(changed, rotated_digests=listed.rotated_digests)
    assert name_digests(listed) == name_digests(changed)


@changes
async def test_listed_change_names_digests_rotated_out_since_the_mark_after_their_grace(
    durable: DurableStore, change: End
) -> None:
    session = await create(durable)
    mark = await durable.add_mark()
    session, digests = await rotate_three_times(durable, session, at=NOW - HOUR / 2, grace=SECOND)
    changed = await change(durable, session)
    assert changed is not None
    assert len(name_digests(changed) & digests) == (
        2 if session.digest == changed.session.digest else 1
    )
    [listed] = [c for c in await list_all_changes(durable, mark) if c.session.id == session.id]
    assert name_digests(listed) == name_digests(changed) | digests


@changes
async def test_change_omits_digests_whose_grace_was_over_before_the_mark(
    durable: DurableStore, change: End
) -> None:
    session, _ = await rotate_three_times(
        durable, await create(durable), at=NOW - HOUR / 2, grace=SECOND
    )
    mark = await durable.add_mark()
    changed = await change(durable, session)
    assert changed is not None
    [listed] = [c for c in await list_all_changes(durable, mark) if c.session.id == session.id]
    kept = {copy.digest for copy in changed.session.copies()}
    assert name_digests(changed) == name_digests(listed) == kept


async def test_digest_is_named_for_ten_seconds_after_its_grace(durable: DurableStore) -> None:
    """The clocks of the instances differ."""
    for grace_ended, named in ((3 * SECOND, 1), (11 * SECOND, 0)):
        at = datetime.now(UTC) - grace_ended - MINUTE
        session = await rotate(durable, await create(durable), at=at, grace=MINUTE)
        await rotate(durable, session)
        [changed] = await revoke(durable)
        assert len(changed.rotated_digests) == named


async def test_digest_that_a_migration_ended_is_named_since_the_mark(
    durable: DurableStore,
) -> None:
    session = await create(durable)
    mark = await durable.read_position()
    migrated = await migrate(durable, session)
    assert migrated is not None
    rotated = await rotate(durable, migrated.session)
    [changed] = await list_all_changes(durable, mark)
    assert changed.session == rotated
    assert changed.rotated_digests == (session.digest,)


async def test_created_session_names_its_digests(durable: DurableStore) -> None:
    mark = await durable.read_position()
    session = await rotate(durable, await rotate(durable, await create(durable)))
    [changed] = await list_all_changes(durable, mark, created=True)
    assert changed.session == session
    assert len(name_digests(changed)) == 3


async def test_unreadable_session_does_not_block_others_and_its_digests_are_listed(
    durable: DurableStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    first = await create(durable)
    broken = await rotate(durable, await rotate(durable, first))
    sound = await create(durable)
    position = await durable.read_position()
    await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{broken.id}'")
    assert [changed.session.id for changed in await revoke(durable)] == [sound.id]
    page = await durable.list_changes(position, limit=9)
    assert [changed.session.id for changed in page.changes] == [sound.id]
    assert set(page.unreadable) == {first.digest, broken.previous_digest, broken.digest}
    assert all(broken.id in record.__dict__["reason"] for record in caplog.records)
    assert "session change skipped" in caplog.messages


async def test_page_of_unreadable_sessions_is_continued(
    durable: DurableStore, database: Database
) -> None:
    for _ in range(6):
        await create(durable)
    position = await durable.read_position()
    await database.execute("UPDATE sessions SET type = 'q'")
    await revoke(durable)
    page, unreadable = await durable.list_changes(position, limit=4), set[Digest]()
    unreadable |= set(page.unreadable)
    assert page.next is not None
    page = await durable.list_changes(position, limit=4, after=page.next)
    unreadable |= set(page.unreadable)
    assert len(unreadable) == 6
    assert page.next is None


# --- Pages


async def test_mass_change_is_listed_in_pages(durable: DurableStore) -> None:
    sessions = [await create(durable) for _ in range(300)]
    mark = await durable.add_mark()
    await revoke(durable)  # in Postgres by one transaction
    changes = await list_all_changes(durable, mark, limit=7)
    assert sorted(c.session.id for c in changes) == sorted(session.id for session in sessions)


async def test_limit_of_zero_only_tells_whether_there_are_changes(durable: DurableStore) -> None:
    position = await durable.read_position()
    assert not (await durable.list_changes(position, limit=0)).has_changed
    await create(durable)

    page = await durable.list_changes(position, limit=0)

    assert page.has_changed
    assert (list(page.changes), page.next) == ([], None)


@pytest.mark.parametrize(("limit", "pages"), [(1, 6), (4, 2), (5, 2), (6, 1), (7, 1)])
async def test_next_is_none_on_the_last_page(durable: DurableStore, limit: int, pages: int) -> None:
    for _ in range(6):
        await create(durable)
    position = await durable.read_position()
    await revoke(durable)
    page = await durable.list_changes(position, limit=limit)
    counts = [len(page.changes)]
    while page.next is not None:
        page = await durable.list_changes(position, limit=limit, after=page.next)
        counts.append(len(page.changes))
        assert page.has_changed
    assert len(counts) == pages
    assert sum(counts) == 6


async def test_session_that_changes_between_two_pages_is_listed_in_its_latest_state(
    durable: DurableStore,
) -> None:
    sessions = {session.id: session for session in [await create(durable) for _ in range(6)]}
    mark = await durable.add_mark()
    for session in sessions.values():
        sessions[session.id] = await rotate(durable, session)
    first = await durable.list_changes(mark, limit=3)
    listed, *_ = (changed.session for changed in first.changes)
    unlisted = next(s for s in sessions.values() if s not in [c.session for c in first.changes])
    await revoke(durable, listed)
    await revoke(durable, unlisted)
    second = await durable.list_changes(mark, limit=9, after=first.next)
    assert second.next is None
    assert len({c.session.id for c in (*first.changes, *second.changes)}) == 6
    [changed] = [c for c in second.changes if c.session.id == unlisted.id]
    assert changed.session == unlisted.revoked(NOW)
    assert not first.position.covers(changed.session)
    since_first = await list_changed_sessions(durable, first.position)
    assert {session.id for session in since_first} == {listed.id, unlisted.id}


async def test_session_purged_between_two_pages_is_not_listed(
    durable: DurableStore, database: Database
) -> None:
    for _ in range(6):
        await create(durable)
    mark = await durable.add_mark()
    first = await durable.list_changes(mark, limit=2, created=True)
    await database.execute("DELETE FROM sessions")
    page = await durable.list_changes(mark, limit=2, after=first.next, created=True)
    assert not page.changes
    page = await durable.list_changes(mark, limit=2, after=page.next, created=True)
    assert not page.changes
    assert page.next is None


async def test_more_changes_than_are_worth_reading_raise_an_error(
    durable: DurableStore, database: Database
) -> None:
    mark = await durable.add_mark()
    await execute_dialect(database, ADD_MANY_SESSIONS, count=20_000)
    page = await durable.list_changes(mark, limit=20_000)
    assert len(page.changes) == 20_000
    assert page.next is None
    await execute_dialect(database, ADD_MANY_SESSIONS, count=1)
    with pytest.raises(TooManyChanges):
        await durable.list_changes(mark, limit=9)


async def test_creations_between_changes_do_not_end_a_page(durable: DurableStore) -> None:
    position = await durable.read_position()
    rotated = list[Session]()
    for _ in range(5):
        rotated.append(await rotate(durable, await create(durable)))
        await create(durable)
    changes = await list_all_changes(durable, position, limit=2)
    assert {c.session.id: c.session for c in changes} == {s.id: s for s in rotated}
    assert len(await list_all_changes(durable, position, limit=3, created=True)) == 10


# --- Marks


def build_mark_id(at: datetime) -> UUID:
    """Return a UUIDv7 of that time."""
    milliseconds = (at - EPOCH) // timedelta(milliseconds=1)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | secrets.randbits(62))


async def test_mark_is_the_present_position_with_a_new_id(
    durable: DurableStore, other_store: DurableStore
) -> None:
    session = await create(durable)
    mark, another = await durable.add_mark(), await durable.add_mark()
    found = await durable.find(session.digest)
    assert found is not None
    assert mark.covers(found)
    assert mark.id != another.id
    assert not (await other_store.list_changes(mark, limit=9)).has_changed


async def test_mark_id_tells_its_time(durable: DurableStore) -> None:
    mark = await durable.add_mark()
    assert mark.id is not None
    assert mark.id.version == 7
    assert mark.id.variant == RFC_4122
    made_at = EPOCH + timedelta(milliseconds=mark.id.int >> 80)
    assert abs(made_at - datetime.now(UTC)) < MINUTE


@pytest.mark.parametrize("limit", [2, 9])
async def test_position_of_the_first_page_is_stored_as_a_mark(
    durable: DurableStore, other_store: DurableStore, limit: int
) -> None:
    for _ in range(5):
        await create(durable)
    mark = await durable.add_mark()
    await revoke(durable)
    first = await durable.list_changes(mark, limit=limit, store_mark=True)
    assert first.has_changed
    assert len(first.changes) == min(limit, 5)
    assert first.position.id not in (mark.id, None)
    assert all(first.position.covers(changed.session) for changed in first.changes)
    assert not (await other_store.list_changes(first.position, limit=9)).has_changed
    created = await create(durable)
    page = await other_store.list_changes(first.position, limit=9, created=True)
    assert [changed.session.id for changed in page.changes] == [created.id]
    assert page.position.id is None
    if first.next is not None:
        page = await durable.list_changes(mark, limit=9, after=first.next)
        assert len(page.changes) == 3
        assert page.position.id is None


async def test_mark_is_stored_if_nothing_has_changed(durable: DurableStore) -> None:
    mark = await durable.add_mark()
    page = await durable.list_changes(mark, limit=9, store_mark=True)
    assert not page.has_changed
    assert page.position.id not in (mark.id, None)
    assert not (await durable.list_changes(page.position, limit=9)).has_changed


async def test_last_ten_thousand_marks_are_kept(durable: DurableStore, database: Database) -> None:
    first = await durable.add_mark()
    await create(durable)
    second = await durable.add_mark()
    snapshot = (await durable.read_position()).snapshot
    await execute_dialect(database, ADD_MANY_MARKS, snapshot=snapshot, count=9_997)
    await durable.add_mark()
    await durable.list_changes(first, limit=9)
    await durable.add_mark()
    await durable.list_changes(second, limit=9)
    with pytest.raises(PositionLost) as lost:
        await durable.list_changes(first, limit=9)
    assert lost.value.restored_since is None


async def test_page_after_the_first_is_lost_with_its_mark(
    durable: DurableStore, database: Database
) -> None:
    mark = await durable.add_mark()
    for _ in range(3):
        await create(durable)
    page = await durable.list_changes(mark, limit=2, created=True)
    await database.execute("DELETE FROM cache_marks")
    with pytest.raises(PositionLost):
        await durable.list_changes(mark, limit=2, after=page.next, created=True)


async def test_mark_of_another_system_is_lost(durable: DurableStore) -> None:
    mark = await durable.add_mark()
    for id_ in (mark.id, None):
        with pytest.raises(PositionLost) as lost:
            await durable.list_changes(replace(mark, system="another", id=id_), limit=9)
        assert lost.value.restored_since is None


async def test_mark_from_the_future_is_lost_by_a_restore(
    durable: DurableStore, database: Database
) -> None:
    """As after a failover to a replica that lacked the last transactions."""
    kept = await durable.add_mark()
    await execute_dialect(database, AGE_MARKS, seconds=3600)
    numbers = kept.snapshot.xmax + 1000
    for id_ in (None, kept.id):
        mark = replace(kept, snapshot=Snapshot(numbers, numbers), id=id_)
        with pytest.raises(PositionLost) as lost:
            await durable.list_changes(mark, limit=9)
        assert lost.value.restored_since is not None
        assert abs(lost.value.restored_since - (datetime.now(UTC) - HOUR)) < 10 * MINUTE


async def test_mark_lost_by_a_restore_tells_the_last_one_kept_before_it(
    durable: DurableStore, database: Database
) -> None:
    """Another instance may have added a mark since the restore."""
    await durable.add_mark()
    await execute_dialect(database, AGE_MARKS, seconds=3600)
    await create(durable)
    lost_mark = replace(await durable.read_position(), id=build_mark_id(NOW - HOUR / 2))
    await create(durable)
    await durable.add_mark()
    with pytest.raises(PositionLost) as lost:
        await durable.list_changes(lost_mark, limit=9)
    assert lost.value.restored_since is not None
    assert abs(lost.value.restored_since - (datetime.now(UTC) - HOUR)) < 10 * MINUTE


async def test_all_changes_may_be_lost_if_no_mark_is_left(
    durable: DurableStore, database: Database
) -> None:
    mark = await durable.add_mark()
    await database.execute("DELETE FROM cache_marks")
    with pytest.raises(PositionLost) as lost:
        await durable.list_changes(mark, limit=9)
    assert lost.value.restored_since == EPOCH


async def test_position_without_an_id_is_not_lost_with_the_marks(
    durable: DurableStore, database: Database
) -> None:
    position = await durable.read_position()
    session = await create(durable)
    await revoke(durable)
    await database.execute("DELETE FROM cache_marks")
    assert await list_changed_sessions(durable, position) == [session.revoked(NOW)]


# --- Revoke again


async def test_sessions_shown_as_not_revoked_are_revoked_again(durable: DurableStore) -> None:
    lost, revoked, active = [await create(durable) for _ in range(3)]
    [kept] = await revoke(durable, revoked)
    tombstone = replace(lost, version=7, revoked_at=NOW - MINUTE)
    mark = await durable.read_position()
    changed = await durable.revoke_again(
        [tombstone, revoked.revoked(NOW - HOUR / 2), build_tombstone(at=NOW), active]
    )
    assert changed == [ChangedSession(tombstone)]
    assert await list_all_changes(durable, mark) == changed
    assert await durable.find(revoked.digest) == kept.session
    assert await durable.find(active.digest) == active


async def test_session_revoked_again_tells_who_and_why(durable: DurableStore) -> None:
    session = await create(durable)
    await durable.revoke_again([session.revoked(NOW - MINUTE)])
    record = await durable.get(session.id)
    assert record is not None
    assert record.session == session.revoked(NOW - MINUTE)
    assert record.details.revoked_by == SIDEGATE.name
    assert record.details.revoked_reason == "restored"
    assert record.details.change is not None
    assert record.details.change.by == SIDEGATE
    assert abs(record.details.change.at - datetime.now(UTC)) < 10 * MINUTE


async def test_session_changed_since_a_restore_gets_a_higher_version(
    durable: DurableStore,
) -> None:
    session = await create(durable)
    tombstone = session.revoked(NOW)
    rotated = await rotate(durable, await rotate(durable, session))
    [changed] = await durable.revoke_again([tombstone])
    assert changed.session == replace(rotated, revoked_at=NOW, version=4)
    assert changed.rotated_digests == (session.digest,)


async def test_many_tombstones_are_revoked_again(durable: DurableStore) -> None:
    sessions = [await create(durable) for _ in range(3)]
    tombstones = [build_tombstone(at=NOW) for _ in range(1200)]
    tombstones[0:0] = [sessions[0].revoked(NOW), sessions[0].revoked(NOW)]
    tombstones[600:600] = [sessions[1].revoked(NOW)]
    tombstones.append(sessions[2].revoked(NOW))
    changed = await durable.revoke_again(tombstones)
    assert {c.session.id for c in changed} == {session.id for session in sessions}
    assert await durable.revoke_again(tombstones) == []


async def test_tombstone_with_an_invalid_id_is_ignored(durable: DurableStore) -> None:
    session = await create(durable)
    strange = [replace(build_tombstone(), id=SessionId(id_)) for id_ in ("", "x", "\ud800")]
    changed = await durable.revoke_again([*strange, session.revoked(NOW)])
    assert [c.session.id for c in changed] == [session.id]
    assert await durable.get(build_session_id()) is None


# --- Servers of the previous version

LEGACY_NUMBER: Final[Mapping[Dialect, str]] = {
    "postgres": "changed_xid = '1'",
    "sqlite": "change_number = NULL",
}
ROTATE_AS_BEFORE: Final[Mapping[Dialect, str]] = {
    "postgres": "WITH replaced AS (UPDATE sessions SET previous_digest = digest,"
    " digest = sha256(digest), previous_until = now() + interval '60 seconds',"
    " version = version + 1, changed_xid = pg_current_xact_id() WHERE id = '{id}'"
    " RETURNING id, previous_digest, previous_until, rotation_nonce)"
    " INSERT INTO rotated_digests"
    " SELECT previous_digest, id, previous_until, rotation_nonce FROM replaced"
    " WHERE previous_digest IS NOT NULL ON CONFLICT DO NOTHING",
    "sqlite": "UPDATE sessions SET previous_digest = digest, digest = randomblob(32),"
    " previous_until = 0, version = version + 1 WHERE id = '{id}' RETURNING id",
}
_CREATED_COLUMNS: Final = (
    "id, digest, user_id, type, scopes, created_at, authenticated_at, last_seen_at, expires_at,"
    " version, metadata, access_count, refresh_count"
)
CREATE_AS_BEFORE: Final[Mapping[Dialect, str]] = {
    "postgres": f"INSERT INTO sessions ({_CREATED_COLUMNS})"
    " SELECT '{id}', decode('{digest}', 'hex'), '{user_id}', 'web', '{{}}', at, at, at, until,"
    " 1, '{{}}', 0, 0"
    " FROM (VALUES (timestamptz 'epoch' + {at} * interval '1 microsecond',"
    " timestamptz 'epoch' + {until} * interval '1 microsecond')) AS times (at, until)",
    "sqlite": f"INSERT INTO sessions ({_CREATED_COLUMNS})"
    " VALUES ('{id}', X'{digest}', '{user_id}', 'web', '[]', {at}, {at}, {at}, {until},"
    " 1, '{{}}', 0, 0)",
}
REVOKE_AS_BEFORE: Final[Mapping[Dialect, str]] = {
    "postgres": "UPDATE sessions SET revoked_at = now(), version = version + 1,"
    " changed_xid = pg_current_xact_id() WHERE id = '{id}'",
    "sqlite": "UPDATE sessions SET revoked_at = 1, version = version + 1 WHERE id = '{id}'",
}


async def test_changes_by_servers_of_the_previous_version_are_listed(
    durable: DurableStore, database: Database
) -> None:
    session = await create(durable)
    mark = await durable.add_mark()
    for _ in range(3):
        await execute_dialect(database, ROTATE_AS_BEFORE, id=session.id)
    await execute_dialect(database, REVOKE_AS_BEFORE, id=session.id)
    [changed] = await list_all_changes(durable, mark)
    assert changed.session.id == session.id
    assert changed.session.revoked_at is not None
    assert len(name_digests(changed)) == 4
    assert session.digest in name_digests(changed)
    assert not mark.covers(changed.session)


async def create_as_before(database: Database) -> Session:
    session = build_session(at=NOW - HOUR, idle_timeout=None, scopes=())
    await execute_dialect(
        database,
        CREATE_AS_BEFORE,
        id=session.id,
        digest=session.digest.hex(),
        user_id=session.user_id,
        at=to_microseconds(session.created_at),
        until=to_microseconds(session.expires_at),
    )
    return session


async def test_data_of_the_previous_version_is_migrated(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = {
        dialect: [m for m in migrations.load_migrations(dialect) if m.name < "0012"]
        for dialect in get_args(Dialect)
    }
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "load_migrations", previous.__getitem__)
        before = await empty_database.open()
        unchanged, rotated, revoked = [await create_as_before(empty_database) for _ in range(3)]
        for _ in range(2):
            await execute_dialect(empty_database, ROTATE_AS_BEFORE, id=rotated.id)
        await execute_dialect(empty_database, REVOKE_AS_BEFORE, id=revoked.id)
        await before.close()
    after = await empty_database.open()
    mark = await after.add_mark()
    found = await after.find_many([s.digest for s in (unchanged, rotated, revoked)])
    assert len(found) == 3
    assert all(mark.covers(copy) and copy.changed_xid > 0 for copy in found.values())
    assert found[unchanged.digest] == unchanged
    assert not (await after.list_changes(mark, limit=9, created=True)).has_changed
    changed = await rotate(after, unchanged)
    assert await list_all_changes(after, mark) == [ChangedSession(changed)]
    await execute_dialect(empty_database, ROTATE_AS_BEFORE, id=unchanged.id)
    [listed] = await list_all_changes(after, mark)
    assert len(name_digests(listed)) == 3
    await after.close()


async def test_digests_rotated_out_by_the_previous_version_are_named_during_their_grace(
    durable: DurableStore, database: Database
) -> None:
    session = await rotate(durable, await rotate(durable, await create(durable)))
    await database.execute(f"UPDATE rotated_digests SET {LEGACY_NUMBER[get_dialect(database)]}")
    mark = await durable.read_position()
    [changed] = await revoke(durable, session)
    assert len(name_digests(changed)) == 3
    assert await list_all_changes(durable, mark) == [changed]
