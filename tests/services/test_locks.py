"""Session locks: acquiring, renewing, releasing, and what is counted."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from sidegate.core.actor import Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.lock import Contended, Lease
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionId
from sidegate.services.idleness import Idleness
from sidegate.services.locks import Acquired, Locks
from sidegate.services.session_reader import SessionReader
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_record, build_session, build_session_id, build_tombstone
from tests.support.clock import NOON, FakeClock

MINUTE = timedelta(minutes=1)
# Longer than any of these tests lasts: the store's clock is a real one.
LONG = timedelta(minutes=5)


@dataclass
class Deployment:
    """A database file, and instances on it."""

    path: Path
    file: SqliteDatabase
    clock: FakeClock = field(default_factory=FakeClock)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.durable = SqliteSessions(self.file)
        self.locks = self.instance()

    def instance(
        self,
        *,
        clock: FakeClock | None = None,
        durable: DurableStore | None = None,
        has_ended: Callable[[Session, datetime], bool] = Session.has_ended,
    ) -> Locks:
        return Locks(
            SqliteLocks(self.file),
            get=(durable or self.durable).get,
            clock=clock or self.clock,
            count=lambda outcome: self.counts.update([outcome]),
            has_ended=has_ended,
        )

    async def create(self, session: Session | None = None) -> SessionId:
        record = build_record(session)
        await self.durable.create(record)
        return record.session.id

    async def acquire(self, session_id: SessionId) -> Acquired:
        got = await self.locks.acquire(session_id, ttl=LONG)
        assert isinstance(got, Acquired)
        return got

    async def revoke(self, session_id: SessionId) -> None:
        await self.durable.revoke_where(
            Condition(session_id=session_id), at=NOON, by=Actor("tests"), reason="lost", limit=1
        )


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    path = tmp_path / "sidegate.db"
    file = await SqliteDatabase.open(path)
    yield Deployment(path, file)
    await file.close()


class UnavailableStore:
    """A durable store that is unavailable."""

    async def get(self, session_id: SessionId) -> None:
        raise StoreUnavailable("sqlite", f"no reply about {session_id}")


async def test_acquired_lock_can_be_renewed_and_released(deployment: Deployment) -> None:
    session_id = await deployment.create()
    got = await deployment.acquire(session_id)
    assert await deployment.locks.renew(session_id, got.lease, ttl=MINUTE) == got.hold
    assert await deployment.locks.release(session_id, got.lease)
    assert deployment.counts == {"acquired": 1, "renewed": 1, "released": 1}


async def test_next_holder_gets_another_lease_and_a_higher_fence(deployment: Deployment) -> None:
    session_id = await deployment.create()
    first = await deployment.acquire(session_id)
    await deployment.locks.release(session_id, first.lease)
    second = await deployment.acquire(session_id)
    assert second.lease != first.lease
    assert second.hold.fence > first.hold.fence


@pytest.mark.parametrize("skew", [MINUTE, -MINUTE])
async def test_clock_skew_does_not_let_two_instances_hold_a_lock(
    deployment: Deployment, skew: timedelta
) -> None:
    session_id = await deployment.create(build_session(at=NOON - 2 * MINUTE))
    other = deployment.instance(clock=FakeClock(NOON + skew))
    got = await deployment.locks.acquire(session_id, ttl=MINUTE, holder="one")
    assert isinstance(got, Acquired)
    contended = await other.acquire(session_id, ttl=MINUTE, holder="other")
    assert isinstance(contended, Contended)
    assert (contended.free_at, contended.holder) == (got.hold.expires_at, "one")
    assert deployment.counts == {"acquired": 1, "contended": 1}


async def test_lock_of_an_unknown_session_is_not_acquired(deployment: Deployment) -> None:
    session_id = build_session_id()
    assert await deployment.locks.acquire(session_id, ttl=LONG) is None
    assert await deployment.locks.renew(session_id, Lease.mint(), ttl=LONG) is None
    assert not await deployment.locks.release(session_id, Lease.mint())
    assert deployment.counts == {"lost": 2}


@pytest.mark.parametrize(
    "ended",
    [
        build_tombstone(at=NOON - MINUTE),
        build_session(at=NOON - MINUTE, expires_at=NOON),
        build_session(at=NOON - MINUTE, idle_timeout=MINUTE),
    ],
    ids=["revoked", "expired", "idle"],
)
async def test_lock_of_an_ended_session_raises_session_ended(
    deployment: Deployment, ended: Session
) -> None:
    session_id = await deployment.create(ended)
    with pytest.raises(SessionEnded):
        await deployment.locks.acquire(session_id, ttl=LONG)
    assert not deployment.counts


async def test_lock_is_neither_refused_nor_lost_while_idleness_is_not_known(
    deployment: Deployment,
) -> None:
    session_id = await deployment.create(build_session(idle_timeout=MINUTE))
    got = await deployment.acquire(session_id)
    deployment.clock.advance(MINUTE)
    idleness = Idleness(clock=deployment.clock, settle_time=0.0)
    reader = SessionReader(deployment.durable, require_idle_known=idleness.require_known)
    locks = deployment.instance(has_ended=reader.has_ended)
    for call in (
        locks.acquire(session_id, ttl=LONG),
        locks.renew(session_id, got.lease, ttl=LONG),
    ):
        with pytest.raises(StoreUnavailable, match="activity"):
            await call
    assert deployment.counts == {"acquired": 1}
    idleness.record_round(True)
    assert await locks.renew(session_id, got.lease, ttl=LONG) is None


async def test_revoking_a_session_ends_its_lock(deployment: Deployment) -> None:
    session_id = await deployment.create()
    got = await deployment.acquire(session_id)
    await deployment.revoke(session_id)
    assert await deployment.locks.renew(session_id, got.lease, ttl=LONG) is None
    assert deployment.counts["lost"] == 1


async def test_lock_of_a_revoked_session_can_be_released(deployment: Deployment) -> None:
    session_id = await deployment.create()
    got = await deployment.acquire(session_id)
    await deployment.revoke(session_id)
    assert await deployment.locks.release(session_id, got.lease)


async def test_outage_raises_and_does_not_count_the_lock_as_lost(deployment: Deployment) -> None:
    session_id = await deployment.create()
    got = await deployment.acquire(session_id)
    disconnected = deployment.instance(durable=cast("DurableStore", UnavailableStore()))
    for call in (
        disconnected.acquire(session_id, ttl=LONG),
        disconnected.renew(session_id, got.lease, ttl=LONG),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    assert deployment.counts == {"acquired": 1}
    assert await deployment.locks.renew(session_id, got.lease, ttl=LONG) is not None


async def test_lease_is_not_stored_or_printed(deployment: Deployment) -> None:
    session_id = await deployment.create()
    got = await deployment.acquire(session_id)
    with closing(sqlite3.connect(deployment.path)) as connection:
        [row] = connection.execute("SELECT * FROM session_locks")
    assert got.lease.digest() in row
    assert got.lease.text not in repr(row) + repr(got)
