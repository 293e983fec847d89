"""Touches: written behind everybody's back, never lost while we live, never in the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import judge
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.protocols import Touch
from sidegate.core.session import Session, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.activity import ActivityRecorder
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_record, a_session
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf

MINUTE = timedelta(minutes=1)
LIFETIMES = MappingProxyType(
    {type_: Lifetimes(timedelta(hours=12), timedelta(minutes=30)) for type_ in SessionType}
)


class Truth(SqliteSessions):
    """A real store that can be told to be away, for touches only."""

    away = False
    slow = False
    written = 0
    asked: asyncio.Event

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        if self.away:
            raise StoreUnavailable("sqlite", "told to be away")
        self.asked.set()
        if self.slow:
            await asyncio.Event().wait()
        self.written += len(touches)
        return await super().touch(touches)


class Scene:
    """A toucher, its clock, and what it wrote."""

    def __init__(self, truth: Truth, *, max_notes: int = 1000) -> None:
        self.clock = FakeClock()
        self.truth = truth
        self.near = Shelf()
        self.counts: Counter[str] = Counter()
        self.toucher = ActivityRecorder(
            truth,
            hot=[self.near],
            lifetimes=LIFETIMES,
            keep_near=self.keep,
            clock=self.clock,
            counted=lambda outcome, count: self.counts.update({outcome: count}),
            max_notes=max_notes,
        )

    def keep(self, session: Session) -> None:
        self.near.sessions[session.digest] = session

    async def known(self) -> Session:
        session = a_session()
        await self.truth.create(a_record(session))
        return session

    def see(self, session: Session) -> None:
        """A check found the session, in memory if it is there."""
        self.toucher.on_allowed(self.near.sessions.get(session.digest, session), self.clock.now())

    async def stored(self, session: Session) -> SessionRecord:
        record = await self.truth.get(session.id)
        assert record is not None
        return record


@pytest.fixture
async def truth(tmp_path: Path) -> AsyncIterator[Truth]:
    store = await Truth.open(tmp_path / "sidegate.db")
    store.asked = asyncio.Event()
    yield store
    await store.close()


@pytest.fixture
def scene(truth: Truth) -> Scene:
    return Scene(truth)


async def test_a_session_that_was_silent_for_long_is_written_at_the_next_flush(
    scene: Scene,
) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    await scene.toucher.flush()
    assert (await scene.stored(session)).session.last_seen_at == NOON + MINUTE * 10


async def test_a_session_that_was_just_seen_is_written_a_threshold_later(scene: Scene) -> None:
    session = await scene.known()
    seen_at = scene.clock.advance(5)
    scene.see(session)
    await scene.toucher.flush()
    assert (await scene.stored(session)).session.last_seen_at == NOON
    scene.clock.advance(MINUTE)
    await scene.toucher.flush()
    assert (await scene.stored(session)).session.last_seen_at == seen_at


async def test_a_busy_session_is_written_once_per_threshold_and_every_access_counts(
    scene: Scene,
) -> None:
    session = await scene.known()
    for _ in range(120):
        scene.clock.advance(1)
        scene.see(session)
        await scene.toucher.flush()
    assert scene.truth.written == 2
    await scene.toucher.flush(everything=True)
    record = await scene.stored(session)
    assert record.details.access_count == 120
    assert record.session.last_seen_at == scene.clock.now()


async def test_a_touch_changes_neither_version_nor_deadline(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    await scene.toucher.flush()
    stored = (await scene.stored(session)).session
    assert stored == session.touched(scene.clock.now())
    assert stored.version == session.version


async def test_the_hot_stores_learn_of_a_written_touch(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    await scene.toucher.flush()
    assert scene.near.sessions[session.digest].last_seen_at == scene.clock.now()


async def test_a_touch_that_comes_after_the_end_revives_nobody(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    tombstone = session.revoked(scene.clock.now())
    await scene.truth.replace(SessionRecord(tombstone), expected=session.version)
    await scene.near.put(tombstone)
    await scene.toucher.flush()
    assert (await scene.stored(session)).session == tombstone
    assert scene.near.sessions[session.digest] == tombstone


async def test_what_was_revoked_meanwhile_is_not_offered_as_it_was_noted(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(5)
    scene.see(session)
    tombstone = session.revoked(scene.clock.now())
    await scene.truth.replace(SessionRecord(tombstone), expected=session.version)
    scene.near.sessions.clear()  # a store that has forgotten the tombstone
    await scene.toucher.flush(everything=True)
    assert scene.near.sessions == {}


async def test_while_nothing_can_be_written_nobody_in_use_looks_idle(scene: Scene) -> None:
    session = await scene.known()
    scene.truth.away = True
    for _ in range(40):
        now = scene.clock.advance(MINUTE)
        assert judge(scene.near.sessions.get(session.digest, session), now) != Deny(Reason.IDLE)
        scene.see(session)
        await scene.toucher.flush()
    scene.truth.away = False
    await scene.toucher.flush()
    stored = (await scene.stored(session)).session
    assert isinstance(judge(stored, scene.clock.now()), Allow)


async def test_an_interrupted_writing_forgets_nothing(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    scene.truth.slow = True
    running = asyncio.create_task(scene.toucher.run(every=0.001))
    await scene.truth.asked.wait()
    scene.truth.slow = False
    running.cancel()
    await asyncio.wait([running])
    assert (await scene.stored(session)).session.last_seen_at == NOON + MINUTE * 10


async def test_an_outage_loses_no_touch(scene: Scene) -> None:
    session = await scene.known()
    scene.clock.advance(MINUTE * 10)
    scene.see(session)
    scene.truth.away = True
    await scene.toucher.flush()
    seen_at = scene.clock.advance(1)
    scene.see(session)
    scene.truth.away = False
    await scene.toucher.flush(everything=True)
    record = await scene.stored(session)
    assert (record.session.last_seen_at, record.details.access_count) == (seen_at, 2)
    assert scene.counts == {"failed": 1, "written": 1}


async def test_what_waits_to_be_written_is_bounded(truth: Truth) -> None:
    scene = Scene(truth, max_notes=3)
    for _ in range(5):
        scene.see(await scene.known())
    await scene.toucher.flush(everything=True)
    assert scene.counts == {"dropped": 2, "written": 3}
