"""The clock of a Redis server, and the difference to the database's clock that is kept in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.clock import RedisClock
from sidegate.stores.redis.connection import RedisClient
from tests.stores.conftest import RawClient
from tests.stores.redis.strays import STRAY_REPLIES, InjectOnce
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.servers import RedisSet, start_cluster, start_redis, start_sentinel

DIFFERENCE = -timedelta(hours=13, seconds=7, microseconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def client(any_redis: Server, any_raw_client: RawClient) -> AsyncIterator[RedisClient]:
    del any_raw_client  # it has emptied the Redis
    client = RedisClient(any_redis.url, timeout=5.0)
    yield client
    await client.close()


async def assert_keeps_a_difference(url: str) -> None:
    client = RedisClient(url, timeout=5.0)
    clock = RedisClock(client)
    time, difference = await clock.read()
    assert abs(time - datetime.now(UTC)) < MINUTE
    assert difference is None
    for kept in (DIFFERENCE, -DIFFERENCE, timedelta(0)):
        await clock.keep(kept)
        later, difference = await RedisClock(client).read()
        assert difference == kept
        assert later > time
    await client.close()


async def test_difference_is_unknown_until_it_is_kept(
    any_redis: Server, any_raw_client: RawClient
) -> None:
    await assert_keeps_a_difference(any_redis.url)
    [key] = await any_raw_client.keys("sidegate:v1:*")
    assert 0 < await any_raw_client.ttl(key) <= 86_400


async def test_difference_is_kept_in_a_primary_that_sentinels_name(workdir: Path) -> None:
    server = await asyncio.to_thread(start_redis, workdir)
    sentinel = await asyncio.to_thread(start_sentinel, workdir, server.port)
    await assert_keeps_a_difference(sentinel.url)
    await asyncio.to_thread(RedisSet(sentinel.url, [server], [sentinel]).stop)


async def test_difference_is_kept_in_a_cluster(workdir: Path) -> None:
    cluster = await asyncio.to_thread(start_cluster, workdir)
    await assert_keeps_a_difference(cluster.url)
    await asyncio.to_thread(cluster.stop)


async def test_difference_is_unknown_after_a_server_restart(workdir: Path) -> None:
    server = await asyncio.to_thread(start_redis, workdir, None, ["--appendonly", "yes"])
    client = RedisClient(server.url, timeout=5.0)
    clock = RedisClock(client)
    await clock.keep(DIFFERENCE)
    await asyncio.to_thread(server.restart)

    async def is_read() -> bool:
        with suppress(StoreUnavailable):  # a connection from before the restart
            assert (await clock.read())[1] is None
            return True
        return False

    await wait_until_async(is_read)
    await clock.keep(DIFFERENCE)
    assert (await clock.read())[1] == DIFFERENCE
    await client.close()
    await asyncio.to_thread(server.stop)


async def build_clock_with(value: bytes, client: RedisClient, *, raw: RawClient) -> RedisClock:
    """Return a clock in whose place for the difference is this value."""
    clock = RedisClock(client)
    await clock.keep(DIFFERENCE)
    [key] = await raw.keys()
    await raw.set(key, value)
    return clock


@pytest.mark.parametrize(
    "value",
    [b"", b"0.5", b"nan", b"1e3", b" 1", b"1\n", b"--1", b"9" * 17, b"9" * 10_000, b"\xd9\xa1"],
)
async def test_unreadable_difference_is_unknown(
    client: RedisClient, any_raw_client: RawClient, value: bytes
) -> None:
    clock = await build_clock_with(value, client, raw=any_raw_client)
    assert (await clock.read())[1] is None


@pytest.mark.parametrize("value", [b"9" * 16, b"-" + b"9" * 16], ids=["future", "past"])
async def test_largest_difference_overflows_no_calculation(
    client: RedisClient, any_raw_client: RawClient, value: bytes
) -> None:
    clock = await build_clock_with(value, client, raw=any_raw_client)
    time, difference = await clock.read()
    assert difference is not None
    assert abs((time + difference).year - time.year) in range(316, 319)


async def test_key_of_another_type_is_unknown_and_overwritten(
    client: RedisClient, any_raw_client: RawClient
) -> None:
    clock = RedisClock(client)
    await clock.keep(DIFFERENCE)
    [key] = await any_raw_client.keys()
    await any_raw_client.delete(key)
    await any_raw_client.hset(key, "field", "value")
    assert (await clock.read())[1] is None
    await clock.keep(DIFFERENCE)
    assert (await clock.read())[1] == DIFFERENCE


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_is_never_read_as_a_difference(own_redis: Server, name: str) -> None:
    async with TcpProxy(own_redis.port) as proxy:
        client = RedisClient(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.1)
        clock = RedisClock(client)
        await clock.keep(DIFFERENCE)
        for _ in range(3):
            proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
            with suppress(StoreUnavailable):
                assert (await clock.read())[1] == DIFFERENCE
            proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
            with suppress(StoreUnavailable):
                await clock.keep(DIFFERENCE)
        await client.close()


async def test_denied_permission_raises_unavailable(
    own_redis: Server, own_raw_client: RawClient
) -> None:
    client = RedisClient(own_redis.url, timeout=5.0)
    await own_raw_client.execute_command("ACL SETUSER default -time")
    with pytest.raises(StoreUnavailable):
        await RedisClock(client).read()
    await client.close()
