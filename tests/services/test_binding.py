"""Client binding: policies, and background revocation, bounded and counted."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.binding import BindingPolicy, PrefixLengths, Signal, Signals, bind
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.binding import BackgroundRevoker, ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.sessions import NewSession
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import TESTER, build_record, build_session, build_session_id
from tests.support.clock import FakeClock
from tests.support.fakes import raise_on_revocation
from tests.support.operations import build_operations

RING = KeyRing([TokenKey(1, bytes(range(32)))])
TOKEN = RING.mint(SessionType.WEB)


class FlakySessions(SqliteSessions):
    """A real store whose `revoke_where` can be made unavailable, broken or stalled."""

    unavailable = False
    broken_for: SessionId | None = None
    stalled: asyncio.Event | None = None

    async def revoke_where(self, condition: Condition, **kwargs: Any) -> list[ChangedSession]:
        if self.unavailable:
            raise StoreUnavailable("sqlite", "unavailable in this test")
        if self.broken_for is not None and condition.session_id == self.broken_for:
            raise RuntimeError("broken in this test")
        if self.stalled is not None:
            self.stalled.set()
            await asyncio.Event().wait()
        return await super().revoke_where(condition, **kwargs)


class CountedEvents(Counter[str]):
    """Counts mismatches and outcomes; `progress` is set at each outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = asyncio.Event()

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self[f"{signal} {policy}"] += 1

    def binding_revocation(self, outcome: str) -> None:
        self[outcome] += 1
        self.progress.set()

    async def until(self, outcome: str, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self[outcome] < count:
                self.progress.clear()
                await self.progress.wait()


class Deployment:
    """A revoker over a real store."""

    def __init__(
        self, database: FlakySessions, *, max_waiting: int = 100, timeout: float = 5.0
    ) -> None:
        self.database = database
        self.events = CountedEvents()
        self.sessions = build_operations(
            database, Rules(ring=RING), clock=FakeClock(), events=self.events
        ).sessions
        self.revoker = BackgroundRevoker(
            self.sessions, events=self.events, max_waiting=max_waiting, timeout=timeout
        )

    async def create_sessions(self, count: int = 1) -> list[Session]:
        sessions = [build_session() for _ in range(count)]
        for session in sessions:
            await self.database.create(build_record(session))
        return sessions

    async def read_reasons(
        self, sessions: Iterable[Session]
    ) -> list[tuple[str | None, str | None]]:
        records = [await SqliteSessions.get(self.database, session.id) for session in sessions]
        return [(r.details.revoked_by, r.details.revoked_reason) for r in records if r is not None]

    async def cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[FlakySessions]:
    store = await FlakySessions.open(tmp_path / "sidegate.db")
    yield store
    await store.close()


@pytest.fixture
def deployment(database: FlakySessions) -> Deployment:
    return Deployment(database)


async def test_queued_sessions_are_revoked_with_the_reason_binding(deployment: Deployment) -> None:
    sessions = await deployment.create_sessions(3)
    task = asyncio.create_task(deployment.revoker.run())

    for session in sessions:
        deployment.revoker.revoke(session)
    await deployment.events.until("revoked", 3)

    assert await deployment.read_reasons(sessions) == [("sidegate", "binding")] * 3
    await deployment.cancel(task)


async def test_session_is_queued_once_however_often_it_is_presented(deployment: Deployment) -> None:
    (session,) = await deployment.create_sessions()
    for _ in range(50):
        deployment.revoker.revoke(session)

    task = asyncio.create_task(deployment.revoker.run())
    await deployment.events.until("revoked")
    await deployment.cancel(task)

    assert deployment.events == {"revoked": 1}


async def test_session_that_meets_an_unexpected_error_does_not_block_the_others(
    deployment: Deployment,
) -> None:
    first, second = await deployment.create_sessions(2)
    deployment.database.broken_for = first.id
    for session in (first, second):
        deployment.revoker.revoke(session)

    with pytest.raises(RuntimeError):
        await deployment.revoker.run()
    task = asyncio.create_task(deployment.revoker.run())
    await deployment.events.until("revoked")
    await deployment.cancel(task)

    assert await deployment.read_reasons([second]) == [("sidegate", "binding")]


async def test_sessions_beyond_the_queue_limit_are_dropped_and_counted(
    database: FlakySessions,
) -> None:
    deployment = Deployment(database, max_waiting=2)
    sessions = await deployment.create_sessions(5)
    for session in sessions:
        deployment.revoker.revoke(session)

    task = asyncio.create_task(deployment.revoker.run())
    await deployment.events.until("revoked", 2)
    await deployment.cancel(task)

    assert deployment.events == {"dropped": 3, "revoked": 2}


async def test_failure_is_counted_and_the_next_mismatch_retries(deployment: Deployment) -> None:
    (session,) = await deployment.create_sessions()
    task = asyncio.create_task(deployment.revoker.run())

    deployment.database.unavailable = True
    deployment.revoker.revoke(session)
    await deployment.events.until("failed")
    deployment.database.unavailable = False
    deployment.revoker.revoke(session)
    await deployment.events.until("revoked")

    assert await deployment.read_reasons([session]) == [("sidegate", "binding")]
    await deployment.cancel(task)


async def test_queued_sessions_are_revoked_on_shutdown(deployment: Deployment) -> None:
    sessions = await deployment.create_sessions(3)
    task = asyncio.create_task(deployment.revoker.run())
    deployment.database.stalled = asyncio.Event()
    for session in sessions:
        deployment.revoker.revoke(session)
    await deployment.database.stalled.wait()  # the first one has begun
    deployment.database.stalled = None

    await deployment.cancel(task)

    assert await deployment.read_reasons(sessions) == [("sidegate", "binding")] * 3


async def test_stalled_store_does_not_block_shutdown(database: FlakySessions) -> None:
    deployment = Deployment(database, timeout=0.01)
    (session,) = await deployment.create_sessions()
    task = asyncio.create_task(deployment.revoker.run())
    database.stalled = asyncio.Event()
    deployment.revoker.revoke(session)
    await database.stalled.wait()

    task.cancel()
    stopped, _ = await asyncio.wait([task], timeout=2)

    assert stopped == {task}


# Policies


@pytest.mark.parametrize(
    ("policies", "verdict", "revoke_called"),
    [
        ({}, None, False),
        ({Signal.IP: BindingPolicy.OFF}, None, False),
        ({Signal.IP: BindingPolicy.LOG}, None, False),
        ({Signal.IP: BindingPolicy.DENY}, Deny(Reason.BINDING), False),
        (
            {Signal.IP: BindingPolicy.LOG, Signal.HEADER: BindingPolicy.DENY},
            Deny(Reason.BINDING),
            False,
        ),
        (
            {Signal.IP: BindingPolicy.DENY, Signal.HEADER: BindingPolicy.REVOKE},
            Deny(Reason.BINDING),
            True,
        ),
    ],
)
def test_strictest_policy_of_the_mismatched_signals_applies(
    policies: dict[Signal, BindingPolicy], verdict: Deny | None, revoke_called: bool
) -> None:
    session_id, revoked = build_session_id(), list[Session]()
    bound_signals = bind(session_id, Signals(ip="192.0.2.7", header="7"), prefixes=PrefixLengths())
    session = build_session(id=session_id, binding=bound_signals)
    rules = RulesInForce(Rules(ring=RING, binding_policies=policies))
    binding = ClientBinding(rules, events=CountedEvents(), revoke=revoked.append)

    mismatched = binding.mismatched(session, Signals(), watched=rules.current.watched_signals)

    assert binding.apply_policy(session, mismatched) == (verdict or Allow(session))
    assert (revoked == [session]) == revoke_called


def bind_client() -> Session:
    """Return a session that is bound to an address and a header."""
    session_id, signals = build_session_id(), Signals(ip="192.0.2.7", header="7")
    return build_session(id=session_id, binding=bind(session_id, signals, prefixes=PrefixLengths()))


def test_signal_that_a_request_from_before_a_reload_lacks_is_no_mismatch() -> None:
    session, revoked, events = bind_client(), list[Session](), CountedEvents()
    rules = RulesInForce(Rules(ring=RING, binding_policies={Signal.HEADER: BindingPolicy.LOG}))
    binding = ClientBinding(rules, events=events, revoke=revoked.append)
    watched = rules.current.watched_signals

    rules.current = Rules(ring=RING, binding_policies=dict.fromkeys(Signal, BindingPolicy.REVOKE))
    mismatched = binding.mismatched(session, Signals(header="7"), watched=watched)

    assert binding.apply_policy(session, mismatched) == Allow(session)
    assert (revoked, events) == ([], {})


def test_mismatch_of_a_signal_that_is_switched_off_is_not_counted() -> None:
    session, events = bind_client(), CountedEvents()
    rules = RulesInForce(Rules(ring=RING, binding_policies={Signal.IP: BindingPolicy.REVOKE}))
    binding = ClientBinding(rules, events=events, revoke=raise_on_revocation)
    mismatched = binding.mismatched(session, Signals(), watched=rules.current.watched_signals)
    assert mismatched == (Signal.IP,)

    rules.current = Rules(ring=RING, binding_policies={Signal.IP: BindingPolicy.OFF})

    assert binding.apply_policy(session, mismatched) == Allow(session)
    assert events == {}


async def test_session_with_a_malformed_binding_is_not_created(deployment: Deployment) -> None:
    with pytest.raises(ValueError, match="ip"):
        await deployment.sessions.create(
            NewSession("ada", TESTER, binding=Signals(ip="fe80::1%eth0"))
        )

    assert await deployment.sessions.list_where(Condition("ada"), limit=10) == []
