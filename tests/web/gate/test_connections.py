"""Connections to the gate: unread bodies, many requests, trusted peers, timeouts, shutdown."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_network

import pytest
import uvloop
from aiohttp import web

from sidegate.core.address import Address
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.listener import MAX_UNTRUSTED_CONNECTIONS, Listener, deny_all
from sidegate.web.server.trusted_peers import TrustedPeers
from tests.stores.waiting import wait_until
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    CAROL,
    LOOPBACK,
    NEVER_ISSUED,
    ROUTES,
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    cookie,
    open_gate,
)
from tests.web.raw_http import connect, send_request

MAX_SECONDS = 0.5  # waiting for the body would take forever


@pytest.fixture(params=["fast_path", "aiohttp"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    async with open_gate(fast_path=request.param == "fast_path") as harness:
        yield harness


# Bodies

ANNOUNCED = {
    "a length": build_request(bearer(ALICE), b"Content-Length: 10"),
    "a huge length": build_request(bearer(ALICE), b"Content-Length: 1000000000", method=b"POST"),
    "part of a body": build_request(bearer(ALICE), b"Content-Length: 10") + b"12345",
    "a whole body": build_request(bearer(ALICE), b"Content-Length: 5", method=b"POST") + b"12345",
    "chunks": build_request(bearer(ALICE), b"Transfer-Encoding: chunked", method=b"PUT"),
    "a chunk": build_request(bearer(ALICE), b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n",
    "an expectation": build_request(bearer(ALICE), b"Expect: 100-continue", b"Content-Length: 5"),
    "compressed": build_request(bearer(ALICE), b"Content-Encoding: gzip", b"Content-Length: 9")
    + b"gzip",
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", ANNOUNCED.values(), ids=ANNOUNCED.keys())
async def test_announced_body_is_not_waited_for(gate: GateHarness, raw: bytes, route: str) -> None:
    start = time.monotonic()
    response = await send_request(gate.address, raw.replace(b"/auth-request", route.encode()))

    assert_gate_response(response)
    assert time.monotonic() - start < MAX_SECONDS
    assert (response.status, response.get_one("X-Auth-User"), response.closes) == (
        200,
        "alice",
        True,
    )


async def test_denial_does_not_wait_for_an_announced_body(gate: GateHarness) -> None:
    response = await send_request(
        gate.address, build_request(bearer(NEVER_ISSUED), b"Content-Length: 10")
    )

    assert (response.status, response.closes) == (401, True)


async def test_connection_with_an_announced_body_is_closed(gate: GateHarness) -> None:
    async def read_rest(raw: bytes) -> bytes:
        async with connect(gate.address) as connection:
            await connection.send(raw)
            await connection.read_response()
            return await connection.read_until_closed()

    rests = await asyncio.gather(*map(read_rest, ANNOUNCED.values()))

    assert set(rests) == {b""}


async def test_request_inside_an_announced_body_is_not_answered(gate: GateHarness) -> None:
    following = build_request(bearer(BOB))
    async with connect(gate.address) as connection:
        await connection.send(
            build_request(bearer(ALICE), b"Content-Length: %d" % len(following)) + following
        )
        first = await connection.read_response()
        assert await connection.read_until_closed() == b""

    again = await send_request(gate.address, following)

    assert (first.get_one("X-Auth-User"), again.get_one("X-Auth-User")) == ("alice", "bob")
    assert len(gate.checks) == 2


async def test_empty_body_keeps_the_connection_open(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        for token, user in ((ALICE, "alice"), (BOB, "bob")):
            await connection.send(
                build_request(bearer(token), b"Content-Length: 0", method=b"POST")
            )
            response = await connection.read_response()
            assert (response.get_one("X-Auth-User"), response.closes) == (user, False)


async def test_endless_trailers_are_not_collected(gate: GateHarness) -> None:
    start = build_request(bearer(ALICE), b"Transfer-Encoding: chunked", method=b"POST")
    trailers = b"".join(b"T%d: %s\r\n" % (number, b"a" * 100) for number in range(10_000))
    async with connect(gate.address) as connection:
        await connection.send(start + b"0\r\n" + trailers)
        received = await connection.read_until_closed()

    assert received == b"" or received.startswith((b"HTTP/1.1 200", b"HTTP/1.0 400"))
    assert (await send_request(gate.address, build_request(bearer(BOB)))).get_one(
        "X-Auth-User"
    ) == "bob"


async def test_endless_head_gets_400(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(b"GET /auth-request HTTP/1.1\r\nX: ")
        answered = asyncio.create_task(connection.read_response())
        sent = 0
        while not answered.done() and sent < 1_000_000:
            await connection.send(b"a" * 100)
            await asyncio.sleep(0)
            sent += 100
        response = await answered

    assert (response.status, response.closes) == (400, True)
    assert sent < 100_000


async def test_head_sent_byte_by_byte_is_answered(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        for byte in build_request(cookie(ALICE)):
            await connection.send(bytes([byte]))
        assert (await connection.read_response()).get_one("X-Auth-User") == "alice"


# Many requests on one connection


async def test_connection_is_kept_open_for_the_next_request(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        for token in (ALICE, NEVER_ISSUED, BOB, CAROL) * 5:
            await connection.send(build_request(bearer(token)))
            assert not (await connection.read_response()).closes


async def test_pipelined_requests_are_answered_in_order(gate: GateHarness) -> None:
    tokens = (ALICE, NEVER_ISSUED, BOB, CAROL)
    async with connect(gate.address) as connection:
        await connection.send(b"".join(build_request(bearer(token)) for token in tokens * 25))
        responses = await connection.read_responses(100)

    results = [(response.status, *response.get_all("X-Auth-User")) for response in responses]
    assert results == [(200, "alice"), (401,), (200, "bob"), (200, "carol")] * 25


async def test_pipelined_requests_stay_in_order_with_a_slow_store(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    async with connect(gate.address) as connection:
        await connection.send(
            build_request(bearer(ALICE))
            + build_request(cookie(b"junk"))
            + build_request(cookie(BOB))
        )
        gate.backend.unblocked.set()
        responses = await connection.read_responses(3)

    assert [response.get_all("X-Auth-User") for response in responses] == [["alice"], [], ["bob"]]


async def test_unread_responses_to_a_flood_do_not_delay_other_clients(gate: GateHarness) -> None:
    async with connect(gate.address) as flood:
        sending = asyncio.create_task(flood.send(build_request(bearer(ALICE)) * 10_000))
        other = await send_request(gate.address, build_request(bearer(BOB)))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert other.get_one("X-Auth-User") == "bob"
    assert len(gate.checks) < 10_000


async def test_invalid_bytes_after_a_valid_request_get_400(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        assert (await connection.read_response()).status == 200
        await connection.send(b"\0\r\n\r\n" + build_request(bearer(BOB)))
        assert (await connection.read_response()).status == 400
        assert await connection.read_until_closed() == b""


async def test_upgrade_is_declined_and_the_connection_stays_open(gate: GateHarness) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE), *upgrade) + build_request(bearer(BOB)))
        responses = await connection.read_responses(2)
        await connection.send(build_request(bearer(CAROL)))
        responses.append(await connection.read_response())

    assert [response.status for response in responses] == [200, 200, 200]
    assert [response.get_one("X-Auth-User") for response in responses] == ["alice", "bob", "carol"]


async def test_connection_close_closes_the_connection(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE), b"Connection: close"))
        assert (await connection.read_response()).closes
        assert await connection.read_until_closed() == b""


async def test_http_1_0_connection_stays_open_only_with_keep_alive(gate: GateHarness) -> None:
    old = build_request(bearer(ALICE)).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with connect(gate.address) as connection:
        await connection.send(old.replace(b"Host: ", b"Connection: keep-alive\r\nHost: "))
        assert not (await connection.read_response()).closes
        await connection.send(old)
        assert (await connection.read_response()).closes
        assert await connection.read_until_closed() == b""


async def test_disconnected_clients_do_not_affect_others(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    for _ in range(50):
        async with connect(gate.address) as connection:
            await connection.send(build_request(bearer(ALICE)))
    gate.backend.unblocked.set()

    for token, user in ((BOB, "bob"), (CAROL, "carol")) * 10:
        assert (await send_request(gate.address, build_request(bearer(token)))).get_one(
            "X-Auth-User"
        ) == user


# Trusted peers


async def test_untrusted_peer_gets_403_and_is_counted(gate: GateHarness) -> None:
    response = await send_request(gate.address, build_request(bearer(ALICE)), source="127.0.0.2")

    assert_gate_response(response)
    assert (response.status, response.closes) == (403, True)
    assert (gate.refused_peers, gate.checks, gate.backend.lookups) == (1, [], [])


async def test_untrusted_peer_gets_the_same_403_on_every_path(gate: GateHarness) -> None:
    responses = [
        await send_request(gate.address, build_request(target=target), source="127.0.0.2")
        for target in ("/auth-request", "/", "/metrics")
    ]

    assert [response.status for response in responses] == [403, 403, 403]
    assert len({response.body for response in responses}) == 1
    assert gate.refused_peers == 3


async def test_headers_do_not_make_a_peer_trusted(gate: GateHarness) -> None:
    spoofed = (b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: 127.0.0.1", b"Forwarded: for=127.0.0.1")

    response = await send_request(
        gate.address, build_request(bearer(ALICE), *spoofed), source="127.0.0.2"
    )

    assert response.status == 403


async def test_peer_is_trusted_by_its_network() -> None:
    async with open_gate(trusted=["127.0.0.2/31", "10.0.0.0/8"]) as gate:
        trusted = await send_request(gate.address, build_request(bearer(ALICE)), source="127.0.0.3")
        untrusted = await send_request(
            gate.address, build_request(bearer(ALICE)), source="127.0.0.1"
        )

    assert (trusted.status, untrusted.status) == (200, 403)


async def test_empty_list_trusts_no_peer() -> None:
    async with open_gate(trusted=[]) as gate:
        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 403


async def test_ipv4_mapped_address_is_the_same_peer(gate: GateHarness) -> None:
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=8)
    port = both.getsockname()[1]
    async with await asyncio.get_running_loop().create_server(gate.listener.accept, sock=both):
        trusted = await send_request(Address("127.0.0.1", port), build_request(bearer(ALICE)))
        untrusted = await send_request(
            Address("127.0.0.1", port), build_request(bearer(ALICE)), source="127.0.0.2"
        )
        ipv6 = await send_request(Address("::1", port), build_request(bearer(ALICE)))

    assert [trusted.status, untrusted.status, ipv6.status] == [200, 403, 403]


async def test_ipv6_peer_is_trusted_by_its_network() -> None:
    async with open_gate(Address("::1", 0), trusted=["::1/128"]) as gate:
        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 200


def test_peers_are_trusted_the_same_with_uvloop(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = str(tmp_path_factory.mktemp("gate") / "gate.sock")

    async def request_everywhere() -> list[int]:
        raw = build_request(bearer(ALICE))
        async with open_gate() as tcp, open_gate(Address(path=path), trusted=[]) as unix:
            return [
                (await send_request(tcp.address, raw)).status,
                (await send_request(tcp.address, raw, source="127.0.0.2")).status,
                (await send_request(unix.address, raw)).status,
            ]

    assert uvloop.run(request_everywhere()) == [200, 403, 200]


async def test_peer_on_the_unix_socket_is_trusted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("gate") / "gate.sock"
    async with open_gate(Address(path=str(path)), trusted=[]) as gate:
        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 200


# Timeouts and the connection limit

INCOMPLETE = build_request(bearer(ALICE), b"Content-Length: 0")[:-2]
INCOMPLETE_NOT_PLAIN = INCOMPLETE.replace(
    b"/", b"http://gateway.test/", 1
)  # only the aiohttp path waits for more
SHORT_TIMEOUTS = ConnectionTimeouts(head=0.05)
UNTRUSTED = "127.0.0.2"


@pytest.fixture(params=["fast_path", "aiohttp"])
async def impatient(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    """A gate with short timeouts."""
    async with open_gate(
        fast_path=request.param == "fast_path", timeouts=SHORT_TIMEOUTS
    ) as harness:
        yield harness


async def wait_for_head_timeout(gate: GateHarness) -> None:
    """Return when every head started before has timed out."""
    async with connect(gate.address, source=UNTRUSTED) as connection:
        assert await connection.read_until_closed() == b""


@pytest.mark.parametrize("source", [None, UNTRUSTED], ids=["trusted", "untrusted"])
@pytest.mark.parametrize("started", [b"G", INCOMPLETE, INCOMPLETE_NOT_PLAIN])
async def test_incomplete_head_is_closed_for_every_peer(
    impatient: GateHarness, source: str | None, started: bytes
) -> None:
    async with connect(impatient.address, source=source) as connection:
        await connection.send(started)
        received = await connection.read_until_closed()

    assert received == b"" or received.startswith(b"HTTP/1.1 408 ")
    assert (impatient.checks, impatient.refused_peers) == ([], 0)


async def test_incomplete_head_is_closed_after_a_hand_over() -> None:
    async with open_gate(timeouts=SHORT_TIMEOUTS) as gate, connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        assert (await connection.read_response()).status == 200
        await connection.send(INCOMPLETE_NOT_PLAIN)
        assert await connection.read_until_closed() == b""  # the fast path would have sent 408


async def test_trusted_peer_may_connect_before_it_has_a_request(impatient: GateHarness) -> None:
    async with connect(impatient.address) as connection:
        await wait_for_head_timeout(impatient)
        await connection.send(build_request(bearer(ALICE)))
        assert (await connection.read_response()).status == 200


@pytest.mark.parametrize("lines", [[], [b"Content-Length: 0"]], ids=["plain", "handed-over"])
async def test_trusted_peer_may_be_idle_after_a_request(
    impatient: GateHarness, lines: list[bytes]
) -> None:
    async with connect(impatient.address) as connection:
        for _ in range(2):
            await connection.send(build_request(bearer(ALICE), *lines))
            assert (await connection.read_response()).status == 200
            await wait_for_head_timeout(impatient)


async def test_slow_response_is_not_cut_off_by_the_head_timeout(impatient: GateHarness) -> None:
    impatient.backend.unblocked.clear()
    async with connect(impatient.address) as connection:
        await connection.send(build_request(bearer(ALICE), b"Content-Length: 0"))
        await wait_for_head_timeout(impatient)
        impatient.backend.unblocked.set()
        assert (await connection.read_response()).status == 200


async def test_late_body_is_not_cut_off_by_the_head_timeout() -> None:
    started = asyncio.Event()

    async def read(request: web.BaseRequest) -> web.Response:
        started.set()
        return web.Response(body=await request.read())

    listener = Listener("admin", read, on_bad_request=lambda: None, timeouts=SHORT_TIMEOUTS)
    address = await listener.open(LOOPBACK)
    async with connect(address) as connection, connect(address) as silent:
        for _ in range(2):
            started.clear()
            await connection.send(build_request(b"Content-Length: 5", method=b"POST"))
            await asyncio.wait_for(started.wait(), 5)
            await connection.send(b"12345")
            assert (await connection.read_response()).body == b"12345"
            assert await silent.read_until_closed() == b""  # both timeouts have passed
    await listener.close(drain_timeout=1)


@pytest.mark.parametrize("fast_path", [True, False])
async def test_untrusted_peers_do_not_count_against_the_limit(fast_path: bool) -> None:
    async with open_gate(fast_path=fast_path, max_connections=1) as gate, AsyncExitStack() as lines:
        for _ in range(3):
            await lines.enter_async_context(connect(gate.address, source=UNTRUSTED))
        await wait_until(lambda: sum(gate.listener.count_connections().values()) == 3)

        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 200
        assert gate.overloads == 0


async def test_untrusted_peers_have_a_limit_of_their_own(gate: GateHarness) -> None:
    async with AsyncExitStack() as lines:
        silent = [
            await lines.enter_async_context(connect(gate.address, source=UNTRUSTED))
            for _ in range(MAX_UNTRUSTED_CONNECTIONS)
        ]
        async with connect(gate.address, source=UNTRUSTED) as another:
            assert await another.read_until_closed() == b""
        assert (gate.refused_peers, gate.overloads) == (1, 0)

        await silent[0].close()
        await wait_until(
            lambda: sum(gate.listener.count_connections().values()) < MAX_UNTRUSTED_CONNECTIONS
        )
        refused = await send_request(gate.address, build_request(bearer(ALICE)), source=UNTRUSTED)
        assert refused.status == 403


async def test_newly_trusted_peer_may_connect_before_it_has_a_request(
    impatient: GateHarness,
) -> None:
    peers = TrustedPeers([ip_network("127.0.0.4/32")], on_refused=impatient.on_refused)
    impatient.listener.replace_handler(deny_all, peers=peers)
    async with connect(impatient.address, source="127.0.0.4") as connection:
        await wait_for_head_timeout(impatient)
        await connection.send(build_request(b"Content-Length: 0"))
        assert (await connection.read_response()).status == 401


@pytest.mark.parametrize("fast_path", [True, False])
async def test_concurrent_connections_beyond_the_limit_get_503(
    fast_path: bool,
) -> None:
    async with open_gate(fast_path=fast_path, max_connections=2) as gate, AsyncExitStack() as lines:
        many = await asyncio.gather(
            *(lines.enter_async_context(connect(gate.address)) for _ in range(10))
        )
        for connection in many:
            await connection.send(build_request(bearer(ALICE)))
        statuses = [(await connection.read_response()).status for connection in many]

    assert sorted(statuses) == [200] * 2 + [503] * 8


# Shutdown


async def test_draining_closes_connections_after_their_next_response(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        before = await connection.read_response()
        gate.listener.drain()
        await connection.send(build_request(bearer(BOB)))
        after = await connection.read_response()
        assert await connection.read_until_closed() == b""
    denial = await send_request(gate.address, build_request())

    assert [before.closes, after.closes, denial.closes] == [False, True, True]
    assert (after.get_one("X-Auth-User"), denial.status) == ("bob", 401)


async def test_close_waits_for_requests_in_progress(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    async with connect(gate.address) as started, connect(gate.address) as idle:
        await started.send(build_request(bearer(ALICE)))
        await idle.send(build_request())
        await idle.read_response()
        await wait_for_lookup(gate)

        closing = asyncio.create_task(gate.listener.close(drain_timeout=5))
        assert await idle.read_until_closed() == b""
        assert not closing.done()
        gate.backend.unblocked.set()
        response = await started.read_response()
        await closing

    assert response.get_one("X-Auth-User") == "alice"


async def test_close_aborts_after_the_drain_timeout(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    async with connect(gate.address) as started:
        await started.send(build_request(bearer(ALICE)))
        await wait_for_lookup(gate)

        async with asyncio.timeout(2):
            await gate.listener.close(drain_timeout=0.1)

        assert await started.read_until_closed() == b""


async def test_closed_gate_refuses_connections(gate: GateHarness) -> None:
    await gate.listener.close(drain_timeout=1)

    with pytest.raises(ConnectionError):
        await send_request(gate.address, build_request())


async def test_port_of_a_closed_gate_can_be_opened_again(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request())
        await connection.read_response()
        await gate.listener.close(drain_timeout=1)

        async with open_gate(gate.address) as reopened:
            assert reopened.address == gate.address


async def wait_for_lookup(gate: GateHarness) -> None:
    """Wait until the backend has a lookup."""
    await wait_until(lambda: bool(gate.backend.lookups))
