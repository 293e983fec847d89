"""When a Cluster is asked where its keys live, and for whom."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.connection import RedisClient
from tests.stores.conftest import Raw, client
from tests.stores.waiting import all_leave, nothing_is_left
from tests.support.clock import FakeClock
from tests.support.processes import Server, free_port, temporary_directory
from tests.support.servers import start_cluster, start_cluster_node


@pytest.fixture(scope="module")
def node() -> Iterator[Server]:
    """A Cluster of one node, which takes two seconds to begin: who hurts it makes it well again."""
    with temporary_directory() as directory:
        node = start_cluster_node(directory)
        yield node
        node.kill()


@pytest.fixture
async def raw_node(node: Server) -> AsyncIterator[Raw]:
    async with client(f"redis://{node.address}") as raw:
        yield raw


@pytest.fixture
async def server(node: Server, clock: FakeClock) -> AsyncIterator[RedisClient]:
    server = RedisClient(node.url, timeout=0.5, monotonic=clock.monotonic)
    yield server
    await server.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def looks(raw: Raw) -> int:
    """Return how often the node was asked about its Cluster."""
    return int((await raw.info("commandstats"))["cmdstat_cluster"]["calls"])


async def fail(server: RedisClient) -> None:
    """Ask for what no Redis knows: whatever is wrong, it may be the wrong server."""
    with pytest.raises(StoreUnavailable):
        await server.run("place", lambda key: [("NONSENSE", key)], fits=lambda *_: True)


async def test_what_goes_on_failing_has_the_map_read_now_and_then_and_not_each_time(
    server: RedisClient, raw_node: Raw, clock: FakeClock
) -> None:
    await server.ping()
    for _ in range(3):
        before = await looks(raw_node)
        clock.advance(1)
        await fail(server)
        await asyncio.gather(*(fail(server) for _ in range(20)))
        assert await looks(raw_node) == before + 1


async def test_as_long_as_all_is_well_the_map_is_not_read_again(
    server: RedisClient, raw_node: Raw, clock: FakeClock
) -> None:
    await server.ping()
    before = await looks(raw_node)
    for _ in range(3):
        clock.advance(60)
        await server.ping()
    assert await looks(raw_node) == before


async def test_one_look_is_for_all_who_ask_and_who_leaves_ends_it_for_none(
    server: RedisClient, node: Server, raw_node: Raw
) -> None:
    before = await looks(raw_node)
    node.pause()
    leaving = [asyncio.create_task(server.ping()) for _ in range(5)]
    staying = [asyncio.create_task(server.ping()) for _ in range(5)]
    await asyncio.sleep(0)
    await all_leave(leaving)
    node.resume()
    await asyncio.gather(*staying)
    assert await looks(raw_node) == before + 1


async def test_that_no_connection_can_be_made_is_a_doubt_though_its_caller_has_left(
    server: RedisClient, node: Server, raw_node: Raw, clock: FakeClock
) -> None:
    await server.ping()
    await raw_node.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    before = await looks(raw_node)
    async with nothing_is_left():  # neither is the connection that is being made
        node.pause()
        await leave(server)
    node.resume()
    clock.advance(1)
    await server.ping()
    assert await looks(raw_node) == before + 1


async def test_who_leaves_a_node_that_is_well_raises_no_doubt(
    server: RedisClient, raw_node: Raw, clock: FakeClock
) -> None:
    await server.ping()
    before = await looks(raw_node)
    for _ in range(3):
        await raw_node.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        async with nothing_is_left():
            await leave(server)
        clock.advance(1)
        await server.ping()
    assert await looks(raw_node) == before


async def leave(server: RedisClient) -> None:
    """Ask, and go as soon as the question is on its way."""
    caller = asyncio.create_task(server.ping())
    for _ in range(3):
        await asyncio.sleep(0)
    await all_leave([caller])


async def test_where_nobody_answers_each_is_told_so_and_the_first_who_does_is_believed(
    server: RedisClient, node: Server
) -> None:
    node.kill()
    async with nothing_is_left():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await server.ping()
        await leave(server)
    await asyncio.to_thread(node.restart)
    await server.ping()


async def test_closing_waits_for_the_look_that_is_under_way(node: Server) -> None:
    async with nothing_is_left():
        server = RedisClient(node.url, timeout=0.1)
        node.pause()
        caller = asyncio.create_task(server.ping())
        await asyncio.sleep(0)
        await server.close()
        with suppress(StoreUnavailable):
            await caller
        node.resume()


async def test_when_all_have_new_addresses_those_that_the_operator_gave_are_asked(
    node: Server, workdir: Path, clock: FakeClock
) -> None:
    """A Cluster that was moved as a whole leaves nobody to be asked at the addresses it told."""
    port = free_port(10_000)
    server = RedisClient(f"{node.url},127.0.0.1:{port}", timeout=0.5, monotonic=clock.monotonic)
    await server.ping()
    await asyncio.to_thread(node.kill)
    other = await asyncio.to_thread(start_cluster_node, workdir, port)
    with pytest.raises(StoreUnavailable):
        await server.ping()
    clock.advance(1)
    await server.ping()
    await server.close()
    other.kill()
    await asyncio.to_thread(node.restart)


async def test_who_begins_while_a_part_of_a_cluster_is_dead_finds_the_others(workdir: Path) -> None:
    cluster = await asyncio.to_thread(start_cluster, workdir)
    for of_the_first_slots in cluster.servers[0], cluster.servers[3]:
        of_the_first_slots.kill()
    server = RedisClient(cluster.url, timeout=5.0)
    for key in b"feed", b"{pending}":
        async with server.acquire(await server.pool_for(key)) as line:
            assert await line.ask(("PING",)) == [b"PONG"]
    await server.close()
    cluster.stop()
