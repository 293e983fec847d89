"""The HTTP client of the load: reuse of connections, complete responses, errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.faults.client import ConnectionBroken, ConnectionPool
from tests.stores.waiting import no_leaks, wait_until
from tests.support.processes import find_free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nX-Auth-User: ada\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def start_server(serve: Serve) -> AsyncIterator[ConnectionPool]:
    async with no_leaks():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        pool = ConnectionPool(server.sockets[0].getsockname()[1])
        yield pool
        await pool.close()
        server.close()


class FixedReplies:
    """A server that sends the same bytes to every request, in chunks of `size`."""

    def __init__(self, response: bytes, *, size: int = 1000, then_close: bool = False) -> None:
        self.connections = 0
        self._response = response
        self._size = size
        self._then_close = then_close

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.read(1000):
            for start in range(0, len(self._response), self._size):
                writer.write(self._response[start : start + self._size])
                await writer.drain()
            if self._then_close:
                break
        writer.close()


async def test_response_has_status_headers_and_body() -> None:
    async with start_server(FixedReplies(OK)) as pool:
        response = await pool.request(REQUEST, timeout=5)
    assert (response.status, response.body) == (200, b"hello")
    assert response.header(b"x-auth-user") == "ada"
    assert response.header(b"X-Auth-Session") is None


async def test_response_is_assembled_from_single_bytes() -> None:
    async with start_server(FixedReplies(OK, size=1)) as pool:
        assert (await pool.request(REQUEST, timeout=5)).body == b"hello"


async def test_connection_is_reused() -> None:
    server = FixedReplies(OK)
    async with start_server(server) as pool:
        for _ in range(3):
            await pool.request(REQUEST, timeout=5)
    assert server.connections == 1


async def test_concurrent_requests_use_one_connection_each() -> None:
    server = FixedReplies(OK)
    async with start_server(server) as pool:
        await asyncio.gather(*(pool.request(REQUEST, timeout=5) for _ in range(3)))
    assert server.connections == 3


async def test_connection_close_is_not_reused() -> None:
    server = FixedReplies(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    async with start_server(server) as pool:
        for _ in range(2):
            await pool.request(REQUEST, timeout=5)
    assert server.connections == 2


async def test_connection_closed_before_the_response_raises() -> None:
    async with start_server(FixedReplies(OK[:20], then_close=True)) as pool:
        with pytest.raises(ConnectionBroken):
            await pool.request(REQUEST, timeout=5)
        assert pool.failed_requests == 1


async def test_refused_connection_raises() -> None:
    pool = ConnectionPool(find_free_port())
    with pytest.raises(ConnectionBroken):
        await pool.request(REQUEST, timeout=5)
    assert pool.failed_requests == 1


async def test_timeout_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        closed.set()
        writer.close()

    async with start_server(silent) as pool:
        with pytest.raises(TimeoutError):
            await pool.request(REQUEST, timeout=0.05)
        async with asyncio.timeout(5):
            await closed.wait()
        assert pool.failed_requests == 0


async def test_late_response_can_be_awaited() -> None:
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        await go.wait()
        writer.write(OK)
        await reader.read()
        writer.close()

    async with start_server(slow) as pool:
        pending = await pool.send(REQUEST)
        await asyncio.wait((pending.response,), timeout=0.01)
        assert not pending.response.done()
        go.set()
        assert (await asyncio.wait_for(pending.response, 5)).status == 200


async def test_number_of_idle_connections_is_limited() -> None:
    server = FixedReplies(OK)
    async with start_server(server) as pool:
        await asyncio.gather(*(pool.request(REQUEST, timeout=5) for _ in range(40)))
        await wait_until(lambda: pool.size <= 16)
        await pool.request(REQUEST, timeout=5)
    assert server.connections == 40
