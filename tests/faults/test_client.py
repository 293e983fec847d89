"""The load's own client: connections are kept, answers are whole, and ends are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.faults.client import Broken, Lines
from tests.stores.waiting import nothing_is_left, until
from tests.support.processes import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ASKED = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nX-Auth-User: ada\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[Lines]:
    async with nothing_is_left():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        lines = Lines(server.sockets[0].getsockname()[1])
        yield lines
        await lines.close()
        server.close()


class Says:
    """A server that answers every request with the same bytes, in pieces of `size`."""

    def __init__(self, answer: bytes, *, size: int = 1000, then_close: bool = False) -> None:
        self.connections = 0
        self._answer = answer
        self._size = size
        self._then_close = then_close

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.read(1000):
            for start in range(0, len(self._answer), self._size):
                writer.write(self._answer[start : start + self._size])
                await writer.drain()
            if self._then_close:
                break
        writer.close()


async def test_an_answer_has_a_status_fields_and_a_body() -> None:
    async with served(Says(OK)) as lines:
        answer = await lines.ask(ASKED, patience=5)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.field(b"x-auth-user") == "ada"
    assert answer.field(b"X-Auth-Session") is None


async def test_an_answer_may_come_byte_by_byte() -> None:
    async with served(Says(OK, size=1)) as lines:
        assert (await lines.ask(ASKED, patience=5)).body == b"hello"


async def test_a_connection_is_used_again() -> None:
    says = Says(OK)
    async with served(says) as lines:
        for _ in range(3):
            await lines.ask(ASKED, patience=5)
    assert says.connections == 1


async def test_those_who_ask_at_once_have_a_connection_each() -> None:
    says = Says(OK)
    async with served(says) as lines:
        await asyncio.gather(*(lines.ask(ASKED, patience=5) for _ in range(3)))
    assert says.connections == 3


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    says = Says(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    async with served(says) as lines:
        for _ in range(2):
            await lines.ask(ASKED, patience=5)
    assert says.connections == 2


async def test_a_connection_that_ends_before_the_answer_is_told() -> None:
    async with served(Says(OK[:20], then_close=True)) as lines:
        with pytest.raises(Broken):
            await lines.ask(ASKED, patience=5)
        assert lines.broken == 1


async def test_a_server_that_is_not_there_is_told() -> None:
    lines = Lines(free_port())
    with pytest.raises(Broken):
        await lines.ask(ASKED, patience=5)
    assert lines.broken == 1


async def test_whoever_is_out_of_patience_hangs_up() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    async with served(silent) as lines:
        with pytest.raises(TimeoutError):
            await lines.ask(ASKED, patience=0.05)
        async with asyncio.timeout(5):
            await gone.wait()
        assert lines.broken == 0


async def test_a_late_answer_can_still_be_waited_for() -> None:
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        await go.wait()
        writer.write(OK)
        await reader.read()
        writer.close()

    async with served(slow) as lines:
        sent = await lines.send(ASKED)
        await asyncio.wait((sent.answer,), timeout=0.01)
        assert not sent.answer.done()
        go.set()
        assert (await asyncio.wait_for(sent.answer, 5)).status == 200


async def test_idle_connections_are_kept_to_a_number() -> None:
    says = Says(OK)
    async with served(says) as lines:
        await asyncio.gather(*(lines.ask(ASKED, patience=5) for _ in range(40)))
        await until(lambda: lines.open <= 16)
        await lines.ask(ASKED, patience=5)
    assert says.connections == 40
