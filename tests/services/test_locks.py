"""Locking sessions: who may, what ends it, and what is counted."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from sidegate.core.actor import Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.lock import Contended, Lease
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionId
from sidegate.services.locks import Acquired, Locks
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_record, a_session, a_tombstone, an_id
from tests.support.clock import NOON, FakeClock

MINUTE = timedelta(minutes=1)
# Longer than any of these tests lasts: the store's clock is a real one.
LONG = timedelta(minutes=5)


@dataclass
class Rig:
    """A file of sessions, and as many instances on it as a test asks for."""

    path: Path
    file: SqliteDatabase
    clock: FakeClock = field(default_factory=FakeClock)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.durable = SqliteSessions(self.file)
        self.locks = self.instance()

    def instance(
        self, *, clock: FakeClock | None = None, durable: DurableStore | None = None
    ) -> Locks:
        return Locks(
            SqliteLocks(self.file),
            get=(durable or self.durable).get,
            clock=clock or self.clock,
            counted=lambda outcome: self.counts.update([outcome]),
        )

    async def begun(self, session: Session | None = None) -> SessionId:
        record = a_record(session)
        await self.durable.create(record)
        return record.session.id

    async def acquired(self, session_id: SessionId) -> Acquired:
        got = await self.locks.acquire(session_id, ttl=LONG)
        assert isinstance(got, Acquired)
        return got

    async def revoke(self, session_id: SessionId) -> None:
        await self.durable.revoke_where(
            Condition(session_id=session_id), at=NOON, by=Actor("tests"), reason="lost", limit=1
        )


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    path = tmp_path / "sidegate.db"
    file = await SqliteDatabase.open(path)
    yield Rig(path, file)
    await file.close()


class Away:
    """A durable store that cannot answer."""

    async def get(self, session_id: SessionId) -> None:
        raise StoreUnavailable("away", f"not now, nor about {session_id}")


async def test_what_was_acquired_can_be_renewed_and_released(rig: Rig) -> None:
    session_id = await rig.begun()
    got = await rig.acquired(session_id)
    assert await rig.locks.renew(session_id, got.lease, ttl=MINUTE) == got.hold
    assert await rig.locks.release(session_id, got.lease)
    assert rig.counts == {"acquired": 1, "renewed": 1, "released": 1}


async def test_the_next_holder_has_another_lease_and_a_higher_fence(rig: Rig) -> None:
    session_id = await rig.begun()
    first = await rig.acquired(session_id)
    await rig.locks.release(session_id, first.lease)
    second = await rig.acquired(session_id)
    assert second.lease != first.lease
    assert second.hold.fence > first.hold.fence


@pytest.mark.parametrize("apart", [MINUTE, -MINUTE])
async def test_two_instances_with_clocks_a_minute_apart_do_not_both_hold_it(
    rig: Rig, apart: timedelta
) -> None:
    session_id = await rig.begun(a_session(at=NOON - 2 * MINUTE))
    other = rig.instance(clock=FakeClock(NOON + apart))
    got = await rig.locks.acquire(session_id, ttl=MINUTE, holder="one")
    assert isinstance(got, Acquired)
    contended = await other.acquire(session_id, ttl=MINUTE, holder="other")
    assert isinstance(contended, Contended)
    assert (contended.free_at, contended.holder) == (got.hold.expires_at, "one")
    assert rig.counts == {"acquired": 1, "contended": 1}


async def test_nobody_locks_a_session_that_does_not_exist(rig: Rig) -> None:
    session_id = an_id()
    assert await rig.locks.acquire(session_id, ttl=LONG) is None
    assert await rig.locks.renew(session_id, Lease.mint(), ttl=LONG) is None
    assert not await rig.locks.release(session_id, Lease.mint())
    assert rig.counts == {"lost": 2}


@pytest.mark.parametrize(
    "ended",
    [
        a_tombstone(at=NOON - MINUTE),
        a_session(at=NOON - MINUTE, expires_at=NOON),
        a_session(at=NOON - MINUTE, idle_timeout=MINUTE),
    ],
    ids=["revoked", "expired", "idle"],
)
async def test_nobody_locks_a_session_that_has_ended(rig: Rig, ended: Session) -> None:
    session_id = await rig.begun(ended)
    with pytest.raises(SessionEnded):
        await rig.locks.acquire(session_id, ttl=LONG)
    assert not rig.counts


async def test_the_end_of_a_session_ends_its_lock(rig: Rig) -> None:
    session_id = await rig.begun()
    got = await rig.acquired(session_id)
    await rig.revoke(session_id)
    assert await rig.locks.renew(session_id, got.lease, ttl=LONG) is None
    assert rig.counts["lost"] == 1


async def test_what_is_let_go_of_after_the_end_is_released(rig: Rig) -> None:
    session_id = await rig.begun()
    got = await rig.acquired(session_id)
    await rig.revoke(session_id)
    assert await rig.locks.release(session_id, got.lease)


async def test_an_outage_is_no_end_and_no_loss(rig: Rig) -> None:
    session_id = await rig.begun()
    got = await rig.acquired(session_id)
    cut_off = rig.instance(durable=cast("DurableStore", Away()))
    for asked in (
        cut_off.acquire(session_id, ttl=LONG),
        cut_off.renew(session_id, got.lease, ttl=LONG),
    ):
        with pytest.raises(StoreUnavailable):
            await asked
    assert rig.counts == {"acquired": 1}
    assert await rig.locks.renew(session_id, got.lease, ttl=LONG) is not None


async def test_nobody_but_the_holder_is_told_the_lease(rig: Rig) -> None:
    session_id = await rig.begun()
    got = await rig.acquired(session_id)
    with closing(sqlite3.connect(rig.path)) as connection:
        [row] = connection.execute("SELECT * FROM session_locks")
    assert got.lease.digest() in row
    assert got.lease.text not in repr(row) + repr(got)
