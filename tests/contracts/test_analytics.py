"""The contract of analytics stores: each creation and each end is count_all once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.analytics import ActiveSessions, Cause, Peak, Sample, Totals
from sidegate.core.condition import Condition
from sidegate.core.durations import BOUNDS, Durations
from sidegate.core.errors import LimitReached, SessionExists, StoreUnavailable, UnreadableRecord
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import AnalyticsStore, DurableStore, Touch
from sidegate.core.session import Session, SessionDetails, SessionRecord
from sidegate.core.session_type import SessionType
from tests.contracts.values import build_digest, build_record, build_session
from tests.support.clock import NOON
from tests.support.databases import Database, StoppableDatabase
from tests.support.replace import replace

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEB, MOBILE, SSO = SessionType.WEB, SessionType.MOBILE, SessionType.SSO
ACTOR = Actor("key:ops", "192.0.2.99")


@pytest.fixture
async def counts(database: Database, durable: DurableStore) -> AsyncIterator[AnalyticsStore]:
    del durable  # opened first
    async with database.analytics() as counts:
        yield counts


async def create(durable: DurableStore, *, at: datetime = NOON, **changes: Any) -> Session:
    session = build_session(at=at, **changes)
    await durable.create(build_record(session))
    return session


async def revoke(
    durable: DurableStore,
    session: Session,
    *,
    by: Actor = ACTOR,
    reason: str = "bye",
    after: timedelta,
) -> None:
    condition = Condition(session_id=session.id)
    at = session.created_at + after
    assert await durable.revoke_where(condition, at=at, by=by, reason=reason, limit=1)


async def count_all(counts: AnalyticsStore, at: datetime = NOON) -> Totals:
    """Return the totals with all ends up to then recorded and added."""
    await counts.record_expired(at, limit=1000)
    await counts.add_to_totals(limit=1000)
    return await counts.read_totals()


def find_bucket(duration: timedelta) -> int:
    return sum(bound * timedelta(microseconds=1) <= duration for bound in BOUNDS)


def build_durations(*spans: timedelta) -> Durations:
    """Return the durations of sessions that lasted so long."""
    buckets = [find_bucket(span) for span in spans]
    total = sum(spans, timedelta(0))
    return Durations(
        {each: buckets.count(each) for each in buckets}, total // timedelta(microseconds=1)
    )


# --- Creations


async def test_empty_store_counts_nothing(counts: AnalyticsStore) -> None:
    assert await count_all(counts) == Totals()
    assert await counts.count_active(NOON) == ActiveSessions()
    assert await counts.read_last_sample() is None
    assert await counts.read_window(NOON - DAY, NOON) is None


async def test_creations_are_counted_by_type(durable: DurableStore, counts: AnalyticsStore) -> None:
    for type_ in (WEB, WEB, MOBILE):
        await create(durable, type=type_)
    assert (await count_all(counts)).created == {WEB: 2, MOBILE: 1}


async def test_failed_create_is_not_counted(durable: DurableStore, counts: AnalyticsStore) -> None:
    session = await create(durable)
    with pytest.raises(SessionExists):
        await durable.create(build_record(session))
    with pytest.raises(LimitReached):
        await durable.create(build_record(), limit=Limit(1, AtLimit.REFUSE))
    assert (await count_all(counts)).created == {WEB: 1}


async def test_refresh_migration_and_touch_are_not_counted(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    rotated = session.rotated(build_digest(), SECOND, at=NOON)
    await durable.replace(SessionRecord(rotated), expected=1)
    await durable.replace(SessionRecord(rotated.migrated(build_digest(), NOON)), expected=2)
    await durable.touch([Touch(session.id, NOON + SECOND, 1)])
    assert await count_all(counts) == Totals(created={WEB: 1})


# --- Revocations


@pytest.mark.parametrize(
    ("by", "reason", "cause"),
    [
        (ACTOR, "bye", Cause.REVOKED),
        (ACTOR, "limit", Cause.REVOKED),
        (ACTOR, "logout", Cause.REVOKED),
        (Actor("cli:root"), "idle", Cause.REVOKED),
        (SIDEGATE, "limit", Cause.LIMIT),
        (SIDEGATE, "token_reuse", Cause.TOKEN_REUSE),
        (SIDEGATE, "binding", Cause.BINDING),
        (SIDEGATE, "something new", Cause.REVOKED),
        (Actor("provider:https://id.example"), "logout", Cause.LOGOUT),
        (Actor("provider:https://id.example"), "bye", Cause.REVOKED),
    ],
)
async def test_cause_of_an_end_depends_on_actor_and_reason(
    durable: DurableStore, counts: AnalyticsStore, by: Actor, reason: str, cause: Cause
) -> None:
    await revoke(durable, await create(durable), by=by, reason=reason, after=MINUTE)
    assert (await count_all(counts)).ended == {(WEB, cause): 1}


async def test_eviction_is_counted_as_limit(durable: DurableStore, counts: AnalyticsStore) -> None:
    await create(durable)
    newer = build_session(at=NOON + MINUTE)
    await durable.create(build_record(newer), limit=Limit(1, AtLimit.EVICT_OLDEST))
    totals = await count_all(counts, NOON + MINUTE)
    assert totals == Totals({WEB: 2}, {(WEB, Cause.LIMIT): 1}, build_durations(MINUTE))


async def test_token_reuse_is_counted_as_such(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    details = SessionDetails(
        revoked_by=SIDEGATE.name,
        revoked_reason="token_reuse",
        change=Change(NOON + HOUR, SIDEGATE),
    )
    await durable.replace(SessionRecord(session.revoked(NOON + MINUTE), details), expected=1)
    assert (await count_all(counts)).ended == {(WEB, Cause.TOKEN_REUSE): 1}


async def test_second_revocation_is_not_counted(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    await revoke(durable, session, after=MINUTE)
    again = Condition(session_id=session.id)
    await durable.revoke_where(again, at=NOON + HOUR, by=ACTOR, reason="bye", limit=1)
    assert await count_all(counts, NOON + 2 * DAY) == Totals(
        {WEB: 1}, {(WEB, Cause.REVOKED): 1}, build_durations(MINUTE)
    )


async def test_end_of_a_migrated_session_counts_under_its_new_type(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    migrated = session.migrated(build_digest(), NOON)
    await durable.replace(SessionRecord(migrated), expected=1)
    await revoke(durable, migrated, after=MINUTE)
    assert (await count_all(counts)).ended == {(SSO, Cause.REVOKED): 1}


async def test_session_created_as_revoked_counts_as_created_and_ended(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await durable.create(build_record(build_session().revoked(NOON + MINUTE)))
    assert await count_all(counts, NOON + 2 * DAY) == Totals(
        {WEB: 1}, {(WEB, Cause.REVOKED): 1}, build_durations(MINUTE)
    )


# --- Expiry and idle timeout


async def test_session_ends_exactly_at_its_deadline(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable, expires_at=NOON + HOUR, idle_timeout=None)
    before = await count_all(counts, NOON + HOUR - timedelta(microseconds=1))
    assert before.ended == {}
    assert await count_all(counts, NOON + HOUR) == Totals(
        {WEB: 1}, {(WEB, Cause.EXPIRED): 1}, build_durations(HOUR)
    )


async def test_session_ends_after_its_idle_timeout(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable, last_seen_at=NOON + MINUTE, idle_timeout=HOUR)
    assert (await count_all(counts, NOON + HOUR)).ended == {}
    assert await count_all(counts, NOON + HOUR + MINUTE) == Totals(
        {WEB: 1}, {(WEB, Cause.IDLE): 1}, build_durations(HOUR + MINUTE)
    )


async def test_earlier_deadline_is_the_cause(durable: DurableStore, counts: AnalyticsStore) -> None:
    await create(durable, expires_at=NOON + HOUR, idle_timeout=MINUTE)
    await create(durable, expires_at=NOON + MINUTE, idle_timeout=HOUR, type=MOBILE)
    totals = await count_all(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.IDLE): 1, (MOBILE, Cause.EXPIRED): 1}
    assert totals.durations == build_durations(MINUTE, MINUTE)


async def test_repeated_recording_counts_an_end_once(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable)
    found = [await count_all(counts, NOON + days * DAY) for days in range(1, 4)]
    assert [totals.ended for totals in found] == [{(WEB, Cause.IDLE): 1}] * 3


async def test_purge_counts_an_unrecorded_end(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable, expires_at=NOON + HOUR, idle_timeout=None)
    await create(durable, expires_at=NOON + HOUR, idle_timeout=MINUTE)
    assert await durable.purge(NOON + DAY, limit=9) == 2
    totals = await count_all(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.EXPIRED): 1, (WEB, Cause.IDLE): 1}
    assert totals.durations == build_durations(HOUR, MINUTE)


async def test_purge_does_not_count_an_end_twice(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable)
    await revoke(durable, await create(durable, type=MOBILE), after=MINUTE)
    before = await count_all(counts, NOON + DAY)
    assert await durable.purge(NOON + DAY, limit=9) == 2
    assert await count_all(counts, NOON + DAY) == before


async def test_revocation_after_a_recorded_end_is_not_counted(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    await count_all(counts, NOON + HOUR)
    await revoke(durable, session, after=2 * HOUR)
    totals = await count_all(counts, NOON + 2 * DAY)
    assert totals == Totals(
        {WEB: 1}, {(WEB, Cause.IDLE): 1}, build_durations(timedelta(minutes=30))
    )


async def test_revocation_with_a_late_last_seen_retracts_no_end(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    before = await count_all(counts, NOON + HOUR)
    seen = replace(session, last_seen_at=NOON + MINUTE).revoked(NOON + MINUTE)
    await durable.replace(SessionRecord(seen), expected=1)
    assert await count_all(counts, NOON + DAY) == before


async def test_late_touch_retracts_the_end(durable: DurableStore, counts: AnalyticsStore) -> None:
    session = await create(durable)
    await count_all(counts, NOON + 31 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 29 * MINUTE, 1)])
    totals = await count_all(counts, NOON + 32 * MINUTE)
    assert totals == Totals({WEB: 1}, {(WEB, Cause.IDLE): 0}, Durations())


async def test_session_with_a_retracted_end_ends_once(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    await count_all(counts, NOON + 31 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 29 * MINUTE, 1)])
    await revoke(durable, session, after=40 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 41 * MINUTE, 1)])
    totals = await count_all(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.IDLE): 0, (WEB, Cause.REVOKED): 1}
    assert totals.durations == build_durations(40 * MINUTE)


async def test_late_extension_retracts_the_end(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable, idle_timeout=None, expires_at=NOON + HOUR)
    await count_all(counts, NOON + HOUR)
    extended = session.extended(NOON + 2 * HOUR, NOON + HOUR - SECOND)
    await durable.replace(SessionRecord(extended), expected=1)
    assert (await count_all(counts, NOON + HOUR)).ended == {(WEB, Cause.EXPIRED): 0}
    assert (await count_all(counts, NOON + 2 * HOUR)).ended == {(WEB, Cause.EXPIRED): 1}


async def test_ends_recorded_by_a_fast_clock_are_retracted_by_touches(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    sessions = [await create(durable) for _ in range(3)]
    ahead = await count_all(counts, NOON + 300 * DAY)
    assert ahead.ended == {(WEB, Cause.IDLE): 3}
    assert await counts.count_active(NOON + MINUTE) == ActiveSessions({WEB: 3}, 1)
    await durable.touch([Touch(session.id, NOON + MINUTE, 1) for session in sessions])
    assert (await count_all(counts, NOON + MINUTE)).ended == {(WEB, Cause.IDLE): 0}


async def test_ends_are_recorded_in_batches(durable: DurableStore, counts: AnalyticsStore) -> None:
    for _ in range(5):
        await create(durable)
    recorded = [await counts.record_expired(NOON + DAY, limit=2) for _ in range(4)]
    assert recorded == [2, 2, 1, 0]


# --- Totals


async def test_events_are_added_in_batches(durable: DurableStore, counts: AnalyticsStore) -> None:
    for _ in range(3):
        await revoke(durable, await create(durable), after=MINUTE)
    added = [await counts.add_to_totals(limit=4) for _ in range(3)]
    assert added == [4, 2, 0]
    assert await counts.read_totals() == Totals(
        {WEB: 3}, {(WEB, Cause.REVOKED): 3}, build_durations(MINUTE, MINUTE, MINUTE)
    )


async def test_totals_accumulate(durable: DurableStore, counts: AnalyticsStore) -> None:
    await revoke(durable, await create(durable), after=MINUTE)
    await count_all(counts)
    await revoke(durable, await create(durable), after=HOUR)
    assert await count_all(counts) == Totals(
        {WEB: 2}, {(WEB, Cause.REVOKED): 2}, build_durations(MINUTE, HOUR)
    )


async def test_concurrent_runs_count_each_event_once(
    database: Database, durable: DurableStore, counts: AnalyticsStore
) -> None:
    for number in range(40):
        await create(durable, type=MOBILE if number % 3 else WEB)
    async with database.analytics() as other_counts:
        await asyncio.gather(
            *(
                each.record_expired(NOON + DAY, limit=15)
                for each in (counts, other_counts)
                for _ in range(4)
            ),
            *(each.add_to_totals(limit=15) for each in (counts, other_counts) for _ in range(4)),
        )
    totals = await count_all(counts, NOON + DAY)
    assert totals.created == {WEB: 14, MOBILE: 26}
    assert totals.ended == {(WEB, Cause.IDLE): 14, (MOBILE, Cause.IDLE): 26}
    assert sum(totals.durations.counts.values()) == 40


@pytest.mark.parametrize(
    "span",
    [
        timedelta(0),
        SECOND - timedelta(microseconds=1),
        SECOND,
        BOUNDS[77] * timedelta(microseconds=1),
        (BOUNDS[77] - 1) * timedelta(microseconds=1),
        3650 * DAY,
    ],
)
async def test_duration_is_counted_in_its_bucket(
    durable: DurableStore, counts: AnalyticsStore, span: timedelta
) -> None:
    session = await create(durable, expires_at=NOON + 3651 * DAY, idle_timeout=None)
    await revoke(durable, session, after=span)
    assert (await count_all(counts)).durations == build_durations(span)


async def test_end_before_the_creation_has_zero_duration(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await revoke(durable, await create(durable), after=-MINUTE)
    assert (await count_all(counts)).durations == build_durations(timedelta(0))


# --- Active sessions


async def test_active_sessions_count_by_type_and_users_once(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    for user_id, type_ in (("ada", WEB), ("ada", WEB), ("ada", MOBILE), ("bob", WEB)):
        await create(durable, user_id=user_id, type=type_)
    assert await counts.count_active(NOON) == ActiveSessions({WEB: 3, MOBILE: 1}, users=2)


async def test_ended_sessions_are_not_active(durable: DurableStore, counts: AnalyticsStore) -> None:
    await create(durable, user_id="idle", idle_timeout=MINUTE)
    await create(durable, user_id="expired", expires_at=NOON + MINUTE)
    await revoke(durable, await create(durable, user_id="revoked"), after=SECOND)
    await create(durable, user_id="active", idle_timeout=None, expires_at=NOON + 2 * MINUTE)
    assert await counts.count_active(NOON + MINUTE) == ActiveSessions({WEB: 1}, users=1)


# --- Reservation of samples


async def test_concurrent_reservations_succeed_once(
    database: Database, counts: AnalyticsStore
) -> None:
    async with database.analytics() as other_counts:
        calls = [
            each.reserve_sample(NOON, MINUTE) for each in (counts, other_counts) for _ in range(5)
        ]
        results = await asyncio.gather(*calls)
    assert sorted(results) == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("later", "due"),
    [
        (timedelta(0), False),
        (50 * SECOND, False),
        (54 * SECOND, True),  # slightly before the interval has passed
        (MINUTE, True),
        (DAY, True),
        (-SECOND, False),  # the clock of another instance
        (-MINUTE, False),
        (-MINUTE - SECOND, True),  # the clock was set back
        (-300 * DAY, True),
    ],
)
async def test_sample_is_due_after_the_interval(
    counts: AnalyticsStore, later: timedelta, due: bool
) -> None:
    assert await counts.reserve_sample(NOON, MINUTE)
    assert await counts.reserve_sample(NOON + later, MINUTE) is due


# --- Samples

FULL = Sample(
    NOON,
    ActiveSessions({WEB: 3, MOBILE: 2}, users=4),
    Totals({WEB: 9}, {(WEB, Cause.IDLE): 1, (SSO, Cause.LOGOUT): 5}, Durations({0: 1, 77: 5}, 123)),
)


def build_sample(at: datetime, active: int = 0) -> Sample:
    return Sample(at, ActiveSessions({WEB: active}, users=active), Totals({WEB: active}))


async def test_sample_is_read_back_exactly(counts: AnalyticsStore) -> None:
    await counts.save_sample(FULL)
    assert await counts.read_last_sample() == FULL


async def test_last_sample_is_the_one_saved_last(counts: AnalyticsStore) -> None:
    for minute in (1, 3, 2):  # the clock was set back
        await counts.save_sample(build_sample(NOON + minute * MINUTE))
    assert await counts.read_last_sample() == build_sample(NOON + 2 * MINUTE)


async def test_window_starts_with_the_last_sample_before_it(counts: AnalyticsStore) -> None:
    for minute in range(5):
        await counts.save_sample(build_sample(NOON + minute * MINUTE))
    between = NOON + 2 * MINUTE + SECOND
    window = await counts.read_window(between, NOON + 4 * MINUTE)
    assert window is not None
    assert window.first == build_sample(NOON + 2 * MINUTE)


async def test_window_without_a_sample_before_it_starts_with_the_first(
    counts: AnalyticsStore,
) -> None:
    for minute in range(3):
        await counts.save_sample(build_sample(NOON + minute * MINUTE))
    window = await counts.read_window(NOON - DAY, NOON + 2 * MINUTE)
    assert window is not None
    assert window.first == build_sample(NOON)


async def test_window_has_the_latest_of_its_highest_samples_as_peak(
    counts: AnalyticsStore,
) -> None:
    for minute, active in enumerate((9, 2, 5, 3, 5, 1, 8)):
        await counts.save_sample(build_sample(NOON + minute * MINUTE, active))
    window = await counts.read_window(NOON + MINUTE, NOON + 5 * MINUTE)
    assert window is not None
    assert window.peak == Peak(5, NOON + 4 * MINUTE)


async def test_oldest_samples_are_deleted_in_batches(counts: AnalyticsStore) -> None:
    for minute in range(5):
        await counts.save_sample(build_sample(NOON + minute * MINUTE))
    for expected in (2, 3, 3):
        await counts.delete_samples(NOON + 3 * MINUTE, limit=2)
        window = await counts.read_window(NOON - DAY, NOON + DAY)
        assert window is not None
        assert window.first == build_sample(NOON + expected * MINUTE)


# --- Errors


async def test_outage_raises_store_unavailable(
    stoppable: StoppableDatabase, stoppable_store: DurableStore
) -> None:
    await create(stoppable_store)
    async with stoppable.analytics() as counts:
        await counts.save_sample(FULL)
        stoppable.fail()
        for call in (
            counts.read_last_sample(),
            counts.read_totals(),
            counts.count_active(NOON),
            counts.add_to_totals(limit=1),
            counts.record_expired(NOON, limit=1),
            counts.reserve_sample(NOON, MINUTE),
            counts.read_window(NOON, NOON),
            counts.save_sample(FULL),
            counts.delete_samples(NOON, limit=1),
        ):
            with pytest.raises(StoreUnavailable):
                await call
        stoppable.recover()
        assert await counts.read_last_sample() == FULL
        assert (await count_all(counts)).created == {WEB: 1}


@pytest.mark.parametrize(
    "damage", ["totals = '{}'", "totals = 'null'", """by_type = '{"unknown": 1}'"""]
)
async def test_unreadable_sample_raises_an_error(
    database: Database, counts: AnalyticsStore, damage: str
) -> None:
    await counts.save_sample(FULL)
    await database.execute(f"UPDATE analytics_samples SET {damage}")
    with pytest.raises(UnreadableRecord):
        await counts.read_last_sample()
    with pytest.raises(UnreadableRecord):
        await counts.read_window(NOON, NOON)


async def test_active_sessions_of_an_unknown_type_raise_an_error(
    database: Database, durable: DurableStore, counts: AnalyticsStore
) -> None:
    await create(durable)
    await database.execute("UPDATE sessions SET type = 'hologram'")
    with pytest.raises(UnreadableRecord):
        await counts.count_active(NOON)


async def test_totals_with_an_unknown_cause_raise_an_error(
    database: Database, counts: AnalyticsStore
) -> None:
    await database.execute("INSERT INTO analytics_counts VALUES ('a new cause', 'web', 1)")
    with pytest.raises(UnreadableRecord):
        await counts.read_totals()


async def test_counting_does_not_change_sessions(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await create(durable)
    before = await durable.get(session.id)
    position = await durable.read_position()
    await count_all(counts, NOON + DAY)
    assert await durable.get(session.id) == before
    assert not (await durable.list_changes(position, limit=9)).has_changed
