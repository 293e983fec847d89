"""Limits of a listener that makes room for new connections, with real sockets."""

import asyncio
import errno
import select
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from aiohttp import web

from sidegate.core.address import Address
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.listener import ConnectionLimits, Listener
from tests.stores.waiting import wait_until, wait_until_async
from tests.web.raw_http import RawConnection, connect, send_request

OTHER_PEER = "127.0.0.2"
REQUEST = b"GET / HTTP/1.1\r\nHost: ops.test\r\n\r\n"


class Site:
    """A listener, and how often it has refused or closed a connection."""

    def __init__(self) -> None:
        self.refused = 0
        self.evicted = 0
        self.in_progress = 0
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.status = HTTPStatus.OK
        self.address = Address("127.0.0.1", 0)

    async def respond(self, _: web.BaseRequest) -> web.StreamResponse:
        self.in_progress += 1
        await self.unblocked.wait()
        self.in_progress -= 1
        return web.Response(status=self.status, text="ok\n")

    async def echo(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read())

    def on_full(self) -> None:
        self.refused += 1

    def on_evicted(self) -> None:
        self.evicted += 1


@asynccontextmanager
async def open_site(
    total: int,
    per_peer: int,
    *,
    timeouts: ConnectionTimeouts | None = None,
    protects_others: bool = True,
    echo: bool = False,
) -> AsyncIterator[Site]:
    site = Site()
    listener = Listener(
        "ops",
        site.echo if echo else site.respond,
        on_bad_request=lambda: None,
        timeouts=timeouts,
        limits=ConnectionLimits(total, per_peer, protects_others=protects_others),
        on_full=site.on_full,
        on_evicted=site.on_evicted,
    )
    site.address = await listener.open(Address("127.0.0.1", 0))
    yield site
    site.unblocked.set()
    await listener.close(drain_timeout=1)


async def hold(
    stack: AsyncExitStack, site: Site, count: int, *, source: str | None = None, sent: bytes = b""
) -> list[RawConnection]:
    """Open connections, and send the same on each."""
    connections = []
    for _ in range(count):
        connection = await stack.enter_async_context(connect(site.address, source=source))
        await connection.send(sent)
        if sent == REQUEST and site.unblocked.is_set():
            await connection.read_response()
        connections.append(connection)
    return connections


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", REQUEST], ids=["silent", "half a head", "after a request"]
)
async def test_request_is_answered_while_idle_connections_are_held(sent: bytes) -> None:
    async with open_site(20, 10) as site, AsyncExitStack() as stack:
        await hold(stack, site, 40, sent=sent)
        for _ in range(5):
            assert (await send_request(site.address, REQUEST)).status == 200
        assert site.refused == 0
        assert site.evicted >= 30


async def test_longest_idle_connection_of_the_same_peer_is_closed() -> None:
    async with open_site(20, 3) as site, AsyncExitStack() as stack:
        [other] = await hold(stack, site, 1, source=OTHER_PEER, sent=REQUEST)
        first, second, third = await hold(stack, site, 3, sent=REQUEST)
        await first.send(REQUEST)
        await first.read_response()

        await hold(stack, site, 1, sent=REQUEST)

        assert await second.read_until_closed() == b""
        for kept in (first, third, other):
            await kept.send(REQUEST)
            assert (await kept.read_response()).status == 200
        assert site.evicted == 1


async def test_peer_with_most_connections_gives_way_at_the_limit_of_all() -> None:
    async with open_site(6, 5) as site, AsyncExitStack() as stack:
        many = await hold(stack, site, 5, sent=REQUEST)
        [few] = await hold(stack, site, 1, source=OTHER_PEER, sent=REQUEST)

        await hold(stack, site, 1, source=OTHER_PEER, sent=REQUEST)

        assert await many[0].read_until_closed() == b""
        await few.send(REQUEST)
        assert (await few.read_response()).status == 200


async def test_connection_with_a_request_in_progress_is_not_closed() -> None:
    async with open_site(20, 2) as site, AsyncExitStack() as stack:
        site.unblocked.clear()
        busy = await hold(stack, site, 2, sent=REQUEST)
        await wait_until(lambda: site.in_progress == 2)

        response = await send_request(site.address, REQUEST)
        assert (response.status, response.get_one("Retry-After")) == (503, "1")
        assert (site.refused, site.evicted) == (1, 0)
        site.unblocked.set()
        for each in busy:
            assert (await each.read_response()).status == 200


