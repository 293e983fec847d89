"""What every durable store promises about the locks of its sessions."""

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
from tests.contracts.values import a_digest, a_record, an_id
from tests.stores.waiting import until
from tests.support.clock import NOON
from tests.support.databases import Database, Mortal

MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
# Longer than any of these tests lasts; time passes by `age_locks`.
LONG = timedelta(minutes=5)


@pytest.fixture
async def locks(database: Database, durable: DurableStore) -> AsyncIterator[SessionLocks]:
    del durable  # it is to be there first
    async with database.locks() as opened:
        yield opened


@pytest.fixture
async def elsewhere(database: Database, durable: DurableStore) -> AsyncIterator[SessionLocks]:
    """The same locks, as another process sees them."""
    del durable
    async with database.locks() as opened:
        yield opened


@pytest.fixture
async def session(durable: DurableStore) -> SessionRecord:
    record = a_record()
    await durable.create(record)
    return record


def a_lease() -> LeaseDigest:
    return LeaseDigest(secrets.token_bytes(32))


async def acquire(
    locks: SessionLocks,
    session: SessionRecord,
    lease: LeaseDigest | None = None,
    *,
    ttl: timedelta = LONG,
    holder: str | None = None,
) -> Hold | Contended | None:
    """Try to, under a lease of its own where none is given."""
    return await locks.acquire(session.session.id, lease or a_lease(), ttl=ttl, holder=holder)


async def held(
    locks: SessionLocks,
    session: SessionRecord,
    lease: LeaseDigest | None = None,
    *,
    ttl: timedelta = LONG,
) -> Hold:
    """Acquire a lock that is free."""
    hold = await acquire(locks, session, lease, ttl=ttl)
    assert isinstance(hold, Hold)
    return hold


async def won(locks: SessionLocks, session: SessionRecord, lease: LeaseDigest) -> Hold:
    """Try to acquire a lock until it is free."""
    while True:
        got = await acquire(locks, session, lease)
        if isinstance(got, Hold):
            return got


# --- Acquire


async def test_a_free_lock_is_held_for_as_long_as_was_asked(
    locks: SessionLocks, session: SessionRecord
) -> None:
    before = datetime.now(UTC)
    hold = await held(locks, session)
    after = datetime.now(UTC)
    assert before + LONG - MILLISECOND <= hold.expires_at <= after + LONG + MILLISECOND


