"""What every durable store promises of the audit trail, which it writes with each change."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.audit import BEFORE_ALL, Action, AuditEvent, AuditFilter, Seal, sealed
from sidegate.core.condition import Condition
from sidegate.core.errors import LimitReached, SessionExists
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import AuditLog, DurableStore, Touch
from sidegate.core.session import SessionDetails, SessionRecord
from sidegate.core.session_type import SessionType
from tests.contracts.values import a_digest, a_record, a_session
from tests.support.clock import NOON
from tests.support.databases import Database

SECOND = timedelta(seconds=1)
LOGIN = Actor("key:login-service", "192.0.2.7")
EVERYTHING = AuditFilter()


@pytest.fixture
async def log(database: Database, durable: DurableStore) -> AsyncIterator[AuditLog]:
    del durable  # it is to be there first
    async with database.audit_log() as opened:
        yield opened


async def events(log: AuditLog, wanted: AuditFilter = EVERYTHING) -> list[AuditEvent]:
    """Return every event that matches, the oldest first."""
    return (await log.events(wanted, limit=1000))[::-1]


async def done(log: AuditLog) -> list[Action]:
    return [event.action for event in await events(log)]


def begun(**details: object) -> SessionRecord:
    session = a_session()
    return a_record(session, change=Change(session.created_at, LOGIN), **details)


# --- One event for each change


async def test_a_beginning_is_noted_with_who_what_when_and_from_where(
    durable: DurableStore, log: AuditLog
) -> None:
    record = begun(tenant="north")
    await durable.create(record)
    [event] = await events(log)
    assert event == AuditEvent(
        number=event.number,
        at=NOON,
        action=Action.CREATE,
        session_id=record.session.id,
        version=1,
        user_id="ada",
        type="web",
        tenant="north",
        by=LOGIN,
        reason=None,
    )


async def test_each_change_of_a_session_is_one_event(durable: DurableStore, log: AuditLog) -> None:
    record = begun()
    await durable.create(record)
    rotated = record.session.rotated(a_digest(), SECOND, NOON)
    await durable.replace(SessionRecord(rotated, record.details), expected=1)
    migrated = rotated.migrated(a_digest(), NOON)
    await durable.replace(SessionRecord(migrated, record.details), expected=2)
    await durable.revoke_where(
        Condition("ada"), at=NOON + SECOND, by=Actor("cli:root"), reason="stolen", limit=9
    )

    noted = await events(log)

    assert [event.action for event in noted] == list(Action)
    assert [event.version for event in noted] == [1, 2, 3, 4]
    last = noted[-1]
    assert (last.at, last.by, last.reason) == (NOON + SECOND, Actor("cli:root"), "stolen")


async def test_what_changes_nothing_leaves_no_event(durable: DurableStore, log: AuditLog) -> None:
    record = begun()
    await durable.create(record)
    with pytest.raises(SessionExists):
        await durable.create(record)
    rotated = record.session.rotated(a_digest(), SECOND, NOON)
    assert not await durable.replace(SessionRecord(rotated), expected=7)
    await durable.touch([Touch(record.session.id, NOON + SECOND, 1)])
    with pytest.raises(LimitReached):
        await durable.create(begun(), limit=Limit(1, AtLimit.REFUSE))
    for _ in range(2):
        await durable.revoke_where(
            Condition("ada"), at=NOON + SECOND, by=LOGIN, reason="bye", limit=9
        )
    assert await done(log) == [Action.CREATE, Action.REVOKE]


async def test_one_that_had_to_go_for_another_is_noted_too(
    durable: DurableStore, log: AuditLog
) -> None:
    old, new = begun(), begun()
    await durable.create(old)
    await durable.create(new, limit=Limit(1))
    [event] = await events(log, AuditFilter(session_id=old.session.id, action=Action.REVOKE))
    assert (event.by, event.reason) == (SIDEGATE, "limit")
    assert len(await done(log)) == 3


async def test_of_changes_that_race_only_the_acknowledged_one_is_noted(
    durable: DurableStore, another: DurableStore, log: AuditLog
) -> None:
    record = begun()
    await durable.create(record)
    results = await asyncio.gather(
        *(
            store.replace(
                SessionRecord(record.session.rotated(a_digest(), SECOND, NOON)), expected=1
            )
            for store in (durable, another) * 5
        )
    )
    assert results.count(True) == 1
    assert await done(log) == [Action.CREATE, Action.REFRESH]


async def test_events_outlive_their_session(durable: DurableStore, log: AuditLog) -> None:
    await durable.create(begun())
    await durable.purge(NOON + timedelta(days=1), limit=9)
    assert await done(log) == [Action.CREATE]


# --- Asking


async def test_events_are_chosen_by_what_is_given(durable: DurableStore, log: AuditLog) -> None:
    first = begun()
    second = SessionRecord(
        a_session(at=NOON + SECOND, user_id="bob", type=SessionType.API),
        SessionDetails(change=Change(NOON + SECOND, Actor("cli:root"))),
    )
    for record in (first, second):
        await durable.create(record)
    await durable.revoke_where(
        Condition("bob"), at=NOON + 2 * SECOND, by=LOGIN, reason="bye", limit=9
    )

    async def chosen(wanted: AuditFilter) -> list[tuple[str, str]]:
        return [(event.user_id, event.action.value) for event in await events(log, wanted)]

    assert await chosen(AuditFilter(user_id="ada")) == [("ada", "create")]
    assert await chosen(AuditFilter(session_id=second.session.id)) == [
        ("bob", "create"),
        ("bob", "revoke"),
    ]
    assert await chosen(AuditFilter(action=Action.REVOKE)) == [("bob", "revoke")]
    assert await chosen(AuditFilter(actor="cli:root")) == [("bob", "create")]
    assert await chosen(AuditFilter(since=NOON + SECOND, until=NOON + 2 * SECOND)) == [
        ("bob", "create")
    ]
    assert await chosen(AuditFilter(user_id="ada", action=Action.REVOKE)) == []


async def test_pages_of_events_follow_each_other_without_gaps(
    durable: DurableStore, log: AuditLog
) -> None:
    for _ in range(7):
        await durable.create(begun())
    everything, paged, before = await log.events(EVERYTHING, limit=99), [], None
    while page := await log.events(EVERYTHING, limit=3, before=before):
        paged += page
        before = page[-1].number
    assert paged == everything
    assert len(paged) == 7


# --- The chain


async def seal_all(log: AuditLog) -> bool:
    head = await log.head()
    fresh = await log.unsealed(limit=1000)
    return await log.seal([(event.number, seal) for event, seal in sealed(head, fresh)])


async def test_a_chain_without_events_begins_before_all(log: AuditLog) -> None:
    assert await log.head() == await log.anchor() == BEFORE_ALL
    assert await log.chain(after=0, limit=9) == []
    assert await log.unsealed(limit=9) == []


async def test_sealed_events_are_read_in_the_order_of_the_chain(
    durable: DurableStore, log: AuditLog
) -> None:
    for _ in range(5):
        await durable.create(begun())
    fresh = await log.unsealed(limit=9)
    assert await seal_all(log)

    assert await log.unsealed(limit=9) == []
    assert await log.chain(after=0, limit=9) == list(sealed(BEFORE_ALL, fresh))
    assert await log.chain(after=2, limit=2) == list(sealed(BEFORE_ALL, fresh))[2:4]
    assert (await log.head()).link == 5


async def test_of_two_that_seal_at_once_the_chain_is_whole(
    durable: DurableStore, log: AuditLog, database: Database
) -> None:
    async with database.audit_log() as other:
        for _ in range(10):
            await durable.create(begun())
            await asyncio.gather(seal_all(log), seal_all(other), durable.create(begun()))
        while await log.unsealed(limit=1):
            await seal_all(log)
    chain = await log.chain(after=0, limit=100)
    assert chain == list(sealed(BEFORE_ALL, (event for event, _ in chain)))
    assert len(chain) == 20


async def test_nothing_is_sealed_at_once(log: AuditLog) -> None:
    assert await log.seal([])


async def test_a_link_that_is_taken_is_not_taken_again(
    durable: DurableStore, log: AuditLog
) -> None:
    for _ in range(2):
        await durable.create(begun())
    first, second = await log.unsealed(limit=9)
    assert await log.seal([(first.number, Seal(1, bytes(32)))])
    assert not await log.seal([(second.number, Seal(1, bytes(32)))])
    assert not await log.seal([(first.number, Seal(2, bytes(32)))])
    assert [event.number for event in await log.unsealed(limit=9)] == [second.number]


async def test_an_event_cannot_be_rewritten(
    durable: DurableStore, log: AuditLog, database: Database
) -> None:
    await durable.create(begun())
    for change in ("user_id = 'eve'", "actor = 'nobody'", "source = NULL", "version = 9"):
        with pytest.raises(Exception, match="does not change"):
            await database.execute(f"UPDATE audit_events SET {change}")
    await seal_all(log)
    with pytest.raises(Exception, match="does not change"):
        await database.execute("UPDATE audit_events SET link = 7")


# --- Retention


async def test_what_is_too_old_is_forgotten_and_the_rest_is_still_a_chain(
    durable: DurableStore, log: AuditLog
) -> None:
    for n in range(6):
        at = NOON + n * SECOND
        await durable.create(
            SessionRecord(a_session(at=at), SessionDetails(change=Change(at, LOGIN)))
        )
    await seal_all(log)
    chain = await log.chain(after=0, limit=9)

    assert await log.forget(NOON + 3 * SECOND, limit=2) == 2
    assert await log.forget(NOON + 3 * SECOND, limit=2) == 1
    assert await log.forget(NOON + 3 * SECOND, limit=2) == 0

    anchor = await log.anchor()
    assert anchor == chain[2][1]
    rest = await log.chain(after=anchor.link, limit=9)
    assert rest == list(sealed(anchor, (event for event, _ in rest))) == chain[3:]


async def test_an_old_event_behind_a_young_one_waits_for_it(
    durable: DurableStore, log: AuditLog
) -> None:
    for minutes in (1, 0):  # a clock that was set back
        at = NOON + timedelta(minutes=minutes)
        await durable.create(
            SessionRecord(a_session(at=at), SessionDetails(change=Change(at, LOGIN)))
        )
    await seal_all(log)
    assert await log.forget(NOON + SECOND, limit=9) == 0
    assert len(await log.chain(after=0, limit=9)) == 2


async def test_what_is_not_sealed_is_not_forgotten(durable: DurableStore, log: AuditLog) -> None:
    await durable.create(begun())
    assert await log.forget(NOON + timedelta(days=9), limit=9) == 0
    assert await done(log) == [Action.CREATE]


async def test_a_chain_that_was_forgotten_whole_goes_on(
    durable: DurableStore, log: AuditLog
) -> None:
    await durable.create(begun())
    await seal_all(log)
    head = await log.head()
    assert await log.forget(NOON + SECOND, limit=9) == 1
    assert await log.head() == await log.anchor() == head
    await durable.create(begun())
    assert await seal_all(log)
    assert (await log.head()).link == 2


async def test_records_of_before_have_no_actor(durable: DurableStore, log: AuditLog) -> None:
    record = a_record(replace(a_session(), user_id="old"))
    await durable.create(record)
    [event] = await events(log)
    assert event.by is None
