"""When the slot map of a Cluster is read, and for which callers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.connection import RedisClient
from tests.stores.conftest import RawClient, connect_raw
from tests.stores.waiting import cancel_all, no_leaks
from tests.support.clock import FakeClock
from tests.support.processes import Server, find_free_port, temporary_directory
from tests.support.servers import start_cluster, start_cluster_node


@pytest.fixture(scope="module")
def node() -> Iterator[Server]:
    """A Cluster of one node, which takes two seconds to start: tests must restore it."""
    with temporary_directory() as directory:
        node = start_cluster_node(directory)
        yield node
        node.kill()


@pytest.fixture
async def raw_node(node: Server) -> AsyncIterator[RawClient]:
    async with connect_raw(f"redis://{node.address}") as raw_client:
        yield raw_client


@pytest.fixture
async def client(node: Server, clock: FakeClock) -> AsyncIterator[RedisClient]:
    client = RedisClient(node.url, timeout=0.5, monotonic=clock.monotonic)
    yield client
    await client.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def count_map_reads(raw_client: RawClient) -> int:
    """Return how often the slot map was read."""
    stats = await raw_client.info("commandstats")
    # Redis 6.2 counts all CLUSTER commands together, later servers each of them.
    return sum(
        int(command["calls"])
        for name, command in stats.items()
        if name in ("cmdstat_cluster", "cmdstat_cluster|slots")
    )


async def send_invalid_command(client: RedisClient) -> None:
    """Send an invalid command, whose error marks the topology as stale."""
    with pytest.raises(StoreUnavailable):
        await client.run("name", lambda key: [("INVALID", key)], is_valid_reply=lambda *_: True)


async def test_repeated_failures_read_the_map_once_in_each_interval(
    client: RedisClient, raw_node: RawClient, clock: FakeClock
) -> None:
    await client.ping()
    for _ in range(3):
        before = await count_map_reads(raw_node)
        clock.advance(1)
        await send_invalid_command(client)
        await asyncio.gather(*(send_invalid_command(client) for _ in range(20)))
        assert await count_map_reads(raw_node) == before + 1


async def test_map_is_not_read_again_without_failures(
    client: RedisClient, raw_node: RawClient, clock: FakeClock
) -> None:
    await client.ping()
    before = await count_map_reads(raw_node)
    for _ in range(3):
        clock.advance(60)
        await client.ping()
    assert await count_map_reads(raw_node) == before


async def test_concurrent_callers_share_one_read_despite_cancellations(
    client: RedisClient, node: Server, raw_node: RawClient
) -> None:
    before = await count_map_reads(raw_node)
    node.pause()
    cancelled = [asyncio.create_task(client.ping()) for _ in range(5)]
    waiting = [asyncio.create_task(client.ping()) for _ in range(5)]
    await asyncio.sleep(0)
    await cancel_all(cancelled)
    node.resume()
    await asyncio.gather(*waiting)
    assert await count_map_reads(raw_node) == before + 1


async def test_failed_connection_of_a_cancelled_caller_marks_the_map_stale(
    client: RedisClient, node: Server, raw_node: RawClient, clock: FakeClock
) -> None:
    await client.ping()
    await raw_node.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    before = await count_map_reads(raw_node)
    async with no_leaks():  # nor the connection attempt
        node.pause()
        await cancel_ping(client)
    node.resume()
    clock.advance(1)
    await client.ping()
    assert await count_map_reads(raw_node) == before + 1


async def test_cancelled_caller_of_a_working_node_keeps_the_map(
    client: RedisClient, raw_node: RawClient, clock: FakeClock
) -> None:
    await client.ping()
    before = await count_map_reads(raw_node)
    for _ in range(3):
        await raw_node.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        async with no_leaks():
            await cancel_ping(client)
        clock.advance(1)
        await client.ping()
    assert await count_map_reads(raw_node) == before


async def cancel_ping(client: RedisClient) -> None:
    """Send a PING, and cancel it while it is in flight."""
    caller = asyncio.create_task(client.ping())
    for _ in range(3):
        await asyncio.sleep(0)
    await cancel_all([caller])


async def test_client_recovers_after_all_nodes_were_unreachable(
    client: RedisClient, node: Server
) -> None:
    node.kill()
    async with no_leaks():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await client.ping()
        await cancel_ping(client)
    await asyncio.to_thread(node.restart)
    await client.ping()


async def test_close_waits_for_a_map_read_in_flight(node: Server) -> None:
    async with no_leaks():
        client = RedisClient(node.url, timeout=0.1)
        node.pause()
        caller = asyncio.create_task(client.ping())
        await asyncio.sleep(0)
        await client.close()
        with suppress(StoreUnavailable):
            await caller
        node.resume()


async def test_configured_nodes_are_used_when_all_addresses_changed(
    node: Server, workdir: Path, clock: FakeClock
) -> None:
    """After a move of the whole Cluster no address of the last map is reachable."""
    port = find_free_port(10_000)
    client = RedisClient(f"{node.url},127.0.0.1:{port}", timeout=0.5, monotonic=clock.monotonic)
    await client.ping()
    await asyncio.to_thread(node.kill)
    other = await asyncio.to_thread(start_cluster_node, workdir, port)
    with pytest.raises(StoreUnavailable):
        await client.ping()
    clock.advance(1)
    await client.ping()
    await client.close()
    other.kill()
    await asyncio.to_thread(node.restart)


async def test_client_starts_while_part_of_the_cluster_is_down(workdir: Path) -> None:
    cluster = await asyncio.to_thread(start_cluster, workdir)
    for node in cluster.servers[0], cluster.servers[3]:
        node.kill()
    client = RedisClient(cluster.url, timeout=5.0)
    for key in b"feed", b"{pending}":
        async with client.acquire(await client.get_pool(key)) as connection:
            assert await connection.execute(("PING",)) == [b"PONG"]
    await client.close()
    cluster.stop()
