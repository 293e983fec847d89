"""The contract of durable stores for session limits and idempotency keys."""

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
from tests.contracts.changes import list_changed_sessions
from tests.contracts.values import build_digest, build_record, build_session, build_tombstone
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)
EVICTING = [AtLimit.EVICT_OLDEST, AtLimit.EVICT_IDLE_LONGEST]


async def create_all(
    durable: DurableStore, *sessions: Session, limit: Limit | None = None
) -> list[Session]:
    """Create the sessions one after the other, and return the tombstones of all evicted ones."""
    tombstones = []
    for session in sessions:
        evicted = await durable.create(build_record(session), limit=limit)
        tombstones += [changed.session for changed in evicted]
    return tombstones


async def list_active(durable: DurableStore, at: datetime, user_id: str = "ada") -> list[Session]:
    records = await durable.list_where(
        Condition(user_id), limit=1000, state=(SessionState.ACTIVE, at)
    )
    return [record.session for record in records]


def build_one_a_minute(count: int) -> list[Session]:
    return [build_session(at=NOON + n * MINUTE) for n in range(count)]


# --- Below the limit


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_no_session_is_evicted_up_to_the_limit(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    sessions = build_one_a_minute(3)
    assert await create_all(durable, *sessions, limit=Limit(3, at_limit)) == []
    assert await list_active(durable, NOON + 3 * MINUTE) == sessions[::-1]


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_limit_counts_one_user_and_one_type(durable: DurableStore, at_limit: AtLimit) -> None:
    others = [
        build_session(user_id="bob"),
        build_session(user_id="ad"),
        build_session(type=SessionType.SSO),
    ]
    await create_all(durable, *others)
    assert await create_all(durable, build_session(), limit=Limit(1, at_limit)) == []


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_limit_counts_each_tenant_separately(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    limit, tenants = Limit(1, at_limit), ("north", "south", None, "")
    for tenant in tenants:
        assert await durable.create(build_record(tenant=tenant), limit=limit) == []
    assert len(await list_active(durable, NOON)) == len(tenants)
    for tenant in tenants:
        record = build_record(build_session(at=NOON + MINUTE), tenant=tenant)
        if at_limit is AtLimit.REFUSE:
            with pytest.raises(LimitReached):
                await durable.create(record, limit=limit)
        else:
            assert len(await durable.create(record, limit=limit)) == 1
    assert len(await list_active(durable, NOON + MINUTE)) == len(tenants)


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_ended_sessions_do_not_count(durable: DurableStore, at_limit: AtLimit) -> None:
    ended = [
        build_tombstone(),
        build_session(expires_at=NOON + MINUTE),
        build_session(expires_at=NOON + MINUTE, idle_timeout=None),
    ]
    idle, active, new = (
        build_session(idle_timeout=MINUTE),
        build_session(),
        build_session(at=NOON + MINUTE),
    )
    await create_all(durable, *ended, idle, active)
    evicted = await create_all(durable, new, limit=Limit(2, at_limit))
    assert active.id not in {tombstone.id for tombstone in evicted}
    assert await list_active(durable, NOON + MINUTE) == [new, active]


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_late_touch_does_not_exceed_the_limit(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    at = NOON + MINUTE
    idle = [build_session(idle_timeout=MINUTE), build_session(idle_timeout=MINUTE)]
    await create_all(durable, *idle)
    evicted = await create_all(durable, build_session(at=at), limit=Limit(2, at_limit))
    await durable.touch([Touch(session.id, at - MINUTE / 2, 1) for session in idle])
    assert len(evicted) == 1
    assert len(await list_active(durable, at)) <= 2


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_session_that_ends_a_microsecond_later_counts(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    microsecond = timedelta(microseconds=1)
    ending = [
        build_session(expires_at=NOON + MINUTE + microsecond, idle_timeout=None),
        build_session(idle_timeout=MINUTE + microsecond),
    ]
    await create_all(durable, *ending)
    create = create_all(durable, build_session(at=NOON + MINUTE), limit=Limit(2, at_limit))
    if at_limit is AtLimit.REFUSE:
        with pytest.raises(LimitReached):
            await create
    else:
        assert len(await create) == 1


# --- Eviction


async def test_oldest_session_is_evicted(durable: DurableStore) -> None:
    sessions = build_one_a_minute(4)
    await create_all(durable, *sessions[:3])
    await durable.touch([Touch(sessions[0].id, NOON + 3 * MINUTE, 1)])
    at = sessions[3].created_at
    [tombstone] = await create_all(durable, sessions[3], limit=Limit(3, AtLimit.EVICT_OLDEST))
    assert tombstone == sessions[0].touched(NOON + 3 * MINUTE).revoked(at)
    assert await list_active(durable, at) == sessions[:0:-1]


async def test_longest_idle_session_is_evicted(durable: DurableStore) -> None:
    sessions = build_one_a_minute(4)
    await create_all(durable, *sessions[:3])
    await durable.touch([Touch(sessions[0].id, NOON + 2 * MINUTE + MINUTE / 2, 1)])
    at = sessions[3].created_at
    [tombstone] = await create_all(durable, sessions[3], limit=Limit(3, AtLimit.EVICT_IDLE_LONGEST))
    assert tombstone == sessions[1].revoked(at)


async def test_refused_create_changes_nothing(
    durable: DurableStore,
) -> None:
    sessions = build_one_a_minute(3)
    await create_all(durable, *sessions[:2])
    with pytest.raises(LimitReached, match="2 active web sessions"):
        await create_all(durable, sessions[2], limit=Limit(2, AtLimit.REFUSE))
    assert await durable.get(sessions[2].id) is None
    assert await list_active(durable, NOON + 2 * MINUTE) == sessions[1::-1]


async def test_eviction_of_a_rotated_session_covers_both_digests(durable: DurableStore) -> None:
    before = build_session()
    rotated = before.rotated(build_digest(), MINUTE, at=NOON)
    await create_all(durable, before)
    await durable.replace(build_record(rotated), expected=1)
    [tombstone] = await create_all(durable, build_session(at=NOON + MINUTE), limit=Limit(1))
    assert tombstone == rotated.revoked(NOON + MINUTE)
    assert await durable.find(before.digest) == tombstone.copies()[1]


async def test_evicted_record_has_the_reason(durable: DurableStore) -> None:
    old, new = build_one_a_minute(2)
    await create_all(durable, old, new, limit=Limit(1))
    record = await durable.get(old.id)
    assert record is not None
    assert (record.details.revoked_by, record.details.revoked_reason) == ("sidegate", "limit")


async def test_eviction_is_a_change(durable: DurableStore) -> None:
    old, new = build_one_a_minute(2)
    await create_all(durable, old)
    position = await durable.read_position()
    tombstones = await create_all(durable, new, limit=Limit(1))
    assert await list_changed_sessions(durable, position) == tombstones


@pytest.mark.parametrize("at_limit", EVICTING)
async def test_lowered_limit_applies_to_the_next_create(
    durable: DurableStore, at_limit: AtLimit
) -> None:
    sessions = build_one_a_minute(8)
    await create_all(durable, *sessions[:7], limit=Limit(7, at_limit))
    tombstones = await create_all(durable, sessions[7], limit=Limit(2, at_limit))
    assert {session.id for session in tombstones} == {session.id for session in sessions[:6]}
    assert await list_active(durable, sessions[7].created_at) == sessions[:5:-1]


async def test_lowered_limit_that_refuses_evicts_no_session(durable: DurableStore) -> None:
    sessions = build_one_a_minute(4)
    await create_all(durable, *sessions[:3])
    with pytest.raises(LimitReached):
        await create_all(durable, sessions[3], limit=Limit(1, AtLimit.REFUSE))
    assert len(await list_active(durable, NOON + 3 * MINUTE)) == 3


@pytest.mark.parametrize("taken", ["id", "digest"])
@pytest.mark.parametrize("at_limit", EVICTING)
async def test_failed_create_evicts_no_session(
    durable: DurableStore, at_limit: AtLimit, taken: str
) -> None:
    old = build_session()
    await create_all(durable, old)
    rival = build_session(at=NOON + MINUTE, **{taken: getattr(old, taken)})
    with pytest.raises(SessionExists):
        await create_all(durable, rival, limit=Limit(1, at_limit))
    assert await durable.find(old.digest) == old
    assert await create_all(durable, build_session(at=NOON + MINUTE), limit=Limit(2)) == []


# --- Concurrency


@pytest.mark.parametrize("at_limit", EVICTING)
async def test_concurrent_creates_on_two_instances_keep_the_limit(
    durable: DurableStore, other_store: DurableStore, at_limit: AtLimit
) -> None:
    sessions = [build_session() for _ in range(50)]
    evicted = await asyncio.gather(
        *(
            create_all((durable, other_store)[n % 2], session, limit=Limit(3, at_limit))
            for n, session in enumerate(sessions)
        )
    )
    evicted_ids = [tombstone.id for tombstones in evicted for tombstone in tombstones]
    active_ids = [session.id for session in await list_active(durable, NOON)]
    assert len(active_ids) == 3
    assert len(evicted_ids) == 47
    assert {*evicted_ids, *active_ids} == {session.id for session in sessions}


async def test_concurrent_creates_on_two_instances_refuse_beyond_the_limit(
    durable: DurableStore, other_store: DurableStore
) -> None:
    outcomes = await asyncio.gather(
        *(
            create_all(
                (durable, other_store)[n % 2], build_session(), limit=Limit(3, AtLimit.REFUSE)
            )
            for n in range(50)
        ),
        return_exceptions=True,
    )
    assert outcomes.count([]) == 3
    assert sum(isinstance(outcome, LimitReached) for outcome in outcomes) == 47
    assert len(await list_active(durable, NOON)) == 3


async def test_creates_lose_no_concurrent_changes(
    durable: DurableStore, other_store: DurableStore
) -> None:
    kept = [build_session(user_id=f"user-{n}") for n in range(20)]
    await create_all(durable, *kept)
    await asyncio.gather(
        *(create_all(durable, build_session(), limit=Limit(2)) for _ in range(20)),
        *(durable.create(build_record(build_session(user_id="bob"))) for _ in range(20)),
        *(durable.touch([Touch(session.id, NOON + MINUTE, 1)]) for session in kept),
        *(other_store.replace(build_record(session.revoked(NOON)), expected=1) for session in kept),
    )
    assert len(await list_active(durable, NOON)) == 2
    assert len(await list_active(durable, NOON, "bob")) == 20
    found = await durable.find_many([session.digest for session in kept])
    assert [session.revoked_at for session in found.values()] == [NOON] * 20


async def test_cancelled_create_is_complete_or_absent(durable: DurableStore) -> None:
    await create_all(durable, *build_one_a_minute(2))
    for n in range(20):
        creating = asyncio.create_task(
            create_all(durable, build_session(at=NOON + (2 + n) * MINUTE), limit=Limit(2))
        )
        for _ in range(n % 7):
            await asyncio.sleep(0)  # the create makes progress
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    last = build_session(at=NOON + 25 * MINUTE)
    await create_all(durable, last, limit=Limit(2))
    assert len(await list_active(durable, NOON + 25 * MINUTE)) == 2


# --- Idempotency keys


async def test_session_is_found_by_its_idempotency_key(durable: DurableStore) -> None:
    record = build_record(idempotency_key_hash=bytes(32))
    await durable.create(record)
    await durable.create(build_record())
    assert await durable.find_by_idempotency_key(bytes(32)) == record
    assert await durable.find_by_idempotency_key(bytes([1] * 32)) is None


async def test_idempotency_key_is_used_once(
    durable: DurableStore, other_store: DurableStore
) -> None:
    outcomes = await asyncio.gather(
        *(
            (durable, other_store)[n % 2].create(build_record(idempotency_key_hash=bytes(32)))
            for n in range(20)
        ),
        return_exceptions=True,
    )
    assert outcomes.count([]) == 1
    assert sum(isinstance(outcome, SessionExists) for outcome in outcomes) == 19


async def test_idempotency_key_is_kept_until_the_purge(durable: DurableStore) -> None:
    session = build_session()
    await durable.create(build_record(session, idempotency_key_hash=bytes(32)))
    await durable.replace(
        build_record(session.revoked(NOON), idempotency_key_hash=bytes(32)), expected=1
    )
    assert await durable.find_by_idempotency_key(bytes(32)) is not None
    await durable.purge(NOON + timedelta(days=1), limit=9)
    assert await durable.find_by_idempotency_key(bytes(32)) is None
