"""The contract of session locks, for Postgres and SQLite."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sidegate.core.audit import AuditFilter
from sidegate.core.errors import StoreUnavailable
from sidegate.core.lock import Contended, Hold, Lease, LeaseDigest
from sidegate.core.protocols import DurableStore, SessionLocks
from sidegate.core.session import SessionId, SessionRecord
from tests.contracts.values import build_digest, build_record, build_session_id
from tests.stores.waiting import wait_until
from tests.support.clock import NOON
from tests.support.databases import Database, StoppableDatabase

MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
# Longer than any of these tests lasts; `age_locks` lets time pass.
TTL = timedelta(minutes=5)


@pytest.fixture
async def locks(database: Database, durable: DurableStore) -> AsyncIterator[SessionLocks]:
    del durable  # opened first
    async with database.locks() as locks:
        yield locks


@pytest.fixture
async def other_locks(database: Database, durable: DurableStore) -> AsyncIterator[SessionLocks]:
    """The locks as opened by another process."""
    del durable
    async with database.locks() as locks:
        yield locks


@pytest.fixture
async def session(durable: DurableStore) -> SessionRecord:
    record = build_record()
    await durable.create(record)
    return record


def build_lease() -> LeaseDigest:
    return LeaseDigest(secrets.token_bytes(32))


async def acquire(
    locks: SessionLocks,
    session: SessionRecord,
    lease: LeaseDigest | None = None,
    *,
    ttl: timedelta = TTL,
    holder: str | None = None,
) -> Hold | Contended | None:
    """Try to acquire the lock, with a new lease if none is given."""
    return await locks.acquire(session.session.id, lease or build_lease(), ttl=ttl, holder=holder)


async def acquire_free(
    locks: SessionLocks,
    session: SessionRecord,
    lease: LeaseDigest | None = None,
    *,
    ttl: timedelta = TTL,
) -> Hold:
    """Acquire a lock that is free."""
    hold = await acquire(locks, session, lease, ttl=ttl)
    assert isinstance(hold, Hold)
    return hold


async def acquire_waiting(locks: SessionLocks, session: SessionRecord, lease: LeaseDigest) -> Hold:
    """Retry to acquire the lock until it is free."""
    while True:
        result = await acquire(locks, session, lease)
        if isinstance(result, Hold):
            return result


# --- Acquire


async def test_free_lock_is_held_for_the_ttl(locks: SessionLocks, session: SessionRecord) -> None:
    before = datetime.now(UTC)
    hold = await acquire_free(locks, session)
    after = datetime.now(UTC)
    assert before + TTL - MILLISECOND <= hold.expires_at <= after + TTL + MILLISECOND


async def test_held_lock_is_contended(
    locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    hold = await acquire(locks, session, holder="worker-1")
    contended = await acquire(other_locks, session, holder="worker-2")
    assert isinstance(hold, Hold)
    assert isinstance(contended, Contended)
    assert (contended.free_at, contended.holder) == (hold.expires_at, "worker-1")
    assert timedelta(0) < contended.free_in <= TTL


async def test_lock_is_not_reentrant(locks: SessionLocks, session: SessionRecord) -> None:
    lease = build_lease()
    await acquire_free(locks, session, lease)
    assert isinstance(await acquire(locks, session, lease), Contended)


async def test_locks_of_sessions_are_independent(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    other = build_record()
    await durable.create(other)
    await acquire_free(locks, session)
    await acquire_free(locks, other)


@pytest.mark.parametrize(
    "session_id", [build_session_id(), SessionId("unknown")], ids=["uuid", "not_a_uuid"]
)
async def test_missing_session_has_no_lock(locks: SessionLocks, session_id: SessionId) -> None:
    lease = build_lease()
    assert await locks.acquire(session_id, lease, ttl=TTL, holder=None) is None
    assert await locks.renew(session_id, lease, ttl=TTL) is None
    assert not await locks.release(session_id, lease)


async def test_concurrent_acquires_on_two_instances_succeed_once(
    locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    results = await asyncio.gather(
        *(acquire(instance, session) for _ in range(25) for instance in (locks, other_locks))
    )
    [hold] = [result for result in results if isinstance(result, Hold)]
    losers = [result for result in results if isinstance(result, Contended)]
    assert len(losers) == 49
    assert {loser.free_at for loser in losers} == {hold.expires_at}


async def test_holders_are_exclusive_and_fences_increase(
    locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    holders, fences = set[int](), list[int]()

    async def work(instance: SessionLocks) -> None:
        lease = build_lease()
        for _ in range(3):
            hold = await acquire_waiting(instance, session, lease)
            fences.append(hold.fence)
            holders.add(hold.fence)
            await asyncio.sleep(0)
            assert holders == {hold.fence}
            holders.remove(hold.fence)
            assert await instance.release(session.session.id, lease)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for instance in (locks, other_locks) * 3:
            tasks.create_task(work(instance))
    assert len(fences) == 18
    assert fences == sorted(set(fences))


# --- Expiry


async def test_hold_expires_without_renewal(
    database: Database, locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    first = await acquire_free(locks, session, lease)
    await database.age_locks(TTL)
    second = await acquire_free(other_locks, session)
    assert second.fence > first.fence
    assert await locks.renew(session.session.id, lease, ttl=TTL) is None
    assert not await locks.release(session.session.id, lease)
    assert isinstance(await acquire(locks, session), Contended)


async def test_expired_hold_is_not_renewed_even_if_the_lock_is_free(
    database: Database, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    await acquire_free(locks, session, lease)
    await database.age_locks(TTL)
    assert await locks.renew(session.session.id, lease, ttl=TTL) is None
    assert not await locks.release(session.session.id, lease)


# --- Renew


async def test_renewal_extends_the_hold_and_keeps_the_fence(
    database: Database, locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    hold = await acquire_free(locks, session, lease)
    for _ in range(3):
        await database.age_locks(TTL * 0.9)
        renewed = await locks.renew(session.session.id, lease, ttl=TTL)
        assert renewed is not None
        assert renewed.fence == hold.fence
        contended = await acquire(other_locks, session)
        assert isinstance(contended, Contended)
        assert contended.free_at == renewed.expires_at
        assert contended.free_in > TTL * 0.5


async def test_renewal_never_shortens_the_hold(locks: SessionLocks, session: SessionRecord) -> None:
    lease = build_lease()
    hold = await acquire_free(locks, session, lease)
    assert await locks.renew(session.session.id, lease, ttl=SECOND) == hold


async def test_late_renewal_and_takeover_exclude_each_other(
    locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    own_lease = build_lease()
    for _ in range(20):
        other_lease = build_lease()
        await acquire_free(locks, session, own_lease, ttl=MILLISECOND)
        renewed, acquired = await asyncio.gather(
            locks.renew(session.session.id, own_lease, ttl=TTL),
            acquire(other_locks, session, other_lease),
        )
        assert renewed is None or isinstance(acquired, Contended)
        await locks.release(session.session.id, own_lease)
        await locks.release(session.session.id, other_lease)


# --- Release


async def test_released_lock_is_free_at_once(
    locks: SessionLocks, other_locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    first = await acquire_free(locks, session, lease)
    assert await locks.release(session.session.id, lease)
    assert (await acquire_free(other_locks, session)).fence > first.fence


async def test_second_release_does_not_affect_the_next_holder(
    locks: SessionLocks, session: SessionRecord
) -> None:
    own_lease = build_lease()
    await acquire_free(locks, session, own_lease)
    await locks.release(session.session.id, own_lease)
    assert not await locks.release(session.session.id, own_lease)
    await acquire_free(locks, session)
    assert not await locks.release(session.session.id, own_lease)
    assert await locks.renew(session.session.id, own_lease, ttl=TTL) is None
    assert isinstance(await acquire(locks, session), Contended)


# --- Forged leases


async def test_forged_lease_is_rejected(locks: SessionLocks, session: SessionRecord) -> None:
    lease = Lease.mint()
    await acquire_free(locks, session, lease.digest())
    for guess in (
        Lease(lease.text[:-1] + ("A" if lease.text[-1] != "A" else "B")).digest(),
        LeaseDigest(lease.digest()[:-1] + bytes([lease.digest()[-1] ^ 1])),
        LeaseDigest(bytes(32)),
    ):
        assert await locks.renew(session.session.id, guess, ttl=TTL) is None
        assert not await locks.release(session.session.id, guess)
    assert await locks.release(session.session.id, lease.digest())


async def test_lease_is_valid_for_one_session_only(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    other, lease = build_record(), build_lease()
    await durable.create(other)
    await acquire_free(locks, session, lease)
    await acquire_free(locks, other)
    assert await locks.renew(other.session.id, lease, ttl=TTL) is None
    assert not await locks.release(other.session.id, lease)
    assert isinstance(await acquire(locks, other), Contended)


# --- Fences


async def test_fence_is_exact_in_json(locks: SessionLocks, session: SessionRecord) -> None:
    assert 0 < (await acquire_free(locks, session)).fence < 2**53


async def test_fence_grows_if_the_clock_goes_back(
    database: Database, locks: SessionLocks, session: SessionRecord
) -> None:
    fences = []
    for _ in range(3):
        lease = build_lease()
        fences.append((await acquire_free(locks, session, lease)).fence)
        await locks.release(session.session.id, lease)
        if len(fences) == 1:
            # by an hour: as if the clock had been set back since the last hold began
            await database.execute("UPDATE session_locks SET fence = fence + 3600000000")
    assert fences[1] == fences[0] + 3_600_000_001
    assert fences[2] == fences[1] + 1


@pytest.mark.parametrize(
    "loss",
    [
        "DELETE FROM session_locks",
        "UPDATE session_locks SET fence = fence - 1000000, lease = NULL, expires_at = NULL",
    ],
    ids=["all_locks", "last_hold"],
)
async def test_fence_grows_after_a_loss_of_holds(
    database: Database, locks: SessionLocks, session: SessionRecord, loss: str
) -> None:
    """A failover without the last commits, or a restored backup, repeats no fence."""
    lost, lost_at = await acquire_free(locks, session), datetime.now(UTC)
    await database.execute(loss)
    await wait_until(
        lambda: datetime.now(UTC) > lost_at + 2 * MILLISECOND
    )  # the resolution of SQLite's clock
    assert (await acquire_free(locks, session)).fence > lost.fence


# --- Sessions


async def test_lock_does_not_change_its_session(
    database: Database, durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    position = await durable.read_position()
    lease = build_lease()
    await acquire_free(locks, session, lease)
    await locks.renew(session.session.id, lease, ttl=TTL)
    await locks.release(session.session.id, lease)
    assert await durable.get(session.session.id) == session
    assert not (await durable.list_changes(position, limit=9)).has_changed
    async with database.audit_log() as log:
        assert len(await log.list_events(AuditFilter(), limit=9)) == 1  # its creation


async def test_lock_survives_refresh_and_migration(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    hold = await acquire_free(locks, session, lease)
    rotated = session.session.rotated(build_digest(), SECOND, at=NOON)
    assert await durable.replace(SessionRecord(rotated, session.details), expected=1)
    migrated = rotated.migrated(build_digest(), NOON)
    assert await durable.replace(SessionRecord(migrated, session.details), expected=2)
    assert isinstance(await acquire(locks, session), Contended)
    renewed = await locks.renew(session.session.id, lease, ttl=TTL)
    assert renewed is not None
    assert renewed.fence == hold.fence


async def test_purge_of_a_session_deletes_its_lock(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = build_lease()
    await acquire_free(locks, session, lease)
    assert await durable.purge(session.session.expires_at + SECOND, limit=10) == 1
    assert await acquire(locks, session) is None
    assert await locks.renew(session.session.id, lease, ttl=TTL) is None
    assert not await locks.release(session.session.id, lease)


async def test_concurrent_purge_and_acquire_do_not_fail(
    durable: DurableStore, locks: SessionLocks
) -> None:
    records = [build_record() for _ in range(40)]
    for record in records:
        await durable.create(record)
    *results, _ = await asyncio.gather(
        *(acquire(locks, record) for record in records),
        durable.purge(NOON + timedelta(days=1), limit=100),
    )
    assert all(result is None or isinstance(result, Hold) for result in results)


# --- Outages


async def test_outage_raises_and_keeps_the_hold(
    stoppable: StoppableDatabase, stoppable_store: DurableStore
) -> None:
    record, lease = build_record(), build_lease()
    await stoppable_store.create(record)
    async with stoppable.locks() as locks:
        hold = await acquire_free(locks, record, lease)
        stoppable.fail()
        for call in (
            acquire(locks, record),
            locks.renew(record.session.id, lease, ttl=TTL),
            locks.release(record.session.id, lease),
        ):
            with pytest.raises(StoreUnavailable):
                await call
        stoppable.recover()
        assert isinstance(await acquire(locks, record), Contended)
        assert await locks.release(record.session.id, lease)
        assert (await acquire_free(locks, record)).fence > hold.fence
