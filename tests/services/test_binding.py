"""Sessions that end for a mismatch: behind everybody's back, bounded, and never lost in silence."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from uuid_utils import uuid7

from sidegate.core.binding import Policy, Signal, Signals, Widths, bind
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.binding import BackgroundRevoker, ClientBinding
from sidegate.services.publisher import NullFeed
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import NewSession, Sessions
from sidegate.services.validator import Validator
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import TESTER, a_record, a_session, an_id
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf

RING = KeyRing([TokenKey(1, bytes(range(32)))])
TOKEN = RING.mint(SessionType.WEB)


class Truth(SqliteSessions):
    """A real store that can be told to be away, or to keep somebody waiting."""

    away = False
    waiting: asyncio.Event | None = None

    async def revoke_where(self, condition: Condition, **how: Any) -> list[Session]:
        if self.away:
            raise StoreUnavailable("sqlite", "told to be away")
        if self.waiting is not None:
            self.waiting.set()
            await asyncio.Event().wait()
        return await super().revoke_where(condition, **how)


class Noted(Counter[str]):
    """Counts beginnings, ends and outcomes; `another` is set at each outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.another = asyncio.Event()

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self[f"{signal} {policy}"] += 1

    def binding_revocation(self, outcome: str) -> None:
        self[outcome] += 1
        self.another.set()

    async def until(self, outcome: str, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self[outcome] < count:
                self.another.clear()
                await self.another.wait()


class Scene:
    """A worker over a real store."""

    def __init__(self, truth: Truth, *, max_waiting: int = 100, patience: float = 5.0) -> None:
        self.truth = truth
        self.noted = Noted()
        self.sessions = Sessions(
            SessionContext(
                truth,
                caches=[],
                feed=NullFeed(),
                ring=RING,
                lifetimes=DEFAULT_LIFETIMES,
                clock=FakeClock(),
                events=self.noted,
            ),
            new_id=lambda: SessionId(str(uuid7())),
        )
        self.behind = BackgroundRevoker(
            self.sessions, events=self.noted, max_waiting=max_waiting, patience=patience
        )

    async def known(self, count: int = 1) -> list[Session]:
        sessions = [a_session() for _ in range(count)]
        for session in sessions:
            await self.truth.create(a_record(session))
        return sessions

    async def reasons(self, sessions: Iterable[Session]) -> list[tuple[str | None, str | None]]:
        records = [await SqliteSessions.get(self.truth, session.id) for session in sessions]
        return [(r.details.revoked_by, r.details.revoked_reason) for r in records if r is not None]

    async def cancelled(self, worker: asyncio.Task[None]) -> None:
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker


@pytest.fixture
async def truth(tmp_path: Path) -> AsyncIterator[Truth]:
    store = await Truth.open(tmp_path / "sidegate.db")
    yield store
    await store.close()


@pytest.fixture
def scene(truth: Truth) -> Scene:
    return Scene(truth)


async def test_what_is_noted_ends_with_its_reason(scene: Scene) -> None:
    sessions = await scene.known(3)
    worker = asyncio.create_task(scene.behind.run())

    for session in sessions:
        scene.behind.revoke(session)
    await scene.noted.until("revoked", 3)

    assert await scene.reasons(sessions) == [("sidegate", "binding")] * 3
    await scene.cancelled(worker)


async def test_a_session_waits_once_however_often_it_is_presented(scene: Scene) -> None:
    (session,) = await scene.known()
    for _ in range(50):
        scene.behind.revoke(session)

    worker = asyncio.create_task(scene.behind.run())
    await scene.noted.until("revoked")
    await scene.cancelled(worker)

    assert scene.noted == {"revoked": 1}


async def test_those_beyond_the_bound_are_dropped_and_counted(truth: Truth) -> None:
    scene = Scene(truth, max_waiting=2)
    sessions = await scene.known(5)
    for session in sessions:
        scene.behind.revoke(session)

    worker = asyncio.create_task(scene.behind.run())
    await scene.noted.until("revoked", 2)
    await scene.cancelled(worker)

    assert scene.noted == {"dropped": 3, "revoked": 2}


async def test_a_failure_is_counted_and_the_next_mismatch_tries_again(scene: Scene) -> None:
    (session,) = await scene.known()
    worker = asyncio.create_task(scene.behind.run())

    scene.truth.away = True
    scene.behind.revoke(session)
    await scene.noted.until("failed")
    scene.truth.away = False
    scene.behind.revoke(session)
    await scene.noted.until("revoked")

    assert await scene.reasons([session]) == [("sidegate", "binding")]
    await scene.cancelled(worker)


async def test_what_waits_when_we_stop_is_ended_first(scene: Scene) -> None:
    sessions = await scene.known(3)
    worker = asyncio.create_task(scene.behind.run())
    scene.truth.waiting = asyncio.Event()
    for session in sessions:
        scene.behind.revoke(session)
    await scene.truth.waiting.wait()  # the first is under way
    scene.truth.waiting = None

    await scene.cancelled(worker)

    assert await scene.reasons(sessions) == [("sidegate", "binding")] * 3


async def test_a_silent_store_does_not_keep_us_from_stopping(truth: Truth) -> None:
    scene = Scene(truth, patience=0.01)
    (session,) = await scene.known()
    worker = asyncio.create_task(scene.behind.run())
    truth.waiting = asyncio.Event()
    scene.behind.revoke(session)
    await truth.waiting.wait()

    worker.cancel()
    stopped, _ = await asyncio.wait([worker], timeout=2)

    assert stopped == {worker}


# Which policy holds


@pytest.mark.parametrize(
    ("policies", "verdict", "ended"),
    [
        ({}, None, False),
        ({Signal.IP: Policy.OFF}, None, False),
        ({Signal.IP: Policy.LOG}, None, False),
        ({Signal.IP: Policy.DENY}, Deny(Reason.BINDING), False),
        ({Signal.IP: Policy.LOG, Signal.HEADER: Policy.DENY}, Deny(Reason.BINDING), False),
        ({Signal.IP: Policy.DENY, Signal.HEADER: Policy.REVOKE}, Deny(Reason.BINDING), True),
    ],
)
def test_the_strictest_policy_of_those_broken_holds(
    policies: dict[Signal, Policy], verdict: Deny | None, ended: bool
) -> None:
    session_id, revoked = an_id(), list[Session]()
    kept = bind(session_id, Signals(ip="192.0.2.7", header="7"), Widths())
    session = a_session(id=session_id, binding=kept)
    binding = ClientBinding(policies, widths=Widths(), events=Noted(), revoke=revoked.append)

    differing = binding.mismatched(session, Signals())

    assert binding.apply_policy(session, differing) == (verdict or Allow(session))
    assert (revoked == [session]) == ended


async def test_who_is_refused_for_it_does_not_count_as_seen() -> None:
    seen: list[tuple[Session, datetime]] = []
    session = a_session(digest=TOKEN.digest())
    validator = Validator(
        Shelf(session),
        ring=RING,
        clock=FakeClock(),
        deadline=60,
        seen=lambda session, at: seen.append((session, at)),
    )

    refused = await validator.validate(TOKEN.text, further=lambda _: Deny(Reason.BINDING))
    allowed = await validator.validate(TOKEN.text, further=Allow)

    assert (refused, allowed) == (Deny(Reason.BINDING), Allow(session))
    assert len(seen) == 1


async def test_only_a_valid_session_is_asked_about() -> None:
    tombstone = a_session(digest=TOKEN.digest()).revoked(FakeClock().now())
    validator = Validator(Shelf(tombstone), ring=RING, clock=FakeClock(), deadline=60)

    verdict = await validator.validate(TOKEN.text, further=lambda _: Deny(Reason.BINDING))

    assert verdict == Deny(Reason.REVOKED)


async def test_a_session_is_not_begun_that_nobody_could_present(scene: Scene) -> None:
    with pytest.raises(ValueError, match="ip"):
        await scene.sessions.create(NewSession("ada", TESTER, binding=Signals(ip="fe80::1%eth0")))

    assert await scene.sessions.list_where(Condition("ada"), limit=10) == []
