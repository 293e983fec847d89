"""The gate, attacked: whatever is sent, it says yes to the right user or to nobody.

A running gate is spoken to in raw bytes, over TCP and over a Unix socket.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidegate.core.address import Address
from sidegate.core.errors import CannotListen
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.credentials import CredentialSources
from tests.web.gate.attack_table import ATTACKS, MARK, STRAY_TARGETS, Attack
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    EXPIRED,
    FORGED,
    IDLE,
    LOOPBACK,
    NEVER_ISSUED,
    REUSED,
    REVOKED,
    ROUTES,
    Gatehouse,
    bearer,
    check_manners,
    cookie,
    open_gate,
    request,
    spells_a_token,
)
from tests.web.raw_http import Reply, ask, wire

NAMES = {
    "/auth-request": "auth-request",
    "/forward-auth": "forward-auth",
    "/ext-authz/app/page": "ext-authz",
}


@dataclass(frozen=True)
class Way:
    """How the gate is reached, and what answers."""

    name: str
    unix: bool = False
    express: bool = True
    remembers: bool = False


WAYS = (
    Way("express"),
    Way("express from memory, over a Unix socket", unix=True, remembers=True),
    Way("aiohttp over a Unix socket", unix=True, express=False),
)


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
async def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gatehouse]:
    way: Way = request.param
    path = tmp_path_factory.mktemp("gate") / "gate.sock"
    address = Address(path=str(path)) if way.unix else LOOPBACK
    async with open_gate(address, express=way.express, remembers=way.remembers) as opened:
        yield opened


@pytest.fixture
async def tcp_gate() -> AsyncIterator[Gatehouse]:
    async with open_gate() as opened:
        yield opened


def everything_logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return the lines, and whatever is attached to them."""
    return caplog.text + repr([vars(record) for record in caplog.records])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_whoever_comes_is_known_for_who_he_is_or_refused(
    gate: Gatehouse, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    for route in ROUTES:
        gate.checks.clear()
        gate.shelf.asked.clear()
        async with wire(gate.address) as line:
            await line.send(attack.at(route))
            reply = await line.reply()
            check_manners(reply)
            assert MARK not in reply.raw.lower()
            assert (reply.status, reply.every("X-Auth-User")) == expected(attack)
            check_what_was_counted(gate, attack, route)
            if attack.reason is None:
                assert reply.closes
                assert await line.until_closed() == b""

    said = everything_logged(caplog).encode()
    assert MARK not in said.lower()
    assert not spells_a_token(said)


def expected(attack: Attack) -> tuple[int, list[str]]:
    return attack.status, [] if attack.user is None else [attack.user]


def check_what_was_counted(gate: Gatehouse, attack: Attack, route: str) -> None:
    if attack.reason is None:
        assert gate.checks == []
    else:
        result = "allow" if attack.reason == "ok" else "deny"
        assert gate.checks == [(NAMES[route], result, attack.reason)]
    if attack.reason in (None, "missing", "malformed", "forged", "ambiguous"):
        assert gate.shelf.asked == []
    elif not gate.remembers:
        assert gate.shelf.asked != []


async def test_what_is_not_http_is_counted_once(tcp_gate: Gatehouse) -> None:
    for raw in (b"\0\r\n\r\n", request(b"X: \0"), request().replace(b"1.1", b"2.0")):
        await ask(tcp_gate.address, raw)

    assert tcp_gate.bad_requests == 3


@pytest.mark.parametrize("target", STRAY_TARGETS)
async def test_a_path_that_is_no_gateways_is_not_there(gate: Gatehouse, target: str) -> None:
    for method in (b"GET", b"POST"):
        reply = await ask(gate.address, request(bearer(ALICE), target=target, method=method))

        check_manners(reply)
        assert (reply.status, reply.closes) == (404, True)
    assert (gate.checks, gate.shelf.asked) == ([], [])


@pytest.mark.parametrize(("method", "target"), [(b"CONNECT", "h.test:443"), (b"OPTIONS", "*")])
async def test_a_target_that_is_no_path_is_not_there(
    gate: Gatehouse, method: bytes, target: str
) -> None:
    reply = await ask(gate.address, request(bearer(ALICE), target=target, method=method))

    assert (reply.status, reply.closes) == (404, True)


@pytest.mark.parametrize("before", [b"", request(bearer(ALICE))])
async def test_a_tunnel_to_nowhere_is_no_request(gate: Gatehouse, before: bytes) -> None:
    async with wire(gate.address) as line:
        if before:
            await line.send(before)
            assert (await line.reply()).status == 200
        await line.send(b"CONNECT \r\n\r\n")
        reply = await line.reply()
        assert (reply.status, reply.closes) == (400, True)
        assert await line.until_closed() == b""
    assert gate.bad_requests == 1


@pytest.mark.parametrize("path", ["/ext-authz/../metrics", "/ext-authz//v1/sessions", "/ext-authz"])
async def test_what_follows_envoys_prefix_is_told_and_never_gone_to(
    gate: Gatehouse, path: str
) -> None:
    nobody = await ask(gate.address, request(target=path))
    alice = await ask(gate.address, request(bearer(ALICE), target=path))

    assert (nobody.status, alice.status, alice.only("X-Auth-User")) == (401, 200, "alice")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("lines", "status"), [([bearer(ALICE)], 200), ([], 401)])
