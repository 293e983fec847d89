"""Pending revocations: in force in a database outage, persisted once after it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.actor import Actor
from sidegate.core.audit import Action, AuditFilter
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.errors import RevocationPending, SessionEnded, StoreUnavailable
from sidegate.core.idempotency import Idempotency
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session, SessionId
from sidegate.core.session_state import SessionState
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Deny, Reason
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.rules import Rules
from sidegate.services.sessions import Issued, NewSession
from sidegate.stores.memory import MemoryStore
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.stores.waiting import wait_until
from tests.support.clock import FakeClock
from tests.support.operations import build_operations

SUPPORT = Actor("key:support", "192.0.2.7")
ADA = NewSession("ada", SUPPORT)
KEY = Idempotency(key_hash=b"c" * 32, seed=b"s" * 32)
SECOND = timedelta(seconds=1)
RETENTION = 6.0


class FakeStore:
    """A PendingRevocationStore shared by all instances; may be down or lose entries."""

    def __init__(self) -> None:
        self.entries: dict[str, PendingRevocation] = {}
        self.down = False

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        self._require_up()
        self.entries |= {each.id: each for each in revocations}

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        self._require_up()
        found = [each for id_, each in self.entries.items() if id_ not in known]
        return found, known - self.entries.keys()

    async def remove(self, revocation: PendingRevocation) -> None:
        self._require_up()
        self.entries.pop(revocation.id, None)

    def _require_up(self) -> None:
        if self.down:
            raise StoreUnavailable("pending", "down in this test")


class FlakySessions(SqliteSessions):
    """A real store whose `revoke_where` can be made unavailable."""

    unavailable = False

    async def revoke_where(self, *conditions: Condition, **kwargs: object) -> list[ChangedSession]:
        if self.unavailable:
            raise StoreUnavailable("database", "unavailable in this test")
        return await super().revoke_where(*conditions, **kwargs)  # type: ignore[arg-type]  # passed on


@dataclass
class Deployment:
    """What its instances share."""

    database: FlakySessions
    audit: SqliteAudit
    store: FakeStore = field(default_factory=FakeStore)
    clock: FakeClock = field(default_factory=FakeClock)
    outcomes: Counter[str] = field(default_factory=Counter)

    def start_instance(self, *, has_store: bool = True) -> "Instance":
        return Instance(self, self.store if has_store else None)

    async def revocations(self) -> list[tuple[str, object, str | None, str | None]]:
        """Return session, time, actor and reason of each revocation in the audit trail."""
        events = await self.audit.list_events(AuditFilter(action=Action.REVOKE), limit=99)
        return [(e.session_id, e.at, e.by.name if e.by else None, e.reason) for e in events]

    async def revoked_ids(self) -> list[str]:
        return [session_id for session_id, *_ in await self.revocations()]


@dataclass
class Instance:
    """One process: its memory, and the pending revocations it knows."""

    deployment: Deployment
    store: FakeStore | None

    def __post_init__(self) -> None:
        clock = self.deployment.clock
        self.pending = PendingRevocations(
            self.store,
            clock=clock,
            count=lambda outcome: self.deployment.outcomes.update([outcome]),
            retention=RETENTION,
            max_pending=5,
        )
        self.memory = MemoryStore(
            max_sessions=9,
            max_bytes=2**20,
            max_age=5.0,
            clock=clock,
            apply_pending=self.pending.apply,
        )
        self.sessions, self.rotation, _ = build_operations(
            self.deployment.database,
            Rules(ring=KeyRing([TokenKey.generate()])),
            clock=clock,
            events=self,
            memory=self.memory,
            pending=self.pending,
        )

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...

    async def log_in(self, user_id: str = "ada") -> Session:
        """Create a session and let a second pass."""
        issued = await self.sessions.create(NewSession(user_id, SUPPORT))
        self.deployment.clock.advance(SECOND)
        return issued.record.session

    async def revoke(self, session: Session) -> None:
        """Revoke a session while the database is unavailable."""
        with pytest.raises(RevocationPending):
            await self.sessions.revoke(session.id, by=SUPPORT, reason="stolen")

    async def revoke_where(self, condition: Condition) -> list[int]:
        revoking = self.sessions.revoke_where(condition, by=SUPPORT, reason="stolen")
        return [number async for number in revoking]

    async def create_pending(self) -> Session:
        """Create a session, and revoke it during a database outage, which goes on."""
        session = await self.log_in()
        self.deployment.database.unavailable = True
        await self.revoke(session)
        return session

    async def list_ids(
        self, *, limit: int = 9, state: SessionState | None = SessionState.ACTIVE
    ) -> list[SessionId]:
        page = await self.sessions.list_where(Condition("ada"), limit=limit, state=state)
        return [record.session.id for record in page]

    def allows(self, session: Session) -> bool:
        """Return whether an active copy found in another store would be allowed here."""
        return self.memory.put_nowait(session).revoked_at is None

    async def persist(self) -> None:
        await self.pending.persist_all(self.sessions.persist)


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    file = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield Deployment(FlakySessions(file), SqliteAudit(file))
    await file.close()


@pytest.fixture
def one(deployment: Deployment) -> Instance:
    return deployment.start_instance()


@pytest.fixture
def other(deployment: Deployment) -> Instance:
    return deployment.start_instance()


# In force during the outage


async def test_pending_revocation_is_applied_to_copies_in_memory(one: Instance) -> None:
    session = await one.create_pending()
    found = await one.memory.find(session.digest)
    assert found is not None
    assert found.revoked_at is not None


Revoke = Callable[[Instance, Session], Awaitable[object]]


@pytest.mark.parametrize(
    ("revoke", "allowed"),
    [
        (
            lambda one, ada: one.sessions.revoke(ada.id, by=SUPPORT, reason="stolen"),
            [False, True, True],
        ),
        (
            lambda one, ada: one.revoke_where(Condition("ada", except_id=ada.id)),
            [True, False, True],
        ),
    ],
    ids=["session", "other sessions of the user"],
)
async def test_pending_revocation_denies_matching_sessions_on_every_instance(
    one: Instance, other: Instance, revoke: Revoke, allowed: list[bool]
) -> None:
    sessions = [await one.log_in(), await one.log_in(), await one.log_in("bob")]
    one.deployment.database.unavailable = True
    assert [other.allows(each) for each in sessions] == [True, True, True]
    with pytest.raises(RevocationPending):
        await revoke(one, sessions[0])
    assert [one.allows(each) for each in sessions] == allowed
    await other.pending.refresh()
    assert [other.allows(each) for each in sessions] == allowed


async def test_session_with_a_pending_revocation_is_shown_and_listed_as_revoked(
    one: Instance, other: Instance
) -> None:
    session, active = await one.log_in(), await one.log_in()
    one.deployment.database.unavailable = True
    await one.revoke(session)
    await other.pending.refresh()
    for instance in (one, other):
        record = await instance.sessions.get(session.id)
        assert record is not None
        assert record.session.revoked_at == one.deployment.clock.now()
        assert record.details.revoked_by == "key:support"
        assert record.details.revoked_reason == "stolen"
        assert await instance.list_ids() == [active.id]
        assert await instance.list_ids(state=None) == [active.id, session.id]


async def test_pages_of_active_sessions_are_full_despite_pending_revocations(
    one: Instance,
) -> None:
    sessions = [await one.log_in() for _ in range(7)]
    one.deployment.database.unavailable = True
    for session in (sessions[6], sessions[5], sessions[2]):
        await one.revoke(session)
    active = [sessions[number].id for number in (4, 3, 1, 0)]
    for limit in (2, 3, 4, 9):
        assert await one.list_ids(limit=limit) == active[:limit]


Operation = Callable[[Instance, Issued], Awaitable[object]]


@pytest.mark.parametrize(
    "operation",
    [
        lambda one, issued: one.sessions.touch(issued.record.session.id),
        lambda one, issued: one.rotation.migrate(
            issued.record.session.id, by=SUPPORT, provider="idp"
        ),
        lambda one, _: one.sessions.create(ADA, key=KEY),
    ],
    ids=["touch", "migrate", "create with the same idempotency key"],
)
async def test_operation_on_a_session_pending_revocation_raises_session_ended(
    one: Instance, operation: Operation
) -> None:
    issued = await one.sessions.create(ADA, key=KEY)
    one.deployment.database.unavailable = True
    await one.revoke(issued.record.session)
    with pytest.raises(SessionEnded):
        await operation(one, issued)


async def test_session_with_a_pending_revocation_cannot_be_refreshed(one: Instance) -> None:
    issued = await one.sessions.create(ADA)
    one.deployment.database.unavailable = True
    await one.revoke(issued.record.session)
    refreshed = await one.rotation.refresh(issued.token.text, by=SUPPORT)
    assert refreshed == Deny(Reason.REVOKED)


async def test_revocation_stays_pending_during_the_outage(one: Instance) -> None:
    session = await one.create_pending()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await one.persist()
    assert not one.allows(session)
    assert len(one.pending) == 1


# Not accepted


async def test_condition_that_sessions_alone_do_not_decide_is_not_accepted(one: Instance) -> None:
    one.deployment.database.unavailable = True
    with pytest.raises(StoreUnavailable):
        await one.revoke_where(Condition(tenant="north"))
    assert len(one.pending) == 0


@pytest.mark.parametrize("has_store", [True, False], ids=["store down", "no store"])
async def test_without_database_and_store_the_revocation_fails(
    deployment: Deployment, has_store: bool
) -> None:
    deployment.store.down = True
    one = deployment.start_instance(has_store=has_store)
    session = await one.log_in()
    deployment.database.unavailable = True
    with pytest.raises(StoreUnavailable) as outage:
        await one.sessions.revoke(session.id, by=SUPPORT, reason="stolen")
    assert outage.value.store == "database"
    assert one.allows(session)


async def test_revocation_beyond_max_pending_is_not_accepted(one: Instance) -> None:
    sessions = [await one.log_in(str(number)) for number in range(6)]
    one.deployment.database.unavailable = True
    for session in sessions[:5]:
        await one.revoke(session)
    with pytest.raises(StoreUnavailable):
        await one.sessions.revoke(sessions[5].id, by=SUPPORT, reason="stolen")


# Persisted after the outage


@pytest.mark.parametrize("persists", ["accepting instance", "other instance", "later instance"])
async def test_revocation_is_persisted_with_its_time_actor_and_reason(
    deployment: Deployment, one: Instance, other: Instance, persists: str
) -> None:
    session = await one.create_pending()
    revoked_at = deployment.clock.now()
    deployment.clock.advance(600)
    deployment.database.unavailable = False
    later = deployment.start_instance()
    instances = {"accepting instance": one, "other instance": other, "later instance": later}
    await instances[persists].pending.refresh()
    await instances[persists].persist()
    record = await deployment.database.get(session.id)
    assert record is not None
    assert record.session.revoked_at == revoked_at
    assert (record.details.revoked_by, record.details.revoked_reason) == ("key:support", "stolen")
    assert await deployment.revocations() == [(session.id, revoked_at, "key:support", "stolen")]
    assert deployment.outcomes == {"accepted": 1, "written": 1}


async def test_concurrent_instances_persist_each_revocation_once(
    deployment: Deployment, one: Instance, other: Instance
) -> None:
    first, second = await one.log_in(), await one.log_in("bob")
    deployment.database.unavailable = True
    await one.revoke(first)
    with pytest.raises(RevocationPending):
        await one.revoke_where(Condition("bob"))
    await other.pending.refresh()
    deployment.database.unavailable = False
    await asyncio.gather(one.persist(), other.persist(), one.persist())
    assert sorted(await deployment.revoked_ids()) == sorted([first.id, second.id])
    assert len(one.pending) == len(other.pending) == 0
    assert deployment.store.entries == {}


async def test_revocations_lost_by_the_store_are_restored_by_an_instance(
    deployment: Deployment, one: Instance, other: Instance
) -> None:
    session = await one.create_pending()
    deployment.store.entries.clear()
    await one.pending.refresh()
    await other.pending.refresh()
    assert not other.allows(session)


async def test_persisted_revocation_that_is_restored_changes_nothing(
    deployment: Deployment, one: Instance, other: Instance
) -> None:
    """An instance that was disconnected for a while still knows it, and restores it."""
    session = await one.log_in()
    deployment.database.unavailable = True
    with pytest.raises(RevocationPending):
        await one.revoke_where(Condition("ada"))
    await other.pending.refresh()
    deployment.database.unavailable = False
    await one.persist()
    newer = await one.log_in()
    await other.pending.refresh()
    assert other.allows(newer)
    await one.pending.refresh()
    await one.persist()
    await other.persist()
    assert await deployment.revoked_ids() == [session.id]


async def test_persisted_revocation_is_applied_until_its_retention_ends(
    deployment: Deployment, one: Instance, other: Instance
) -> None:
    session = await one.log_in()
    other.memory.put_nowait(session)
    deployment.database.unavailable = True
    await one.revoke(session)
    await other.pending.refresh()
    deployment.database.unavailable = False
    await one.persist()
    await other.persist()  # which does not update its memory: the session is revoked already
    other.pending.drop_persisted()
    copy = await other.memory.find(session.digest)
    assert copy is not None
    assert copy.revoked_at is not None
    assert not other.allows(session)  # the result of a slow lookup
    deployment.clock.advance(RETENTION)
    other.pending.drop_persisted()
    assert other.allows(session)  # no lookup from before the revocation is left


async def test_invalid_revocation_is_dropped_and_does_not_block_others(
    deployment: Deployment, one: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    invalid = PendingRevocation(
        "1", Condition(session_id=SessionId("no id")), deployment.clock.now(), SUPPORT, "stolen"
    )
    await deployment.store.put([invalid])
    session = await one.create_pending()
    await one.pending.refresh()
    deployment.database.unavailable = False
    await one.persist()
    assert await deployment.revoked_ids() == [session.id]
    assert deployment.outcomes["dropped"] == 1
    assert "pending revocation dropped" in caplog.text


async def test_background_tasks_refresh_and_persist(
    deployment: Deployment, one: Instance, other: Instance
) -> None:
    tasks = [
        asyncio.create_task(other.pending.watch(3600)),
        asyncio.create_task(other.pending.run_persisting(0.001, other.sessions.persist)),
    ]
    session = await one.create_pending()
    other.pending.wake()
    await wait_until(lambda: len(other.pending) == 1)
    deployment.database.unavailable = False
    await wait_until(lambda: len(other.pending) == 0)
    assert await deployment.revoked_ids() == [session.id]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
