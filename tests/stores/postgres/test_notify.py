"""Changes in Postgres send notifications, and a silent connection is detected."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from sidegate.core.clock import SystemClock
from sidegate.core.condition import Condition
from sidegate.core.limits import Limit
from sidegate.core.protocols import Touch
from sidegate.core.session import SessionRecord
from sidegate.stores.postgres.notify import NotifySubscription
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, build_digest, build_record
from tests.stores.postgres.raw_connection import connect_directly
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import no_leaks, wait_until
from tests.support.clock import NOON
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server
from tests.support.replace import replace


@dataclass
class Listener:
    """Counts notifications, and records the changes of the status."""

    notified: int = 0
    statuses: list[str] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def on_notify(self) -> None:
        self.notified += 1

    def on_status(self, up: bool) -> None:
        status = "up" if up else "down"
        if self.statuses[-1:] != [status]:
            self.statuses.append(status)

    async def wait_for_statuses(self, *statuses: str) -> None:
        await wait_until(lambda: len(self.statuses) >= len(statuses), within=30)
        assert self.statuses == list(statuses)


@asynccontextmanager
async def open_listener(url: str) -> AsyncIterator[Listener]:
    """A listener that is subscribed when the block begins, with no notifications counted."""
    listener = Listener()
    subscription = NotifySubscription(url, clock=SystemClock(), on_lag=listener.lags.append)
    task = asyncio.create_task(
        subscription.listen(on_notify=listener.on_notify, on_status=listener.on_status)
    )
    await wait_until(lambda: listener.statuses == ["up"], within=30)
    assert listener.notified == 1  # for changes before it subscribed
    listener.notified = 0
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_for_test_clock(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


@pytest.fixture
async def proxy(postgres_server: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres_server.port) as proxy:
        yield proxy


def build_proxy_url(proxy: TcpProxy, url: str) -> str:
    """Return `url` with the address of the proxy."""
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}"


async def revoke(store: PostgresSessions, record: SessionRecord) -> None:
    condition = Condition(session_id=record.session.id)
    await store.revoke_where(condition, at=NOON, by=TESTER, reason="test", limit=1)


async def rotate(store: PostgresSessions, record: SessionRecord) -> None:
    rotated = replace(record.session, digest=build_digest(), version=2)
    assert await store.replace(SessionRecord(rotated), expected=1)


async def evict(store: PostgresSessions, record: SessionRecord) -> None:
    del record  # the oldest session is evicted
    [_] = await store.create(build_record(), limit=Limit(1))


@pytest.mark.parametrize("change", [revoke, rotate, evict])
async def test_change_sends_one_notification(
    store: PostgresSessions,
    database_url: str,
    change: Callable[[PostgresSessions, SessionRecord], Awaitable[None]],
) -> None:
    record = build_record()
    await store.create(record)
    async with open_listener(database_url) as listener:
        await change(store, record)
        await wait_until(lambda: listener.notified == 1)


async def test_create_and_touch_send_no_notification(
    store: PostgresSessions, database_url: str
) -> None:
    async with open_listener(database_url) as listener:
        touched, record = build_record(), build_record()
        await store.create(touched)
        await store.touch([Touch(touched.session.id, NOON, 1)])
        await store.create(record)
        await revoke(store, record)
        await wait_until(lambda: listener.notified > 0)
        assert listener.notified == 1


async def test_bulk_revocation_sends_one_notification(
    store: PostgresSessions, database_url: str
) -> None:
    for _ in range(50):
        await store.create(build_record())
    async with open_listener(database_url) as listener:
        await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=99)
        await revoke(store, build_record())  # revokes no session
        await advance_generation(database_url)
        await wait_until(lambda: listener.notified >= 2)
        assert listener.notified == 2


async def advance_generation(url: str) -> None:
    """Notify, as a server of the previous version does."""
    async with connect_directly(url) as connection:
        await connection.execute("UPDATE cache_generation SET number = number + 1")


async def test_round_trip_time_is_measured(store: PostgresSessions, database_url: str) -> None:
    del store  # it has created the tables
    async with open_listener(database_url) as listener:
        await wait_until(lambda: len(listener.lags) >= 2)
        assert all(0 < lag < 10 for lag in listener.lags)


async def test_heartbeats_of_instances_are_not_notifications(
    store: PostgresSessions, database_url: str
) -> None:
    del store
    async with open_listener(database_url) as one, open_listener(database_url) as other:
        await wait_until(lambda: len(one.lags) >= 2 and len(other.lags) >= 2)
        assert one.notified == other.notified == 0


async def test_read_only_database_sends_notifications(
    store: PostgresSessions, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    await store._database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # noqa: SLF001
    async with open_listener(database_url) as listener:
        await wait_until(lambda: len(listener.lags) >= 2)
        assert listener.statuses == ["up"]


async def test_lost_connection_is_restored_and_notifies(
    store: PostgresSessions, database_url: str, proxy: TcpProxy
) -> None:
    del store
    async with open_listener(build_proxy_url(proxy, database_url)) as listener:
        proxy.reset_connections()
        await listener.wait_for_statuses("up", "down", "up")
        assert listener.notified == 1  # something may have been missed


async def test_silent_connection_is_detected(
    store: PostgresSessions, database_url: str, proxy: TcpProxy
) -> None:
    del store
    async with open_listener(build_proxy_url(proxy, database_url)) as listener:
        proxy.stall()
        await listener.wait_for_statuses("up", "down")
        proxy.resume()
        await listener.wait_for_statuses("up", "down", "up")
        assert listener.notified == 1


async def test_subscription_behind_a_transaction_pooler_is_down(
    store: PostgresSessions, database_url: str, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    del store
    listen = b'LISTEN "sidegate"'
    proxy.client_filter = lambda _, chunk: chunk.replace(listen, b"SELECT 1".ljust(len(listen)))
    listener = Listener()
    subscription = NotifySubscription(
        build_proxy_url(proxy, database_url), clock=SystemClock(), on_lag=lambda _: None
    )
    task = asyncio.create_task(
        subscription.listen(on_notify=listener.on_notify, on_status=listener.on_status)
    )
    await listener.wait_for_statuses("down")
    task.cancel()
    await asyncio.wait([task])
    [warning] = caplog.records
    assert warning.message == "notify disconnected"
    assert "postgres.listen_url" in warning.__dict__["reason"]


async def test_subscription_waits_for_an_unavailable_database(own_postgres: Server) -> None:
    own_postgres.stop()
    listener = Listener()
    subscription = NotifySubscription(own_postgres.url, clock=SystemClock(), on_lag=lambda _: None)
    async with no_leaks():
        task = asyncio.create_task(
            subscription.listen(on_notify=listener.on_notify, on_status=listener.on_status)
        )
        await listener.wait_for_statuses("down")
        own_postgres.restart()
        await listener.wait_for_statuses("down", "up")
        task.cancel()
        await asyncio.wait([task])
