"""What every durable store promises. The suite never asks which one it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import Binding
from sidegate.core.condition import Condition
from sidegate.core.errors import SessionExists, StoreUnavailable, UnreadableRecord
from sidegate.core.judge import judge
from sidegate.core.protocols import Cursor, DurableStore, Touch
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason
from tests.contracts.values import (
    a_digest,
    a_record,
    a_rotated_session,
    a_session,
    a_tombstone,
    an_id,
)
from tests.support.clock import NOON
from tests.support.databases import Database, Mortal

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
ADAS = Condition("ada")
OPS = Actor("key:ops", "192.0.2.99")

# --- What was written is what is read


def a_full_record() -> SessionRecord:
    """Return a record with something of its own in every field."""
    session = Session(
        id=an_id(),
        digest=a_digest(),
        user_id="Zoë 🦉 \N{RIGHT-TO-LEFT OVERRIDE}'; DROP TABLE sessions; --",
        type=SessionType.SSO,
        scopes=("read", "a scope, with comma", 'and "quotes" {braces}', "ünïcode", ""),
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
        authenticated_at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        last_seen_at=datetime(2026, 1, 2, 3, 4, 6, 1, tzinfo=UTC),
        expires_at=datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=UTC),
        idle_timeout=timedelta(days=400, microseconds=1),
        revoked_at=datetime(2026, 1, 2, 3, 4, 7, 999_999, tzinfo=UTC),
        previous_digest=a_digest(),
        previous_until=datetime(2026, 1, 2, 3, 4, 8, 123_456, tzinfo=UTC),
        version=2**53 + 1,
        binding=Binding.of([("ip", bytes(range(8))), ("a signal of tomorrow", b"\xff" * 8)]),
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
        change=Change(datetime(2026, 1, 2, 3, 4, 7, 999_999, tzinfo=UTC), OPS),
    )
    return SessionRecord(session, details)


async def test_every_field_comes_back_exactly(durable: DurableStore) -> None:
    record = a_full_record()
    await durable.create(record)
    assert await durable.get(record.session.id) == record
    assert await durable.find(record.session.digest) == record.session


async def test_absent_and_empty_are_told_apart(durable: DurableStore) -> None:
    absent = a_record(a_session(idle_timeout=None, scopes=()))
    empty = a_record(a_session(user_id=""), ip="", user_agent="", device="", provider="")
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
async def test_metadata_comes_back_as_it_was(
    durable: DurableStore, metadata: dict[str, Any]
) -> None:
    record = a_record(metadata=metadata)
    await durable.create(record)
    stored = await durable.get(record.session.id)
    assert stored is not None
    assert json.dumps(dict(stored.details.metadata)) == json.dumps(metadata)


async def test_a_moment_of_another_zone_comes_back_as_the_same_moment(
    durable: DurableStore,
) -> None:
    elsewhere = timezone(timedelta(hours=-3, minutes=-30))
    session = a_session(created_at=NOON.astimezone(elsewhere))
    await durable.create(a_record(session))
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
async def test_what_must_never_be_is_refused(
    durable: DurableStore, changes: dict[str, Any]
) -> None:
    session = a_session(**changes)
    with pytest.raises((ValueError, TypeError)):
        await durable.create(a_record(session))
    assert await durable.list_where(ADAS, limit=10) == []


async def test_metadata_that_is_no_json_is_refused(durable: DurableStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await durable.create(a_record(metadata={"number": float("nan")}))


# --- Look-up by digest


async def test_an_unknown_digest_is_not_there(durable: DurableStore) -> None:
    await durable.create(a_record())
    assert await durable.find(a_digest()) is None


async def test_many_are_found_at_once_and_only_those_that_are_there(durable: DurableStore) -> None:
    sessions = [a_session() for _ in range(3)]
    for session in sessions:
        await durable.create(a_record(session))
    asked = [sessions[0].digest, a_digest(), sessions[2].digest]
    found = await durable.find_many(asked)
    assert found == {sessions[0].digest: sessions[0], sessions[2].digest: sessions[2]}


async def test_nothing_asked_is_nothing_found(durable: DurableStore) -> None:
    assert await durable.find_many([]) == {}


async def test_thousands_are_found_at_once(durable: DurableStore) -> None:
    session = a_session()
    await durable.create(a_record(session))
    asked = [*(a_digest() for _ in range(2500)), session.digest]
    assert await durable.find_many(asked) == {session.digest: session}


async def test_a_tombstone_is_found(durable: DurableStore) -> None:
    tombstone = a_tombstone()
    await durable.create(a_record(tombstone))
    assert await durable.find(tombstone.digest) == tombstone


async def test_after_a_rotation_both_digests_lead_to_the_session(durable: DurableStore) -> None:
    session = a_rotated_session()
    current, previous = session.copies()
    await durable.create(a_record(session))
    assert await durable.find(current.digest) == current
    assert await durable.find(previous.digest) == previous
    assert await durable.find_many([current.digest, previous.digest]) == {
        current.digest: current,
        previous.digest: previous,
    }


async def test_after_the_second_rotation_the_first_digest_is_recognised_and_over(
    durable: DurableStore,
) -> None:
    first = a_session()
    second = first.rotated(a_digest(), 10 * SECOND, NOON)
    third = second.rotated(a_digest(), 10 * SECOND, NOON)
    await durable.create(a_record(first))
    await durable.replace(a_record(second), expected=1)
    await durable.replace(a_record(third), expected=2)
    found = await durable.find(first.digest)
    assert found is not None
    assert found.id == first.id
    assert judge(found, NOON) == Deny(Reason.REUSED)
    assert await durable.find(second.digest) == third.copies()[1]


# --- Create


@pytest.mark.parametrize("taken", ["id", "digest"])
async def test_what_is_taken_cannot_be_created_again(durable: DurableStore, taken: str) -> None:
    record = a_record(a_session(user_id="first"))
    await durable.create(record)
    rival = a_session(user_id="second", **{taken: getattr(record.session, taken)})
    with pytest.raises(SessionExists):
        await durable.create(a_record(rival))
    assert await durable.get(record.session.id) == record
    assert await durable.list_where(Condition("second"), limit=10) == []


async def test_of_many_who_create_the_same_one_succeeds(durable: DurableStore) -> None:
    record = a_record()
    outcomes = await asyncio.gather(
        *(durable.create(record) for _ in range(20)), return_exceptions=True
    )
    assert outcomes.count([]) == 1
    assert sum(isinstance(outcome, SessionExists) for outcome in outcomes) == 19


async def test_many_create_at_once_and_none_is_lost(durable: DurableStore) -> None:
    records = [a_record() for _ in range(50)]
    await asyncio.gather(*(durable.create(record) for record in records))
    found = await durable.find_many([record.session.digest for record in records])
    assert len(found) == 50


async def test_what_one_process_creates_another_finds_at_once(
    durable: DurableStore, another: DurableStore
) -> None:
    session = a_session()
    await durable.create(a_record(session))
    assert await another.find(session.digest) == session


# --- Get


@pytest.mark.parametrize("unknown", [an_id(), "", "not-a-uuid", "\ud800", "0" * 32, "ada"])
async def test_an_unknown_id_is_not_there(durable: DurableStore, unknown: str) -> None:
    assert await durable.get(SessionId(unknown)) is None


async def test_an_id_has_one_spelling(durable: DurableStore) -> None:
    record = a_record()
    await durable.create(record)
    for alias in (record.session.id.upper(), record.session.id.replace("-", "")):
        assert await durable.get(SessionId(alias)) is None


# --- Replace


async def test_the_next_version_replaces_the_expected_one(durable: DurableStore) -> None:
    record = a_record()
    await durable.create(record)
    rotated = record.session.rotated(a_digest(), 10 * SECOND, NOON + SECOND)
    after = SessionRecord(rotated, replace(record.details, refresh_count=1, metadata={"a": 1}))
    assert await durable.replace(after, expected=1)
    assert await durable.get(record.session.id) == after


async def test_a_version_that_is_not_the_expected_one_stays(durable: DurableStore) -> None:
    record = a_record(a_session(version=3))
    await durable.create(record)
    tombstone = a_record(replace(record.session, revoked_at=NOON, version=3))
    for expected in (2, 4):
        assert not await durable.replace(tombstone, expected=expected)
    assert await durable.get(record.session.id) == record


async def test_what_is_not_there_is_not_replaced(durable: DurableStore) -> None:
    record = a_record(a_session(version=2))
    assert not await durable.replace(record, expected=1)
    assert await durable.get(record.session.id) is None


async def test_of_fifty_who_replace_the_same_version_one_wins(
    durable: DurableStore, another: DurableStore
) -> None:
    session = a_session()
    await durable.create(a_record(session))
    rivals = [session.extended(NOON + n * SECOND + timedelta(days=1), NOON) for n in range(50)]
    won = await asyncio.gather(
        *(
            (durable, another)[n % 2].replace(a_record(rival), expected=1)
            for n, rival in enumerate(rivals)
        )
    )
    assert won.count(True) == 1
    assert await durable.find(session.digest) == rivals[won.index(True)]


async def test_a_session_cannot_take_the_digest_of_another(durable: DurableStore) -> None:
    mine, theirs = a_session(), a_session()
    await durable.create(a_record(mine))
    await durable.create(a_record(theirs))
    thief = mine.rotated(theirs.digest, 10 * SECOND, NOON)
    with pytest.raises(SessionExists):
        await durable.replace(a_record(thief), expected=1)
    assert await durable.find(theirs.digest) == theirs


async def test_a_replace_never_takes_back_when_a_session_was_seen(durable: DurableStore) -> None:
    seen = a_record(a_session(last_seen_at=NOON + 60 * SECOND), access_count=7)
    await durable.create(seen)
    unaware = a_record(replace(seen.session, last_seen_at=NOON, version=2), access_count=3)
    assert await durable.replace(unaware, expected=1)
    after = await durable.get(seen.session.id)
    assert after is not None
    assert after.session.last_seen_at == NOON + 60 * SECOND
    assert after.details.access_count == 7


# --- The sessions of a user


async def created(durable: DurableStore, *sessions: Session) -> None:
    for session in sessions:
        await durable.create(a_record(session))


async def test_a_list_runs_from_the_newest_to_the_oldest(durable: DurableStore) -> None:
    sessions = [a_session(at=NOON + n * SECOND) for n in (2, 0, 1)]
    await created(durable, *sessions, a_session(user_id="bob"))
    listed = await durable.list_where(ADAS, limit=10)
    assert [record.session for record in listed] == [sessions[0], sessions[2], sessions[1]]


async def test_pages_neither_repeat_nor_skip_sessions_of_the_same_moment(
    durable: DurableStore,
) -> None:
    sessions = [a_session(at=NOON + (n // 4) * MICROSECOND) for n in range(11)]
    await created(durable, *sessions)
    pages: list[list[SessionRecord]] = []
    after = None
    while page := await durable.list_where(ADAS, limit=3, after=after):
        pages.append(page)
        last = page[-1].session
        after = Cursor(last.created_at, last.id)
    assert [len(page) for page in pages] == [3, 3, 3, 2]
    listed = [record.session for page in pages for record in page]
    assert listed == sorted(sessions, key=lambda s: (s.created_at, s.id), reverse=True)


async def test_a_list_can_leave_out_what_has_ended(durable: DurableStore) -> None:
    living = a_session()
    await created(durable, living, *all_ways_to_have_ended_at(NOON + 60 * SECOND))
    listed = await durable.list_where(
        ADAS, limit=10, state=(SessionState.ACTIVE, NOON + 60 * SECOND)
    )
    assert [record.session for record in listed] == [living]
    assert len(await durable.list_where(ADAS, limit=10)) == 5


async def test_a_user_without_sessions_has_an_empty_list(durable: DurableStore) -> None:
    assert await durable.list_where(Condition("nobody"), limit=10) == []


def all_ways_to_have_ended_at(moment: datetime) -> list[Session]:
    """Return sessions that have ended by then, in the last possible moment."""
    minute = timedelta(minutes=1)
    ended = [
        a_tombstone(at=moment - minute),
        a_session(at=moment - minute, expires_at=moment),
        a_session(at=moment - minute, idle_timeout=minute),
        a_session(at=moment - minute, expires_at=moment, idle_timeout=None),
    ]
    assert all(session.ended(moment) for session in ended)
    return ended


@pytest.mark.parametrize("early", [MICROSECOND, timedelta(0)])
@pytest.mark.parametrize("deadline", ["expires_at", "idle_timeout"])
async def test_the_end_of_a_session_is_judged_as_the_core_does(
    durable: DurableStore, deadline: str, early: timedelta
) -> None:
    span = timedelta(days=200, microseconds=7)  # over a change of clocks, wherever the server is
    sessions = {
        "expires_at": a_session(expires_at=NOON + span, idle_timeout=None),
        "idle_timeout": a_session(expires_at=NOON + 2 * span, idle_timeout=span),
    }
    session = sessions[deadline]
    await durable.create(a_record(session))
    moment = NOON + span - early
    listed = await durable.list_where(ADAS, limit=1, state=(SessionState.ACTIVE, moment))
    assert bool(listed) is not session.ended(moment)


# --- Revoke by condition


async def revoke(
    durable: DurableStore, condition: Condition, at: datetime = NOON + SECOND
) -> list[Session]:
    return await durable.revoke_where(condition, at=at, by=OPS, reason="lost phone", limit=100)


async def test_all_sessions_of_a_user_are_revoked_and_returned(durable: DurableStore) -> None:
    sessions = [a_session(), a_rotated_session(), a_session(type=SessionType.API)]
    other = a_session(user_id="bob")
    await created(durable, *sessions, other)
    tombstones = await revoke(durable, Condition("ada"))
    assert {s.id: s for s in tombstones} == {s.id: s.revoked(NOON + SECOND) for s in sessions}
    assert [await durable.find(s.digest) for s in tombstones] == tombstones
    assert await durable.find(other.digest) == other


async def test_a_revocation_says_by_whom_and_why(durable: DurableStore) -> None:
    record = a_record(ip="192.0.2.1", metadata={"kept": True})
    await durable.create(record)
    await revoke(durable, Condition("ada"))
    told = replace(
        record.details,
        revoked_by="key:ops",
        revoked_reason="lost phone",
        change=Change(NOON + SECOND, OPS),
    )
    assert await durable.get(record.session.id) == SessionRecord(
        record.session.revoked(NOON + SECOND), told
    )


async def test_one_type_can_be_revoked(durable: DurableStore) -> None:
    web, api = a_session(), a_session(type=SessionType.API)
    await created(durable, web, api)
    assert [s.id for s in await revoke(durable, Condition("ada", type=SessionType.API))] == [api.id]
    assert await durable.find(web.digest) == web


async def test_all_but_one_can_be_revoked(durable: DurableStore) -> None:
    current, other = a_session(), a_session()
    await created(durable, current, other)
    assert [s.id for s in await revoke(durable, Condition("ada", except_id=current.id))] == [
        other.id
    ]
    assert await durable.find(current.digest) == current


async def test_an_exception_that_is_no_id_revokes_nothing(durable: DurableStore) -> None:
    session = a_session()
    await created(durable, session)
    for nonsense in (session.id.upper(), "nonsense", ""):
        with pytest.raises(ValueError, match="canonical"):
            await revoke(durable, Condition("ada", except_id=SessionId(nonsense)))
    assert await durable.find(session.digest) == session


async def test_what_has_ended_for_good_is_not_revoked(durable: DurableStore) -> None:
    minute = timedelta(minutes=1)
    ended = [a_tombstone(at=NOON - minute), a_session(at=NOON - minute, expires_at=NOON)]
    await created(durable, *ended)
    assert await revoke(durable, Condition("ada"), at=NOON) == []
    for session in ended:
        assert await durable.find(session.digest) == session


async def test_what_looks_idle_is_revoked_for_a_touch_may_be_on_its_way(
    durable: DurableStore,
) -> None:
    session = a_session(at=NOON - timedelta(hours=1))
    await created(durable, session)
    [tombstone] = await revoke(durable, Condition("ada"), at=NOON)
    assert await durable.touch([Touch(session.id, NOON - timedelta(minutes=31), 1)]) == []
    assert await durable.find(session.digest) == tombstone


async def test_one_session_is_revoked_by_its_id(durable: DurableStore) -> None:
    session, other = a_session(), a_session()
    await created(durable, session, other)
    [tombstone] = await revoke(durable, Condition(session_id=session.id))
    assert tombstone.id == session.id
    assert await durable.find(other.digest) == other


async def test_revoking_twice_revokes_once(durable: DurableStore, another: DurableStore) -> None:
    await created(durable, *(a_session() for _ in range(20)))
    both = await asyncio.gather(
        revoke(durable, Condition("ada")), revoke(another, Condition("ada"))
    )
    assert sum(map(len, both)) == 20


async def test_a_revocation_and_a_rotation_at_once_leave_a_tombstone(
    durable: DurableStore, another: DurableStore
) -> None:
    sessions = [a_session() for _ in range(20)]
    await created(durable, *sessions)
    rotated = [s.rotated(a_digest(), 10 * SECOND, NOON) for s in sessions]
    await asyncio.gather(
        *(another.replace(a_record(s), expected=1) for s in rotated[:10]),
        revoke(durable, Condition("ada")),
        *(another.replace(a_record(s), expected=1) for s in rotated[10:]),
    )
    for session in sessions:
        record = await durable.get(session.id)
        assert record is not None
        assert record.session.revoked_at == NOON + SECOND
        assert record.session.version in (2, 3)


# --- News of changes


async def test_the_first_mark_tells_of_nothing(durable: DurableStore) -> None:
    await created(durable, a_session())
    await revoke(durable, Condition("ada"))
    mark, changed = await durable.changed_since(0)
    assert changed == []
    assert mark != 0
    assert (await durable.changed_since(mark))[1] == []


async def test_what_was_changed_is_told_whoever_changed_it(
    durable: DurableStore, another: DurableStore
) -> None:
    rotated, revoked, untouched = a_session(), a_session(type=SessionType.API), a_session()
    await created(durable, rotated, revoked, untouched)
    mark, _ = await another.changed_since(0)
    after = rotated.rotated(a_digest(), 10 * SECOND, NOON)
    await durable.replace(a_record(after), expected=1)
    await revoke(durable, Condition("ada", type=SessionType.API))
    _, changed = await another.changed_since(mark)
    assert {s.id: s for s in changed} == {
        rotated.id: after,
        revoked.id: revoked.revoked(NOON + SECOND),
    }


async def test_a_new_session_is_no_change(durable: DurableStore) -> None:
    mark, _ = await durable.changed_since(0)
    await created(durable, a_session())
    assert (await durable.changed_since(mark))[1] == []


async def test_a_lost_race_is_no_change(durable: DurableStore) -> None:
    session = a_session()
    await created(durable, session)
    mark, _ = await durable.changed_since(0)
    assert not await durable.replace(a_record(replace(session, version=5)), expected=4)
    assert (await durable.changed_since(mark))[1] == []


async def test_the_next_mark_tells_of_what_comes_next(durable: DurableStore) -> None:
    first, second = a_session(), a_session()
    await created(durable, first, second)
    mark, _ = await durable.changed_since(0)
    told: list[list[SessionId]] = []
    for session in (first, second):
        await durable.replace(a_record(session.revoked(NOON)), expected=1)
        mark, changed = await durable.changed_since(mark)
        told.append([s.id for s in changed])
    assert told == [[first.id], [second.id]]


async def test_the_last_changes_are_told_to_whoever_asks_for_them(durable: DurableStore) -> None:
    sessions = [a_session() for _ in range(4)]
    await created(durable, *sessions)
    assert await durable.last_changed(9) == []
    tombstones = [session.revoked(NOON) for session in sessions[:3]]
    for tombstone in tombstones:
        await durable.replace(a_record(tombstone), expected=1)
    assert await durable.last_changed(9) == tombstones[::-1]
    assert await durable.last_changed(2) == [tombstones[2], tombstones[1]]


async def test_whoever_asks_rarely_is_told_the_last_state_of_everything(
    durable: DurableStore,
) -> None:
    session = a_session()
    await created(durable, session)
    mark, _ = await durable.changed_since(0)
    for day in range(1, 4):
        extended = session.extended(NOON + timedelta(days=day), NOON)
        await durable.replace(a_record(extended), expected=session.version)
        session = extended
    assert (await durable.changed_since(mark))[1] == [session]


async def test_no_change_is_left_out_while_many_write(
    durable: DurableStore, another: DurableStore
) -> None:
    sessions = [a_session() for _ in range(60)]
    await created(durable, *sessions)
    mark, _ = await another.changed_since(0)
    writing = asyncio.gather(
        *(durable.replace(a_record(s.revoked(NOON)), expected=1) for s in sessions)
    )
    told: set[SessionId] = set()
    while not writing.done():
        mark, changed = await another.changed_since(mark)
        told |= {s.id for s in changed}
    _, changed = await another.changed_since(mark)
    assert told | {s.id for s in changed} == {s.id for s in sessions}


# --- Binding


async def test_a_session_stays_bound_whatever_becomes_of_it(durable: DurableStore) -> None:
    binding = Binding.of([("user_agent", bytes(range(8)))])
    session = a_session(binding=binding)
    await durable.create(a_record(session))
    rotated = session.rotated(a_digest(), SECOND, NOON)
    assert await durable.replace(a_record(rotated), expected=1)
    await durable.touch([Touch(session.id, NOON, 1)])
    copies = await durable.find_many([session.digest, rotated.digest])
    assert [copy.binding for copy in copies.values()] == [binding, binding]
    (tombstone,) = await revoke(durable, Condition("ada"))
    assert tombstone.binding == binding


# --- What cannot be read


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
async def test_a_row_that_cannot_be_read_is_an_error_and_not_an_absence(
    durable: DurableStore, database: Database, damage: str
) -> None:
    record, neighbour = a_record(), a_session()
    await durable.create(record)
    await created(durable, neighbour)
    try:
        await database.execute(f"UPDATE sessions SET {damage} WHERE id = '{record.session.id}'")
    except Exception:  # noqa: BLE001  # any driver's
        return  # better still: the database refuses to be damaged so
    with pytest.raises(UnreadableRecord):
        await durable.get(record.session.id)
    with pytest.raises(UnreadableRecord):
        await durable.list_where(ADAS, limit=10)
    assert await durable.find(neighbour.digest) == neighbour


async def test_an_unknown_type_cannot_be_found(durable: DurableStore, database: Database) -> None:
    session, neighbour = a_session(), a_session()
    await created(durable, session, neighbour)
    await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{session.id}'")
    with pytest.raises(UnreadableRecord, match=session.id):
        await durable.find(session.digest)
    with pytest.raises(UnreadableRecord):
        await durable.find_many([neighbour.digest, session.digest])
    assert await durable.find(neighbour.digest) == neighbour


async def test_a_row_that_cannot_be_read_holds_up_nobody_elses_news(
    durable: DurableStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = a_session(), a_session()
    await created(durable, broken, sound)
    mark, _ = await durable.changed_since(0)
    await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{broken.id}'")
    assert [s.id for s in await revoke(durable, Condition("ada"))] == [sound.id]
    _, changed = await durable.changed_since(mark)
    assert [s.id for s in changed] == [sound.id]
    assert broken.id in caplog.text


# --- Outages

CALLS: dict[str, Callable[[DurableStore], Awaitable[Any]]] = {
    "find": lambda store: store.find(a_digest()),
    "find_many": lambda store: store.find_many([a_digest(), a_digest()]),
    "get": lambda store: store.get(an_id()),
    "create": lambda store: store.create(a_record()),
    "list": lambda store: store.list_where(ADAS, limit=10),
    "replace": lambda store: store.replace(a_record(), expected=1),
    "revoke": lambda store: revoke(store, Condition("ada")),
    "mark": lambda store: store.changed_since(0),
    "last changed": lambda store: store.last_changed(10),
    "ping": lambda store: store.ping(),
}


async def test_an_outage_is_never_an_absence_and_it_passes(
    survivor: DurableStore, mortal: Mortal
) -> None:
    session = a_session()
    await created(survivor, session)
    mortal.fail()
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable) as outage:
            await call(survivor)
        assert outage.value.store in ("sqlite", "postgres")
    with pytest.raises(StoreUnavailable):
        await survivor.find(session.digest)
    mortal.heal()
    assert await survivor.find(session.digest) == session
    for call in CALLS.values():
        await call(survivor)


async def test_a_change_made_after_an_outage_is_told(
    survivor: DurableStore, mortal: Mortal
) -> None:
    await created(survivor, a_session())
    mark, _ = await survivor.changed_since(0)
    mortal.fail()
    with pytest.raises(StoreUnavailable):
        await survivor.changed_since(mark)
    mortal.heal()
    tombstones = await revoke(survivor, Condition("ada"))
    assert (await survivor.changed_since(mark))[1] == tombstones


async def test_whoever_asks_a_closed_store_is_told_that_it_cannot_answer(
    durable: DurableStore,
) -> None:
    await durable.close()
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable):
            await call(durable)


async def test_closing_twice_is_closing_once(durable: DurableStore) -> None:
    await durable.close()
    await durable.close()


async def test_callers_that_leave_do_the_store_no_harm(durable: DurableStore) -> None:
    session = a_session()
    await created(durable, session)
    for ticks in range(12):
        leaving = [asyncio.ensure_future(call(durable)) for call in CALLS.values() for _ in "123"]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    assert (await durable.find(session.digest)) is not None
    for call in CALLS.values():
        await call(durable)


# --- touch


async def test_a_touch_is_noted_and_nothing_else_changes(durable: DurableStore) -> None:
    record = a_record(a_session(), access_count=3)
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    await durable.touch([Touch(record.session.id, seen_at, 4)])

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session == record.session.touched(seen_at)
    assert stored.details == replace(record.details, access_count=7)


async def test_a_touch_never_goes_back_in_time(durable: DurableStore) -> None:
    record = a_record(a_session(last_seen_at=NOON + timedelta(minutes=9)))
    await durable.create(record)

    await durable.touch([Touch(record.session.id, NOON + timedelta(minutes=5), 1)])

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session.last_seen_at == NOON + timedelta(minutes=9)
    assert stored.details.access_count == 1


@pytest.mark.parametrize(
    "ended",
    [
        a_session().revoked(NOON),
        a_session(expires_at=NOON + timedelta(minutes=1)),
    ],
    ids=["revoked", "expired"],
)
async def test_a_touch_revives_nobody(durable: DurableStore, ended: Session) -> None:
    record = a_record(replace(ended, id=an_id(), digest=a_digest()))
    await durable.create(record)

    await durable.touch([Touch(record.session.id, NOON + timedelta(minutes=1), 1)])

    assert await durable.get(record.session.id) == record


async def test_a_touch_that_comes_late_undoes_an_idle_time_that_was_none(
    durable: DurableStore,
) -> None:
    record = a_record(a_session(idle_timeout=timedelta(minutes=1)))
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    [touched] = await durable.touch([Touch(record.session.id, seen_at, 1)])

    assert touched.last_seen_at == seen_at
    assert await durable.find(record.session.digest) == touched


async def test_generations_only_grow(durable: DurableStore) -> None:
    first = await durable.generation()

    second = await durable.next_generation(first)
    assert second > first
    assert await durable.generation() == second


async def test_of_those_who_end_the_same_generation_one_begins_the_next(
    durable: DurableStore, another: DurableStore
) -> None:
    first = await durable.generation()

    begun = await asyncio.gather(*(s.next_generation(first) for s in (durable, another) * 5))

    assert len(set(begun)) == 1
    assert begun[0] > first
    assert await durable.generation() == begun[0]


async def test_a_touch_of_nobody_is_passed_over(durable: DurableStore) -> None:
    record = a_record()
    await durable.create(record)
    seen_at = NOON + timedelta(minutes=5)

    await durable.touch([Touch(an_id(), seen_at, 1), Touch(record.session.id, seen_at, 1)])

    stored = await durable.get(record.session.id)
    assert stored is not None
    assert stored.session.last_seen_at == seen_at


async def test_crosswise_batches_of_touches_do_not_block_each_other(durable: DurableStore) -> None:
    ids = [an_id() for _ in range(40)]
    for id_ in ids:
        await durable.create(a_record(a_session(id=id_)))
    seen_at = NOON + timedelta(minutes=5)
    batches = [ids, ids[::-1], ids[20:] + ids[:20]] * 4

    await asyncio.gather(
        *(durable.touch([Touch(id_, seen_at, 1) for id_ in batch]) for batch in batches)
    )

    records = [await durable.get(id_) for id_ in ids]
    assert {record.details.access_count for record in records if record} == {12}


async def test_a_touch_is_no_change_to_catch_up_with(durable: DurableStore) -> None:
    record = a_record()
    await durable.create(record)
    mark, _ = await durable.changed_since(0)

    await durable.touch([Touch(record.session.id, NOON + timedelta(minutes=5), 1)])

    _, changed = await durable.changed_since(mark)
    assert changed == []


# --- rotated-out digests


async def test_every_digest_that_ever_led_here_names_its_session(durable: DurableStore) -> None:
    session = a_session()
    await durable.create(a_record(session))
    digests = [session.digest]
    for _ in range(4):
        version = session.version
        session = session.rotated(a_digest(), SECOND, NOON)
        assert await durable.replace(a_record(session), expected=version)
        digests.append(session.digest)

    for digest in digests:
        assert await durable.find_by_any_digest(digest) == a_record(session)
    assert await durable.find_by_any_digest(a_digest()) is None


async def test_of_a_revoked_session_every_digest_is_refused_as_revoked(
    durable: DurableStore,
) -> None:
    first = a_session()
    second = first.rotated(a_digest(), SECOND, NOON)
    third = second.rotated(a_digest(), SECOND, NOON)
    last = third.revoked(NOON)
    await durable.create(a_record(first))
    for session, version in ((second, 1), (third, 2), (last, 3)):
        await durable.replace(a_record(session), expected=version)

    found = await durable.find_many([first.digest, second.digest, third.digest])

    assert {judge(copy, NOON) for copy in found.values()} == {Deny(Reason.REVOKED)}
    assert len(found) == 3


# --- purge


async def test_only_what_expired_before_is_purged_and_the_oldest_first(
    durable: DurableStore,
) -> None:
    records = [a_record(a_session(expires_at=NOON + n * SECOND)) for n in range(1, 6)]
    for record in records:
        await durable.create(record)

    assert await durable.purge(NOON + 4 * SECOND, limit=2) == 2
    assert await durable.purge(NOON + 4 * SECOND, limit=2) == 1

    kept = [await durable.get(record.session.id) for record in records]
    assert kept == [None, None, None, *records[3:]]


async def test_a_revoked_session_is_kept_until_its_deadline(durable: DurableStore) -> None:
    record = a_record(a_session().revoked(NOON))
    await durable.create(record)

    assert await durable.purge(NOON + timedelta(hours=11), limit=9) == 0

    assert await durable.get(record.session.id) == record


async def test_with_a_session_its_rotated_out_digests_go(durable: DurableStore) -> None:
    session = a_session()
    rotated = session.rotated(a_digest(), SECOND, NOON)
    await durable.create(a_record(session))
    await durable.replace(a_record(rotated), expected=1)

    assert await durable.purge(NOON + timedelta(days=1), limit=9) == 1

    assert await durable.find_by_any_digest(session.digest) is None
    assert await durable.find_many([session.digest, rotated.digest]) == {}


async def test_two_who_purge_at_once_delete_each_session_once(durable: DurableStore) -> None:
    for _ in range(40):
        await durable.create(a_record(a_session(expires_at=NOON + SECOND)))

    async def purge_all() -> int:
        return sum([await durable.purge(NOON + 2 * SECOND, limit=5) for _ in range(20)])

    assert sum(await asyncio.gather(purge_all(), purge_all(), purge_all())) == 40
