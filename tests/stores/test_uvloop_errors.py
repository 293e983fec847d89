"""A write to a connection that has just been closed is an outage, on uvloop too."""

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
from sidegate.stores.postgres.connection import translate_errors
from tests.stores.conftest import build_redis_store

_INFO = b"run_id:0123456789abcdef\r\nmaster_replid:0123456789abcdef\r\n"
_GREETING = b"$%d\r\n%s\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n" % (len(_INFO), _INFO)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run_on_uvloop(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def reset_after(ticks: int) -> Serve:
    """A Redis that greets as a primary, and resets the connection `ticks` loop ticks later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(_GREETING)
        for _ in range(ticks):
            await asyncio.sleep(0)
        socket_ = writer.get_extra_info("socket")
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return serve


@asynccontextmanager
async def run_server(serve: Serve) -> AsyncIterator[int]:
    """Serve on a free port, and yield it."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def subscribe_until_reset(ticks: int) -> None:
    async with run_server(reset_after(ticks)) as port:
        store = build_redis_store(f"redis://127.0.0.1:{port}/0", Counter())
        try:
            await store.client.subscribe({"channel": lambda _: None}, on_subscribed=lambda: None)
        except StoreUnavailable:
            pass
        finally:
            await store.close()


def test_redis_reset_before_a_write_raises_unavailable() -> None:
    async def subscribe_repeatedly() -> None:
        for round_ in range(40):
            await subscribe_until_reset(round_ % 4)

    run_on_uvloop(subscribe_repeatedly())


def test_uvloop_error_of_postgres_raises_unavailable() -> None:
    with pytest.raises(StoreUnavailable), translate_errors():
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        )


def test_other_runtime_error_is_not_translated() -> None:
    with pytest.raises(RuntimeError, match="a programming error"), translate_errors():
        raise RuntimeError("a programming error")
