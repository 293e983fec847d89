"""What every durable store promises about limits of living sessions, and about claims."""

import asyncio
from datetime import datetime, timedelta

import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import LimitReached, SessionExists
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import DurableStore, Touch
from sidegate.core.session import Session
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from tests.contracts.values import a_digest, a_record, a_session, a_tombstone
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)
EVICTING = [AtLimit.EVICT_OLDEST, AtLimit.EVICT_IDLE_LONGEST]


async def begun(
    durable: DurableStore, *sessions: Session, limit: Limit | None = None
) -> list[Session]:
    """Create them one after the other, and return the tombstones of all that had to go."""
    tombstones = []
    for session in sessions:
        tombstones += await durable.create(a_record(session), limit=limit)
    return tombstones


async def living(durable: DurableStore, at: datetime, user_id: str = "ada") -> list[Session]:
    records = await durable.list_where(
        Condition(user_id), limit=1000, state=(SessionState.ACTIVE, at)
    )
    return [record.session for record in records]


def one_a_minute(count: int) -> list[Session]:
    return [a_session(at=NOON + n * MINUTE) for n in range(count)]


# --- Up to the limit


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_up_to_the_limit_nobody_has_to_go(durable: DurableStore, at_limit: AtLimit) -> None:
    sessions = one_a_minute(3)
    assert await begun(durable, *sessions, limit=Limit(3, at_limit)) == []
    assert await living(durable, NOON + 3 * MINUTE) == sessions[::-1]


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_a_limit_counts_the_sessions_of_one_user_and_one_type(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    others = [a_session(user_id="bob"), a_session(user_id="ad"), a_session(type=SessionType.SSO)]
    await begun(durable, *others)
    assert await begun(durable, a_session(), limit=Limit(1, at_limit)) == []


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_each_tenant_of_a_user_is_counted_apart(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    limit, tenants = Limit(1, at_limit), ("north", "south", None, "")
    for tenant in tenants:
        assert await durable.create(a_record(tenant=tenant), limit=limit) == []
    assert len(await living(durable, NOON)) == len(tenants)
    for tenant in tenants:
        another = a_record(a_session(at=NOON + MINUTE), tenant=tenant)
        if at_limit is AtLimit.REFUSE:
            with pytest.raises(LimitReached):
                await durable.create(another, limit=limit)
        else:
            assert len(await durable.create(another, limit=limit)) == 1
    assert len(await living(durable, NOON + MINUTE)) == len(tenants)


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_what_has_ended_when_the_new_one_begins_does_not_count(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    ended = [
        a_tombstone(),
        a_session(expires_at=NOON + MINUTE),
        a_session(expires_at=NOON + MINUTE, idle_timeout=None),
    ]
    idle, alive, new = a_session(idle_timeout=MINUTE), a_session(), a_session(at=NOON + MINUTE)
    await begun(durable, *ended, idle, alive)
    evicted = await begun(durable, new, limit=Limit(2, at_limit))
    assert alive.id not in {tombstone.id for tombstone in evicted}
    assert await living(durable, NOON + MINUTE) == [new, alive]


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_a_touch_that_comes_late_makes_none_too_many(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    at = NOON + MINUTE
    idle = [a_session(idle_timeout=MINUTE), a_session(idle_timeout=MINUTE)]
    await begun(durable, *idle)
    evicted = await begun(durable, a_session(at=at), limit=Limit(2, at_limit))
    await durable.touch([Touch(session.id, at - MINUTE / 2, 1) for session in idle])
    assert len(evicted) == 1
    assert len(await living(durable, at)) <= 2


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_what_ends_a_moment_later_counts(durable: DurableStore, at_limit: AtLimit) -> None:
    moment = timedelta(microseconds=1)
    dying = [
        a_session(expires_at=NOON + MINUTE + moment, idle_timeout=None),
        a_session(idle_timeout=MINUTE + moment),
    ]
    await begun(durable, *dying)
    beyond = begun(durable, a_session(at=NOON + MINUTE), limit=Limit(2, at_limit))
    if at_limit is AtLimit.REFUSE:
        with pytest.raises(LimitReached):
            await beyond
    else:
        assert len(await beyond) == 1


# --- Who has to go


async def test_the_oldest_has_to_go(durable: DurableStore) -> None:
    sessions = one_a_minute(4)
    await begun(durable, *sessions[:3])
    await durable.touch([Touch(sessions[0].id, NOON + 3 * MINUTE, 1)])
    at = sessions[3].created_at
    [tombstone] = await begun(durable, sessions[3], limit=Limit(3, AtLimit.EVICT_OLDEST))
    assert tombstone == sessions[0].touched(NOON + 3 * MINUTE).revoked(at)
    assert await living(durable, at) == sessions[:0:-1]


async def test_the_one_not_seen_for_longest_has_to_go(durable: DurableStore) -> None:
    sessions = one_a_minute(4)
    await begun(durable, *sessions[:3])
    await durable.touch([Touch(sessions[0].id, NOON + 2 * MINUTE + MINUTE / 2, 1)])
    at = sessions[3].created_at
    [tombstone] = await begun(durable, sessions[3], limit=Limit(3, AtLimit.EVICT_IDLE_LONGEST))
    assert tombstone == sessions[1].revoked(at)


async def test_at_the_limit_a_login_may_be_refused_and_changes_nothing(
    durable: DurableStore,
) -> None:
    sessions = one_a_minute(3)
    await begun(durable, *sessions[:2])
    with pytest.raises(LimitReached, match="2 living web sessions"):
        await begun(durable, sessions[2], limit=Limit(2, AtLimit.REFUSE))
    assert await durable.get(sessions[2].id) is None
    assert await living(durable, NOON + 2 * MINUTE) == sessions[1::-1]


async def test_a_rotated_session_has_to_go_under_both_its_digests(durable: DurableStore) -> None:
    before = a_session()
    rotated = before.rotated(a_digest(), MINUTE, NOON)
    await begun(durable, before)
    await durable.replace(a_record(rotated), expected=1)
    [tombstone] = await begun(durable, a_session(at=NOON + MINUTE), limit=Limit(1))
    assert tombstone == rotated.revoked(NOON + MINUTE)
    assert await durable.find(before.digest) == tombstone.copies()[1]


async def test_the_record_of_one_that_had_to_go_says_why(durable: DurableStore) -> None:
    old, new = one_a_minute(2)
    await begun(durable, old, new, limit=Limit(1))
    record = await durable.get(old.id)
    assert record is not None
    assert (record.details.revoked_by, record.details.revoked_reason) == ("sidegate", "limit")


async def test_one_that_had_to_go_is_a_change_to_catch_up_with(durable: DurableStore) -> None:
    old, new = one_a_minute(2)
    await begun(durable, old)
    mark, _ = await durable.changed_since(0)
    tombstones = await begun(durable, new, limit=Limit(1))
    assert (await durable.changed_since(mark))[1] == tombstones


@pytest.mark.parametrize("at_limit", EVICTING)
async def test_a_lowered_limit_takes_effect_at_the_next_login(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    sessions = one_a_minute(8)
    await begun(durable, *sessions[:7], limit=Limit(7, at_limit))
    tombstones = await begun(durable, sessions[7], limit=Limit(2, at_limit))
    assert {session.id for session in tombstones} == {session.id for session in sessions[:6]}
    assert await living(durable, sessions[7].created_at) == sessions[:5:-1]


async def test_a_lowered_limit_may_refuse_and_ends_nobody(durable: DurableStore) -> None:
    sessions = one_a_minute(4)
    await begun(durable, *sessions[:3])
    with pytest.raises(LimitReached):
        await begun(durable, sessions[3], limit=Limit(1, AtLimit.REFUSE))
    assert len(await living(durable, NOON + 3 * MINUTE)) == 3


@pytest.mark.parametrize("taken", ["id", "digest"])
@pytest.mark.parametrize("at_limit", EVICTING)
async def test_nobody_has_to_go_for_one_that_cannot_begin(
    durable: DurableStore, at_limit: AtLimit, taken: str
) -> None:
    old = a_session()
    await begun(durable, old)
    rival = a_session(at=NOON + MINUTE, **{taken: getattr(old, taken)})
    with pytest.raises(SessionExists):
        await begun(durable, rival, limit=Limit(1, at_limit))
    assert await durable.find(old.digest) == old
    assert await begun(durable, a_session(at=NOON + MINUTE), limit=Limit(2)) == []


# --- Many at once


@pytest.mark.parametrize("at_limit", EVICTING)
async def test_of_fifty_logins_at_once_on_two_instances_as_many_stay_as_may(
    durable: DurableStore, another: DurableStore, at_limit: AtLimit
) -> None:
    sessions = [a_session() for _ in range(50)]
    evicted = await asyncio.gather(
        *(
            begun((durable, another)[n % 2], session, limit=Limit(3, at_limit))
            for n, session in enumerate(sessions)
        )
    )
    gone = [tombstone.id for tombstones in evicted for tombstone in tombstones]
    stayed = [session.id for session in await living(durable, NOON)]
    assert len(stayed) == 3
    assert len(gone) == 47
    assert {*gone, *stayed} == {session.id for session in sessions}


async def test_of_fifty_logins_at_once_on_two_instances_as_many_are_let_in_as_may(
    durable: DurableStore, another: DurableStore
) -> None:
    outcomes = await asyncio.gather(
        *(
            begun((durable, another)[n % 2], a_session(), limit=Limit(3, AtLimit.REFUSE))
            for n in range(50)
        ),
        return_exceptions=True,
    )
    assert outcomes.count([]) == 3
    assert sum(isinstance(outcome, LimitReached) for outcome in outcomes) == 47
    assert len(await living(durable, NOON)) == 3


async def test_logins_race_with_other_changes_and_none_is_lost(
    durable: DurableStore, another: DurableStore
) -> None:
    kept = [a_session(user_id=f"user-{n}") for n in range(20)]
    await begun(durable, *kept)
    await asyncio.gather(
        *(begun(durable, a_session(), limit=Limit(2)) for _ in range(20)),
        *(durable.create(a_record(a_session(user_id="bob"))) for _ in range(20)),
        *(durable.touch([Touch(session.id, NOON + MINUTE, 1)]) for session in kept),
        *(another.replace(a_record(session.revoked(NOON)), expected=1) for session in kept),
    )
    assert len(await living(durable, NOON)) == 2
    assert len(await living(durable, NOON, "bob")) == 20
    found = await durable.find_many([session.digest for session in kept])
    assert [session.revoked_at for session in found.values()] == [NOON] * 20


async def test_a_caller_who_leaves_leaves_no_login_half_done(durable: DurableStore) -> None:
    await begun(durable, *one_a_minute(2))
    for n in range(20):
        login = asyncio.create_task(
            begun(durable, a_session(at=NOON + (2 + n) * MINUTE), limit=Limit(2))
        )
        for _ in range(n % 7):
            await asyncio.sleep(0)  # lets the login come a little further
        login.cancel()
        await asyncio.gather(login, return_exceptions=True)
    last = a_session(at=NOON + 25 * MINUTE)
    await begun(durable, last, limit=Limit(2))
    assert len(await living(durable, NOON + 25 * MINUTE)) == 2


# --- Claims


async def test_a_session_is_found_by_what_claimed_it(durable: DurableStore) -> None:
    record = a_record(claim=bytes(32))
    await durable.create(record)
    await durable.create(a_record())
    assert await durable.find_by_idempotency_key(bytes(32)) == record
    assert await durable.find_by_idempotency_key(bytes([1] * 32)) is None


async def test_a_claim_is_made_once(durable: DurableStore, another: DurableStore) -> None:
    outcomes = await asyncio.gather(
        *((durable, another)[n % 2].create(a_record(claim=bytes(32))) for n in range(20)),
        return_exceptions=True,
    )
    assert outcomes.count([]) == 1
    assert sum(isinstance(outcome, SessionExists) for outcome in outcomes) == 19


async def test_a_claim_ends_with_the_record_not_with_the_session(durable: DurableStore) -> None:
    session = a_session()
    await durable.create(a_record(session, claim=bytes(32)))
    await durable.replace(a_record(session.revoked(NOON), claim=bytes(32)), expected=1)
    assert await durable.find_by_idempotency_key(bytes(32)) is not None
    await durable.purge(NOON + timedelta(days=1), limit=9)
    assert await durable.find_by_idempotency_key(bytes(32)) is None
