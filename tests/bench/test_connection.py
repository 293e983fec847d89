"""Our own connection, on a server that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.bench.connection import ask_each_once, connected
from tests.bench.errors import WrongAnswers

OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
NO = "HTTP/1.1 401 Unauthorized\r\n\r\n"


@asynccontextmanager
async def server(answers: Iterable[str]) -> AsyncIterator[tuple[int, list[str]]]:
    """Run one that gives these answers in turn; yield its port and what it is asked."""
    asked: list[str] = []
    waiting = iter(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(next(waiting).encode())
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], asked


async def test_a_body_is_read_past_so_that_the_next_answer_is_the_next() -> None:
    async with server([BUSY, OK]) as (port, _), connected(port) as connection:
        first, head = await connection.ask("one\r\n\r\n")
        second, _ = await connection.ask("two\r\n\r\n")

    assert (first, second) == (503, 200)
    assert head.endswith("content-length: 4\r\n\r\n")


async def test_each_request_is_asked_once() -> None:
    requests = [f"{number}\r\n\r\n" for number in range(20)]
    async with server([OK] * 20) as (port, asked):
        toll = await ask_each_once(port, requests, connections=3)

    assert sorted(asked) == sorted(requests)
    assert toll.unavailable == 0
    assert toll.slowest > 0


async def test_an_outage_is_asked_again_and_counted() -> None:
    async with server([OK, BUSY, BUSY, OK]) as (port, asked):
        toll = await ask_each_once(port, ["one\r\n\r\n", "two\r\n\r\n"], connections=1)

    assert toll.unavailable == 2
    assert len(asked) == 4


async def test_a_refusal_is_not_what_was_to_be_measured() -> None:
    async with server([NO]) as (port, _):
        with pytest.raises(WrongAnswers, match="401"):
            await ask_each_once(port, ["one\r\n\r\n"], connections=1)
