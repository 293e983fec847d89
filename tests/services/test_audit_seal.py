"""The audit trail is sealed behind everybody's back, and whoever tampers with it is found out."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.actor import Actor, Change
from sidegate.core.audit import BEFORE_ALL, AuditEvent, AuditFilter, Seal
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import SessionDetails, SessionRecord
from sidegate.services.audit_seal import AuditSealer, Verified
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_session
from tests.support.clock import FakeClock

DAY = timedelta(days=1)
LOGIN = Actor("key:login-service", "192.0.2.7")


class Trail(SqliteAudit):
    """A real trail that can be away, be raced, or be forgotten while it is read."""

    away = False
    raced = False
    overtaken_at: int | None = None
    asked = 0

    async def unsealed(self, *, limit: int) -> list[AuditEvent]:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("sqlite", "told to be away")
        return await super().unsealed(limit=limit)

    async def seal(self, seals: object) -> bool:
        return False if self.raced else await super().seal(seals)  # type: ignore[arg-type]  # passed on

    async def chain(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        few = min(limit, 3)  # so that there are several pages
        page = await super().chain(after=after, limit=few)
        if after == self.overtaken_at:
            self.overtaken_at = None
            await super().forget(FakeClock().now() + DAY, limit=6)
            page = await super().chain(after=after, limit=few)
        return page


@dataclass
class Scene:
    path: Path
    store: SqliteSessions
    trail: Trail
    clock: FakeClock = field(default_factory=FakeClock)
    counted: Counter[str] = field(default_factory=Counter)
    another: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def audit(self) -> AuditSealer:
        def count(outcome: str, number: int) -> None:
            self.counted[outcome] += number
            self.another.set()

        return AuditSealer(self.trail, retention=DAY, clock=self.clock, counted=count)

    async def begin(self, number: int = 1) -> None:
        """Begin so many sessions: so many events."""
        for _ in range(number):
            now = self.clock.now()
            details = SessionDetails(change=Change(now, LOGIN))
            await self.store.create(SessionRecord(a_session(at=now), details))

    async def until(self, outcome: str, number: int) -> None:
        """Wait until so many were counted."""
        async with asyncio.timeout(30):
            while self.counted[outcome] < number:
                await self.another.wait()
                self.another.clear()

    def tamper(self, statement: str) -> None:
        """Do what somebody does who may do anything in the database."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("DROP TRIGGER events_do_not_change")
            connection.execute(statement)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    database = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield Scene(tmp_path / "sidegate.db", SqliteSessions(database), Trail(database))
    await database.close()


async def verified(scene: Scene, known: Seal = BEFORE_ALL) -> Verified:
    [*_, last] = [so_far async for so_far in scene.audit.verify(known)]
    return last


# --- Sealing


async def test_what_is_new_is_sealed_and_counted(scene: Scene) -> None:
    await scene.begin(3)
    assert await scene.audit.seal() == 3
    await scene.begin(2)
    assert await scene.audit.seal() == 2
    assert await scene.audit.seal() == 0
    assert scene.counted["sealed"] == 5


async def test_a_quicker_instance_is_left_to_it(scene: Scene) -> None:
    await scene.begin(3)
    scene.trail.raced = True
    assert await scene.audit.seal() == 0
    assert scene.counted["sealed"] == 0


async def test_an_outage_is_counted_and_tried_again(scene: Scene) -> None:
    await scene.begin()
    scene.trail.away = True
    running = asyncio.create_task(scene.audit.run(every=0.001))
    await scene.until("failed", 2)
    scene.trail.away = False
    await scene.until("sealed", 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_is_older_than_the_retention_is_forgotten(scene: Scene) -> None:
    await scene.begin(2)
    await scene.audit.seal()
    scene.clock.advance(DAY.total_seconds() + 1)
    await scene.begin()
    await scene.audit.seal()
    assert await scene.audit.forget() == 2
    assert len(await scene.audit.events(AuditFilter(), limit=9)) == 1
    assert await verified(scene) == Verified(1, await scene.trail.head())


# --- Verifying


async def test_a_chain_that_was_left_alone_holds(scene: Scene) -> None:
    await scene.begin(7)
    await scene.audit.seal()
    so_far = [each async for each in scene.audit.verify()]
    assert [each.events for each in so_far] == [3, 6, 7, 7]
    assert so_far[-1] == Verified(7, await scene.trail.head())


async def test_a_chain_without_events_holds(scene: Scene) -> None:
    assert await verified(scene) == Verified(0, BEFORE_ALL)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit_events SET actor = 'key:somebody-else' WHERE link = 4",
        "UPDATE audit_events SET source = NULL WHERE link = 4",
        "UPDATE audit_events SET reason = 'another' WHERE link = 4",
        "UPDATE audit_events SET at = at + 1 WHERE link = 4",
        "UPDATE audit_events SET hash = zeroblob(32) WHERE link = 4",
        "DELETE FROM audit_events WHERE link = 4",
        "UPDATE audit_events SET user_id = 'eve' WHERE link = 4",
        "UPDATE audit_events SET session_id = '00000000-0000-7000-8000-000000000000'"
        " WHERE link = 4",
        "UPDATE audit_events SET number = 99 WHERE link = 4",
        "UPDATE audit_events SET action = 'revoke' WHERE link = 4",
        "UPDATE audit_events SET version = 2, type = 'api' WHERE link = 4",
    ],
)
async def test_whoever_tampers_breaks_the_chain_where_it_was_done(
    scene: Scene, damage: str
) -> None:
    await scene.begin(7)
    await scene.audit.seal()
    scene.tamper(damage)
    found = await verified(scene)
    assert (found.events, found.broken) == (3, "link 4 does not hold")


async def test_a_chain_made_anew_is_found_out_by_whoever_knows_a_seal(scene: Scene) -> None:
    await scene.begin(5)
    await scene.audit.seal()
    known = await scene.trail.head()
    scene.tamper("UPDATE audit_events SET user_id = 'eve', link = NULL, hash = NULL")
    await scene.audit.seal()
    assert (await verified(scene)).broken is None
    assert (await verified(scene, known)).broken == "link 5 is not the one that was known"


async def test_an_end_cut_off_is_found_out_by_whoever_knows_a_seal(scene: Scene) -> None:
    await scene.begin(5)
    await scene.audit.seal()
    known = await scene.trail.head()
    scene.tamper("DELETE FROM audit_events WHERE link >= 4")
    assert (await verified(scene)).broken is None
    assert (await verified(scene, known)).broken == "link 5, which was known, is missing"
    await scene.begin()
    await scene.audit.seal()
    assert (await verified(scene, known)).broken == "link 5, which was known, is missing"


async def test_a_seal_that_holds_still_is_recognised(scene: Scene) -> None:
    await scene.begin(3)
    await scene.audit.seal()
    known = await scene.trail.head()
    await scene.begin(3)
    await scene.audit.seal()
    assert (await verified(scene, known)).broken is None


async def test_the_retention_may_overtake_whoever_verifies(scene: Scene) -> None:
    await scene.begin(9)
    await scene.audit.seal()
    scene.trail.overtaken_at = 3
    assert await verified(scene) == Verified(6, await scene.trail.head())
