"""A connection that ends in the moment before it is written to: an outage, on uvloop too."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.postgres.connection import understood
from tests.stores.conftest import counting

_INFO = b"run_id:0123456789abcdef\r\nmaster_replid:0123456789abcdef\r\n"
_GREETING = b"$%d\r\n%s\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n" % (len(_INFO), _INFO)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def resets_after(ticks: int) -> Serve:
    """A Redis that says it is a primary, and resets the connection some ticks of the loop later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(_GREETING)
        for _ in range(ticks):
            await asyncio.sleep(0)
        its_socket = writer.get_extra_info("socket")
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return serve


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """Serve on a port, and leave no connection behind."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def follow_what_resets(ticks: int) -> None:
    async with served(resets_after(ticks)) as port:
        store = counting(f"redis://127.0.0.1:{port}/0", Counter())
        try:
            await store.server.follow({"channel": lambda _: None}, subscribed=lambda: None)
        except StoreUnavailable:
            pass
        finally:
            await store.close()


def test_a_redis_that_resets_between_two_questions_is_an_outage() -> None:
    async def at_every_moment() -> None:
        for round_ in range(40):
            await follow_what_resets(round_ % 4)

    on_uvloop(at_every_moment())


def test_what_uvloop_says_of_it_means_that_postgres_could_not_answer() -> None:
    with pytest.raises(StoreUnavailable), understood():
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        )


def test_another_runtime_error_is_a_mistake_and_no_outage() -> None:
    with pytest.raises(RuntimeError, match="ours"), understood():
        raise RuntimeError("a mistake of ours")
