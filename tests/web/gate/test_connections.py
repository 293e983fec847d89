"""Connections to the gate: bodies nobody reads, many requests on one, who may connect, the end."""

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
from sidegate.web.server.fast_path import HeadTimeouts
from sidegate.web.server.listener import MAX_UNTRUSTED, Listener, closed_handler
from sidegate.web.server.trusted_peers import TrustedPeers
from tests.stores.waiting import until
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    CAROL,
    LOOPBACK,
    NEVER_ISSUED,
    ROUTES,
    Gatehouse,
    bearer,
    check_manners,
    cookie,
    open_gate,
    request,
)
from tests.web.raw_http import ask, wire

AT_ONCE = 0.5  # a body that is waited for takes for ever


@pytest.fixture(params=["express", "aiohttp"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[Gatehouse]:
    async with open_gate(express=request.param == "express") as opened:
        yield opened


# Bodies

ANNOUNCED = {
    "a length": request(bearer(ALICE), b"Content-Length: 10"),
    "a huge length": request(bearer(ALICE), b"Content-Length: 1000000000", method=b"POST"),
    "part of a body": request(bearer(ALICE), b"Content-Length: 10") + b"12345",
    "a whole body": request(bearer(ALICE), b"Content-Length: 5", method=b"POST") + b"12345",
    "chunks": request(bearer(ALICE), b"Transfer-Encoding: chunked", method=b"PUT"),
    "a chunk": request(bearer(ALICE), b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n",
    "an expectation": request(bearer(ALICE), b"Expect: 100-continue", b"Content-Length: 5"),
    "compressed": request(bearer(ALICE), b"Content-Encoding: gzip", b"Content-Length: 9") + b"gzip",
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", ANNOUNCED.values(), ids=ANNOUNCED.keys())
async def test_an_announced_body_is_not_waited_for(gate: Gatehouse, raw: bytes, route: str) -> None:
    start = time.monotonic()
    reply = await ask(gate.address, raw.replace(b"/auth-request", route.encode()))

    check_manners(reply)
    assert time.monotonic() - start < AT_ONCE
    assert (reply.status, reply.only("X-Auth-User"), reply.closes) == (200, "alice", True)


async def test_a_denial_does_not_wait_for_a_body_either(gate: Gatehouse) -> None:
    reply = await ask(gate.address, request(bearer(NEVER_ISSUED), b"Content-Length: 10"))

    assert (reply.status, reply.closes) == (401, True)


async def test_a_connection_with_an_announced_body_ends_by_itself(gate: Gatehouse) -> None:
    async def left_over(raw: bytes) -> bytes:
        async with wire(gate.address) as line:
            await line.send(raw)
            await line.reply()
            return await line.until_closed()

    left = await asyncio.gather(*map(left_over, ANNOUNCED.values()))

    assert set(left) == {b""}


async def test_what_follows_an_announced_body_is_nobodys_answer(gate: Gatehouse) -> None:
    following = request(bearer(BOB))
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE), b"Content-Length: %d" % len(following)) + following)
        first = await line.reply()
        assert await line.until_closed() == b""

    again = await ask(gate.address, following)

    assert (first.only("X-Auth-User"), again.only("X-Auth-User")) == ("alice", "bob")
    assert len(gate.checks) == 2


async def test_an_empty_body_does_not_end_the_connection(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        for token, user in ((ALICE, "alice"), (BOB, "bob")):
            await line.send(request(bearer(token), b"Content-Length: 0", method=b"POST"))
            reply = await line.reply()
            assert (reply.only("X-Auth-User"), reply.closes) == (user, False)


async def test_trailers_without_end_are_not_collected(gate: Gatehouse) -> None:
    start = request(bearer(ALICE), b"Transfer-Encoding: chunked", method=b"POST")
    trailers = b"".join(b"T%d: %s\r\n" % (number, b"a" * 100) for number in range(10_000))
    async with wire(gate.address) as line:
        await line.send(start + b"0\r\n" + trailers)
        said = await line.until_closed()

    assert said == b"" or said.startswith((b"HTTP/1.1 200", b"HTTP/1.0 400"))
    assert (await ask(gate.address, request(bearer(BOB)))).only("X-Auth-User") == "bob"


async def test_a_head_without_end_is_given_up(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(b"GET /auth-request HTTP/1.1\r\nX: ")
        answered = asyncio.create_task(line.reply())
        sent = 0
        while not answered.done() and sent < 1_000_000:
            await line.send(b"a" * 100)
            await asyncio.sleep(0)
            sent += 100
        reply = await answered

    assert (reply.status, reply.closes) == (400, True)
    assert sent < 100_000


async def test_a_head_may_come_byte_by_byte(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        for byte in request(cookie(ALICE)):
            await line.send(bytes([byte]))
        assert (await line.reply()).only("X-Auth-User") == "alice"


# Many requests on one connection


async def test_a_connection_is_kept_for_the_next_request(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        for token in (ALICE, NEVER_ISSUED, BOB, CAROL) * 5:
            await line.send(request(bearer(token)))
            assert not (await line.reply()).closes


async def test_pipelined_requests_are_answered_in_order(gate: Gatehouse) -> None:
    tokens = (ALICE, NEVER_ISSUED, BOB, CAROL)
    async with wire(gate.address) as line:
        await line.send(b"".join(request(bearer(token)) for token in tokens * 25))
        replies = await line.replies(100)

    told = [(reply.status, *reply.every("X-Auth-User")) for reply in replies]
    assert told == [(200, "alice"), (401,), (200, "bob"), (200, "carol")] * 25


async def test_pipelined_requests_stay_in_order_when_a_store_is_slow(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)) + request(cookie(b"junk")) + request(cookie(BOB)))
        gate.shelf.open.set()
        replies = await line.replies(3)

    assert [reply.every("X-Auth-User") for reply in replies] == [["alice"], [], ["bob"]]


async def test_ten_thousand_pipelined_requests_nobody_reads_harm_nobody(gate: Gatehouse) -> None:
    async with wire(gate.address) as flood:
        sending = asyncio.create_task(flood.send(request(bearer(ALICE)) * 10_000))
        other = await ask(gate.address, request(bearer(BOB)))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert other.only("X-Auth-User") == "bob"
    assert len(gate.checks) < 10_000


async def test_junk_behind_a_good_request_is_nobodys_answer(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        assert (await line.reply()).status == 200
        await line.send(b"\0\r\n\r\n" + request(bearer(BOB)))
        assert (await line.reply()).status == 400
        assert await line.until_closed() == b""


async def test_an_upgrade_is_declined_and_the_connection_goes_on(gate: Gatehouse) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE), *upgrade) + request(bearer(BOB)))
        replies = await line.replies(2)
        await line.send(request(bearer(CAROL)))
        replies.append(await line.reply())

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [reply.only("X-Auth-User") for reply in replies] == ["alice", "bob", "carol"]


async def test_connection_close_is_obeyed(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE), b"Connection: close"))
        assert (await line.reply()).closes
        assert await line.until_closed() == b""


