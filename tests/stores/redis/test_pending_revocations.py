"""Pending revocations in Redis are kept until the server restarts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.actor import Actor
from sidegate.core.clock import SystemClock
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session_type import SessionType
from sidegate.stores.redis.connection import RedisClient
from sidegate.stores.redis.pending_revocations import RedisPendingRevocations
from sidegate.stores.redis.pubsub import RedisPubSub
from tests.contracts.harnesses import ignore
from tests.contracts.values import TESTER, build_digest, build_session_id
from tests.stores.conftest import RawClient
from tests.stores.redis.strays import STRAY_REPLIES, InjectOnce
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until, wait_until_async
from tests.support.clock import NOON
from tests.support.processes import Server
from tests.support.servers import start_cluster_node

UnreadableCounter = Counter[str]


def build_pending(**condition: object) -> PendingRevocation:
    members = condition or {"session_id": build_session_id()}
    return PendingRevocation.create(
        build_digest().hex(),
        Condition(**members),  # type: ignore[arg-type]  # the test passes valid members
        at=NOON,
        by=Actor("key:support", "192.0.2.7"),
        reason='"stolen" in Zürich',
    )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = RedisClient(redis_url, timeout=5.0)
    yield client
    await client.close()


@pytest.fixture
def store(client: RedisClient, unreadable: UnreadableCounter) -> RedisPendingRevocations:
    return RedisPendingRevocations(client, on_unreadable=lambda store: unreadable.update([store]))


@pytest.mark.parametrize(
    "revocation",
    [
        build_pending(),
        build_pending(user_id="Zoë"),
        build_pending(user_id="ada", except_id=build_session_id(), type=SessionType.MOBILE),
        build_pending(scope="write", created_before=NOON - timedelta(days=1)),
        PendingRevocation("1", Condition(), NOON, TESTER, "all sessions"),
    ],
)
async def test_revocation_round_trips(
    store: RedisPendingRevocations, revocation: PendingRevocation
) -> None:
    await store.put([revocation])
    assert await store.compare(set()) == ([revocation], set())


async def test_compare_returns_unknown_revocations_and_missing_ids(
    store: RedisPendingRevocations,
) -> None:
    first, second = build_pending(), build_pending()
    await store.put([first, second])
    assert await store.compare({first.id, "gone"}) == ([second], {"gone"})


async def test_removed_revocation_is_not_returned(store: RedisPendingRevocations) -> None:
    first, second = build_pending(), build_pending()
    await store.put([first, second])
    await store.remove(first)
    await store.remove(first)
    assert await store.compare(set()) == ([second], set())


async def test_thousands_of_revocations_are_put_and_read(store: RedisPendingRevocations) -> None:
    many = [build_pending() for _ in range(2500)]
    await store.put(many)
    found, removed = await store.compare({many[0].id})
    assert sorted(each.id for each in found) == sorted(each.id for each in many[1:])
    assert removed == set()


async def test_put_of_an_empty_list_sends_nothing() -> None:
    nowhere = RedisClient("redis://127.0.0.1:1/0", timeout=5.0)
    await RedisPendingRevocations(nowhere, on_unreadable=ignore).put([])
    await nowhere.close()


async def test_put_notifies_subscribers(
    client: RedisClient, store: RedisPendingRevocations
) -> None:
    notified: list[None] = []
    statuses: list[bool] = []
    feed = RedisPubSub(client, clock=SystemClock(), on_lag=ignore, on_unreadable=ignore)
    listening = asyncio.create_task(
        feed.listen(
            on_change=ignore,
            on_gap=ignore,
            on_status=statuses.append,
            on_pending=lambda: notified.append(None),
        )
    )
    await wait_until(lambda: bool(statuses))
    await store.put([build_pending()])
    await wait_until(lambda: notified == [None])
    listening.cancel()
    await asyncio.wait([listening])


async def test_revocations_are_gone_after_a_server_restart(own_redis: Server) -> None:
    client = RedisClient(own_redis.url, timeout=5.0)
    store = RedisPendingRevocations(client, on_unreadable=ignore)
    revocation = build_pending()
    await store.put([revocation])
    await asyncio.to_thread(own_redis.restart)
    while True:
        try:
            assert await store.compare({revocation.id}) == ([], {revocation.id})
            break
        except StoreUnavailable:  # a connection from before the restart
            continue
    await store.put([revocation])
    assert await store.compare(set()) == ([revocation], set())
    await client.close()


@pytest.mark.parametrize(
    "record",
    [b"", b"{}", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"condition": {"tenant": "north"}}'],
)
async def test_invalid_record_is_skipped_and_reported_once(
    store: RedisPendingRevocations,
    raw_client: RawClient,
    unreadable: UnreadableCounter,
    record: bytes,
) -> None:
    revocation = build_pending()
    await store.put([revocation])
    [key] = await raw_client.keys()
    await raw_client.hset(key, "record", record)
    for _ in range(3):
        assert await store.compare(set()) == ([revocation], set())
    assert unreadable == {"redis": 1}


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_is_at_most_a_short_outage(own_redis: Server, name: str) -> None:
    async with TcpProxy(own_redis.port) as proxy:
        client = RedisClient(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.1)
        store = RedisPendingRevocations(client, on_unreadable=ignore)
        first, second = build_pending(), build_pending()
        await store.put([first])
        for _ in range(3):
            for request in (store.compare({"gone"}), store.put([first]), store.remove(second)):
                proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
                with suppress(StoreUnavailable):
                    await request

        async def is_correct() -> bool:
            with suppress(StoreUnavailable):
                return await store.compare(set()) == ([first], set())
            return False

        await wait_until_async(is_correct)
        await client.close()


async def test_key_of_another_type_raises_unavailable(
    store: RedisPendingRevocations, raw_client: RawClient
) -> None:
    await store.put([build_pending()])
    [key] = await raw_client.keys()
    await raw_client.set(key, "another type")
    with pytest.raises(StoreUnavailable):
        await store.compare(set())
    with pytest.raises(StoreUnavailable):
        await store.put([build_pending()])


async def test_put_raises_unavailable_when_redis_is_out_of_memory(
    own_redis: Server, own_raw_client: RawClient
) -> None:
    client = RedisClient(own_redis.url, timeout=5.0)
    store = RedisPendingRevocations(client, on_unreadable=ignore)
    await own_raw_client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await store.put([build_pending()])
    assert await store.compare(set()) == ([], set())
    await client.close()


async def test_revocations_are_kept_in_a_cluster(workdir: Path) -> None:
    node = await asyncio.to_thread(start_cluster_node, workdir)
    client = RedisClient(node.url, timeout=5.0)
    store = RedisPendingRevocations(client, on_unreadable=ignore)
    revocation = build_pending()
    await store.put([revocation])
    assert await store.compare(set()) == ([revocation], set())
    await client.close()
    await asyncio.to_thread(node.stop)
