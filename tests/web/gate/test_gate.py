"""The gate under attack: a request is allowed for the right user or not at all.

The tests send raw bytes to a running gate, over TCP and over a Unix socket.
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
from tests.web.gate.attack_table import ATTACKS, MARKER, UNKNOWN_TARGETS, Attack
from tests.web.gate.gate_harness import (
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
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    contains_token,
    cookie,
    open_gate,
)
from tests.web.raw_http import RawResponse, connect, send_request

GATEWAY_NAMES = {
    "/auth-request": "auth-request",
    "/forward-auth": "forward-auth",
    "/ext-authz/app/page": "ext-authz",
}


@dataclass(frozen=True)
class Setup:
    """The socket and the HTTP path of a test."""

    name: str
    unix: bool = False
    fast_path: bool = True
    in_memory: bool = False


SETUPS = (
    Setup("fast path"),
    Setup("fast path from memory over a Unix socket", unix=True, in_memory=True),
    Setup("aiohttp over a Unix socket", unix=True, fast_path=False),
)


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
async def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GateHarness]:
    setup: Setup = request.param
    path = tmp_path_factory.mktemp("gate") / "gate.sock"
    address = Address(path=str(path)) if setup.unix else LOOPBACK
    async with open_gate(address, fast_path=setup.fast_path, in_memory=setup.in_memory) as harness:
        yield harness


@pytest.fixture
async def tcp_gate() -> AsyncIterator[GateHarness]:
    async with open_gate() as harness:
        yield harness


def read_log(caplog: pytest.LogCaptureFixture) -> str:
    """Return the log lines and all attributes of the records."""
    return caplog.text + repr([vars(record) for record in caplog.records])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_request_is_allowed_for_its_user_or_denied(
    gate: GateHarness, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    for route in ROUTES:
        gate.checks.clear()
        gate.backend.lookups.clear()
        async with connect(gate.address) as connection:
            await connection.send(attack.build_for(route))
            response = await connection.read_response()
            assert_gate_response(response)
            assert MARKER not in response.raw.lower()
            assert (response.status, response.get_all("X-Auth-User")) == expected(attack)
            assert ALICE.text.encode() not in response.raw
            assert_counted(gate, attack, route)
            if attack.reason is None:
                assert response.closes
                assert await connection.read_until_closed() == b""

    logged = read_log(caplog).encode()
    assert MARKER not in logged.lower()
    assert not contains_token(logged)


def expected(attack: Attack) -> tuple[int, list[str]]:
    return attack.status, [] if attack.user is None else [attack.user]


def assert_counted(gate: GateHarness, attack: Attack, route: str) -> None:
    if attack.reason is None:
        assert gate.checks == []
    else:
        result = "allow" if attack.reason == "ok" else "deny"
        assert gate.checks == [(GATEWAY_NAMES[route], result, attack.reason)]
    is_decided = attack.reason in (None, "missing", "malformed", "forged", "ambiguous")
    if is_decided and not attack.looks_up:
        assert gate.backend.lookups == []
    elif not gate.in_memory:
        assert gate.backend.lookups != []


async def test_invalid_http_is_counted_as_a_bad_request(tcp_gate: GateHarness) -> None:
    for raw in (b"\0\r\n\r\n", build_request(b"X: \0"), build_request().replace(b"1.1", b"2.0")):
        await send_request(tcp_gate.address, raw)

    assert tcp_gate.bad_requests == 3


@pytest.mark.parametrize("target", UNKNOWN_TARGETS)
async def test_unknown_path_gets_404(gate: GateHarness, target: str) -> None:
    for method in (b"GET", b"POST"):
        response = await send_request(
            gate.address, build_request(bearer(ALICE), target=target, method=method)
        )

        assert_gate_response(response)
        assert (response.status, response.closes) == (404, True)
    assert (gate.checks, gate.backend.lookups) == ([], [])


@pytest.mark.parametrize(("method", "target"), [(b"CONNECT", "h.test:443"), (b"OPTIONS", "*")])
async def test_target_without_a_path_gets_404(
    gate: GateHarness, method: bytes, target: str
) -> None:
    response = await send_request(
        gate.address, build_request(bearer(ALICE), target=target, method=method)
    )

    assert (response.status, response.closes) == (404, True)


@pytest.mark.parametrize("before", [b"", build_request(bearer(ALICE))])
async def test_connect_without_a_target_gets_400(gate: GateHarness, before: bytes) -> None:
    async with connect(gate.address) as connection:
        if before:
            await connection.send(before)
            assert (await connection.read_response()).status == 200
        await connection.send(b"CONNECT \r\n\r\n")
        response = await connection.read_response()
        assert (response.status, response.closes) == (400, True)
        assert await connection.read_until_closed() == b""
    assert gate.bad_requests == 1


@pytest.mark.parametrize("path", ["/ext-authz/../metrics", "/ext-authz//v1/sessions", "/ext-authz"])
async def test_path_after_envoys_prefix_is_never_routed(gate: GateHarness, path: str) -> None:
    anonymous = await send_request(gate.address, build_request(target=path))
    alice = await send_request(gate.address, build_request(bearer(ALICE), target=path))

    assert (anonymous.status, alice.status, alice.get_one("X-Auth-User")) == (401, 200, "alice")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("lines", "status"), [([bearer(ALICE)], 200), ([], 401)])
async def test_head_is_answered_like_get_without_a_body(
    gate: GateHarness, route: str, lines: list[bytes], status: int
) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(*lines, target=route, method=b"HEAD"))
        to_head = await connection.read_response(to_head=True)
        await connection.send(build_request(*lines, target=route))
        to_get = await connection.read_response()

    assert to_head.status == to_get.status == status
    assert significant_fields(to_head) == significant_fields(to_get)


@pytest.mark.parametrize("route", ROUTES)
async def test_every_invalid_token_gets_the_same_response(gate: GateHarness, route: str) -> None:
    responses = [
        await send_request(gate.address, build_request(bearer(token), target=route))
        for token in (NEVER_ISSUED, FORGED, EXPIRED, IDLE, REVOKED, REUSED, b"junk")
    ]

    assert {
        (response.status, significant_fields(response), response.body) for response in responses
    } == {(401, significant_fields(responses[0]), responses[0].body)}
    assert (
        responses[0].get_one("WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'
    )


async def test_missing_credential_gets_a_challenge_without_an_error(gate: GateHarness) -> None:
    response = await send_request(gate.address, build_request())

    assert response.get_one("WWW-Authenticate") == 'Bearer realm="sidegate"'


async def test_concurrent_connections_never_mix_their_users(tcp_gate: GateHarness) -> None:
    async with connect(tcp_gate.address) as first, connect(tcp_gate.address) as second:
        for _ in range(10):
            tcp_gate.backend.unblocked.clear()
            await first.send(build_request(bearer(ALICE)))
            await second.send(build_request(cookie(BOB)))
            tcp_gate.backend.unblocked.set()
            assert (await second.read_response()).get_one("X-Auth-User") == "bob"
            assert (await first.read_response()).get_one("X-Auth-User") == "alice"


async def test_disabled_source_is_not_read() -> None:
    bearer_only = GatewayPolicy(CredentialSources(cookie=None))
    cookie_only = GatewayPolicy(CredentialSources(bearer=False))
    async with open_gate(policy=bearer_only) as one, open_gate(policy=cookie_only) as other:
        cookie_at_bearer_only = await send_request(one.address, build_request(cookie(ALICE)))
        bearer_at_cookie_only = await send_request(other.address, build_request(bearer(ALICE)))
        both = await send_request(one.address, build_request(cookie(BOB), bearer(ALICE)))

    assert cookie_at_bearer_only.status == bearer_at_cookie_only.status == 401
    assert both.get_one("X-Auth-User") == "alice"


async def test_configured_header_is_a_credential_source() -> None:
    policy = GatewayPolicy(CredentialSources(header=b"x-session-token"))
    name = b"X-Session-Token: "
    async with open_gate(policy=policy) as gate:
        alone = await send_request(gate.address, build_request(name + ALICE.text.encode()))
        against = await send_request(
            gate.address, build_request(name + ALICE.text.encode(), cookie(BOB))
        )

    assert alone.get_one("X-Auth-User") == "alice"
    assert against.status == 401


async def test_only_the_path_of_the_original_uri_is_logged(
    tcp_gate: GateHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    header = b"X-Original-URI: /shop?token=" + BOB.text.encode()

    await send_request(tcp_gate.address, build_request(bearer(ALICE), header))

    logged = read_log(caplog)
    assert "'/shop'" in logged
    assert not contains_token(logged.encode())


async def test_unix_socket_is_open_to_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    async with open_gate(Address(path=str(path))):
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()


async def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    with socket.socket(socket.AF_UNIX) as forgotten:
        forgotten.bind(str(address.path))

    async with open_gate(address) as gate:
        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 200


async def test_closing_gate_keeps_the_socket_of_another_process(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    async with AsyncExitStack() as later, open_gate(address) as predecessor:
        os.unlink(str(address.path))  # noqa: PTH108  # removed by another process, too early
        await later.enter_async_context(open_gate(address))
        await predecessor.listener.close(drain_timeout=1)

        assert (await send_request(address, build_request(bearer(ALICE)))).status == 200


def significant_fields(response: RawResponse) -> tuple[tuple[str, str], ...]:
    """Return the header fields without Date and `Content-Length: 0`, optional for HEAD."""
    zero_length = ("Content-Length", "0")
    return tuple(field for field in response.fields if field[0] != "Date" and field != zero_length)


async def test_socket_of_a_running_gate_is_not_replaced(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    async with open_gate(address):
        with pytest.raises(CannotListen, match="in use"):
            async with open_gate(address):
                pass
        assert (await send_request(address, build_request(bearer(ALICE)))).status == 200


async def test_socket_of_a_killed_gate_is_replaced(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "gate.sock"))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(address.path))
    async with open_gate(address):
        assert (await send_request(address, build_request(bearer(ALICE)))).status == 200


async def test_regular_file_at_the_socket_path_is_kept(tmp_path: Path) -> None:
    precious = tmp_path / "gate.sock"
    precious.write_text("precious")
    with pytest.raises(CannotListen):
        async with open_gate(Address(path=str(precious))):
            pass
    assert precious.read_text() == "precious"
