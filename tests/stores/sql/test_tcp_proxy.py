"""The fault-injecting proxy does what the tests that use it rely on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.stores.waiting import no_leaks, wait_until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what is received, until the client closes."""
    try:
        while chunk := await reader.read(1000):
            writer.write(chunk)
    except ConnectionResetError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async with no_leaks():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy
        server.close()


async def connect(proxy: TcpProxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def exchange(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), 5)


async def test_data_is_forwarded_in_both_directions(proxy: TcpProxy) -> None:
    streams = await connect(proxy)
    long = bytes(range(256)) * 4000
    assert await exchange(streams, long) == long
    streams[1].close()


async def test_close_of_one_end_closes_the_other(proxy: TcpProxy) -> None:
    reader, writer = await connect(proxy)
    await exchange((reader, writer), b"last data")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await wait_until(lambda: not proxy.connections)


async def test_injected_data_arrives_before_later_data(proxy: TcpProxy) -> None:
    streams = await connect(proxy)
    await exchange(streams, b"true")
    proxy.inject(b"false")
    assert await exchange(streams, b"true ") == b"false"
    streams[1].close()


async def test_server_filter_changes_data_of_the_server(proxy: TcpProxy) -> None:
    proxy.server_filter = lambda _, chunk: chunk * 2
    streams = await connect(proxy)
    streams[1].write(b"ab")
    assert await asyncio.wait_for(streams[0].readexactly(4), 5) == b"abab"
    streams[1].close()


async def test_client_filter_changes_data_of_the_client(proxy: TcpProxy) -> None:
    proxy.client_filter = lambda _, chunk: chunk.upper()
    streams = await connect(proxy)
    assert await exchange(streams, b"ab") == b"AB"
    streams[1].close()


async def test_delay_applies_to_each_direction_without_limiting_throughput(proxy: TcpProxy) -> None:
    proxy.delay = 0.05
    streams = await connect(proxy)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(100):
        streams[1].write(b"x")
        await asyncio.sleep(0)
    await streams[0].readexactly(100)
    assert 0.09 < loop.time() - start < 2
    streams[1].close()


async def test_chunk_size_and_rate_split_the_data(proxy: TcpProxy) -> None:
    proxy.chunk_size, proxy.bytes_per_second = 1, 10_000
    reader, writer = await connect(proxy)
    writer.write(b"x" * 100)
    first = await asyncio.wait_for(reader.read(1000), 5)
    assert len(first) < 20
    assert len(first + await reader.readexactly(100 - len(first))) == 100
    writer.close()


async def test_reset_reaches_both_ends(proxy: TcpProxy) -> None:
    streams = await connect(proxy)
    await exchange(streams, b"x")
    proxy.reset_connections()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(streams[0].read(), 5)
    streams[1].close()
    await wait_until(lambda: not proxy.connections)


async def test_filter_can_reset_the_connection(proxy: TcpProxy) -> None:
    def reset(connection: ProxiedConnection, chunk: bytes) -> bytes:
        connection.reset()
        return chunk

    proxy.server_filter = reset
    reader, writer = await connect(proxy)
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_stalled_proxy_forwards_and_closes_nothing(proxy: TcpProxy) -> None:
    streams = await connect(proxy)
    await exchange(streams, b"before")
    proxy.stall()
    another = await connect(proxy)
    streams[1].write(b"after")
    another[1].write(b"new")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streams[0].read(1), 0.02)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(another[0].read(1), 0.02)
    proxy.resume()
    assert await asyncio.wait_for(streams[0].readexactly(5), 5) == b"after"
    assert await asyncio.wait_for(another[0].readexactly(3), 5) == b"new"
    streams[1].close()
    another[1].close()


async def test_refuse_new_resets_new_connections_only(proxy: TcpProxy) -> None:
    old = await connect(proxy)
    await exchange(old, b"x")
    proxy.refuse_new = True
    new = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(new[0].read(), 5)
    assert await exchange(old, b"y") == b"y"
    old[1].close()
    new[1].close()


async def test_set_target_applies_to_new_connections_only(proxy: TcpProxy) -> None:
    old = await connect(proxy)
    await exchange(old, b"x")

    async def send_uppercase(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(1000)).upper())
        writer.close()

    other_server = await asyncio.start_server(send_uppercase, "127.0.0.1", 0)
    proxy.set_target(other_server.sockets[0].getsockname()[1])
    new = await connect(proxy)
    new[1].write(b"y")
    assert await asyncio.wait_for(new[0].read(), 5) == b"Y"
    assert await exchange(old, b"z") == b"z"
    for _, writer in (old, new):
        writer.close()
    other_server.close()


async def test_resets_are_counted(proxy: TcpProxy) -> None:
    streams = [await connect(proxy) for _ in range(2)]
    for each in streams:
        await exchange(each, b"x")
    streams[0][1].close()
    await wait_until(lambda: len(proxy.connections) == 1)
    proxy.reset_connections()
    await wait_until(lambda: not proxy.connections)
    assert proxy.resets == 1
    streams[1][1].close()


async def test_connection_to_a_closed_port_is_reset() -> None:
    async with TcpProxy(1) as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_closed_proxy_leaves_no_tasks(proxy: TcpProxy) -> None:
    async with no_leaks():
        async with TcpProxy(proxy.port) as second:
            streams = await connect(second)
            await exchange(streams, b"x")
        streams[1].close()
