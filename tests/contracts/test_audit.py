"""The contract of audit logs: each change of a session leaves one event."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.audit import CHAIN_START, Action, AuditEvent, AuditFilter, Seal, seal_events
from sidegate.core.condition import Condition
from sidegate.core.errors import LimitReached, SessionExists
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import AuditLog, DurableStore, Touch
from sidegate.core.session import SessionDetails, SessionRecord
from sidegate.core.session_type import SessionType
from tests.contracts.values import build_digest, build_record, build_session
from tests.support.clock import NOON
from tests.support.databases import Database
from tests.support.replace import replace

SECOND = timedelta(seconds=1)
ACTOR = Actor("key:login-service", "192.0.2.7")
ALL = AuditFilter()


@pytest.fixture
async def log(database: Database, durable: DurableStore) -> AsyncIterator[AuditLog]:
    del durable  # opened first
    async with database.audit_log() as log:
        yield log


async def list_all(log: AuditLog, criteria: AuditFilter = ALL) -> list[AuditEvent]:
    """Return all matching events, oldest first."""
    return (await log.list_events(criteria, limit=1000))[::-1]


async def list_actions(log: AuditLog) -> list[Action]:
    return [event.action for event in await list_all(log)]


def build_created(**details: object) -> SessionRecord:
    session = build_session()
    return build_record(session, change=Change(session.created_at, ACTOR), **details)


# --- One event for each change


async def test_create_event_has_all_fields(durable: DurableStore, log: AuditLog) -> None:
    record = build_created(tenant="north")
    await durable.create(record)
    [event] = await list_all(log)
    assert event == AuditEvent(
        number=event.number,
        at=NOON,
        action=Action.CREATE,
        session_id=record.session.id,
        version=1,
        user_id="ada",
        type="web",
        tenant="north",
        by=ACTOR,
        reason=None,
    )


async def test_each_change_leaves_one_event(durable: DurableStore, log: AuditLog) -> None:
    record = build_created()
    await durable.create(record)
    rotated = record.session.rotated(build_digest(), SECOND, at=NOON)
    refreshed = replace(record.details, rotation_nonce=bytes(32))
    await durable.replace(SessionRecord(rotated, refreshed), expected=1)
    again = rotated.reauthenticated(build_digest(), NOON)
    await durable.replace(SessionRecord(again, record.details), expected=2)
    updated = again.updated(NOON, scopes=("more",))
    await durable.replace(SessionRecord(updated, record.details), expected=3)
    migrated = updated.migrated(build_digest(), NOON)
    await durable.replace(SessionRecord(migrated, record.details), expected=4)
    await durable.revoke_where(
        Condition("ada"), at=NOON + SECOND, by=Actor("cli:root"), reason="stolen", limit=9
    )

    events = await list_all(log)

    assert [event.action for event in events] == list(Action)
    assert [event.version for event in events] == [1, 2, 3, 4, 5, 6]
    last = events[-1]
    assert (last.at, last.by, last.reason) == (NOON + SECOND, Actor("cli:root"), "stolen")


async def test_repeated_migration_is_no_refresh(durable: DurableStore, log: AuditLog) -> None:
    record = build_created()
    await durable.create(record)
    once = record.session.migrated(build_digest(), NOON)
    await durable.replace(SessionRecord(once, record.details), expected=1)
    rotated = once.rotated(build_digest(), SECOND, at=NOON)
    refreshed = replace(record.details, rotation_nonce=bytes(32))
    await durable.replace(SessionRecord(rotated, refreshed), expected=2)
    twice = rotated.migrated(build_digest(), NOON)
    await durable.replace(SessionRecord(twice, record.details), expected=3)
    assert await list_actions(log) == [
        Action.CREATE,
        Action.MIGRATE,
        Action.REFRESH,
        Action.MIGRATE,
    ]


async def test_change_of_the_metadata_alone_leaves_an_event(
    durable: DurableStore, log: AuditLog
) -> None:
    record = build_created()
    await durable.create(record)
    updated = record.session.updated(NOON, scopes=record.session.scopes)
    details = replace(record.details, metadata={"theme": "dark"})
    await durable.replace(SessionRecord(updated, details), expected=1)
    assert await list_actions(log) == [Action.CREATE, Action.UPDATE]


async def test_authentication_by_a_clock_that_is_behind_leaves_an_event(
    durable: DurableStore, log: AuditLog
) -> None:
    record = build_created()
    await durable.create(record)
    again = record.session.reauthenticated(build_digest(), record.session.authenticated_at - SECOND)
    await durable.replace(SessionRecord(again, record.details), expected=1)
    assert await list_actions(log) == [Action.CREATE, Action.REAUTHENTICATE]


async def test_failed_change_leaves_no_event(durable: DurableStore, log: AuditLog) -> None:
    record = build_created()
    await durable.create(record)
    with pytest.raises(SessionExists):
        await durable.create(record)
    rotated = record.session.rotated(build_digest(), SECOND, at=NOON)
    assert not await durable.replace(SessionRecord(rotated), expected=7)
    await durable.touch([Touch(record.session.id, NOON + SECOND, 1)])
    with pytest.raises(LimitReached):
        await durable.create(build_created(), limit=Limit(1, AtLimit.REFUSE))
    for _ in range(2):
        await durable.revoke_where(
            Condition("ada"), at=NOON + SECOND, by=ACTOR, reason="bye", limit=9
        )
    assert await list_actions(log) == [Action.CREATE, Action.REVOKE]


async def test_eviction_leaves_an_event(durable: DurableStore, log: AuditLog) -> None:
    old, new = build_created(), build_created()
    await durable.create(old)
    await durable.create(new, limit=Limit(1))
    [event] = await list_all(log, AuditFilter(session_id=old.session.id, action=Action.REVOKE))
    assert (event.by, event.reason) == (SIDEGATE, "limit")
    assert len(await list_actions(log)) == 3


async def test_only_the_successful_concurrent_change_leaves_an_event(
    durable: DurableStore, other_store: DurableStore, log: AuditLog
) -> None:
    record = build_created()
    await durable.create(record)
    refreshed = replace(record.details, rotation_nonce=bytes(32))
    results = await asyncio.gather(
        *(
            store.replace(
                SessionRecord(record.session.rotated(build_digest(), SECOND, at=NOON), refreshed),
                expected=1,
            )
            for store in (durable, other_store) * 5
        )
    )
    assert sum(result is not None for result in results) == 1
    assert await list_actions(log) == [Action.CREATE, Action.REFRESH]


async def test_events_are_kept_after_a_purge_of_their_session(
    durable: DurableStore, log: AuditLog
) -> None:
    await durable.create(build_created())
    await durable.purge(NOON + timedelta(days=1), limit=9)
    assert await list_actions(log) == [Action.CREATE]


# --- Queries


async def test_events_are_filtered_by_each_criterion(durable: DurableStore, log: AuditLog) -> None:
    first = build_created()
    second = SessionRecord(
        build_session(at=NOON + SECOND, user_id="bob", type=SessionType.API),
        SessionDetails(change=Change(NOON + SECOND, Actor("cli:root"))),
    )
    for record in (first, second):
        await durable.create(record)
    await durable.revoke_where(
        Condition("bob"), at=NOON + 2 * SECOND, by=ACTOR, reason="bye", limit=9
    )

    async def list_matching(criteria: AuditFilter) -> list[tuple[str, str]]:
        return [(event.user_id, event.action.value) for event in await list_all(log, criteria)]

    assert await list_matching(AuditFilter(user_id="ada")) == [("ada", "create")]
    assert await list_matching(AuditFilter(session_id=second.session.id)) == [
        ("bob", "create"),
        ("bob", "revoke"),
    ]
    assert await list_matching(AuditFilter(action=Action.REVOKE)) == [("bob", "revoke")]
    assert await list_matching(AuditFilter(actor="cli:root")) == [("bob", "create")]
    assert await list_matching(AuditFilter(since=NOON + SECOND, until=NOON + 2 * SECOND)) == [
        ("bob", "create")
    ]
    assert await list_matching(AuditFilter(user_id="ada", action=Action.REVOKE)) == []


async def test_pages_of_events_have_no_gaps(durable: DurableStore, log: AuditLog) -> None:
    for _ in range(7):
        await durable.create(build_created())
    events, paged, before = await log.list_events(ALL, limit=99), [], None
    while page := await log.list_events(ALL, limit=3, before=before):
        paged += page
        before = page[-1].number
    assert paged == events
    assert len(paged) == 7


# --- The chain


async def seal_unsealed(log: AuditLog) -> bool:
    head = await log.read_head()
    unsealed = await log.list_unsealed(limit=1000)
    return await log.add_seals(
        [(event.number, seal) for event, seal in seal_events(head, unsealed)]
    )


async def test_empty_chain_starts_at_the_chain_start(log: AuditLog) -> None:
    assert await log.read_head() == await log.read_anchor() == CHAIN_START
    assert await log.list_sealed(after=0, limit=9) == []
    assert await log.list_unsealed(limit=9) == []


async def test_sealed_events_are_listed_in_chain_order(
    durable: DurableStore, log: AuditLog
) -> None:
    for _ in range(5):
        await durable.create(build_created())
    unsealed = await log.list_unsealed(limit=9)
    assert await seal_unsealed(log)

    assert await log.list_unsealed(limit=9) == []
    assert await log.list_sealed(after=0, limit=9) == list(seal_events(CHAIN_START, unsealed))
    assert await log.list_sealed(after=2, limit=2) == list(seal_events(CHAIN_START, unsealed))[2:4]
    assert (await log.read_head()).link == 5


async def test_concurrent_sealing_keeps_the_chain_intact(
    durable: DurableStore, log: AuditLog, database: Database
) -> None:
    async with database.audit_log() as other:
        for _ in range(10):
            await durable.create(build_created())
            await asyncio.gather(
                seal_unsealed(log), seal_unsealed(other), durable.create(build_created())
            )
        while await log.list_unsealed(limit=1):
            await seal_unsealed(log)
    chain = await log.list_sealed(after=0, limit=100)
    assert chain == list(seal_events(CHAIN_START, (event for event, _ in chain)))
    assert len(chain) == 20


async def test_sealing_no_events_succeeds(log: AuditLog) -> None:
    assert await log.add_seals([])


async def test_link_and_event_are_sealed_once(durable: DurableStore, log: AuditLog) -> None:
    for _ in range(2):
        await durable.create(build_created())
    first, second = await log.list_unsealed(limit=9)
    assert await log.add_seals([(first.number, Seal(1, bytes(32)))])
    assert not await log.add_seals([(second.number, Seal(1, bytes(32)))])
    assert not await log.add_seals([(first.number, Seal(2, bytes(32)))])
    assert [event.number for event in await log.list_unsealed(limit=9)] == [second.number]


async def test_event_is_immutable(durable: DurableStore, log: AuditLog, database: Database) -> None:
    await durable.create(build_created())
    for change in ("user_id = 'eve'", "actor = 'other'", "source = NULL", "version = 9"):
        with pytest.raises(Exception, match="immutable"):
            await database.execute(f"UPDATE audit_events SET {change}")
    await seal_unsealed(log)
    with pytest.raises(Exception, match="immutable"):
        await database.execute("UPDATE audit_events SET link = 7")


# --- Retention


async def test_old_events_are_deleted_and_the_rest_is_a_chain(
    durable: DurableStore, log: AuditLog
) -> None:
    for n in range(6):
        at = NOON + n * SECOND
        await durable.create(
            SessionRecord(build_session(at=at), SessionDetails(change=Change(at, ACTOR)))
        )
    await seal_unsealed(log)
    chain = await log.list_sealed(after=0, limit=9)

    assert await log.delete_oldest(NOON + 3 * SECOND, limit=2) == 2
    assert await log.delete_oldest(NOON + 3 * SECOND, limit=2) == 1
    assert await log.delete_oldest(NOON + 3 * SECOND, limit=2) == 0

    anchor = await log.read_anchor()
    assert anchor == chain[2][1]
    rest = await log.list_sealed(after=anchor.link, limit=9)
    assert rest == list(seal_events(anchor, (event for event, _ in rest))) == chain[3:]


async def test_old_event_after_a_recent_one_is_kept(durable: DurableStore, log: AuditLog) -> None:
    for minutes in (1, 0):  # a clock that was set back
        at = NOON + timedelta(minutes=minutes)
        await durable.create(
            SessionRecord(build_session(at=at), SessionDetails(change=Change(at, ACTOR)))
        )
    await seal_unsealed(log)
    assert await log.delete_oldest(NOON + SECOND, limit=9) == 0
    assert len(await log.list_sealed(after=0, limit=9)) == 2


async def test_unsealed_events_are_not_deleted(durable: DurableStore, log: AuditLog) -> None:
    await durable.create(build_created())
    assert await log.delete_oldest(NOON + timedelta(days=9), limit=9) == 0
    assert await list_actions(log) == [Action.CREATE]


async def test_chain_continues_after_all_events_were_deleted(
    durable: DurableStore, log: AuditLog
) -> None:
    await durable.create(build_created())
    await seal_unsealed(log)
    head = await log.read_head()
    assert await log.delete_oldest(NOON + SECOND, limit=9) == 1
    assert await log.read_head() == await log.read_anchor() == head
    await durable.create(build_created())
    assert await seal_unsealed(log)
    assert (await log.read_head()).link == 2


async def test_record_without_a_change_has_no_actor(durable: DurableStore, log: AuditLog) -> None:
    record = build_record(replace(build_session(), user_id="old"))
    await durable.create(record)
    [event] = await list_all(log)
    assert event.by is None