async def test_busy_peer_does_not_take_the_place_of_another() -> None:
    async with open_site(20, 2) as site, AsyncExitStack() as stack:
        site.unblocked.clear()
        await hold(stack, site, 4, sent=REQUEST)  # two of them refused
        await wait_until(lambda: site.in_progress == 2)
        [other] = await hold(stack, site, 1, source=OTHER_PEER, sent=REQUEST)
        await wait_until(lambda: site.in_progress == 3)

        site.unblocked.set()
        assert (await other.read_response()).status == 200


async def test_listener_that_does_not_close_idle_connections_refuses_a_peer_at_its_limit() -> None:
    async with open_site(20, 2, protects_others=False) as site, AsyncExitStack() as stack:
        first, _ = await hold(stack, site, 2, sent=REQUEST)

        assert (await send_request(site.address, REQUEST)).status == 503
        assert (await send_request(site.address, REQUEST, source=OTHER_PEER)).status == 200
        await first.close()

        async def is_answered() -> bool:
            return (await send_request(site.address, REQUEST)).status == 200

        await wait_until_async(is_answered)


async def test_later_head_has_a_time_limit_too() -> None:
    timeouts = ConnectionTimeouts(head=0.1)
    async with open_site(20, 10, timeouts=timeouts) as site, connect(site.address) as connection:
        await connection.send(REQUEST)
        await connection.read_response()
        await connection.send(b"GET / HT")
        assert await connection.read_until_closed() == b""


async def test_idle_connection_is_closed_after_a_request() -> None:
    timeouts = ConnectionTimeouts(idle=0.1)
    async with open_site(20, 10, timeouts=timeouts) as site, connect(site.address) as connection:
        await connection.send(REQUEST)
        assert (await connection.read_response()).status == 200
        assert await connection.read_until_closed() == b""


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_responses_to_requests_without_a_key_or_a_valid_host_wait_for_each_other(
    status: int,
) -> None:
    """24 at once take at least 23 intervals, whatever they cost."""
    async with open_site(50, 50) as site, AsyncExitStack() as stack:
        site.status = HTTPStatus(status)
        connections = await hold(stack, site, 24)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for connection in connections:
            await connection.send(REQUEST)
        statuses = [(await connection.read_response()).status for connection in connections]

    assert statuses == [status] * 24
    assert loop.time() - began >= 0.1


BODY = bytes(range(256)) * 2_000
"""Larger than what is read at once, and than what aiohttp keeps unread."""


def encode_chunks(body: bytes, size: int) -> bytes:
    chunks = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 100_000])
async def test_large_body_that_is_parsed_in_pieces_is_complete(chunk_size: int | None) -> None:
    coding = f"Content-Length: {len(BODY)}" if chunk_size is None else "Transfer-Encoding: chunked"
    head = f"POST / HTTP/1.1\r\nHost: ops.test\r\n{coding}\r\n\r\n".encode()
    async with open_site(9, 9, echo=True) as site, connect(site.address) as connection:
        for _ in range(2):
            await connection.send(
                head + (BODY if chunk_size is None else encode_chunks(BODY, chunk_size))
            )
            assert (await connection.read_response()).body == BODY


async def test_many_pipelined_requests_are_all_answered() -> None:
    async with open_site(9, 9) as site, connect(site.address) as connection:
        await connection.send(REQUEST * 1_000)
        responses = await connection.read_responses(1_000)
    assert {response.status for response in responses} == {200}


async def test_connection_that_is_closed_with_unparsed_input_leaves_nothing() -> None:
    async with open_site(9, 9) as site:
        for _ in range(20):
            async with connect(site.address) as connection:
                await connection.send(REQUEST * 10_000)
        assert (await send_request(site.address, REQUEST)).status == 200
        await wait_until(lambda: site.in_progress == 0)


@pytest.mark.parametrize("has_socket_file", [False, True])
async def test_connections_wait_to_be_accepted_while_the_loop_is_busy(
    tmp_path: Path, *, has_socket_file: bool
) -> None:
    """More than asyncio would let wait: a gateway opens many at once after a restart."""
    listener = Listener("gate", Site().respond, on_bad_request=lambda: None)
    path = str(tmp_path / "gate.sock")
    address = await listener.open(
        Address.parse(f"unix:{path}") if has_socket_file else Address("127.0.0.1", 0)
    )
    family = socket.AF_UNIX if has_socket_file else socket.AF_INET
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(family)) for _ in range(300)]
        for client in clients:
            client.setblocking(False)
            assert client.connect_ex(path if has_socket_file else (address.host, address.port)) in (
                0,
                errno.EINPROGRESS,
            )
        for client in clients:  # within less than the second after which the kernel tries again
            assert select.select([], [client], [], 0.5)[1]
    await listener.close(drain_timeout=0)
