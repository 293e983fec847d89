"""What changes in Postgres rings, and a bell that has fallen silent is found out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from sidegate.core.clock import SystemClock
from sidegate.core.condition import Condition
from sidegate.core.limits import Limit
from sidegate.core.protocols import Touch
from sidegate.core.session import SessionRecord
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.notify import NotifySubscription
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, a_digest, a_record
from tests.stores.sql.wire import Wire
from tests.stores.waiting import nothing_is_left, until
from tests.support.clock import NOON
from tests.support.processes import Server


@dataclass
class Listener:
    """Counts how often it rang, and writes down when the bell came and went."""

    rang: int = 0
    news: list[str] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def rung(self) -> None:
        self.rang += 1

    def up(self, up: bool) -> None:
        word = "up" if up else "down"
        if self.news[-1:] != [word]:
            self.news.append(word)

    async def is_told(self, *news: str) -> None:
        await until(lambda: len(self.news) >= len(news), within=30)
        assert self.news == list(news)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    """A listener that listens when the block begins, and has not heard anything yet."""
    listener = Listener()
    bell = NotifySubscription(url, clock=SystemClock(), lag=listener.lags.append)
    task = asyncio.create_task(bell.listen(rung=listener.rung, up=listener.up))
    await until(lambda: listener.news == ["up"], within=30)
    assert listener.rang == 1  # what changed before it listened
    listener.rang = 0
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_postgres(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


@pytest.fixture
async def wire(postgres_server: Server) -> AsyncIterator[Wire]:
    async with Wire(postgres_server.port) as wire:
        yield wire


def through(wire: Wire, url: str) -> str:
    """Return `url`, by way of the wire."""
    return f"postgresql://postgres@127.0.0.1:{wire.port}/{url.rpartition('/')[2]}"


async def revoke(store: PostgresSessions, record: SessionRecord) -> None:
    condition = Condition(session_id=record.session.id)
    await store.revoke_where(condition, at=NOON, by=TESTER, reason="test", limit=1)


async def rotate(store: PostgresSessions, record: SessionRecord) -> None:
    rotated = replace(record.session, digest=a_digest(), version=2)
    assert await store.replace(SessionRecord(rotated), expected=1)


async def evict(store: PostgresSessions, record: SessionRecord) -> None:
    del record  # the oldest has to go
    [_] = await store.create(a_record(), limit=Limit(1))


async def begin_a_generation(store: PostgresSessions, _: SessionRecord) -> None:
    await store.next_generation(await store.generation())


@pytest.mark.parametrize("change", [revoke, rotate, evict, begin_a_generation])
async def test_what_others_must_hear_of_rings(
    store: PostgresSessions,
    database_url: str,
    change: Callable[[PostgresSessions, SessionRecord], Awaitable[None]],
) -> None:
    record = a_record()
    await store.create(record)
    async with listening(database_url) as listener:
        await change(store, record)
        await until(lambda: listener.rang == 1)


async def test_what_nobody_need_hear_of_does_not_ring(
    store: PostgresSessions, database_url: str
) -> None:
    async with listening(database_url) as listener:
        quiet, record = a_record(), a_record()
        await store.create(quiet)
        await store.touch([Touch(quiet.session.id, NOON, 1)])
        await store.create(record)
        await revoke(store, record)
        await until(lambda: listener.rang > 0)
        assert listener.rang == 1


async def test_many_that_end_at_once_ring_once(store: PostgresSessions, database_url: str) -> None:
    for _ in range(50):
        await store.create(a_record())
    async with listening(database_url) as listener:
        await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=99)
        await revoke(store, a_record())  # ends nobody
        await begin_a_generation(store, a_record())
        await until(lambda: listener.rang >= 2)
        assert listener.rang == 2


async def test_how_long_it_takes_is_measured(store: PostgresSessions, database_url: str) -> None:
    del store  # it has made the tables
    async with listening(database_url) as listener:
        await until(lambda: len(listener.lags) >= 2)
        assert all(0 < lag < 10 for lag in listener.lags)


async def test_one_instances_beats_ring_for_nobody(
    store: PostgresSessions, database_url: str
) -> None:
    del store
    async with listening(database_url) as one, listening(database_url) as other:
        await until(lambda: len(one.lags) >= 2 and len(other.lags) >= 2)
        assert one.rang == other.rang == 0


async def test_a_database_that_may_only_be_read_rings_still(
    store: PostgresSessions, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    await store._database.ask(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # noqa: SLF001 - the test's way in
    async with listening(database_url) as listener:
        await until(lambda: len(listener.lags) >= 2)
        assert listener.news == ["up"]


async def test_a_bell_that_was_lost_comes_back_and_rings(
    store: PostgresSessions, database_url: str, wire: Wire
) -> None:
    del store
    async with listening(through(wire, database_url)) as listener:
        wire.cut()
        await listener.is_told("up", "down", "up")
        assert listener.rang == 1  # something may have been missed


async def test_a_bell_that_falls_silent_is_found_out(
    store: PostgresSessions, database_url: str, wire: Wire
) -> None:
    del store
    async with listening(through(wire, database_url)) as listener:
        wire.hold()
        await listener.is_told("up", "down")
        wire.let_go()
        await listener.is_told("up", "down", "up")
        assert listener.rang == 1


async def test_behind_a_pooler_that_lends_another_connection_it_is_down(
    store: PostgresSessions, database_url: str, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    del store
    listen = b'LISTEN "sidegate"'
    wire.questions = lambda _, chunk: chunk.replace(listen, b"SELECT 1".ljust(len(listen)))
    listener = Listener()
    bell = NotifySubscription(through(wire, database_url), clock=SystemClock(), lag=lambda _: None)
    task = asyncio.create_task(bell.listen(rung=listener.rung, up=listener.up))
    await listener.is_told("down")
    task.cancel()
    await asyncio.wait([task])
    assert "postgres.listen_url" in caplog.text


async def test_it_waits_for_a_database_that_is_not_there_yet(own_postgres: Server) -> None:
    own_postgres.stop()
    listener = Listener()
    bell = NotifySubscription(own_postgres.url, clock=SystemClock(), lag=lambda _: None)
    async with nothing_is_left():
        task = asyncio.create_task(bell.listen(rung=listener.rung, up=listener.up))
        await listener.is_told("down")
        own_postgres.restart()
        await listener.is_told("down", "up")
        task.cancel()
        await asyncio.wait([task])
