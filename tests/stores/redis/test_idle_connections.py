"""After a rush, connections that nobody uses any more are given back to Redis."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from sidegate.stores.redis.connection import BorrowedConnection, RedisClient, checked
from tests.stores.conftest import Raw
from tests.stores.waiting import until_answered
from tests.support.clock import FakeClock

IDLE = 30.0


@pytest.fixture
async def server(redis_url: str, clock: FakeClock) -> AsyncIterator[RedisClient]:
    server = RedisClient(redis_url, timeout=5.0, idle=IDLE, monotonic=clock.monotonic)
    yield server
    await server.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def ask(line: BorrowedConnection) -> None:
    checked(await line.ask(("PING",)))


async def rush(server: RedisClient, number: int) -> None:
    """Ask so many questions at once, each on a line of its own."""
    pool = await server.pool_for(b"key")
    async with AsyncExitStack() as stack:
        for _ in range(number):
            await ask(await stack.enter_async_context(server.acquire(pool)))


async def connections(raw: Raw) -> int:
    """Count whoever else is connected."""
    return len(await raw.client_list()) - 1


async def test_what_a_rush_has_opened_is_closed_after_a_while(
    server: RedisClient, raw: Raw, clock: FakeClock
) -> None:
    before = await connections(raw)
    await rush(server, 5)
    clock.advance(IDLE)
    await rush(server, 1)

    async def one_is_left() -> bool:
        return await connections(raw) == before + 1

    await until_answered(one_is_left)


async def test_until_then_they_are_kept(server: RedisClient, raw: Raw, clock: FakeClock) -> None:
    before = await connections(raw)
    await rush(server, 5)
    clock.advance(IDLE - 1)
    await rush(server, 1)
    assert await connections(raw) == before + 5


async def test_a_connection_in_use_is_not_idle_however_long_it_takes(
    server: RedisClient, clock: FakeClock
) -> None:
    async with server.acquire(await server.pool_for(b"key")) as line:
        await ask(line)
        clock.advance(2 * IDLE)
        await rush(server, 2)
        await ask(line)


async def test_whoever_comes_in_the_next_rush_is_connected_again(
    server: RedisClient, clock: FakeClock
) -> None:
    await rush(server, 5)
    clock.advance(IDLE)
    await rush(server, 1)
    await rush(server, 5)