async def test_a_held_lock_is_not_given_to_another(
    locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    hold = await acquire(locks, session, holder="worker-1")
    contended = await acquire(elsewhere, session, holder="worker-2")
    assert isinstance(hold, Hold)
    assert isinstance(contended, Contended)
    assert (contended.free_at, contended.holder) == (hold.expires_at, "worker-1")
    assert timedelta(0) < contended.free_in <= LONG


async def test_nobody_gets_it_twice(locks: SessionLocks, session: SessionRecord) -> None:
    lease = a_lease()
    await held(locks, session, lease)
    assert isinstance(await acquire(locks, session, lease), Contended)


async def test_sessions_are_locked_apart(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    other = a_record()
    await durable.create(other)
    await held(locks, session)
    await held(locks, other)


@pytest.mark.parametrize("session_id", [an_id(), SessionId("nobody")])
async def test_there_is_no_lock_without_a_session(
    locks: SessionLocks, session_id: SessionId
) -> None:
    lease = a_lease()
    assert await locks.acquire(session_id, lease, ttl=LONG, holder=None) is None
    assert await locks.renew(session_id, lease, ttl=LONG) is None
    assert not await locks.release(session_id, lease)


async def test_of_fifty_at_once_on_two_instances_one_gets_it(
    locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    tries = await asyncio.gather(
        *(acquire(instance, session) for _ in range(25) for instance in (locks, elsewhere))
    )
    [hold] = [got for got in tries if isinstance(got, Hold)]
    losers = [got for got in tries if isinstance(got, Contended)]
    assert len(losers) == 49
    assert {loser.free_at for loser in losers} == {hold.expires_at}


async def test_whoever_is_in_is_in_alone_and_with_a_higher_fence_than_any_before(
    locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    inside, fences = set[int](), list[int]()

    async def work(instance: SessionLocks) -> None:
        lease = a_lease()
        for _ in range(3):
            hold = await won(instance, session, lease)
            fences.append(hold.fence)
            inside.add(hold.fence)
            await asyncio.sleep(0)
            assert inside == {hold.fence}
            inside.remove(hold.fence)
            assert await instance.release(session.session.id, lease)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for instance in (locks, elsewhere) * 3:
            tasks.create_task(work(instance))
    assert len(fences) == 18
    assert fences == sorted(set(fences))


# --- Expiry


async def test_what_is_not_renewed_ends_by_itself(
    database: Database, locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    first = await held(locks, session, lease)
    await database.age_locks(LONG)
    second = await held(elsewhere, session)
    assert second.fence > first.fence
    assert await locks.renew(session.session.id, lease, ttl=LONG) is None
    assert not await locks.release(session.session.id, lease)
    assert isinstance(await acquire(locks, session), Contended)


async def test_what_has_ended_is_not_renewed_even_if_nobody_came(
    database: Database, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    await held(locks, session, lease)
    await database.age_locks(LONG)
    assert await locks.renew(session.session.id, lease, ttl=LONG) is None
    assert not await locks.release(session.session.id, lease)


# --- Renew


async def test_a_renewed_lock_is_held_for_longer_under_the_same_fence(
    database: Database, locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    hold = await held(locks, session, lease)
    for _ in range(3):
        await database.age_locks(LONG * 0.9)
        renewed = await locks.renew(session.session.id, lease, ttl=LONG)
        assert renewed is not None
        assert renewed.fence == hold.fence
        contended = await acquire(elsewhere, session)
        assert isinstance(contended, Contended)
        assert contended.free_at == renewed.expires_at
        assert contended.free_in > LONG * 0.5


async def test_a_renewal_shortens_nothing(locks: SessionLocks, session: SessionRecord) -> None:
    lease = a_lease()
    hold = await held(locks, session, lease)
    assert await locks.renew(session.session.id, lease, ttl=SECOND) == hold


async def test_renewed_at_the_last_moment_or_taken_over_but_never_both(
    locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    mine = a_lease()
    for _ in range(20):
        theirs = a_lease()
        await held(locks, session, mine, ttl=MILLISECOND)
        renewed, taken = await asyncio.gather(
            locks.renew(session.session.id, mine, ttl=LONG), acquire(elsewhere, session, theirs)
        )
        assert renewed is None or isinstance(taken, Contended)
        await locks.release(session.session.id, mine)
        await locks.release(session.session.id, theirs)


# --- Release


async def test_a_released_lock_is_free_at_once(
    locks: SessionLocks, elsewhere: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    first = await held(locks, session, lease)
    assert await locks.release(session.session.id, lease)
    assert (await held(elsewhere, session)).fence > first.fence


async def test_releasing_again_harms_nobody(locks: SessionLocks, session: SessionRecord) -> None:
    mine = a_lease()
    await held(locks, session, mine)
    await locks.release(session.session.id, mine)
    assert not await locks.release(session.session.id, mine)
    await held(locks, session)
    assert not await locks.release(session.session.id, mine)
    assert await locks.renew(session.session.id, mine, ttl=LONG) is None
    assert isinstance(await acquire(locks, session), Contended)


# --- Forgery


async def test_a_forged_lease_is_refused_however_much_of_it_is_right(
    locks: SessionLocks, session: SessionRecord
) -> None:
    lease = Lease.mint()
    await held(locks, session, lease.digest())
    for guess in (
        Lease(lease.text[:-1] + ("A" if lease.text[-1] != "A" else "B")).digest(),
        LeaseDigest(lease.digest()[:-1] + bytes([lease.digest()[-1] ^ 1])),
        LeaseDigest(bytes(32)),
    ):
        assert await locks.renew(session.session.id, guess, ttl=LONG) is None
        assert not await locks.release(session.session.id, guess)
    assert await locks.release(session.session.id, lease.digest())


async def test_a_lease_holds_the_lock_of_its_own_session_only(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    other, lease = a_record(), a_lease()
    await durable.create(other)
    await held(locks, session, lease)
    await held(locks, other)
    assert await locks.renew(other.session.id, lease, ttl=LONG) is None
    assert not await locks.release(other.session.id, lease)
    assert isinstance(await acquire(locks, other), Contended)


# --- The fence


async def test_a_fence_is_exact_in_every_json(locks: SessionLocks, session: SessionRecord) -> None:
    assert 0 < (await held(locks, session)).fence < 2**53


async def test_a_fence_grows_while_the_clock_goes_back(
    database: Database, locks: SessionLocks, session: SessionRecord
) -> None:
    fences = []
    for _ in range(3):
        lease = a_lease()
        fences.append((await held(locks, session, lease)).fence)
        await locks.release(session.session.id, lease)
        if len(fences) == 1:
            # an hour: the clock is this far behind what it was when the last hold began
            await database.execute("UPDATE session_locks SET fence = fence + 3600000000")
    assert fences[1] == fences[0] + 3_600_000_001
    assert fences[2] == fences[1] + 1


@pytest.mark.parametrize(
    "loss",
    [
        "DELETE FROM session_locks",
        "UPDATE session_locks SET fence = fence - 1000000, lease = NULL, expires_at = NULL",
    ],
    ids=["of_all_there_was", "of_the_last_hold"],
)
async def test_a_fence_grows_over_a_loss_of_what_was_held(
    database: Database, locks: SessionLocks, session: SessionRecord, loss: str
) -> None:
    """A failover without its last commits, or a backup, gives two the lock, but no equal fences."""
    lost, lost_at = await held(locks, session), datetime.now(UTC)
    await database.execute(loss)
    await until(lambda: datetime.now(UTC) > lost_at + 2 * MILLISECOND)  # SQLite's clock has no less
    assert (await held(locks, session)).fence > lost.fence


# --- The session


async def test_a_lock_changes_nothing_about_its_session(
    database: Database, durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    mark, _ = await durable.changed_since(0)
    lease = a_lease()
    await held(locks, session, lease)
    await locks.renew(session.session.id, lease, ttl=LONG)
    await locks.release(session.session.id, lease)
    assert await durable.get(session.session.id) == session
    assert (await durable.changed_since(mark))[1] == []
    async with database.audit_log() as log:
        assert len(await log.events(AuditFilter(), limit=9)) == 1  # that it was begun


async def test_a_lock_survives_refresh_and_migration(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    hold = await held(locks, session, lease)
    rotated = session.session.rotated(a_digest(), SECOND, NOON)
    assert await durable.replace(SessionRecord(rotated, session.details), expected=1)
    migrated = rotated.migrated(a_digest(), NOON)
    assert await durable.replace(SessionRecord(migrated, session.details), expected=2)
    assert isinstance(await acquire(locks, session), Contended)
    renewed = await locks.renew(session.session.id, lease, ttl=LONG)
    assert renewed is not None
    assert renewed.fence == hold.fence


async def test_a_lock_goes_with_its_session(
    durable: DurableStore, locks: SessionLocks, session: SessionRecord
) -> None:
    lease = a_lease()
    await held(locks, session, lease)
    assert await durable.purge(session.session.expires_at + SECOND, limit=10) == 1
    assert await acquire(locks, session) is None
    assert await locks.renew(session.session.id, lease, ttl=LONG) is None
    assert not await locks.release(session.session.id, lease)


async def test_a_session_that_is_purged_meanwhile_is_locked_or_not_there(
    durable: DurableStore, locks: SessionLocks
) -> None:
    records = [a_record() for _ in range(40)]
    for record in records:
        await durable.create(record)
    *tries, _ = await asyncio.gather(
        *(acquire(locks, record) for record in records),
        durable.purge(NOON + timedelta(days=1), limit=100),
    )
    assert all(got is None or isinstance(got, Hold) for got in tries)


# --- Outages


async def test_without_the_database_nobody_gets_a_lock_and_nobody_loses_one(
    mortal: Mortal, survivor: DurableStore
) -> None:
    record, lease = a_record(), a_lease()
    await survivor.create(record)
    async with mortal.locks() as locks:
        hold = await held(locks, record, lease)
        mortal.fail()
        for asked in (
            acquire(locks, record),
            locks.renew(record.session.id, lease, ttl=LONG),
            locks.release(record.session.id, lease),
        ):
            with pytest.raises(StoreUnavailable):
                await asked
        mortal.heal()
        assert isinstance(await acquire(locks, record), Contended)
        assert await locks.release(record.session.id, lease)
        assert (await held(locks, record)).fence > hold.fence
