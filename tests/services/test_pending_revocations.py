"""While the truth is away revocations hold, and they are written down once when it is back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from uuid_utils import uuid7

from sidegate.core.actor import Actor
from sidegate.core.audit import Action, AuditFilter
from sidegate.core.condition import Condition
from sidegate.core.errors import RevocationPending, SessionEnded, StoreUnavailable
from sidegate.core.idempotency import Idempotency
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.pending import PendingRevocation
from sidegate.core.session import Session, SessionId
from sidegate.core.session_state import SessionState
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Deny, Reason
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import NullFeed
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import NewSession, Sessions
from sidegate.stores.memory import MemoryStore
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.stores.waiting import until
from tests.support.clock import FakeClock

SUPPORT = Actor("key:support", "192.0.2.7")
SECOND = timedelta(seconds=1)


class Shelf:
    """A PendingShelf that all instances share, and that may be away or forget."""

    def __init__(self) -> None:
        self.kept: dict[str, PendingRevocation] = {}
        self.down = False

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        self._must_be_there()
        self.kept |= {each.id: each for each in revocations}

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        self._must_be_there()
        found = [each for id_, each in self.kept.items() if id_ not in known]
        return found, known - self.kept.keys()

    async def remove(self, revocation: PendingRevocation) -> None:
        self._must_be_there()
        self.kept.pop(revocation.id, None)

    def _must_be_there(self) -> None:
        if self.down:
            raise StoreUnavailable("shelf", "told to be down")


class Truth(SqliteSessions):
    """A real store that can be told to be away, for revocations only."""

    away = False

    async def revoke_where(self, *conditions: Condition, **how: object) -> list[Session]:
        if self.away:
            raise StoreUnavailable("truth", "told to be away")
        return await super().revoke_where(*conditions, **how)  # type: ignore[arg-type]  # passed on


@dataclass
class Instance:
    """One process: its memory, and what it knows to be pending."""

    truth: Truth
    shelf: Shelf | None
    clock: FakeClock
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pending = PendingRevocations(
            self.shelf,
            clock=self.clock,
            counted=lambda word: self.outcomes.update([word]),
            linger=6.0,
            most=5,
        )
        self.local = MemoryStore(
            max_sessions=9,
            max_bytes=2**20,
            max_age=5.0,
            clock=self.clock,
            applied=self.pending.applied,
        )
        means = SessionContext(
            self.truth,
            [self.local],
            NullFeed(),
            KeyRing([TokenKey.generate()]),
            DEFAULT_LIFETIMES,
            self.clock,
            self,
            pending=self.pending,
        )
        self.sessions = Sessions(means, new_id=lambda: SessionId(str(uuid7())))
        self.rotation = Rotation(means)

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...

    async def login(self, user_id: str = "ada") -> Session:
        """Begin a session and let a second pass."""
        issued = await self.sessions.create(NewSession(user_id, SUPPORT))
        self.clock.advance(SECOND)
        return issued.record.session

    async def revoke(self, session: Session) -> None:
        with pytest.raises(RevocationPending):
            await self.sessions.revoke(session.id, by=SUPPORT, reason="stolen")

    async def listed(
        self, *, limit: int = 9, state: SessionState | None = SessionState.ACTIVE
    ) -> list[SessionId]:
        page = await self.sessions.list_where(Condition("ada"), limit=limit, state=state)
        return [record.session.id for record in page]

    async def revoke_where(self, condition: Condition) -> list[int]:
        ending = self.sessions.revoke_where(condition, by=SUPPORT, reason="stolen")
        return [number async for number in ending]

    def lets_in(self, session: Session) -> bool:
        """Say whether somebody found elsewhere, alive, would be let in here."""
        return self.local.put_nowait(session).revoked_at is None

    async def write_down(self) -> None:
        await self.pending.persist_all(self.sessions.persist)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    file = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield file
    await file.close()


@pytest.fixture
def truth(file: SqliteDatabase) -> Truth:
    return Truth(file)


@pytest.fixture
def instances(truth: Truth) -> tuple[Instance, Instance]:
    """Two instances on one shelf and one truth."""
    clock, shelf = FakeClock(), Shelf()
    return Instance(truth, shelf, clock), Instance(truth, shelf, clock)


async def revocations(file: SqliteDatabase) -> list[tuple[str, object, str | None, str | None]]:
    """Return whom, when, by whom and why, as the audit trail has it."""
    events = await SqliteAudit(file).events(AuditFilter(action=Action.REVOKE), limit=99)
    return [(e.session_id, e.at, e.by.name if e.by else None, e.reason) for e in events]


async def test_it_holds_here_at_once_on_every_road(instances: tuple[Instance, Instance]) -> None:
    one, _ = instances
    session, bystander = await one.login(), await one.login("bob")
    one.truth.away = True
    await one.revoke(session)
    assert not one.lets_in(session)  # from Redis or the truth
    found = await one.local.find(session.digest)  # from memory
    assert found is not None
    assert found.revoked_at is not None
    assert one.lets_in(bystander)


async def test_who_is_to_be_written_down_is_shown_and_listed_as_over(
    instances: tuple[Instance, Instance],
) -> None:
    one, other = instances
    session, another = await one.login(), await one.login()
    one.truth.away = True
    await one.revoke(session)
    await other.pending.refresh()
    for instance in instances:
        shown = await instance.sessions.get(session.id)
        assert shown is not None
        assert shown.session.revoked_at == one.clock.now()
        assert (shown.details.revoked_by, shown.details.revoked_reason) == ("key:support", "stolen")
        assert await instance.listed() == [another.id]
        assert await instance.listed(state=None) == [another.id, session.id]


async def test_a_page_is_as_long_as_ever_though_some_are_to_be_written_down(
    instances: tuple[Instance, Instance],
) -> None:
    one, _ = instances
    begun = [await one.login() for _ in range(7)]
    one.truth.away = True
    for session in (begun[6], begun[5], begun[2]):
        await one.revoke(session)
    living = [begun[number].id for number in (4, 3, 1, 0)]
    assert await one.listed(limit=2) == living[:2]
    assert await one.listed(limit=3) == living[:3]
    assert await one.listed(limit=4) == living
    assert await one.listed(limit=9) == living


async def test_nothing_is_done_any_more_with_whom_is_to_be_written_down(
    instances: tuple[Instance, Instance],
) -> None:
    one, _ = instances
    issued = await one.sessions.create(NewSession("ada", SUPPORT))
    session = issued.record.session
    one.truth.away = True
    await one.revoke(session)
    refreshed = await one.rotation.refresh(issued.token.text, by=SUPPORT)
    assert refreshed == Deny(Reason.REVOKED)
    with pytest.raises(SessionEnded):
        await one.sessions.touch(session.id)
    with pytest.raises(SessionEnded):
        await one.rotation.migrate(session.id, by=SUPPORT, provider="idp")


async def test_a_log_in_that_is_asked_for_again_is_over_when_its_end_is_to_be_written_down(
    instances: tuple[Instance, Instance],
) -> None:
    one, _ = instances
    key = Idempotency(claim=b"c" * 32, seed=b"s" * 32)
    issued = await one.sessions.create(NewSession("ada", SUPPORT), key=key)
    one.truth.away = True
    await one.revoke(issued.record.session)
    with pytest.raises(SessionEnded):
        await one.sessions.create(NewSession("ada", SUPPORT), key=key)


async def test_it_holds_on_another_instance_when_that_has_looked(
    instances: tuple[Instance, Instance],
) -> None:
    one, other = instances
    session = await one.login()
    assert other.lets_in(session)
    one.truth.away = True
    await one.revoke(session)
    await other.pending.refresh()
    assert not other.lets_in(session)


async def test_a_whole_users_sessions_can_be_pending_but_one(
    instances: tuple[Instance, Instance],
) -> None:
    one, other = instances
    current, another, bobs = await one.login(), await one.login(), await one.login("bob")
    one.truth.away = True
    with pytest.raises(RevocationPending):
        await one.revoke_where(Condition("ada", except_id=current.id))
    await other.pending.refresh()
    assert [other.lets_in(s) for s in (current, another, bobs)] == [True, False, True]


async def test_what_a_session_alone_does_not_tell_cannot_be_pending(
    instances: tuple[Instance, Instance],
) -> None:
    one, _ = instances
    one.truth.away = True
    with pytest.raises(StoreUnavailable):
        await one.revoke_where(Condition(tenant="north"))
    assert len(one.pending) == 0


@pytest.mark.parametrize("with_shelf", [True, False], ids=["shelf down", "no shelf"])
async def test_with_neither_truth_nor_shelf_it_does_not_hold(
    truth: Truth, with_shelf: bool
) -> None:
    shelf = Shelf()
    shelf.down = True
    one = Instance(truth, shelf if with_shelf else None, FakeClock())
    session = await one.login()
    truth.away = True
    with pytest.raises(StoreUnavailable) as outage:
        await one.sessions.revoke(session.id, by=SUPPORT, reason="stolen")
    assert outage.value.store == "truth"
    assert one.lets_in(session)


async def test_it_is_written_down_with_who_when_and_why(
    instances: tuple[Instance, Instance], file: SqliteDatabase
) -> None:
    one, _ = instances
    session = await one.login()
    one.truth.away = True
    await one.revoke(session)
    asked_at = one.clock.now()
    one.clock.advance(600)
    one.truth.away = False
    await one.write_down()
    record = await one.truth.get(session.id)
    assert record is not None
    assert record.session.revoked_at == asked_at
    assert (record.details.revoked_by, record.details.revoked_reason) == ("key:support", "stolen")
    assert await revocations(file) == [(session.id, asked_at, "key:support", "stolen")]
    assert one.outcomes == {"accepted": 1, "written": 1}


async def test_however_many_write_it_down_it_is_written_once(
    instances: tuple[Instance, Instance], file: SqliteDatabase
) -> None:
    one, other = instances
    mine, hers = await one.login(), await one.login("bob")
    one.truth.away = True
    await one.revoke(mine)
    with pytest.raises(RevocationPending):
        await one.revoke_where(Condition("bob"))
    await other.pending.refresh()
    one.truth.away = False
    await asyncio.gather(one.write_down(), other.write_down(), one.write_down())
    assert {whom for whom, *_ in await revocations(file)} == {mine.id, hers.id}
    assert len(await revocations(file)) == 2
    assert len(one.pending) == len(other.pending) == 0
    assert one.shelf is not None
    assert one.shelf.kept == {}


async def test_an_instance_that_starts_later_writes_it_down(
    instances: tuple[Instance, Instance], file: SqliteDatabase
) -> None:
    one, _ = instances
    session = await one.login()
    one.truth.away = True
    await one.revoke(session)
    one.truth.away = False
    later = Instance(one.truth, one.shelf, one.clock)
    await later.pending.refresh()
    await later.write_down()
    assert [whom for whom, *_ in await revocations(file)] == [session.id]


async def test_what_the_shelf_forgets_the_instances_put_back(
    instances: tuple[Instance, Instance],
) -> None:
    one, other = instances
    session = await one.login()
    one.truth.away = True
    await one.revoke(session)
    assert one.shelf is not None
    one.shelf.kept.clear()
    await one.pending.refresh()
    await other.pending.refresh()
    assert not other.lets_in(session)


async def test_what_was_written_and_comes_back_does_no_harm(
    instances: tuple[Instance, Instance], file: SqliteDatabase
) -> None:
    """An instance that could reach nobody for a while still knows it, and puts it back."""
    one, other = instances
    session = await one.login()
    one.truth.away = True
    with pytest.raises(RevocationPending):
        await one.revoke_where(Condition("ada"))
    await other.pending.refresh()
    one.truth.away = False
    await one.write_down()
    again = await one.login()  # she may come back
    await other.pending.refresh()
    assert other.lets_in(again)
    await one.pending.refresh()
    await one.write_down()
    await other.write_down()
    assert [whom for whom, *_ in await revocations(file)] == [session.id]


async def test_what_was_read_before_it_was_written_down_lets_nobody_in_after_it(
    instances: tuple[Instance, Instance],
) -> None:
    one, other = instances
    session = await one.login()
    other.local.put_nowait(session)
    one.truth.away = True
    await one.revoke(session)
    await other.pending.refresh()
    one.truth.away = False
    await one.write_down()
    await other.write_down()  # it has nothing to tell its memory: another was quicker
    other.pending.forget()
    copy = await other.local.find(session.digest)
    assert copy is not None
    assert copy.revoked_at is not None
    assert not other.lets_in(session)  # a look-up that took its time
    other.clock.advance(6)
    other.pending.forget()
    assert other.lets_in(session)  # of which nothing is left by now


async def test_while_the_truth_is_away_they_wait_and_hold(
    instances: tuple[Instance, Instance],
) -> None:
    one, _ = instances
    session = await one.login()
    one.truth.away = True
    await one.revoke(session)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await one.write_down()
    assert not one.lets_in(session)
    assert len(one.pending) == 1


async def test_beyond_so_many_none_is_accepted(instances: tuple[Instance, Instance]) -> None:
    one, _ = instances
    sessions = [await one.login(str(number)) for number in range(6)]
    one.truth.away = True
    for session in sessions[:5]:
        await one.revoke(session)
    with pytest.raises(StoreUnavailable):
        await one.sessions.revoke(sessions[5].id, by=SUPPORT, reason="stolen")


async def test_one_that_nobody_can_write_down_holds_up_no_other(
    instances: tuple[Instance, Instance], file: SqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = instances
    session = await one.login()
    nonsense = PendingRevocation(
        "1", Condition(session_id=SessionId("no id")), one.clock.now(), SUPPORT, "stolen"
    )
    assert one.shelf is not None
    await one.shelf.put([nonsense])
    one.truth.away = True
    await one.revoke(session)
    await one.pending.refresh()
    one.truth.away = False
    await one.write_down()
    assert [whom for whom, *_ in await revocations(file)] == [session.id]
    assert one.outcomes["dropped"] == 1
    assert "cannot be written down" in caplog.text


async def test_in_the_background_all_of_it_happens_by_itself(
    instances: tuple[Instance, Instance], file: SqliteDatabase
) -> None:
    one, other = instances
    session = await one.login()
    one.truth.away = True
    tasks = [
        asyncio.create_task(other.pending.watch(3600)),
        asyncio.create_task(other.pending.run_persisting(0.001, other.sessions.persist)),
    ]
    await one.revoke(session)
    other.pending.wake()
    await until(lambda: len(other.pending) == 1)
    one.truth.away = False
    await until(lambda: len(other.pending) == 0)
    assert [whom for whom, *_ in await revocations(file)] == [session.id]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
