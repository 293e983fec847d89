"""Change notifications between instances, and the detection of missed ones."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import pytest

from sidegate.core.clock import SystemClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.codec import encode
from sidegate.stores.redis.pubsub import CHANNEL, RedisPubSub
from tests.contracts.harnesses import ignore
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.stores.conftest import RawClient, build_redis_store
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import no_leaks, wait_until, wait_until_async
from tests.support.processes import Server
from tests.support.redis_trust import FollowedRedis

NOW: Final = datetime.now(UTC)


class Listener:
    """Records the callbacks in order."""

    def __init__(self) -> None:
        self.changes: list[Session] = []
        self.events: list[str] = []

    def on_change(self, session: Session) -> None:
        self.changes.append(session)

    def on_gap(self) -> None:
        self.events.append("gap")

    def on_status(self, up: bool) -> None:
        word = "up" if up else "down"
        if self.events[-1:] != [word]:  # it is repeated
            self.events.append(word)

    async def receives(self, *sessions: Session) -> None:
        """Return when exactly these changes were received, in this order."""
        await wait_until(lambda: len(self.changes) >= len(sessions))
        assert self.changes == list(sessions)

    async def sees_events(self, *events: str) -> None:
        await wait_until(lambda: len(self.events) >= len(events))
        assert self.events == list(events)


def build_feed(
    store: FollowedRedis, unreadable: Counter[str], lag: Callable[[float], None] = ignore
) -> RedisPubSub:
    def count(name: str) -> None:
        unreadable[name] += 1

    return RedisPubSub(store.client, clock=SystemClock(), on_lag=lag, on_unreadable=count)


@asynccontextmanager
async def listening(feed: RedisPubSub) -> AsyncIterator[Listener]:
    """Yield a listener that is subscribed when the block begins."""
    listener = Listener()
    async with asyncio.TaskGroup() as tasks:
        listen = feed.listen(
            on_change=listener.on_change, on_gap=listener.on_gap, on_status=listener.on_status
        )
        task = tasks.create_task(listen)
        await wait_until(lambda: "up" in listener.events or task.done())
        try:
            yield listener
        finally:
            task.cancel()


@pytest.fixture
async def other_feed(redis_url: str, unreadable: Counter[str]) -> AsyncIterator[RedisPubSub]:
    """The feed of another instance on the same Redis."""
    store = build_redis_store(redis_url, unreadable)
    yield build_feed(store, unreadable)
    await store.close()


async def count_subscribers(raw_client: RawClient) -> int:
    [(_, count)] = await raw_client.pubsub_numsub(CHANNEL)
    return int(count)


# --- Received changes


async def test_change_is_received_by_every_subscriber(
    store: FollowedRedis, other_feed: RedisPubSub, unreadable: Counter[str]
) -> None:
    feed = build_feed(store, unreadable)
    sessions = [
        build_tombstone(at=NOW),
        build_rotated_session(at=NOW),
        build_session(at=NOW, user_id="Zoë"),
    ]
    async with listening(feed) as one, listening(other_feed) as other:
        await other_feed.publish(sessions)
        await one.receives(*sessions)
        await other.receives(*sessions)
    assert unreadable == {}


async def test_many_changes_are_received_in_order(
    store: FollowedRedis, other_feed: RedisPubSub, unreadable: Counter[str]
) -> None:
    sessions = [build_session(at=NOW) for _ in range(300)]
    async with listening(build_feed(store, unreadable)) as listener:
        for start in range(0, 300, 100):
            await other_feed.publish(sessions[start : start + 100])
        await listener.receives(*sessions)


async def test_publish_of_an_empty_list_sends_nothing(unreadable: Counter[str]) -> None:
    unreachable_store = build_redis_store("redis://127.0.0.1:1/0", unreadable)
    await build_feed(unreachable_store, unreadable).publish([])
    await unreachable_store.close()


async def test_publish_without_subscribers_succeeds(other_feed: RedisPubSub) -> None:
    await other_feed.publish([build_session(at=NOW)])


async def test_publish_to_an_unreachable_redis_raises_unavailable(
    unreadable: Counter[str],
) -> None:
    unreachable_store = build_redis_store("redis://127.0.0.1:1/0", unreadable)
    with pytest.raises(StoreUnavailable):
        await build_feed(unreachable_store, unreadable).publish([build_session(at=NOW)])
    await unreachable_store.close()


async def test_store_works_while_its_feed_is_subscribed(
    store: FollowedRedis, unreadable: Counter[str]
) -> None:
    session = build_session(at=NOW)
    async with listening(build_feed(store, unreadable)):
        await store.put(session)
        assert await store.find(session.digest) == session
        assert await store.find(build_digest()) is None


async def test_invalid_messages_are_reported_and_skipped(
    store: FollowedRedis, other_feed: RedisPubSub, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    session = build_session(at=NOW)
    invalid = [b"", b"\x80", b"{}", b"1" * 500, encode(session)[:-1], bytes(100_000)]
    async with listening(build_feed(store, unreadable)) as listener:
        for message in invalid:
            await raw_client.publish(CHANNEL, message)
        await other_feed.publish([session])
        await listener.receives(session)
        assert listener.events == ["gap", "up"]
    assert unreadable == {"redis": len(invalid)}


# --- Missed changes


async def test_each_subscription_reports_a_gap(
    store: FollowedRedis, other_feed: RedisPubSub, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    session = build_session(at=NOW)
    async with listening(build_feed(store, unreadable)) as listener:
        await listener.sees_events("gap", "up")
        await raw_client.execute_command("CLIENT KILL TYPE pubsub")
        await listener.sees_events("gap", "up", "down", "gap", "up")
        await other_feed.publish([session])
        await listener.receives(session)


async def test_gap_is_reported_after_the_subscription_is_active(
    store: FollowedRedis, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    """Otherwise changes published between the gap and the subscription would be lost."""
    counts: list[asyncio.Task[int]] = []

    def gap() -> None:
        counts.append(asyncio.create_task(count_subscribers(raw_client)))

    async with asyncio.TaskGroup() as tasks:
        feed = build_feed(store, unreadable)
        task = tasks.create_task(feed.listen(on_change=ignore, on_gap=gap, on_status=ignore))
        await wait_until(lambda: bool(counts))
        assert await counts[0] == 1
        task.cancel()


async def test_restarted_redis_reports_down_then_gap_then_up(
    own_store: FollowedRedis, own_redis: Server, unreadable: Counter[str]
) -> None:
    feed, session = build_feed(own_store, unreadable), build_session(at=NOW)
    async with listening(feed) as listener:
        await asyncio.to_thread(own_redis.kill)
        await listener.sees_events("gap", "up", "down")
        await asyncio.to_thread(own_redis.restart)
        await listener.sees_events("gap", "up", "down", "gap", "up")
        await wait_until_async(lambda: try_publish(feed, session))
        await listener.receives(session)


async def try_publish(feed: RedisPubSub, session: Session) -> bool:
    with suppress(StoreUnavailable):
        await feed.publish([session])
        return True
    return False


async def test_listening_starts_while_redis_is_unreachable(unreadable: Counter[str]) -> None:
    unreachable_store = build_redis_store("redis://127.0.0.1:1/0", unreadable)
    listener = Listener()
    feed = build_feed(unreachable_store, unreadable)
    task = asyncio.create_task(
        feed.listen(
            on_change=listener.on_change, on_gap=listener.on_gap, on_status=listener.on_status
        )
    )
    await listener.sees_events("down")
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    await unreachable_store.close()


async def test_stalled_subscription_is_detected(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    async with listening(build_feed(proxied_store, unreadable)) as listener:
        proxy.stall()
        await listener.sees_events("gap", "up", "down")
        proxy.resume()
        await listener.sees_events("gap", "up", "down", "gap", "up")


async def create_user_without_publish(raw_client: RawClient, url: str) -> str:
    """Create a user without the permission to publish, and return its URL."""
    await raw_client.execute_command("ACL SETUSER reader on nopass ~* &* +@all -publish")
    return url.replace("redis://", "redis://reader:any@")


async def test_user_without_publish_is_down_but_receives_changes(
    own_redis: Server, own_store: FollowedRedis, own_raw_client: RawClient, unreadable: Counter[str]
) -> None:
    session = build_session(at=NOW)
    url = await create_user_without_publish(own_raw_client, own_redis.url)
    readonly_store = build_redis_store(url, unreadable)
    async with listening(build_feed(readonly_store, unreadable)) as listener:
        await listener.sees_events("gap", "up", "down")
        # A subscription without messages is kept.
        await wait_until_async(lambda: has_received_ping(own_raw_client))
        await build_feed(own_store, unreadable).publish([session])
        await listener.receives(session)
        assert listener.events == ["gap", "up", "down"]
    await readonly_store.close()


async def has_received_ping(raw_client: RawClient) -> bool:
    return bool((await raw_client.info("commandstats")).get("cmdstat_ping"))


async def test_lag_is_measured(store: FollowedRedis, unreadable: Counter[str]) -> None:
    lags: list[float] = []
    async with listening(build_feed(store, unreadable, lags.append)) as listener:
        await wait_until(lambda: len(lags) >= 2)
        assert all(0 < lag < 10 for lag in lags)
        assert listener.events == ["gap", "up"]


async def test_subscription_without_its_own_heartbeats_is_replaced(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    def corrupt_heartbeats(_: object, chunk: bytes) -> bytes:
        return chunk.replace(b"beat ", b"meat ")

    proxy.server_filter = corrupt_heartbeats
    async with listening(build_feed(proxied_store, unreadable)) as listener:
        await listener.sees_events("gap", "up", "down", "gap", "up")


@pytest.mark.parametrize(
    "reply",
    [
        b"$1\r\nx\r\n",
        b"*0\r\n",
        b"*1\r\n$7\r\nmessage\r\n",
        b":1\r\n",
        b"-ERR stray\r\n",
        b"-MOVED\r\n",
        b"not RESP\r\n",
    ],
)
async def test_stray_reply_replaces_the_subscription(
    proxy: TcpProxy,
    proxied_store: FollowedRedis,
    other_feed: RedisPubSub,
    unreadable: Counter[str],
    reply: bytes,
) -> None:
    session = build_session(at=NOW)
    async with listening(build_feed(proxied_store, unreadable)) as listener:
        proxy.inject(reply)
        await listener.sees_events("gap", "up", "down", "gap", "up")
        await other_feed.publish([session])
        await listener.receives(session)


@pytest.mark.parametrize(
    "reply",
    [
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n:1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n$-1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n*0\r\n",
    ],
)
async def test_message_that_is_not_a_string_is_reported_and_skipped(
    proxy: TcpProxy,
    proxied_store: FollowedRedis,
    other_feed: RedisPubSub,
    unreadable: Counter[str],
    reply: bytes,
) -> None:
    session = build_session(at=NOW)
    async with listening(build_feed(proxied_store, unreadable)) as listener:
        proxy.inject(reply)
        await wait_until(lambda: unreadable["redis"] == 1)
        await other_feed.publish([session])
        await listener.receives(session)


# --- Cancellation


async def test_cancelled_listener_leaves_no_task_and_no_subscription(
    redis_url: str, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    store = build_redis_store(redis_url, unreadable)
    async with no_leaks(), listening(build_feed(store, unreadable)):
        assert await count_subscribers(raw_client) == 1
        assert len(await raw_client.client_list(_type="pubsub")) == 1

    async def no_subscriber_is_left() -> bool:
        return not await raw_client.client_list(_type="pubsub")

    await wait_until_async(no_subscriber_is_left)
    await store.close()


async def test_connection_of_a_cancelled_subscription_is_not_reused(
    store: FollowedRedis, unreadable: Counter[str]
) -> None:
    session = build_session(at=NOW)
    for _ in range(3):
        async with listening(build_feed(store, unreadable)):
            pass
        await store.put(session)
        assert await store.find(session.digest) == session
    assert unreadable == {}


async def test_listener_can_be_cancelled_at_any_time(
    store: FollowedRedis, unreadable: Counter[str]
) -> None:
    feed = build_feed(store, unreadable)
    async with no_leaks():
        for attempt in range(200):
            task = asyncio.create_task(
                feed.listen(on_change=ignore, on_gap=ignore, on_status=ignore)
            )
            for _ in range(attempt % 40):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait_for(asyncio.wait([task]), 5)


async def test_listener_can_be_cancelled_during_an_outage(
    own_store: FollowedRedis, own_redis: Server, unreadable: Counter[str]
) -> None:
    async with no_leaks(), listening(build_feed(own_store, unreadable)) as listener:
        await asyncio.to_thread(own_redis.kill)
        await listener.sees_events("gap", "up", "down")
