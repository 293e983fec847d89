"""The single HTTP connection, with a server that sends given responses."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.bench.connection import connect, request_each_once
from tests.bench.errors import UnexpectedResponses

OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
NO = "HTTP/1.1 401 Unauthorized\r\n\r\n"


@asynccontextmanager
async def server(responses: Iterable[str]) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a server that sends these responses in turn; yield its port and what it receives."""
    received: list[str] = []
    waiting = iter(responses)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                received.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(next(waiting).encode())
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], received


async def test_body_is_skipped_before_the_next_response() -> None:
    async with server([BUSY, OK]) as (port, _), connect(port) as connection:
        first, head = await connection.request("one\r\n\r\n")
        second, _ = await connection.request("two\r\n\r\n")

    assert (first, second) == (503, 200)
    assert head.endswith("content-length: 4\r\n\r\n")


async def test_fetch_returns_the_body() -> None:
    async with server([BUSY, NO]) as (port, _), connect(port) as connection:
        responses = [await connection.fetch("one\r\n\r\n") for _ in range(2)]

    assert responses == [(503, b"busy"), (401, b"")]


async def test_each_request_is_sent_once() -> None:
    requests = [f"{number}\r\n\r\n" for number in range(20)]
    async with server([OK] * 20) as (port, received):
        stats = await request_each_once(port, requests, connections=3)

    assert sorted(received) == sorted(requests)
    assert stats.unavailable == 0
    assert stats.slowest > 0


async def test_503_is_retried_and_counted() -> None:
    async with server([OK, BUSY, BUSY, OK]) as (port, received):
        stats = await request_each_once(port, ["one\r\n\r\n", "two\r\n\r\n"], connections=1)

    assert stats.unavailable == 2
    assert len(received) == 4


async def test_401_response_raises_unexpected_responses() -> None:
    async with server([NO]) as (port, _):
        with pytest.raises(UnexpectedResponses, match="401"):
            await request_each_once(port, ["one\r\n\r\n"], connections=1)
