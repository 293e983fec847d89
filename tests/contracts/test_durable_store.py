"""The contract of durable stores, for Postgres and SQLite."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import Binding
from sidegate.core.change_log import Mark
from sidegate.core.condition import Condition
from sidegate.core.errors import (
    PositionLost,
    PurgeInProgress,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.judge import judge
from sidegate.core.protocols import Cursor, DurableStore, Touch
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.core.snapshot import Snapshot
from sidegate.core.verdict import Deny, Reason
from tests.contracts.values import (
    build_digest,
    build_record,
    build_rotated_session,
    build_session,
    build_session_id,
    build_tombstone,
)
from tests.support.clock import NOON
from tests.support.databases import Database, StoppableDatabase
from tests.support.replace import replace

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
BY_USER = Condition("ada")
ACTOR = Actor("key:ops", "192.0.2.99")

# --- Encoding


def build_full_record() -> SessionRecord:
    """Return a record with a distinctive value in every field."""
    session = Session(
        id=build_session_id(),
        digest=build_digest(),
        user_id="Zoë 🦉 \N{RIGHT-TO-LEFT OVERRIDE}'; DROP TABLE sessions; --",
        type=SessionType.SSO,
        scopes=("read", "a scope, with comma", 'and "quotes" {braces}', "ünïcode", ""),
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
        authenticated_at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        last_seen_at=datetime(2026, 1, 2, 3, 4, 6, 1, tzinfo=UTC),
        expires_at=datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=UTC),
        idle_timeout=timedelta(days=400, microseconds=1),
        revoked_at=datetime(2026, 1, 2, 3, 4, 7, 999_999, tzinfo=UTC),
        previous_digest=build_digest(),
        previous_until=datetime(2026, 1, 2, 3, 4, 8, 123_456, tzinfo=UTC),
        version=2**53 + 1,
        binding=Binding.pack([("ip", bytes(range(8))), ("future signal", b"\xff" * 8)]),
    )
    details = SessionDetails(
        ip="2001:db8::1",
        user_agent="Mozilla/5.0 (\t🦊\n)",
        device="Adas Gerät",
        metadata={"plan": "größer", "nested": {"list": [1, 2.5, None, True, {"deep": "∞"}]}},
        access_count=2**40,
        refresh_count=3,
        provider="okta",
        provider_session_id="0a1b",
        provider_subject="00u1",
        tenant="Größe 42",
        revoked_by="key:ops",
        revoked_reason="stolen laptop",
        change=Change(datetime(2026, 1, 2, 3, 4, 7, 999_999, tzinfo=UTC), ACTOR),
    )
    return SessionRecord(session, details)


async def test_every_field_is_read_back_exactly(durable: DurableStore) -> None:
    record = build_full_record()
    await durable.create(record)
    assert await durable.get(record.session.id) == record
    assert await durable.find(record.session.digest) == record.session


async def test_none_and_empty_values_are_distinguished(durable: DurableStore) -> None:
    absent = build_record(build_session(idle_timeout=None, scopes=()))
    empty = build_record(build_session(user_id=""), ip="", user_agent="", device="", provider="")
    await durable.create(absent)
    await durable.create(empty)
    assert await durable.get(absent.session.id) == absent
    assert await durable.get(empty.session.id) == empty


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"text": "x" * 16_000},
        {"🦉" * 100: ["ß" * 100] * 30},
        {"nul": "a\0b", "surrogate": "\ud800", "escaped": "\\u0000"},
        {"large": 10**30, "float": 1.5e300, "small": 5e-324, "minus": -0.0, "whole": 1.0},
        {"": "", "a b": {"c": {}}, "list": [[], [[]]]},
    ],
    ids=["none", "16 KiB", "unicode", "odd characters", "numbers", "shapes"],
)
async def test_metadata_is_read_back_exactly(
    durable: DurableStore, metadata: dict[str, Any]
) -> None:
    record = build_record(metadata=metadata)
    await durable.create(record)
    stored = await durable.get(record.session.id)
    assert stored is not None
    assert json.dumps(dict(stored.details.metadata)) == json.dumps(metadata)


async def test_timestamp_of_another_zone_is_read_back_as_utc(
    durable: DurableStore,
) -> None:
    zone = timezone(timedelta(hours=-3, minutes=-30))
    session = build_session(created_at=NOON.astimezone(zone))
    await durable.create(build_record(session))
    found = await durable.find(session.digest)
    assert found == session
    assert found.created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"expires_at": NOON},
        {"expires_at": NOON - SECOND},
        {"idle_timeout": timedelta(0)},
        {"digest": b"too short"},
        {"created_at": NOON.replace(tzinfo=None)},
        {"id": "not-a-uuid"},
        {"id": "{01890a5d-ac96-774b-bcce-b302099a8057}"},
        {"user_id": "\ud800"},
    ],
    ids=lambda changes: f"{next(iter(changes))}={next(iter(changes.values()))!r}"[:40],
)
async def test_invalid_session_is_rejected(durable: DurableStore, changes: dict[str, Any]) -> None:
    session = build_session(**changes)
    with pytest.raises((ValueError, TypeError)):
        await durable.create(build_record(session))
    assert await durable.list_where(BY_USER, limit=10) == []


async def test_metadata_outside_json_is_rejected(durable: DurableStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await durable.create(build_record(metadata={"number": float("nan")}))


# --- Lookup by digest


async def test_unknown_digest_is_not_found(durable: DurableStore) -> None:
    await durable.create(build_record())
    assert await durable.find(build_digest()) is None


async def test_find_many_returns_the_stored_sessions_only(durable: DurableStore) -> None:
    sessions = [build_session() for _ in range(3)]
    for session in sessions:
        await durable.create(build_record(session))
    digests = [sessions[0].digest, build_digest(), sessions[2].digest]
    found = await durable.find_many(digests)
    assert found == {sessions[0].digest: sessions[0], sessions[2].digest: sessions[2]}


async def test_find_many_of_no_digests_is_empty(durable: DurableStore) -> None:
    assert await durable.find_many([]) == {}


async def test_find_many_accepts_thousands_of_digests(durable: DurableStore) -> None:
    session = build_session()
    await durable.create(build_record(session))
    digests = [*(build_digest() for _ in range(2500)), session.digest]
    assert await durable.find_many(digests) == {session.digest: session}


async def test_tombstone_is_found(durable: DurableStore) -> None:
    tombstone = build_tombstone()
    await durable.create(build_record(tombstone))
    assert await durable.find(tombstone.digest) == tombstone


async def test_rotated_session_is_found_by_both_digests(durable: DurableStore) -> None:
    session = build_rotated_session()
    current, previous = session.copies()
    await durable.create(build_record(session))
    assert await durable.find(current.digest) == current
    assert await durable.find(previous.digest) == previous
    assert await durable.find_many([current.digest, previous.digest]) == {
        current.digest: current,
        previous.digest: previous,
    }


async def test_digest_before_the_previous_one_is_found_as_reused(
    durable: DurableStore,
) -> None:
    first = build_session()
    second = first.rotated(build_digest(), 10 * SECOND, at=NOON)
    third = second.rotated(build_digest(), 10 * SECOND, at=NOON)
    await durable.create(build_record(first))
    await durable.replace(build_record(second), expected=1)
    await durable.replace(build_record(third), expected=2)
    found = await durable.find(first.digest)
    assert found is not None
    assert found.id == first.id
    assert judge(found, NOON) == Deny(Reason.REUSED)
    assert await durable.find(second.digest) == third.copies()[1]


# --- Create


@pytest.mark.parametrize("taken", ["id", "digest"])
async def test_duplicate_id_or_digest_is_rejected(durable: DurableStore, taken: str) -> None:
    record = build_record(build_session(user_id="first"))
    await durable.create(record)
    rival = build_session(user_id="second", **{taken: getattr(record.session, taken)})
    with pytest.raises(SessionExists):
        await durable.create(build_record(rival))
    assert await durable.get(record.session.id) == record
    assert await durable.list_where(Condition("second"), limit=10) == []


async def test_concurrent_creates_of_one_session_succeed_once(durable: DurableStore) -> None:
    record = build_record()
    outcomes = await asyncio.gather(
        *(durable.create(record) for _ in range(20)), return_exceptions=True
    )
    assert outcomes.count([]) == 1
    assert sum(isinstance(outcome, SessionExists) for outcome in outcomes) == 19


async def test_concurrent_creates_are_all_stored(durable: DurableStore) -> None:
    records = [build_record() for _ in range(50)]
    await asyncio.gather(*(durable.create(record) for record in records))
    found = await durable.find_many([record.session.digest for record in records])
    assert len(found) == 50


async def test_created_session_is_found_by_another_process(
    durable: DurableStore, other_store: DurableStore
) -> None:
    session = build_session()
    await durable.create(build_record(session))
    assert await other_store.find(session.digest) == session


# --- Get


@pytest.mark.parametrize(
    "unknown",
    [build_session_id(), "", "not-a-uuid", "\ud800", "0" * 32, "ada"],
    ids=["uuid", "empty", "not_a_uuid", "surrogate", "zeros", "name"],
)
async def test_unknown_id_is_not_found(durable: DurableStore, unknown: str) -> None:
    assert await durable.get(SessionId(unknown)) is None


async def test_id_in_another_form_is_not_found(durable: DurableStore) -> None:
    record = build_record()
    await durable.create(record)
    for alias in (record.session.id.upper(), record.session.id.replace("-", "")):
        assert await durable.get(SessionId(alias)) is None


# --- Replace


async def test_replace_of_the_expected_version_succeeds(durable: DurableStore) -> None:
    record = build_record()
    await durable.create(record)
    rotated = record.session.rotated(build_digest(), 10 * SECOND, at=NOON + SECOND)
    after = SessionRecord(rotated, replace(record.details, refresh_count=1, metadata={"a": 1}))
    assert await durable.replace(after, expected=1)
    assert await durable.get(record.session.id) == after


async def test_replace_of_another_version_changes_nothing(durable: DurableStore) -> None:
    record = build_record(build_session(version=3))
    await durable.create(record)
    tombstone = build_record(replace(record.session, revoked_at=NOON, version=3))
    for expected in (2, 4):
        assert not await durable.replace(tombstone, expected=expected)
    assert await durable.get(record.session.id) == record


async def test_replace_of_a_missing_session_fails(durable: DurableStore) -> None:
    record = build_record(build_session(version=2))
    assert not await durable.replace(record, expected=1)
    assert await durable.get(record.session.id) is None


async def test_concurrent_replaces_of_one_version_succeed_once(
    durable: DurableStore, other_store: DurableStore
) -> None:
    session = build_session()
    await durable.create(build_record(session))
    rivals = [session.extended(NOON + n * SECOND + timedelta(days=1), NOON) for n in range(50)]
    results = await asyncio.gather(
        *(
            (durable, other_store)[n % 2].replace(build_record(rival), expected=1)
            for n, rival in enumerate(rivals)
        )
    )
    [changed] = [result for result in results if result is not None]
    assert changed.session in rivals
    assert await durable.find(session.digest) == changed.session


async def test_replace_with_a_taken_digest_is_rejected(durable: DurableStore) -> None:
    mine, theirs = build_session(), build_session()
    await durable.create(build_record(mine))
    await durable.create(build_record(theirs))
    stolen = mine.rotated(theirs.digest, 10 * SECOND, at=NOON)
    with pytest.raises(SessionExists):
        await durable.replace(build_record(stolen), expected=1)
    assert await durable.find(theirs.digest) == theirs


async def test_replace_never_lowers_last_seen_or_access_count(durable: DurableStore) -> None:
    touched = build_record(build_session(last_seen_at=NOON + 60 * SECOND), access_count=7)
    await durable.create(touched)
    stale = build_record(replace(touched.session, last_seen_at=NOON, version=2), access_count=3)
    assert await durable.replace(stale, expected=1)
    after = await durable.get(touched.session.id)
    assert after is not None
    assert after.session.last_seen_at == NOON + 60 * SECOND
    assert after.details.access_count == 7


# --- Lists


async def create_all(durable: DurableStore, *sessions: Session) -> None:
    for session in sessions:
        await durable.create(build_record(session))


async def test_list_is_ordered_from_newest_to_oldest(durable: DurableStore) -> None:
    sessions = [build_session(at=NOON + n * SECOND) for n in (2, 0, 1)]
    await create_all(durable, *sessions, build_session(user_id="bob"))
    listed = await durable.list_where(BY_USER, limit=10)
    assert [record.session for record in listed] == [sessions[0], sessions[2], sessions[1]]


async def test_pages_split_equal_timestamps_without_gaps_or_repeats(
    durable: DurableStore,
) -> None:
    sessions = [build_session(at=NOON + (n // 4) * MICROSECOND) for n in range(11)]
    await create_all(durable, *sessions)
    pages: list[list[SessionRecord]] = []
    after = None
    while page := await durable.list_where(BY_USER, limit=3, after=after):
        pages.append(page)
        last = page[-1].session
        after = Cursor(last.created_at, last.id)
    assert [len(page) for page in pages] == [3, 3, 3, 2]
    listed = [record.session for page in pages for record in page]
    assert listed == sorted(sessions, key=lambda s: (s.created_at, s.id), reverse=True)


async def test_list_of_active_sessions_omits_ended_ones(durable: DurableStore) -> None:
    active = build_session()
    await create_all(durable, active, *build_ended(NOON + 60 * SECOND))
    listed = await durable.list_where(
        BY_USER, limit=10, state=(SessionState.ACTIVE, NOON + 60 * SECOND)
    )
    assert [record.session for record in listed] == [active]
    assert len(await durable.list_where(BY_USER, limit=10)) == 5


async def test_list_of_a_user_without_sessions_is_empty(durable: DurableStore) -> None:
    assert await durable.list_where(Condition("unknown"), limit=10) == []


def build_ended(at: datetime) -> list[Session]:
    """Return sessions of each kind of end, ended exactly at that time."""
    minute = timedelta(minutes=1)
    ended = [
        build_tombstone(at=at - minute),
        build_session(at=at - minute, expires_at=at),
        build_session(at=at - minute, idle_timeout=minute),
        build_session(at=at - minute, expires_at=at, idle_timeout=None),
    ]
    assert all(session.has_ended(at) for session in ended)
    return ended


@pytest.mark.parametrize("early", [MICROSECOND, timedelta(0)])
@pytest.mark.parametrize("deadline", ["expires_at", "idle_timeout"])
async def test_list_of_active_sessions_agrees_with_the_core(
    durable: DurableStore, deadline: str, early: timedelta
) -> None:
    span = timedelta(
        days=200, microseconds=7
    )  # across a daylight saving change in any time zone of the server
    sessions = {
        "expires_at": build_session(expires_at=NOON + span, idle_timeout=None),
        "idle_timeout": build_session(expires_at=NOON + 2 * span, idle_timeout=span),
    }
    session = sessions[deadline]
    await durable.create(build_record(session))
    at = NOON + span - early
    listed = await durable.list_where(BY_USER, limit=1, state=(SessionState.ACTIVE, at))
    assert bool(listed) is not session.has_ended(at)


# --- Revoke by condition


async def revoke(
    durable: DurableStore, condition: Condition, at: datetime = NOON + SECOND
) -> list[Session]:
    revoked = await durable.revoke_where(condition, at=at, by=ACTOR, reason="lost phone", limit=100)
    return [changed.session for changed in revoked]


async def test_revocation_by_user_returns_all_tombstones(durable: DurableStore) -> None:
    sessions = [build_session(), build_rotated_session(), build_session(type=SessionType.API)]
    other = build_session(user_id="bob")
    await create_all(durable, *sessions, other)
    tombstones = await revoke(durable, Condition("ada"))
    assert {s.id: s for s in tombstones} == {s.id: s.revoked(NOON + SECOND) for s in sessions}
    assert [await durable.find(s.digest) for s in tombstones] == tombstones
    assert await durable.find(other.digest) == other


async def test_revocation_stores_actor_and_reason(durable: DurableStore) -> None:
    record = build_record(ip="192.0.2.1", metadata={"remaining": True})
    await durable.create(record)
    await revoke(durable, Condition("ada"))
    details = replace(
        record.details,
        revoked_by="key:ops",
        revoked_reason="lost phone",
        change=Change(NOON + SECOND, ACTOR),
    )
    assert await durable.get(record.session.id) == SessionRecord(
        record.session.revoked(NOON + SECOND), details
    )


async def test_revocation_by_type_spares_other_types(durable: DurableStore) -> None:
    web, api = build_session(), build_session(type=SessionType.API)
    await create_all(durable, web, api)
    assert [s.id for s in await revoke(durable, Condition("ada", type=SessionType.API))] == [api.id]
    assert await durable.find(web.digest) == web


async def test_revocation_spares_the_excepted_session(durable: DurableStore) -> None:
    current, other = build_session(), build_session()
    await create_all(durable, current, other)
    assert [s.id for s in await revoke(durable, Condition("ada", except_id=current.id))] == [
        other.id
    ]
    assert await durable.find(current.digest) == current


async def test_invalid_except_id_revokes_nothing(durable: DurableStore) -> None:
    session = build_session()
    await create_all(durable, session)
    for nonsense in (session.id.upper(), "nonsense", ""):
        with pytest.raises(ValueError, match="canonical"):
            await revoke(durable, Condition("ada", except_id=SessionId(nonsense)))
    assert await durable.find(session.digest) == session


async def test_revoked_and_expired_sessions_are_not_revoked_again(durable: DurableStore) -> None:
    minute = timedelta(minutes=1)
    ended = [build_tombstone(at=NOON - minute), build_session(at=NOON - minute, expires_at=NOON)]
    await create_all(durable, *ended)
    assert await revoke(durable, Condition("ada"), at=NOON) == []
    for session in ended:
        assert await durable.find(session.digest) == session


async def test_idle_session_is_revoked_and_ignores_a_late_touch(
    durable: DurableStore,
) -> None:
    session = build_session(at=NOON - timedelta(hours=1))
    await create_all(durable, session)
    [tombstone] = await revoke(durable, Condition("ada"), at=NOON)
    assert await durable.touch([Touch(session.id, NOON - timedelta(minutes=31), 1)]) == []
    assert await durable.find(session.digest) == tombstone


async def test_revocation_by_id_spares_other_sessions(durable: DurableStore) -> None:
    session, other = build_session(), build_session()
    await create_all(durable, session, other)
    [tombstone] = await revoke(durable, Condition(session_id=session.id))
    assert tombstone.id == session.id
    assert await durable.find(other.digest) == other


async def test_concurrent_revocations_revoke_each_session_once(
    durable: DurableStore, other_store: DurableStore
) -> None:
    await create_all(durable, *(build_session() for _ in range(20)))
    both = await asyncio.gather(
        revoke(durable, Condition("ada")), revoke(other_store, Condition("ada"))
    )
    assert sum(map(len, both)) == 20


async def test_concurrent_rotation_does_not_undo_a_revocation(
    durable: DurableStore, other_store: DurableStore
) -> None:
    sessions = [build_session() for _ in range(20)]
    await create_all(durable, *sessions)
    rotated = [s.rotated(build_digest(), 10 * SECOND, at=NOON) for s in sessions]
    await asyncio.gather(
        *(other_store.replace(build_record(s), expected=1) for s in rotated[:10]),
        revoke(durable, Condition("ada")),
        *(other_store.replace(build_record(s), expected=1) for s in rotated[10:]),
    )
    for session in sessions:
        record = await durable.get(session.id)
        assert record is not None
        assert record.session.revoked_at == NOON + SECOND
        assert record.session.version in (2, 3)


# --- Binding


async def test_binding_survives_rotation_touch_and_revocation(durable: DurableStore) -> None:
    binding = Binding.pack([("user_agent", bytes(range(8)))])
    session = build_session(binding=binding)
    await durable.create(build_record(session))
    rotated = session.rotated(build_digest(), SECOND, at=NOON)
    assert await durable.replace(build_record(rotated), expected=1)
    await durable.touch([Touch(session.id, NOON, 1)])
    copies = await durable.find_many([session.digest, rotated.digest])
    assert [copy.binding for copy in copies.values()] == [binding, binding]
    (tombstone,) = await revoke(durable, Condition("ada"))
    assert tombstone.binding == binding


# --- Unreadable rows


@pytest.mark.parametrize(
    "damage",
    [
        "type = 'q'",
        "metadata = '[]'",
        "metadata = '{broken'",
        "scopes = '{\"a\": 1}'",
        "binding = '[]'",
        "binding = '{\"ip\": 7}'",
        'binding = \'{"ip": "no hex"}\'',
    ],
)
async def test_unreadable_row_raises_an_error(
    durable: DurableStore, database: Database, damage: str
) -> None:
    record, neighbour = build_record(), build_session()
    await durable.create(record)
    await create_all(durable, neighbour)
    try:
        await database.execute(f"UPDATE sessions SET {damage} WHERE id = '{record.session.id}'")
    except Exception:  # noqa: BLE001  # any driver's
        return  # the database rejects the damage itself
    with pytest.raises(UnreadableRecord):
        await durable.get(record.session.id)
    with pytest.raises(UnreadableRecord):
        await durable.list_where(BY_USER, limit=10)
    assert await durable.find(neighbour.digest) == neighbour


async def test_session_of_an_unknown_type_raises_an_error(
    durable: DurableStore, database: Database
) -> None:
    session, neighbour = build_session(), build_session()
    await create_all(durable, session, neighbour)
    await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{session.id}'")
    with pytest.raises(UnreadableRecord, match=session.id):
        await durable.find(session.digest)
    with pytest.raises(UnreadableRecord):
        await durable.find_many([neighbour.digest, session.digest])
    assert await durable.find(neighbour.digest) == neighbour


# --- Outages

MARK = Mark(Snapshot(3, 3), "another system")


async def list_changes(store: DurableStore) -> None:
    with suppress(PositionLost):
        await store.list_changes(MARK, limit=10)


CALLS: dict[str, Callable[[DurableStore], Awaitable[Any]]] = {
    "find": lambda store: store.find(build_digest()),
    "find_many": lambda store: store.find_many([build_digest(), build_digest()]),
    "get": lambda store: store.get(build_session_id()),
    "create": lambda store: store.create(build_record()),
    "list": lambda store: store.list_where(BY_USER, limit=10),
    "replace": lambda store: store.replace(build_record(), expected=1),
    "revoke": lambda store: revoke(store, Condition("ada")),
    "revoke_again": lambda store: store.revoke_again([build_tombstone()]),
    "read_position": lambda store: store.read_position(),
    "list_changes": list_changes,
    "add_mark": lambda store: store.add_mark(),
    "ping": lambda store: store.ping(),
}


async def test_every_call_raises_during_an_outage_and_works_after(
    stoppable_store: DurableStore, stoppable: StoppableDatabase
) -> None:
    session = build_session()
    await create_all(stoppable_store, session)
    stoppable.fail()
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable) as outage:
            await call(stoppable_store)
        assert outage.value.store in ("sqlite", "postgres")
    with pytest.raises(StoreUnavailable):
        await stoppable_store.find(session.digest)
    stoppable.recover()
    assert await stoppable_store.find(session.digest) == session
    for call in CALLS.values():
        await call(stoppable_store)


async def test_closed_store_raises_store_unavailable(
    durable: DurableStore,
) -> None:
    await durable.close()
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable):
            await call(durable)


async def test_second_close_does_nothing(durable: DurableStore) -> None:
    await durable.close()
    await durable.close()


async def test_cancelled_calls_leave_the_store_usable(durable: DurableStore) -> None:
    session = build_session()
    await create_all(durable, session)
    for ticks in range(12):
        calls = [asyncio.ensure_future(call(durable)) for call in CALLS.values() for _ in "123"]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert (await durable.find(session.digest)) is not None
    for call in CALLS.values():
        await call(durable)


# --- Touch


async def test_touch_updates_last_seen_and_access_count_only(durable: DurableStore) -> None:
    record = build_record(build_session(), access_count=3)
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    await durable.touch([Touch(record.session.id, seen_at, 4)])

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session == record.session.touched(seen_at)
    assert stored.details == replace(record.details, access_count=7)


async def test_touch_never_lowers_last_seen(durable: DurableStore) -> None:
    record = build_record(build_session(last_seen_at=NOON + timedelta(minutes=9)))
    await durable.create(record)

    await durable.touch([Touch(record.session.id, NOON + timedelta(minutes=5), 1)])

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session.last_seen_at == NOON + timedelta(minutes=9)
    assert stored.details.access_count == 1


@pytest.mark.parametrize(
    "ended",
    [
        build_session().revoked(NOON),
        build_session(expires_at=NOON + timedelta(minutes=1)),
    ],
    ids=["revoked", "expired"],
)
async def test_touch_does_not_change_an_ended_session(
    durable: DurableStore, ended: Session
) -> None:
    record = build_record(replace(ended, id=build_session_id(), digest=build_digest()))
    await durable.create(record)

    await durable.touch([Touch(record.session.id, NOON + timedelta(minutes=1), 1)])

    assert await durable.get(record.session.id) == record


async def test_late_touch_of_an_idle_session_counts(
    durable: DurableStore,
) -> None:
    record = build_record(build_session(idle_timeout=timedelta(minutes=1)))
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    [touched] = await durable.touch([Touch(record.session.id, seen_at, 1)])

    assert touched.last_seen_at == seen_at
    assert await durable.find(record.session.digest) == touched


async def test_touch_of_a_missing_session_is_skipped(durable: DurableStore) -> None:
    record = build_record()
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    await durable.touch(
        [Touch(build_session_id(), seen_at, 1), Touch(record.session.id, seen_at, 1)]
    )

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session.last_seen_at == seen_at


async def test_touches_in_different_order_do_not_deadlock(durable: DurableStore) -> None:
    ids = [build_session_id() for _ in range(40)]
    for id_ in ids:
        await durable.create(build_record(build_session(id=id_)))
    seen_at = NOON + timedelta(minutes=5)
    batches = [ids, ids[::-1], ids[20:] + ids[:20]] * 4

    await asyncio.gather(
        *(durable.touch([Touch(id_, seen_at, 1) for id_ in batch]) for batch in batches)
    )

    records = [await durable.get(id_) for id_ in ids]
    assert {record.details.access_count for record in records if record} == {12}


# --- Rotated-out digests


async def test_session_is_found_by_every_digest_it_had(durable: DurableStore) -> None:
    session = build_session()
    await durable.create(build_record(session))
    digests = [session.digest]
    for _ in range(4):
        version = session.version
        session = session.rotated(build_digest(), SECOND, at=NOON)
        assert await durable.replace(build_record(session), expected=version)
        digests.append(session.digest)

    for digest in digests:
        assert await durable.find_by_any_digest(digest) == build_record(session)
    assert await durable.find_by_any_digest(build_digest()) is None


async def test_every_digest_of_a_revoked_session_is_denied_as_revoked(
    durable: DurableStore,
) -> None:
    first = build_session()
    second = first.rotated(build_digest(), SECOND, at=NOON)
    third = second.rotated(build_digest(), SECOND, at=NOON)
    last = third.revoked(NOON)
    await durable.create(build_record(first))
    for session, version in ((second, 1), (third, 2), (last, 3)):
        await durable.replace(build_record(session), expected=version)

    found = await durable.find_many([first.digest, second.digest, third.digest])

    assert {judge(copy, NOON) for copy in found.values()} == {Deny(Reason.REVOKED)}
    assert len(found) == 3


# --- Purge


async def test_purge_deletes_the_oldest_expired_sessions(
    durable: DurableStore,
) -> None:
    records = [build_record(build_session(expires_at=NOON + n * SECOND)) for n in range(1, 6)]
    for record in records:
        await durable.create(record)

    assert await durable.purge(NOON + 4 * SECOND, limit=2) == 2
    assert await durable.purge(NOON + 4 * SECOND, limit=2) == 1

    remaining = [await durable.get(record.session.id) for record in records]
    assert remaining == [None, None, None, *records[3:]]


async def test_purge_keeps_revoked_sessions_until_they_expire(durable: DurableStore) -> None:
    record = build_record(build_session().revoked(NOON))
    await durable.create(record)

    assert await durable.purge(NOON + timedelta(hours=11), limit=9) == 0

    assert await durable.get(record.session.id) == record


async def test_purge_deletes_rotated_out_digests(durable: DurableStore) -> None:
    session = build_session()
    rotated = session.rotated(build_digest(), SECOND, at=NOON)
    await durable.create(build_record(session))
    await durable.replace(build_record(rotated), expected=1)

    assert await durable.purge(NOON + timedelta(days=1), limit=9) == 1

    assert await durable.find_by_any_digest(session.digest) is None
    assert await durable.find_many([session.digest, rotated.digest]) == {}


async def test_concurrent_purges_delete_each_session_once(durable: DurableStore) -> None:
    for _ in range(40):
        await durable.create(build_record(build_session(expires_at=NOON + SECOND)))

    async def purge() -> int:
        with suppress(PurgeInProgress):
            return await durable.purge(NOON + 2 * SECOND, limit=5)
        return 0

    async def purge_all() -> int:
        return sum([await purge() for _ in range(20)])

    assert sum(await asyncio.gather(purge_all(), purge_all(), purge_all())) == 40
