"""What every durable store promises of what it counts: each beginning and each end, once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
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
from tests.contracts.values import a_digest, a_record, a_session
from tests.support.clock import NOON
from tests.support.databases import Database, Mortal

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEB, MOBILE, SSO = SessionType.WEB, SessionType.MOBILE, SessionType.SSO
OPS = Actor("key:ops", "192.0.2.99")
EVERYBODYS = Condition()


@pytest.fixture
async def counts(database: Database, durable: DurableStore) -> AsyncIterator[AnalyticsStore]:
    del durable  # it is to be there first
    async with database.analytics() as opened:
        yield opened


async def begin(durable: DurableStore, *, at: datetime = NOON, **changes: Any) -> Session:
    session = a_session(at=at, **changes)
    await durable.create(a_record(session))
    return session


async def revoke(
    durable: DurableStore,
    session: Session,
    *,
    by: Actor = OPS,
    reason: str = "bye",
    after: timedelta,
) -> None:
    condition = Condition(session_id=session.id)
    at = session.created_at + after
    assert await durable.revoke_where(condition, at=at, by=by, reason=reason, limit=1)


async def counted(counts: AnalyticsStore, at: datetime = NOON) -> Totals:
    """Return the totals once all that has ended by then is noted and added up."""
    await counts.note_ends(at, limit=1000)
    await counts.add_up(limit=1000)
    return await counts.totals()


def bucket(lasted: timedelta) -> int:
    return sum(bound * timedelta(microseconds=1) <= lasted for bound in BOUNDS)


def lasting(*spans: timedelta) -> Durations:
    """Return the durations of sessions that lasted so long."""
    buckets = [bucket(span) for span in spans]
    together = sum(spans, timedelta(0))
    return Durations(
        {each: buckets.count(each) for each in buckets}, together // timedelta(microseconds=1)
    )


# --- Beginnings


async def test_where_nothing_has_happened_nothing_is_counted(counts: AnalyticsStore) -> None:
    assert await counted(counts) == Totals()
    assert await counts.living(NOON) == ActiveSessions()
    assert await counts.last() is None
    assert await counts.window(NOON - DAY, NOON) is None


async def test_beginnings_are_counted_by_type(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    for type_ in (WEB, WEB, MOBILE):
        await begin(durable, type=type_)
    assert (await counted(counts)).created == {WEB: 2, MOBILE: 1}


async def test_what_did_not_begin_is_not_counted(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    with pytest.raises(SessionExists):
        await durable.create(a_record(session))
    with pytest.raises(LimitReached):
        await durable.create(a_record(), limit=Limit(1, AtLimit.REFUSE))
    assert (await counted(counts)).created == {WEB: 1}


async def test_refresh_migration_and_touch_are_no_beginning_and_no_end(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    rotated = session.rotated(a_digest(), SECOND, NOON)
    await durable.replace(SessionRecord(rotated), expected=1)
    await durable.replace(SessionRecord(rotated.migrated(a_digest(), NOON)), expected=2)
    await durable.touch([Touch(session.id, NOON + SECOND, 1)])
    assert await counted(counts) == Totals(created={WEB: 1})


# --- Ends on purpose


@pytest.mark.parametrize(
    ("by", "reason", "cause"),
    [
        (OPS, "bye", Cause.REVOKED),
        (OPS, "limit", Cause.REVOKED),
        (OPS, "logout", Cause.REVOKED),
        (Actor("cli:root"), "idle", Cause.REVOKED),
        (SIDEGATE, "limit", Cause.LIMIT),
        (SIDEGATE, "token_reuse", Cause.TOKEN_REUSE),
        (SIDEGATE, "binding", Cause.BINDING),
        (SIDEGATE, "something new", Cause.REVOKED),
        (Actor("provider:https://id.example"), "logout", Cause.LOGOUT),
        (Actor("provider:https://id.example"), "bye", Cause.REVOKED),
    ],
)
async def test_an_end_has_the_cause_of_who_brought_it_about_and_why(
    durable: DurableStore, counts: AnalyticsStore, by: Actor, reason: str, cause: Cause
) -> None:
    await revoke(durable, await begin(durable), by=by, reason=reason, after=MINUTE)
    assert (await counted(counts)).ended == {(WEB, cause): 1}


async def test_one_that_had_to_go_for_another_ended_for_the_limit(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable)
    newer = a_session(at=NOON + MINUTE)
    await durable.create(a_record(newer), limit=Limit(1, AtLimit.EVICT_OLDEST))
    totals = await counted(counts, NOON + MINUTE)
    assert totals == Totals({WEB: 2}, {(WEB, Cause.LIMIT): 1}, lasting(MINUTE))


async def test_a_stolen_token_ends_its_session_for_that(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    details = SessionDetails(
        revoked_by=SIDEGATE.name,
        revoked_reason="token_reuse",
        change=Change(NOON + HOUR, SIDEGATE),
    )
    await durable.replace(SessionRecord(session.revoked(NOON + MINUTE), details), expected=1)
    assert (await counted(counts)).ended == {(WEB, Cause.TOKEN_REUSE): 1}


async def test_a_session_is_revoked_once(durable: DurableStore, counts: AnalyticsStore) -> None:
    session = await begin(durable)
    await revoke(durable, session, after=MINUTE)
    again = Condition(session_id=session.id)
    await durable.revoke_where(again, at=NOON + HOUR, by=OPS, reason="bye", limit=1)
    assert await counted(counts, NOON + 2 * DAY) == Totals(
        {WEB: 1}, {(WEB, Cause.REVOKED): 1}, lasting(MINUTE)
    )


async def test_a_migrated_session_ends_as_what_it_has_become(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    migrated = session.migrated(a_digest(), NOON)
    await durable.replace(SessionRecord(migrated), expected=1)
    await revoke(durable, migrated, after=MINUTE)
    assert (await counted(counts)).ended == {(SSO, Cause.REVOKED): 1}


async def test_one_that_is_stored_when_it_has_ended_has_begun_and_ended(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await durable.create(a_record(a_session().revoked(NOON + MINUTE)))
    assert await counted(counts, NOON + 2 * DAY) == Totals(
        {WEB: 1}, {(WEB, Cause.REVOKED): 1}, lasting(MINUTE)
    )


# --- Ends by themselves


async def test_a_deadline_is_the_first_moment_of_the_end(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable, expires_at=NOON + HOUR, idle_timeout=None)
    before = await counted(counts, NOON + HOUR - timedelta(microseconds=1))
    assert before.ended == {}
    assert await counted(counts, NOON + HOUR) == Totals(
        {WEB: 1}, {(WEB, Cause.EXPIRED): 1}, lasting(HOUR)
    )


async def test_silence_ends_a_session_when_it_is_too_long(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable, last_seen_at=NOON + MINUTE, idle_timeout=HOUR)
    assert (await counted(counts, NOON + HOUR)).ended == {}
    assert await counted(counts, NOON + HOUR + MINUTE) == Totals(
        {WEB: 1}, {(WEB, Cause.IDLE): 1}, lasting(HOUR + MINUTE)
    )


async def test_of_two_deadlines_the_earlier_one_is_the_cause(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable, expires_at=NOON + HOUR, idle_timeout=MINUTE)
    await begin(durable, expires_at=NOON + MINUTE, idle_timeout=HOUR, type=MOBILE)
    totals = await counted(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.IDLE): 1, (MOBILE, Cause.EXPIRED): 1}
    assert totals.durations == lasting(MINUTE, MINUTE)


async def test_an_end_is_counted_once_however_often_it_is_looked_for(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable)
    found = [await counted(counts, NOON + days * DAY) for days in range(1, 4)]
    assert [totals.ended for totals in found] == [{(WEB, Cause.IDLE): 1}] * 3


async def test_the_end_of_one_that_was_deleted_before_it_was_noted_is_counted(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable, expires_at=NOON + HOUR, idle_timeout=None)
    await begin(durable, expires_at=NOON + HOUR, idle_timeout=MINUTE)
    assert await durable.purge(NOON + DAY, limit=9) == 2
    totals = await counted(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.EXPIRED): 1, (WEB, Cause.IDLE): 1}
    assert totals.durations == lasting(HOUR, MINUTE)


async def test_deletion_counts_nothing_twice(durable: DurableStore, counts: AnalyticsStore) -> None:
    await begin(durable)
    await revoke(durable, await begin(durable, type=MOBILE), after=MINUTE)
    before = await counted(counts, NOON + DAY)
    assert await durable.purge(NOON + DAY, limit=9) == 2
    assert await counted(counts, NOON + DAY) == before


async def test_one_that_had_ended_by_itself_does_not_end_again_by_revocation(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    await counted(counts, NOON + HOUR)
    await revoke(durable, session, after=2 * HOUR)
    totals = await counted(counts, NOON + 2 * DAY)
    assert totals == Totals({WEB: 1}, {(WEB, Cause.IDLE): 1}, lasting(timedelta(minutes=30)))


async def test_a_revocation_that_comes_with_having_been_seen_late_takes_no_end_back(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    before = await counted(counts, NOON + HOUR)
    seen = replace(session, last_seen_at=NOON + MINUTE).revoked(NOON + MINUTE)
    await durable.replace(SessionRecord(seen), expected=1)
    assert await counted(counts, NOON + DAY) == before


async def test_one_that_was_seen_in_time_and_told_late_has_not_ended(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    await counted(counts, NOON + 31 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 29 * MINUTE, 1)])
    totals = await counted(counts, NOON + 32 * MINUTE)
    assert totals == Totals({WEB: 1}, {(WEB, Cause.IDLE): 0}, Durations())


async def test_one_whose_end_was_taken_back_ends_once(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable)
    await counted(counts, NOON + 31 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 29 * MINUTE, 1)])
    await revoke(durable, session, after=40 * MINUTE)
    await durable.touch([Touch(session.id, NOON + 41 * MINUTE, 1)])
    totals = await counted(counts, NOON + DAY)
    assert totals.ended == {(WEB, Cause.IDLE): 0, (WEB, Cause.REVOKED): 1}
    assert totals.durations == lasting(40 * MINUTE)


async def test_a_deadline_that_was_extended_late_takes_the_end_back(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    session = await begin(durable, idle_timeout=None, expires_at=NOON + HOUR)
    await counted(counts, NOON + HOUR)
    extended = session.extended(NOON + 2 * HOUR, NOON + HOUR - SECOND)
    await durable.replace(SessionRecord(extended), expected=1)
    assert (await counted(counts, NOON + HOUR)).ended == {(WEB, Cause.EXPIRED): 0}
    assert (await counted(counts, NOON + 2 * HOUR)).ended == {(WEB, Cause.EXPIRED): 1}


async def test_a_clock_that_was_ahead_is_forgiven_as_sessions_are_seen(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    sessions = [await begin(durable) for _ in range(3)]
    ahead = await counted(counts, NOON + 300 * DAY)
    assert ahead.ended == {(WEB, Cause.IDLE): 3}
    assert await counts.living(NOON + MINUTE) == ActiveSessions({WEB: 3}, 1)
    await durable.touch([Touch(session.id, NOON + MINUTE, 1) for session in sessions])
    assert (await counted(counts, NOON + MINUTE)).ended == {(WEB, Cause.IDLE): 0}


async def test_ends_are_noted_a_batch_at_a_time(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    for _ in range(5):
        await begin(durable)
    noted = [await counts.note_ends(NOON + DAY, limit=2) for _ in range(4)]
    assert noted == [2, 2, 1, 0]


# --- Adding up


async def test_all_is_added_up_a_batch_at_a_time(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    for _ in range(3):
        await revoke(durable, await begin(durable), after=MINUTE)
    added = [await counts.add_up(limit=4) for _ in range(3)]
    assert added == [4, 2, 0]
    assert await counts.totals() == Totals(
        {WEB: 3}, {(WEB, Cause.REVOKED): 3}, lasting(MINUTE, MINUTE, MINUTE)
    )


async def test_totals_grow(durable: DurableStore, counts: AnalyticsStore) -> None:
    await revoke(durable, await begin(durable), after=MINUTE)
    await counted(counts)
    await revoke(durable, await begin(durable), after=HOUR)
    assert await counted(counts) == Totals(
        {WEB: 2}, {(WEB, Cause.REVOKED): 2}, lasting(MINUTE, HOUR)
    )


async def test_whoever_counts_at_the_same_time_counts_each_once(
    database: Database, durable: DurableStore, counts: AnalyticsStore
) -> None:
    for number in range(40):
        await begin(durable, type=MOBILE if number % 3 else WEB)
    async with database.analytics() as another:
        await asyncio.gather(
            *(each.note_ends(NOON + DAY, limit=15) for each in (counts, another) for _ in range(4)),
            *(each.add_up(limit=15) for each in (counts, another) for _ in range(4)),
        )
    totals = await counted(counts, NOON + DAY)
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
async def test_every_duration_has_its_bucket(
    durable: DurableStore, counts: AnalyticsStore, span: timedelta
) -> None:
    session = await begin(durable, expires_at=NOON + 3651 * DAY, idle_timeout=None)
    await revoke(durable, session, after=span)
    assert (await counted(counts)).durations == lasting(span)


async def test_an_end_before_the_beginning_lasted_no_time(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await revoke(durable, await begin(durable), after=-MINUTE)
    assert (await counted(counts)).durations == lasting(timedelta(0))


# --- The living


async def test_the_active_are_counted_by_type_and_their_users_once(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    for user_id, type_ in (("ada", WEB), ("ada", WEB), ("ada", MOBILE), ("bob", WEB)):
        await begin(durable, user_id=user_id, type=type_)
    assert await counts.living(NOON) == ActiveSessions({WEB: 3, MOBILE: 1}, users=2)


async def test_whoever_has_ended_is_not_among_the_living(
    durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable, user_id="idle", idle_timeout=MINUTE)
    await begin(durable, user_id="expired", expires_at=NOON + MINUTE)
    await revoke(durable, await begin(durable, user_id="revoked"), after=SECOND)
    await begin(durable, user_id="alive", idle_timeout=None, expires_at=NOON + 2 * MINUTE)
    assert await counts.living(NOON + MINUTE) == ActiveSessions({WEB: 1}, users=1)


# --- Whose turn it is


async def test_one_of_all_who_ask_takes_the_sample(
    database: Database, counts: AnalyticsStore
) -> None:
    async with database.analytics() as another:
        asked = [each.take_turn(NOON, MINUTE) for each in (counts, another) for _ in range(5)]
        answers = await asyncio.gather(*asked)
    assert sorted(answers) == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("later", "due"),
    [
        (timedelta(0), False),
        (50 * SECOND, False),
        (54 * SECOND, True),  # woken a little early
        (MINUTE, True),
        (DAY, True),
        (-SECOND, False),  # another instance's clock
        (-MINUTE, False),
        (-MINUTE - SECOND, True),  # the clock was put back
        (-300 * DAY, True),
    ],
)
async def test_a_sample_is_due_after_an_interval(
    counts: AnalyticsStore, later: timedelta, due: bool
) -> None:
    assert await counts.take_turn(NOON, MINUTE)
    assert await counts.take_turn(NOON + later, MINUTE) is due


# --- Samples

FULL = Sample(
    NOON,
    ActiveSessions({WEB: 3, MOBILE: 2}, users=4),
    Totals({WEB: 9}, {(WEB, Cause.IDLE): 1, (SSO, Cause.LOGOUT): 5}, Durations({0: 1, 77: 5}, 123)),
)


def a_sample(at: datetime, active: int = 0) -> Sample:
    return Sample(at, ActiveSessions({WEB: active}, users=active), Totals({WEB: active}))


async def test_a_sample_is_kept_as_it_is(counts: AnalyticsStore) -> None:
    await counts.keep(FULL)
    assert await counts.last() == FULL


async def test_the_last_sample_is_the_one_that_was_taken_last(counts: AnalyticsStore) -> None:
    for minute in (1, 3, 2):  # a clock was put back
        await counts.keep(a_sample(NOON + minute * MINUTE))
    assert await counts.last() == a_sample(NOON + 2 * MINUTE)


async def test_a_window_begins_with_the_last_sample_before_it(counts: AnalyticsStore) -> None:
    for minute in range(5):
        await counts.keep(a_sample(NOON + minute * MINUTE))
    between = NOON + 2 * MINUTE + SECOND
    window = await counts.window(between, NOON + 4 * MINUTE)
    assert window is not None
    assert window.first == a_sample(NOON + 2 * MINUTE)


async def test_a_window_with_no_sample_before_it_begins_with_the_first(
    counts: AnalyticsStore,
) -> None:
    for minute in range(3):
        await counts.keep(a_sample(NOON + minute * MINUTE))
    window = await counts.window(NOON - DAY, NOON + 2 * MINUTE)
    assert window is not None
    assert window.first == a_sample(NOON)


async def test_a_window_has_the_peak_between_its_ends_and_the_latest_of_equals(
    counts: AnalyticsStore,
) -> None:
    for minute, active in enumerate((9, 2, 5, 3, 5, 1, 8)):
        await counts.keep(a_sample(NOON + minute * MINUTE, active))
    window = await counts.window(NOON + MINUTE, NOON + 5 * MINUTE)
    assert window is not None
    assert window.peak == Peak(5, NOON + 4 * MINUTE)


async def test_the_oldest_samples_are_forgotten_a_few_at_a_time(counts: AnalyticsStore) -> None:
    for minute in range(5):
        await counts.keep(a_sample(NOON + minute * MINUTE))
    for expected in (2, 3, 3):
        await counts.forget(NOON + 3 * MINUTE, limit=2)
        window = await counts.window(NOON - DAY, NOON + DAY)
        assert window is not None
        assert window.first == a_sample(NOON + expected * MINUTE)


# --- Trouble


async def test_an_outage_is_no_absence(mortal: Mortal, survivor: DurableStore) -> None:
    await begin(survivor)
    async with mortal.analytics() as counts:
        await counts.keep(FULL)
        mortal.fail()
        for ask in (
            counts.last(),
            counts.totals(),
            counts.living(NOON),
            counts.add_up(limit=1),
            counts.note_ends(NOON, limit=1),
            counts.take_turn(NOON, MINUTE),
            counts.window(NOON, NOON),
            counts.keep(FULL),
            counts.forget(NOON, limit=1),
        ):
            with pytest.raises(StoreUnavailable):
                await ask
        mortal.heal()
        assert await counts.last() == FULL
        assert (await counted(counts)).created == {WEB: 1}


@pytest.mark.parametrize(
    "damage", ["totals = '{}'", "totals = 'null'", """by_type = '{"unheard of": 1}'"""]
)
async def test_a_sample_that_cannot_be_read_is_no_absence(
    database: Database, counts: AnalyticsStore, damage: str
) -> None:
    await counts.keep(FULL)
    await database.execute(f"UPDATE analytics_samples SET {damage}")
    with pytest.raises(UnreadableRecord):
        await counts.last()
    with pytest.raises(UnreadableRecord):
        await counts.window(NOON, NOON)


async def test_sessions_of_a_newer_version_are_not_left_out(
    database: Database, durable: DurableStore, counts: AnalyticsStore
) -> None:
    await begin(durable)
    await database.execute("UPDATE sessions SET type = 'hologram'")
    with pytest.raises(UnreadableRecord):
        await counts.living(NOON)


async def test_totals_of_a_newer_version_are_no_absence(
    database: Database, counts: AnalyticsStore
) -> None:
    await database.execute("INSERT INTO analytics_counts VALUES ('a new cause', 'web', 1)")
    with pytest.raises(UnreadableRecord):
        await counts.totals()


async def test_counting_changes_no_session(durable: DurableStore, counts: AnalyticsStore) -> None:
    session = await begin(durable)
    before = await durable.get(session.id)
    mark, _ = await durable.changed_since(0)
    await counted(counts, NOON + DAY)
    assert await durable.get(session.id) == before
    assert (await durable.changed_since(mark))[1] == []
