"""The activity recorder: throttled, buffered, bounded, no loss in outages."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import judge
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.protocols import Touch
from sidegate.core.session import Session, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.activity import ActivityRecorder
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.rules import Rules, RulesInForce
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_digest, build_record, build_session
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeCacheTrust, FakeMemory

MINUTE = timedelta(minutes=1)
RING = KeyRing([TokenKey(1, bytes(32))])


def build_lifetimes(threshold: timedelta) -> Mapping[SessionType, Lifetimes]:
    lifetimes = Lifetimes(timedelta(hours=12), 30 * MINUTE, touch_threshold=threshold)
    return dict.fromkeys(SessionType, lifetimes)


class FlakySessions(SqliteSessions):
    """A real store whose `touch` can be made unavailable, broken or stalled."""

    unavailable = False
    broken = False
    stalled = False
    touches_written = 0
    called: asyncio.Event

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        if self.unavailable:
            raise StoreUnavailable("sqlite", "unavailable in this test")
        if self.broken:
            raise RuntimeError("broken in this test")
        self.called.set()
        if self.stalled:
            await asyncio.Event().wait()
        self.touches_written += len(touches)
        return await super().touch(touches)


class Instance:
    """An instance: its activity recorder, clock, memory and counters."""

    def __init__(
        self,
        database: FlakySessions,
        *,
        max_buffered: int = 1000,
        threshold: timedelta = MINUTE,
    ) -> None:
        self.clock = FakeClock()
        self.database = database
        self.memory = FakeMemory()
        self.counts: Counter[str] = Counter()
        self.recorder = ActivityRecorder(
            database,
            filler=CacheFiller(
                self.memory, remote=None, trust=FakeCacheTrust({}), clock=self.clock
            ),
            rules=RulesInForce(Rules(ring=RING, lifetimes=build_lifetimes(threshold))),
            touch_memory=self.put,
            clock=self.clock,
            count=lambda outcome, count: self.counts.update({outcome: count}),
            on_unavailable=lambda: self.counts.update({"unavailable": 1}),
            max_buffered=max_buffered,
        )

    def put(self, session: Session) -> None:
        self.memory.sessions[session.digest] = session

    async def create_session(self) -> Session:
        session = build_session()
        await self.database.create(build_record(session))
        return session

    async def create_refreshed_session(self) -> Session:
        """Create a session whose current token was not presented yet."""
        session = (await self.create_session()).rotated(build_digest(), MINUTE, at=NOON)
        await self.database.replace(build_record(session), expected=1)
        return session

    def check(self, session: Session) -> None:
        """Allow a check of the session, of its copy in memory if there is one."""
        self.recorder.on_allowed(
            self.memory.sessions.get(session.digest, session), self.clock.now()
        )

    async def stored(self, session: Session) -> SessionRecord:
        record = await self.database.get(session.id)
        assert record is not None
        return record


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[FlakySessions]:
    store = await FlakySessions.open(tmp_path / "sidegate.db")
    store.called = asyncio.Event()
    yield store
    await store.close()


@pytest.fixture
def instance(database: FlakySessions) -> Instance:
    return Instance(database)


async def test_session_idle_past_the_threshold_is_written_at_the_next_flush(
    instance: Instance,
) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    await instance.recorder.flush()
    assert (await instance.stored(session)).session.last_seen_at == NOON + MINUTE * 10


async def test_first_use_of_a_refreshed_token_is_written_at_the_next_flush(
    instance: Instance,
) -> None:
    session = await instance.create_refreshed_session()
    current, old = session.copies()

    instance.check(old)
    await instance.recorder.flush()
    assert not (await instance.stored(session)).session.token_seen
    for _ in range(3):
        instance.clock.advance(1)
        instance.check(current)
        await instance.recorder.flush()

    assert (await instance.stored(session)).session.token_seen
    assert instance.database.touches_written == 1  # once, and not the access with the old token


async def test_first_use_of_a_token_is_kept_while_the_store_is_unavailable(
    instance: Instance,
) -> None:
    session = await instance.create_refreshed_session()
    instance.clock.advance(1)
    instance.database.unavailable = True
    instance.check(session)
    await instance.recorder.flush()
    instance.check(session)
    instance.database.unavailable = False
    await instance.recorder.flush()
    assert (await instance.stored(session)).session.token_seen


async def test_first_use_of_a_token_that_was_dropped_is_written_at_a_later_use(
    database: FlakySessions,
) -> None:
    instance = Instance(database, max_buffered=1)
    other, session = await instance.create_session(), await instance.create_refreshed_session()
    instance.put(session)
    instance.check(other)
    instance.clock.advance(1)
    instance.check(session)
    assert instance.counts["dropped"] == 1

    await instance.recorder.flush(everything=True)
    instance.clock.advance(1)
    instance.check(session)
    await instance.recorder.flush()

    assert (await instance.stored(session)).session.token_seen


async def test_recently_touched_session_is_written_one_threshold_later(instance: Instance) -> None:
    session = await instance.create_session()
    seen_at = instance.clock.advance(5)
    instance.check(session)
    await instance.recorder.flush()
    assert (await instance.stored(session)).session.last_seen_at == NOON
    instance.clock.advance(MINUTE)
    await instance.recorder.flush()
    assert (await instance.stored(session)).session.last_seen_at == seen_at


async def test_busy_session_is_written_once_per_threshold_and_counts_accesses(
    instance: Instance,
) -> None:
    session = await instance.create_session()
    for _ in range(120):
        instance.clock.advance(1)
        instance.check(session)
        await instance.recorder.flush()
    assert instance.database.touches_written == 2
    await instance.recorder.flush(everything=True)
    record = await instance.stored(session)
    assert record.details.access_count == 120
    assert record.session.last_seen_at == instance.clock.now()


async def test_touch_changes_neither_version_nor_deadline(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    await instance.recorder.flush()
    stored = (await instance.stored(session)).session
    assert stored == session.touched(instance.clock.now())
    assert stored.version == session.version


async def test_written_touch_updates_the_caches(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    await instance.recorder.flush()
    assert instance.memory.sessions[session.digest].last_seen_at == instance.clock.now()


async def test_touch_after_revocation_does_not_reactivate_the_session(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    tombstone = session.revoked(instance.clock.now())
    await instance.database.replace(SessionRecord(tombstone), expected=session.version)
    await instance.memory.put(tombstone)
    await instance.recorder.flush()
    assert (await instance.stored(session)).session == tombstone
    assert instance.memory.sessions[session.digest] == tombstone


async def test_session_revoked_before_the_flush_is_not_put_into_a_cache(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(5)
    instance.check(session)
    tombstone = session.revoked(instance.clock.now())
    await instance.database.replace(SessionRecord(tombstone), expected=session.version)
    instance.memory.sessions.clear()  # a cache that has evicted the tombstone
    await instance.recorder.flush(everything=True)
    assert instance.memory.sessions == {}


@pytest.mark.parametrize("threshold", [MINUTE, 10 * MINUTE])
@pytest.mark.parametrize("pause", [MINUTE, 3 * MINUTE, 11 * MINUTE, 20 * MINUTE])
async def test_session_in_use_does_not_look_idle_during_an_outage(
    database: FlakySessions, threshold: timedelta, pause: timedelta
) -> None:
    instance = Instance(database, threshold=threshold)
    session = await instance.create_session()
    instance.check(session)
    instance.database.unavailable = True
    for _ in range(30):
        now = instance.clock.advance(pause)
        assert judge(instance.memory.sessions.get(session.digest, session), now) != Deny(
            Reason.IDLE
        )
        instance.check(session)
        await instance.recorder.flush()
    instance.database.unavailable = False
    await instance.recorder.flush()
    stored = (await instance.stored(session)).session
    assert isinstance(judge(stored, instance.clock.now()), Allow)


async def test_cancelled_write_is_flushed_on_shutdown(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    instance.database.stalled = True
    running = asyncio.create_task(instance.recorder.run(interval=0.001))
    await instance.database.called.wait()
    instance.database.stalled = False
    running.cancel()
    await asyncio.wait([running])
    assert (await instance.stored(session)).session.last_seen_at == NOON + MINUTE * 10


async def test_unexpected_error_loses_no_touch(instance: Instance) -> None:
    session = await instance.create_session()
    seen_at = instance.clock.advance(MINUTE * 10)
    instance.check(session)
    instance.database.broken = True
    with pytest.raises(RuntimeError):
        await instance.recorder.flush()
    instance.database.broken = False
    await instance.recorder.flush(everything=True)
    assert (await instance.stored(session)).session.last_seen_at == seen_at


async def test_outage_loses_no_touch(instance: Instance) -> None:
    session = await instance.create_session()
    instance.clock.advance(MINUTE * 10)
    instance.check(session)
    instance.database.unavailable = True
    await instance.recorder.flush()
    seen_at = instance.clock.advance(1)
    instance.check(session)
    instance.database.unavailable = False
    await instance.recorder.flush(everything=True)
    record = await instance.stored(session)
    assert (record.session.last_seen_at, record.details.access_count) == (seen_at, 2)
    assert instance.counts == {"failed": 1, "unavailable": 1, "written": 1}


async def test_touches_beyond_the_buffer_limit_are_dropped_and_counted(
    database: FlakySessions,
) -> None:
    instance = Instance(database, max_buffered=3)
    for _ in range(5):
        instance.check(await instance.create_session())
    await instance.recorder.flush(everything=True)
    assert instance.counts == {"dropped": 2, "written": 3}
