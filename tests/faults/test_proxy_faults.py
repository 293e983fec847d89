"""Faults that a TCP proxy injects into the bytes it forwards."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from unittest.mock import create_autospec
from uuid import UUID

import pytest

from tests.faults.proxy_faults import (
    CutsAfterCommit,
    LateReplies,
    StrayReplies,
    WithheldCommits,
    reset_each,
)
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.stores.waiting import no_leaks, wait_until

# Redis replies to lookups of two sessions: the seal, the record, and the seal again.
SEAL = b"$4\r\nseal\r\n"
RECORD = b"$120\r\n" + b"1" * 120 + b"\r\n"
ONE, OTHER = SEAL + RECORD + SEAL, SEAL + RECORD.replace(b"11", b"22") + SEAL
READY = b"Z\0\0\0\5I"


def message(kind: bytes, *data: bytes) -> bytes:
    """Encode a message of the Postgres protocol."""
    body = b"".join(word + b"\0" for word in data)
    return kind + (len(body) + 4).to_bytes(4) + body


PARSE_CHANGE = message(
    b"P", b"stmt_1", b"WITH room AS (SELECT 1) INSERT INTO sessions (id) VALUES ($1)"
)
PARSE_LOOKUP = message(b"P", b"stmt_2", b"SELECT id FROM sessions")
BIND_CHANGE = message(b"B", b"", b"stmt_1", b"values")
BIND_LOOKUP = message(b"B", b"", b"stmt_2", b"values")


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    """A proxy to an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(10_000):
                writer.write(chunk)
        except ConnectionResetError:
            pass
        writer.close()

    async with no_leaks():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy
        server.close()


class Client:
    """A client that sends data and receives the reply."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, data: bytes, length: int) -> bytes:
        """Send data; return `length` bytes of the reply, or b"" after a reset."""
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self._proxy.port)
        reader, writer = self._ends
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.readexactly(length), 5)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            writer.close()
            self._ends = None
            return b""

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()


async def test_connection_is_reset_at_every_third_reply(proxy: TcpProxy) -> None:
    proxy.server_filter = reset_each(3)
    client = Client(proxy)
    received = [await client.exchange(b"x", 1) for _ in range(6)]
    assert received == [b"x", b"x", b"", b"x", b"x", b""]
    assert proxy.resets == 2


def test_stray_reply_is_an_earlier_record_or_a_duplicate() -> None:
    strays, connection = StrayReplies(Random(1), share=1.0), create_autospec(ProxiedConnection)
    received = set()
    for _ in range(20):
        strays.on_reply(connection, ONE)
        received.add(strays.on_reply(connection, OTHER))

    assert received >= {ONE, ONE + OTHER, OTHER + OTHER}
    assert strays.injected == 39


async def test_other_replies_are_forwarded_unchanged(proxy: TcpProxy) -> None:
    strays = StrayReplies(Random(1), share=1.0)
    proxy.server_filter = strays.on_reply
    client = Client(proxy)
    for data in (ONE, b"+PONG\r\n", SEAL + b"$-1\r\n" + SEAL, RECORD, ONE + OTHER, ONE[:-1]):
        assert await client.exchange(data, len(data)) == data
    assert strays.injected == 0
    client.close()


async def test_connection_is_cut_after_the_commit_of_a_change(proxy: TcpProxy) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    proxy.client_filter, proxy.server_filter = cuts.on_request, cuts.on_reply
    client = Client(proxy)
    assert await client.exchange(PARSE_CHANGE, len(PARSE_CHANGE))
    assert not await client.exchange(BIND_CHANGE + READY, 1)
    assert (cuts.cut_count, proxy.resets) == (1, 1)


async def test_connection_is_not_cut_before_the_commit(proxy: TcpProxy) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    proxy.client_filter, proxy.server_filter = cuts.on_request, cuts.on_reply
    client = Client(proxy)
    data = PARSE_CHANGE + BIND_CHANGE
    assert await client.exchange(data, len(data)) == data
    assert not await client.exchange(READY, 1)
    assert cuts.cut_count == 1


async def test_connection_is_not_cut_after_a_lookup(proxy: TcpProxy) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    proxy.client_filter, proxy.server_filter = cuts.on_request, cuts.on_reply
    client = Client(proxy)
    data = PARSE_LOOKUP + BIND_LOOKUP + READY
    assert await client.exchange(data, len(data)) == data
    assert cuts.cut_count == 0
    client.close()


SESSION, OTHER_SESSION = UUID(int=1), UUID(int=2)
BIND_SESSION = message(b"B", b"", b"stmt_1", SESSION.bytes)
PARSE_TOUCH = message(b"P", b"stmt_3", b"UPDATE sessions SET last_seen_at = $1")
BIND_TOUCH = message(b"B", b"", b"stmt_3", SESSION.bytes)


async def test_reply_to_a_commit_of_the_session_is_withheld(proxy: TcpProxy) -> None:
    commits = WithheldCommits([str(SESSION)])
    proxy.client_filter, proxy.server_filter = commits.on_request, commits.on_reply
    client = Client(proxy)
    await client.exchange(PARSE_CHANGE, len(PARSE_CHANGE))
    assert await client.exchange(BIND_SESSION + READY, 1) == b"S"  # a message without meaning
    assert commits.is_complete
    assert commits.is_withheld(str(SESSION))
    client.close()


async def test_reply_to_a_commit_of_another_session_is_forwarded(proxy: TcpProxy) -> None:
    commits = WithheldCommits([str(OTHER_SESSION)])
    proxy.client_filter, proxy.server_filter = commits.on_request, commits.on_reply
    client = Client(proxy)
    data = PARSE_CHANGE + BIND_SESSION + READY
    assert await client.exchange(data, len(data)) == data
    assert not commits.is_complete
    client.close()


async def test_reply_to_a_touch_is_late(proxy: TcpProxy) -> None:
    late = LateReplies(0.05)
    proxy.client_filter, proxy.server_filter = late.on_request, late.on_reply
    client = Client(proxy)
    data = PARSE_TOUCH + BIND_TOUCH + READY
    assert await client.exchange(data, 1) == b"S"
    assert late.is_late(str(SESSION))
    assert not late.is_late(str(OTHER_SESSION))
    await wait_until(lambda: late.is_idle)
    assert (await client.exchange(b"", 13 + len(data)))[-len(data) :] == data
    client.close()


async def test_other_replies_are_not_late(proxy: TcpProxy) -> None:
    late = LateReplies(60.0)
    proxy.client_filter, proxy.server_filter = late.on_request, late.on_reply
    client = Client(proxy)
    data = PARSE_CHANGE + BIND_CHANGE + READY
    assert await client.exchange(data, len(data)) == data
    client.close()