async def test_http_1_0_is_kept_alive_only_when_asked(gate: Gatehouse) -> None:
    old = request(bearer(ALICE)).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with wire(gate.address) as line:
        await line.send(old.replace(b"Host: ", b"Connection: keep-alive\r\nHost: "))
        assert not (await line.reply()).closes
        await line.send(old)
        assert (await line.reply()).closes
        assert await line.until_closed() == b""


async def test_clients_that_hang_up_harm_nobody(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    for _ in range(50):
        async with wire(gate.address) as line:
            await line.send(request(bearer(ALICE)))
    gate.shelf.open.set()

    for token, user in ((BOB, "bob"), (CAROL, "carol")) * 10:
        assert (await ask(gate.address, request(bearer(token)))).only("X-Auth-User") == user


# Who may connect


async def test_an_untrusted_peer_is_refused_and_counted(gate: Gatehouse) -> None:
    reply = await ask(gate.address, request(bearer(ALICE)), source="127.0.0.2")

    check_manners(reply)
    assert (reply.status, reply.closes) == (403, True)
    assert (gate.untrusted, gate.checks, gate.shelf.asked) == (1, [], [])


async def test_an_untrusted_peer_does_not_learn_which_paths_there_are(gate: Gatehouse) -> None:
    replies = [
        await ask(gate.address, request(target=target), source="127.0.0.2")
        for target in ("/auth-request", "/", "/metrics")
    ]

    assert [reply.status for reply in replies] == [403, 403, 403]
    assert len({reply.body for reply in replies}) == 1
    assert gate.untrusted == 3


async def test_no_header_makes_a_peer_trusted(gate: Gatehouse) -> None:
    claims = (b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: 127.0.0.1", b"Forwarded: for=127.0.0.1")

    reply = await ask(gate.address, request(bearer(ALICE), *claims), source="127.0.0.2")

    assert reply.status == 403


async def test_every_request_of_a_trusted_connection_is_heard() -> None:
    async with open_gate(trusted=["127.0.0.2/31", "10.0.0.0/8"]) as gate:
        trusted = await ask(gate.address, request(bearer(ALICE)), source="127.0.0.3")
        untrusted = await ask(gate.address, request(bearer(ALICE)), source="127.0.0.1")

    assert (trusted.status, untrusted.status) == (200, 403)


async def test_an_empty_list_trusts_nobody() -> None:
    async with open_gate(trusted=[]) as gate:
        assert (await ask(gate.address, request(bearer(ALICE)))).status == 403


async def test_ipv4_inside_ipv6_is_the_same_peer(gate: Gatehouse) -> None:
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=8)
    port = both.getsockname()[1]
    async with await asyncio.get_running_loop().create_server(gate.door.accept, sock=both):
        trusted = await ask(Address("127.0.0.1", port), request(bearer(ALICE)))
        untrusted = await ask(
            Address("127.0.0.1", port), request(bearer(ALICE)), source="127.0.0.2"
        )
        ipv6 = await ask(Address("::1", port), request(bearer(ALICE)))

    assert [trusted.status, untrusted.status, ipv6.status] == [200, 403, 403]


async def test_an_ipv6_peer_is_trusted_by_its_own_network() -> None:
    async with open_gate(Address("::1", 0), trusted=["::1/128"]) as gate:
        assert (await ask(gate.address, request(bearer(ALICE)))).status == 200


def test_the_loop_that_serves_knows_its_peers_as_well(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = str(tmp_path_factory.mktemp("gate") / "gate.sock")

    async def ask_everywhere() -> list[int]:
        raw = request(bearer(ALICE))
        async with open_gate() as tcp, open_gate(Address(path=path), trusted=[]) as unix:
            return [
                (await ask(tcp.address, raw)).status,
                (await ask(tcp.address, raw, source="127.0.0.2")).status,
                (await ask(unix.address, raw)).status,
            ]

    assert uvloop.run(ask_everywhere()) == [200, 403, 200]


async def test_whoever_opens_the_unix_socket_is_trusted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("gate") / "gate.sock"
    async with open_gate(Address(path=str(path)), trusted=[]) as gate:
        assert (await ask(gate.address, request(bearer(ALICE)))).status == 200


# Who is waited for

HALF = request(bearer(ALICE), b"Content-Length: 0")[:-2]
ODD_HALF = HALF.replace(b"/", b"http://gateway.test/", 1)  # no lane but aiohttp's waits for more
SOON = HeadTimeouts(head=0.05)
STRANGER = "127.0.0.2"


@pytest.fixture(params=["express", "aiohttp"])
async def hasty(request: pytest.FixtureRequest) -> AsyncIterator[Gatehouse]:
    """A gate that waits for nobody longer than it must."""
    async with open_gate(express=request.param == "express", patience=SOON) as opened:
        yield opened


async def time_is_over(gate: Gatehouse) -> None:
    """Return when whoever has begun before has had his time for a head."""
    async with wire(gate.address, source=STRANGER) as line:
        assert await line.until_closed() == b""


@pytest.mark.parametrize("source", [None, STRANGER], ids=["gateway", "stranger"])
@pytest.mark.parametrize("begun", [b"G", HALF, ODD_HALF])
async def test_a_head_that_does_not_end_is_given_up_whoever_sends_it(
    hasty: Gatehouse, source: str | None, begun: bytes
) -> None:
    async with wire(hasty.address, source=source) as line:
        await line.send(begun)
        said = await line.until_closed()

    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
    assert (hasty.checks, hasty.untrusted) == ([], 0)


async def test_a_head_that_does_not_end_is_given_up_after_a_hand_over() -> None:
    async with open_gate(patience=SOON) as gate, wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        assert (await line.reply()).status == 200
        await line.send(ODD_HALF)
        assert await line.until_closed() == b""  # the express lane would have said 408


async def test_a_gateway_may_connect_and_ask_later(hasty: Gatehouse) -> None:
    async with wire(hasty.address) as line:
        await time_is_over(hasty)
        await line.send(request(bearer(ALICE)))
        assert (await line.reply()).status == 200


@pytest.mark.parametrize("lines", [[], [b"Content-Length: 0"]], ids=["plain", "handed over"])
async def test_a_gateway_that_has_asked_may_be_silent(hasty: Gatehouse, lines: list[bytes]) -> None:
    async with wire(hasty.address) as line:
        for _ in range(2):
            await line.send(request(bearer(ALICE), *lines))
            assert (await line.reply()).status == 200
            await time_is_over(hasty)


async def test_an_answer_that_takes_its_time_is_waited_for(hasty: Gatehouse) -> None:
    hasty.shelf.open.clear()
    async with wire(hasty.address) as line:
        await line.send(request(bearer(ALICE), b"Content-Length: 0"))
        await time_is_over(hasty)
        hasty.shelf.open.set()
        assert (await line.reply()).status == 200


async def test_a_body_that_comes_later_does_not_end_its_connection() -> None:
    begun = asyncio.Event()

    async def read(request: web.BaseRequest) -> web.Response:
        begun.set()
        return web.Response(body=await request.read())

    door = Listener("admin", read, on_bad_request=lambda: None, patience=SOON)
    address = await door.open(LOOPBACK)
    async with wire(address) as line, wire(address) as silent:
        for _ in range(2):
            begun.clear()
            await line.send(request(b"Content-Length: 5", method=b"POST"))
            await asyncio.wait_for(begun.wait(), 5)
            await line.send(b"12345")
            assert (await line.reply()).body == b"12345"
            assert await silent.until_closed() == b""  # so the time of both is over
    await door.close(patience=1)


@pytest.mark.parametrize("express", [True, False])
async def test_silent_strangers_do_not_keep_a_gateway_out(express: bool) -> None:
    async with open_gate(express=express, max_connections=1) as gate, AsyncExitStack() as lines:
        for _ in range(3):
            await lines.enter_async_context(wire(gate.address, source=STRANGER))
        await until(lambda: sum(gate.door.lanes().values()) == 3)

        assert (await ask(gate.address, request(bearer(ALICE)))).status == 200
        assert gate.turned_away == 0


async def test_of_strangers_there_are_only_so_many(gate: Gatehouse) -> None:
    async with AsyncExitStack() as lines:
        silent = [
            await lines.enter_async_context(wire(gate.address, source=STRANGER))
            for _ in range(MAX_UNTRUSTED)
        ]
        async with wire(gate.address, source=STRANGER) as another:
            assert await another.until_closed() == b""
        assert (gate.untrusted, gate.turned_away) == (1, 0)

        await silent[0].close()
        await until(lambda: sum(gate.door.lanes().values()) < MAX_UNTRUSTED)
        refused = await ask(gate.address, request(bearer(ALICE)), source=STRANGER)
        assert refused.status == 403


async def test_who_is_trusted_from_now_on_may_connect_and_ask_later(hasty: Gatehouse) -> None:
    peers = TrustedPeers([ip_network("127.0.0.4/32")], refused=hasty.refused)
    hasty.door.exchange(closed_handler, peers=peers)
    async with wire(hasty.address, source="127.0.0.4") as line:
        await time_is_over(hasty)
        await line.send(request(b"Content-Length: 0"))
        assert (await line.reply()).status == 401


@pytest.mark.parametrize("express", [True, False])
async def test_of_many_who_connect_at_once_no_more_get_in_than_there_is_room_for(
    express: bool,
) -> None:
    async with open_gate(express=express, max_connections=2) as gate, AsyncExitStack() as lines:
        many = await asyncio.gather(
            *(lines.enter_async_context(wire(gate.address)) for _ in range(10))
        )
        for line in many:
            await line.send(request(bearer(ALICE)))
        statuses = [(await line.reply()).status for line in many]

    assert sorted(statuses) == [200] * 2 + [503] * 8


# The end


async def test_while_draining_each_answer_asks_for_another_connection(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        before = await line.reply()
        gate.door.drain()
        await line.send(request(bearer(BOB)))
        after = await line.reply()
        assert await line.until_closed() == b""
    denial = await ask(gate.address, request())

    assert [before.closes, after.closes, denial.closes] == [False, True, True]
    assert (after.only("X-Auth-User"), denial.status) == ("bob", 401)


async def test_closing_waits_for_what_is_begun(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    async with wire(gate.address) as begun, wire(gate.address) as idle:
        await begun.send(request(bearer(ALICE)))
        await idle.send(request())
        await idle.reply()
        await until_asked(gate)

        closing = asyncio.create_task(gate.door.close(patience=5))
        assert await idle.until_closed() == b""
        assert not closing.done()
        gate.shelf.open.set()
        reply = await begun.reply()
        await closing

    assert reply.only("X-Auth-User") == "alice"


async def test_closing_does_not_wait_for_ever(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    async with wire(gate.address) as begun:
        await begun.send(request(bearer(ALICE)))
        await until_asked(gate)

        async with asyncio.timeout(2):
            await gate.door.close(patience=0.1)

        assert await begun.until_closed() == b""


async def test_a_closed_gate_accepts_nobody(gate: Gatehouse) -> None:
    await gate.door.close(patience=1)

    with pytest.raises(ConnectionError):
        await ask(gate.address, request())


async def test_a_port_given_up_can_be_opened_again(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request())
        await line.reply()
        await gate.door.close(patience=1)

        async with open_gate(gate.address) as next_one:
            assert next_one.address == gate.address


async def until_asked(gate: Gatehouse) -> None:
    """Wait until the store has been asked."""
    await until(lambda: bool(gate.shelf.asked))