async def test_head_is_answered_like_get_but_without_a_body(
    gate: Gatehouse, route: str, lines: list[bytes], status: int
) -> None:
    async with wire(gate.address) as line:
        await line.send(request(*lines, target=route, method=b"HEAD"))
        to_head = await line.reply(to_head=True)
        await line.send(request(*lines, target=route))
        to_get = await line.reply()

    assert to_head.status == to_get.status == status
    assert without_date(to_head) == without_date(to_get)


@pytest.mark.parametrize("route", ROUTES)
async def test_every_way_to_have_ended_gets_the_same_bytes(gate: Gatehouse, route: str) -> None:
    replies = [
        await ask(gate.address, request(bearer(token), target=route))
        for token in (NEVER_ISSUED, FORGED, EXPIRED, IDLE, REVOKED, REUSED, b"junk")
    ]

    assert {(reply.status, without_date(reply), reply.body) for reply in replies} == {
        (401, without_date(replies[0]), replies[0].body)
    }
    assert replies[0].only("WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'


async def test_who_brings_nothing_is_told_of_no_error(gate: Gatehouse) -> None:
    reply = await ask(gate.address, request())

    assert reply.only("WWW-Authenticate") == 'Bearer realm="sidegate"'


async def test_two_connections_never_mix_their_users(tcp_gate: Gatehouse) -> None:
    async with wire(tcp_gate.address) as first, wire(tcp_gate.address) as second:
        for _ in range(10):
            tcp_gate.shelf.open.clear()
            await first.send(request(bearer(ALICE)))
            await second.send(request(cookie(BOB)))
            tcp_gate.shelf.open.set()
            assert (await second.reply()).only("X-Auth-User") == "bob"
            assert (await first.reply()).only("X-Auth-User") == "alice"


async def test_a_source_that_is_switched_off_is_not_read() -> None:
    bearer_only = GatewayPolicy(CredentialSources(cookie=None))
    cookie_only = GatewayPolicy(CredentialSources(bearer=False))
    async with open_gate(manners=bearer_only) as one, open_gate(manners=cookie_only) as other:
        cookie_at_bearer_only = await ask(one.address, request(cookie(ALICE)))
        bearer_at_cookie_only = await ask(other.address, request(bearer(ALICE)))
        both = await ask(one.address, request(cookie(BOB), bearer(ALICE)))

    assert cookie_at_bearer_only.status == bearer_at_cookie_only.status == 401
    assert both.only("X-Auth-User") == "alice"


async def test_a_configured_header_counts_as_a_credential() -> None:
    manners = GatewayPolicy(CredentialSources(header=b"x-session-token"))
    name = b"X-Session-Token: "
    async with open_gate(manners=manners) as gate:
        alone = await ask(gate.address, request(name + ALICE.text.encode()))
        against = await ask(gate.address, request(name + ALICE.text.encode(), cookie(BOB)))

    assert alone.only("X-Auth-User") == "alice"
    assert against.status == 401


async def test_of_a_foreign_url_only_the_path_is_logged(
    tcp_gate: Gatehouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    line = b"X-Original-URI: /shop?token=" + BOB.text.encode()

    await ask(tcp_gate.address, request(bearer(ALICE), line))

    said = everything_logged(caplog)
    assert "'/shop'" in said
    assert not spells_a_token(said.encode())


async def test_a_unix_socket_opens_to_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    async with open_gate(Address(path=str(path))):
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()


async def test_a_unix_socket_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    with socket.socket(socket.AF_UNIX) as forgotten:
        forgotten.bind(str(address.path))

    async with open_gate(address) as gate:
        assert (await ask(gate.address, request(bearer(ALICE)))).status == 200


async def test_a_gate_that_closes_leaves_its_successors_socket_alone(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    async with AsyncExitStack() as later, open_gate(address) as predecessor:
        os.unlink(str(address.path))  # noqa: PTH108  # somebody cleared the way, too early
        await later.enter_async_context(open_gate(address))
        await predecessor.door.close(patience=1)

        assert (await ask(address, request(bearer(ALICE)))).status == 200


def without_date(reply: Reply) -> tuple[tuple[str, str], ...]:
    """Return the headers that mean something: of nothing, HEAD need not tell the length."""
    dull = ("Content-Length", "0")
    return tuple(field for field in reply.fields if field[0] != "Date" and field != dull)


async def test_a_second_gate_does_not_take_the_socket_of_a_living_one(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    async with open_gate(address):
        with pytest.raises(CannotListen, match="in use"):
            async with open_gate(address):
                pass
        assert (await ask(address, request(bearer(ALICE)))).status == 200


async def test_a_gate_takes_the_socket_that_a_killed_one_left(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(address.path))
    async with open_gate(address):
        assert (await ask(address, request(bearer(ALICE)))).status == 200


async def test_a_file_in_the_way_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "gate.sock"
    precious.write_text("precious")
    with pytest.raises(CannotListen):
        async with open_gate(Address(path=str(precious))):
            pass
    assert precious.read_text() == "precious"
