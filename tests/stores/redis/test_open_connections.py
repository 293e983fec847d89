"""Connections that a load peak has opened are closed when they have been idle for a while."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.exceptions import MaxConnectionsError

from sidegate.stores.redis.connection import RedisClient
from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies
from tests.stores.conftest import RawClient
from tests.stores.waiting import wait_until_async
from tests.support.clock import FakeClock

MAX_IDLE = 30.0


@pytest.fixture
async def client(redis_url: str, clock: FakeClock) -> AsyncIterator[RedisClient]:
    client = RedisClient(redis_url, timeout=5.0, max_idle=MAX_IDLE, monotonic=clock.monotonic)
    yield client
    await client.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def send_ping(connection: PipelinedConnection) -> None:
    check_replies(await connection.execute(("PING",)))


async def use_connections(client: RedisClient, number: int) -> None:
    """Send commands on so many connections at once."""
    pool = await client.get_pool(b"key")
    async with AsyncExitStack() as stack:
        for _ in range(number):
            await send_ping(await stack.enter_async_context(client.acquire(pool)))


async def count_connections(raw_client: RawClient) -> int:
    """Return the number of other connections to the server."""
    return len(await raw_client.client_list()) - 1


async def test_idle_connections_are_closed_after_max_idle(
    client: RedisClient, raw_client: RawClient, clock: FakeClock
) -> None:
    before = await count_connections(raw_client)
    await use_connections(client, 5)
    clock.advance(MAX_IDLE)
    await use_connections(client, 1)

    async def one_remains() -> bool:
        return await count_connections(raw_client) == before + 1

    await wait_until_async(one_remains)


async def test_idle_connections_are_kept_before_max_idle(
    client: RedisClient, raw_client: RawClient, clock: FakeClock
) -> None:
    before = await count_connections(raw_client)
    await use_connections(client, 5)
    clock.advance(MAX_IDLE - 1)
    await use_connections(client, 1)
    assert await count_connections(raw_client) == before + 5


async def test_borrowed_connection_is_never_closed_as_idle(
    client: RedisClient, clock: FakeClock
) -> None:
    async with client.acquire(await client.get_pool(b"key")) as connection:
        await send_ping(connection)
        clock.advance(2 * MAX_IDLE)
        await use_connections(client, 2)
        await send_ping(connection)


async def test_closed_connections_reconnect_at_the_next_peak(
    client: RedisClient, clock: FakeClock
) -> None:
    await use_connections(client, 5)
    clock.advance(MAX_IDLE)
    await use_connections(client, 1)
    await use_connections(client, 5)


async def test_connection_that_was_lost_while_idle_is_not_borrowed(
    client: RedisClient, raw_client: RawClient
) -> None:
    pool = await client.get_pool(b"key")
    async with client.acquire(pool) as lost:
        await send_ping(lost)
    await raw_client.client_kill_filter(_type="normal", skipme=True)
    await lost.closed

    async with client.acquire(pool) as connection:
        await send_ping(connection)


async def test_idle_connection_to_a_former_primary_is_not_borrowed(client: RedisClient) -> None:
    pool: Any = await client.get_pool(b"key")
    async with client.acquire(pool) as former:
        assert former.address == (pool.connection_kwargs["host"], pool.connection_kwargs["port"])
    pool.master_address = former.address
    async with client.acquire(pool) as same:
        assert same is former
    pool.master_address = ("192.0.2.1", 6379)  # as the pool of Sentinels sets it
    async with client.acquire(pool) as another:
        assert another is not former
        assert former.is_closing


async def test_too_many_connections_are_unavailable(client: RedisClient) -> None:
    pool = await client.get_pool(b"key")
    async with AsyncExitStack() as stack:
        for _ in range(64):
            await stack.enter_async_context(client.acquire_now(pool))
        with pytest.raises(MaxConnectionsError):
            await stack.enter_async_context(client.acquire_now(pool))
    async with client.acquire_now(pool) as connection:
        await send_ping(connection)
