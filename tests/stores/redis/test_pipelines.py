"""Pipelines on a connection that was taken over from the client library."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies, pack
from tests.stores.redis.strays import STRAY_REPLIES
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.servers import Server


@asynccontextmanager
async def open_connection(port: int, *, seconds: float = 5.0) -> AsyncIterator[PipelinedConnection]:
    pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2)
    library: AbstractConnection = pool.make_connection()
    await library.connect()
    connection = PipelinedConnection(library, server_id="s", timeout=seconds)
    try:
        yield connection
    finally:
        connection.close()
        await connection.closed


@pytest.fixture
async def connection(redis_server: Server) -> AsyncIterator[PipelinedConnection]:
    async with open_connection(redis_server.port) as connection:
        yield connection


@pytest.fixture
async def proxy(redis_server: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(redis_server.port) as proxy:
        yield proxy


async def test_library_has_the_members_that_are_taken(redis_server: Server) -> None:
    """The only undocumented ones that this project uses."""
    library: Any = ConnectionPool(host="127.0.0.1", port=redis_server.port).make_connection()
    await library.connect()
    assert isinstance(library._reader, asyncio.StreamReader)  # noqa: SLF001
    assert isinstance(library._writer, asyncio.StreamWriter)  # noqa: SLF001
    assert library.is_connected

    connection = PipelinedConnection(library, server_id="s", timeout=5.0)

    assert not library.is_connected
    assert await connection.execute(("PING",)) == [b"PONG"]
    connection.close()
    await connection.closed


async def test_connection_that_is_not_open_is_not_taken() -> None:
    library = ConnectionPool(host="127.0.0.1", port=1).make_connection()

    with pytest.raises(RedisConnectionError, match="the connection was lost"):
        PipelinedConnection(library, server_id="s", timeout=5.0)


async def test_replies_come_in_order_and_errors_are_values(connection: PipelinedConnection) -> None:
    key = "test_pipelines"
    replies = await connection.execute(
        ("SET", key, b"\r\n\x00"), ("GET", key), ("HGET", key, "x"), ("DEL", key), ("GET", key)
    )

    assert replies[:2] == [b"OK", b"\r\n\x00"]
    assert isinstance(replies[2], ResponseError)
    assert replies[3:] == [1, None]
    assert check_replies(replies) is replies  # a key of another type is no failure
    with pytest.raises(ResponseError, match="unknown command"):
        check_replies(await connection.execute(("PING",), ("NOTHING",)))


async def test_pipeline_in_many_segments_is_read_as_a_whole(proxy: TcpProxy) -> None:
    proxy.chunk_size = 7
    async with open_connection(proxy.port) as connection:
        assert await connection.execute(*[("ECHO", b"x" * n) for n in range(50)]) == [
            b"x" * n for n in range(50)
        ]


async def test_no_command_has_no_reply(connection: PipelinedConnection) -> None:
    assert await connection.execute() == []
    assert await connection.execute(("PING",)) == [b"PONG"]


async def test_packed_commands_are_sent_unchanged(connection: PipelinedConnection) -> None:
    assert await connection.send(pack("ECHO", 1) + pack("ECHO", "é"), 2) == [b"1", "é".encode()]


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_reply_to_no_command_closes(proxy: TcpProxy, name: str) -> None:
    async with open_connection(proxy.port) as connection:
        await connection.execute(("PING",))
        proxy.inject(STRAY_REPLIES[name])
        await connection.closed

        with pytest.raises(RedisConnectionError, match="the connection was lost"):
            await connection.execute(("PING",))


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_anything_behind_the_last_reply_fails_the_pipeline(
    proxy: TcpProxy, name: str
) -> None:
    async with open_connection(proxy.port) as connection:
        await connection.execute(("PING",))
        proxy.server_filter = lambda _, chunk: chunk + STRAY_REPLIES[name]

        with pytest.raises(RedisConnectionError):
            await connection.execute(("PING",))
        assert connection.is_closing


async def test_timeout_ends_the_wait_and_the_late_reply_closes(proxy: TcpProxy) -> None:
    async with open_connection(proxy.port, seconds=0.05) as connection:
        proxy.stall()
        with pytest.raises(TimeoutError):
            await connection.execute(("PING",))
        proxy.resume()
        await connection.closed


async def test_cancelled_caller_leaves_no_reply_to_a_later_one(proxy: TcpProxy) -> None:
    async with open_connection(proxy.port) as connection:
        proxy.stall()
        caller = asyncio.create_task(connection.execute(("ECHO", "first")))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        proxy.resume()
        await connection.closed


async def test_lost_connection_fails_the_pipeline(proxy: TcpProxy) -> None:
    async with open_connection(proxy.port) as connection:
        proxy.stall()
        caller = asyncio.create_task(connection.execute(("PING",)))
        await asyncio.sleep(0)
        proxy.reset_connections()
        with pytest.raises(RedisConnectionError, match="the connection was lost"):
            await caller
        assert connection.is_closing
