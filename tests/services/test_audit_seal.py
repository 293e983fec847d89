"""The audit sealer: sealing, detection of tampering, deletion of old events."""

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
from sidegate.core.audit import CHAIN_START, AuditEvent, AuditFilter, Seal
from sidegate.core.errors import Conflict, StoreUnavailable
from sidegate.core.session import SessionDetails, SessionRecord
from sidegate.services.audit_seal import AuditSealer, VerifyProgress
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_session
from tests.support.clock import FakeClock

DAY = timedelta(days=1)
LOGIN = Actor("key:login-service", "192.0.2.7")


class FlakyAudit(SqliteAudit):
    """A real store that can be unavailable, lose races, or shrink during a read."""

    unavailable = False
    lose_race = False
    races_to_lose = 0
    delete_at: int | None = None

    async def list_unsealed(self, *, limit: int) -> list[AuditEvent]:
        if self.unavailable:
            raise StoreUnavailable("sqlite", "unavailable in this test")
        return await super().list_unsealed(limit=limit)

    async def add_seals(self, seals: object) -> bool:
        if self.races_to_lose:
            self.races_to_lose -= 1
            return False
        return False if self.lose_race else await super().add_seals(seals)  # type: ignore[arg-type]  # passed on

    async def list_sealed(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        page_size = min(limit, 3)  # so that there are several pages
        page = await super().list_sealed(after=after, limit=page_size)
        if after == self.delete_at:
            self.delete_at = None
            await super().delete_oldest(FakeClock().now() + DAY, limit=6)
            page = await super().list_sealed(after=after, limit=page_size)
        return page


@dataclass
class Deployment:
    path: Path
    store: SqliteSessions
    log: FlakyAudit
    clock: FakeClock = field(default_factory=FakeClock)
    outcomes: Counter[str] = field(default_factory=Counter)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def audit(self) -> AuditSealer:
        def count(outcome: str, number: int) -> None:
            self.outcomes[outcome] += number
            self.progress.set()

        return AuditSealer(self.log, retention=DAY, clock=self.clock, count=count)

    async def create_sessions(self, number: int = 1) -> None:
        """Create so many sessions, which writes so many events."""
        for _ in range(number):
            now = self.clock.now()
            details = SessionDetails(change=Change(now, LOGIN))
            await self.store.create(SessionRecord(build_session(at=now), details))

    async def until(self, outcome: str, number: int) -> None:
        """Wait until so many were counted."""
        async with asyncio.timeout(30):
            while self.outcomes[outcome] < number:
                await self.progress.wait()
                self.progress.clear()

    def tamper(self, statement: str) -> None:
        """Run a statement with full privileges on the database."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("DROP TRIGGER reject_audit_event_update")
            connection.execute(statement)


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    database = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield Deployment(tmp_path / "sidegate.db", SqliteSessions(database), FlakyAudit(database))
    await database.close()


async def verify(deployment: Deployment, known: Seal = CHAIN_START) -> VerifyProgress:
    [*_, last] = [step async for step in deployment.audit.verify(known)]
    return last


# Sealing


async def test_new_events_are_sealed_and_counted(deployment: Deployment) -> None:
    await deployment.create_sessions(3)
    assert await deployment.audit.seal() == 3
    await deployment.create_sessions(2)
    assert await deployment.audit.seal() == 2
    assert await deployment.audit.seal() == 0
    assert deployment.outcomes["sealed"] == 5


async def test_lost_race_seals_and_counts_nothing(deployment: Deployment) -> None:
    await deployment.create_sessions(3)
    deployment.log.lose_race = True
    assert await deployment.audit.seal() == 0
    assert deployment.outcomes["sealed"] == 0


async def test_lost_races_do_not_leave_events_unsealed(deployment: Deployment) -> None:
    await deployment.create_sessions(3)
    deployment.log.races_to_lose = 4
    await deployment.audit.seal_all()
    assert deployment.outcomes["sealed"] == 3


async def test_sealing_that_always_loses_the_race_is_a_conflict(deployment: Deployment) -> None:
    await deployment.create_sessions(3)
    deployment.log.lose_race = True
    with pytest.raises(Conflict, match="other processes are sealing"):
        await deployment.audit.seal_all()


async def test_outage_is_counted_and_retried(deployment: Deployment) -> None:
    await deployment.create_sessions()
    deployment.log.unavailable = True
    running = asyncio.create_task(deployment.audit.run(interval=0.001))
    await deployment.until("failed", 2)
    deployment.log.unavailable = False
    await deployment.until("sealed", 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_events_older_than_the_retention_are_deleted(deployment: Deployment) -> None:
    await deployment.create_sessions(2)
    await deployment.audit.seal()
    deployment.clock.advance(DAY.total_seconds() + 1)
    await deployment.create_sessions()
    await deployment.audit.seal()
    assert await deployment.audit.delete_expired() == 2
    assert len(await deployment.audit.list_events(AuditFilter(), limit=9)) == 1
    assert await verify(deployment) == VerifyProgress(1, await deployment.log.read_head())


# Verifying


async def test_untouched_chain_is_intact(deployment: Deployment) -> None:
    await deployment.create_sessions(7)
    await deployment.audit.seal()
    steps = [each async for each in deployment.audit.verify()]
    assert [each.events for each in steps] == [3, 6, 7, 7]
    assert steps[-1] == VerifyProgress(7, await deployment.log.read_head())


async def test_empty_chain_is_intact(deployment: Deployment) -> None:
    assert await verify(deployment) == VerifyProgress(0, CHAIN_START)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit_events SET actor = 'key:other' WHERE link = 4",
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
async def test_tampering_breaks_the_chain_at_the_changed_event(
    deployment: Deployment, damage: str
) -> None:
    await deployment.create_sessions(7)
    await deployment.audit.seal()
    deployment.tamper(damage)
    found = await verify(deployment)
    assert (found.events, found.broken) == (3, "link 4 does not match its seal")


async def test_rebuilt_chain_is_detected_with_a_known_seal(deployment: Deployment) -> None:
    await deployment.create_sessions(5)
    await deployment.audit.seal()
    known_seal = await deployment.log.read_head()
    deployment.tamper("UPDATE audit_events SET user_id = 'eve', link = NULL, hash = NULL")
    await deployment.audit.seal()
    assert (await verify(deployment)).broken is None
    assert (await verify(deployment, known_seal)).broken == "link 5 differs from the known seal"


async def test_truncated_chain_is_detected_with_a_known_seal(deployment: Deployment) -> None:
    await deployment.create_sessions(5)
    await deployment.audit.seal()
    known_seal = await deployment.log.read_head()
    deployment.tamper("DELETE FROM audit_events WHERE link >= 4")
    assert (await verify(deployment)).broken is None
    assert (await verify(deployment, known_seal)).broken == "link 5 of the known seal is missing"
    await deployment.create_sessions()
    await deployment.audit.seal()
    assert (await verify(deployment, known_seal)).broken == "link 5 of the known seal is missing"


async def test_known_seal_of_an_intact_chain_is_accepted(deployment: Deployment) -> None:
    await deployment.create_sessions(3)
    await deployment.audit.seal()
    known_seal = await deployment.log.read_head()
    await deployment.create_sessions(3)
    await deployment.audit.seal()
    assert (await verify(deployment, known_seal)).broken is None


async def test_deletion_during_verification_is_not_a_break(deployment: Deployment) -> None:
    await deployment.create_sessions(9)
    await deployment.audit.seal()
    deployment.log.delete_at = 3
    assert await verify(deployment) == VerifyProgress(6, await deployment.log.read_head())
