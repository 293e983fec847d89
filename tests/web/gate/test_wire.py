"""The gate's HTTP where requests and responses are unusual, on both HTTP paths."""

from collections.abc import AsyncIterator

import pytest

from tests.web.gate.gate_harness import (
    ALICE,
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    open_gate,
)
from tests.web.raw_http import connect, send_request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@pytest.fixture(params=[False, True], ids=["aiohttp", "fast path"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    """A gate on TCP, with and without the fast path."""
    async with open_gate(fast_path=request.param) as harness:
        yield harness


async def assert_closed(gate: GateHarness, raw: bytes, status: int) -> None:
    """Assert the status of a response that announces, and does, the end of the connection."""
    async with connect(gate.address) as connection:
        await connection.send(raw)
        response = await connection.read_response()
        assert_gate_response(response)
        assert (response.version, response.status) == ("HTTP/1.1", status)
        assert response.get_all("Connection") == ["close"]
        assert await connection.read_until_closed() == b""
    assert gate.checks == []


@pytest.mark.parametrize(
    "method", [b"VERSION-CONTROL", b"UPDATE", b"LABEL", b"ORDERPATCH", b"get", b"!#$%&'*+-.^_`|~9"]
)
async def test_any_method_is_taken_in_a_plain_head(gate: GateHarness, method: bytes) -> None:
    response = await send_request(gate.address, build_request(bearer(ALICE), method=method))
    if gate.fast_path:
        assert (response.status, response.get_one("X-Auth-User")) == (200, "alice")
    else:
        assert response.status == 501


@pytest.mark.parametrize("method", [b"VERSION-CONTROL", b"get"])
async def test_unknown_method_elsewhere_is_501(gate: GateHarness, method: bytes) -> None:
    raw = build_request(bearer(ALICE), b"Upgrade: websocket", method=method)
    await assert_closed(gate, raw, 501)


@pytest.mark.parametrize(
    "host", [b"a@b", b"a, b", b"a,b", b"###", b"a b", b"a/b", b"[::1", b"[x]:80", b"a:b", b"\xe9"]
)
async def test_invalid_host_is_400(gate: GateHarness, host: bytes) -> None:
    raw = build_request(bearer(ALICE)).replace(b"Host: gateway.test", b"Host: " + host)
    assert host in raw
    await assert_closed(gate, raw, 400)


@pytest.mark.parametrize(
    "host", [b"", b"a", b"a.example:8080", b"[::1]:80", b"127.0.0.1", b"a_b", b"a%20b", b"a."]
)
async def test_valid_host_is_taken(gate: GateHarness, host: bytes) -> None:
    raw = build_request(bearer(ALICE)).replace(b"Host: gateway.test", b"Host: " + host)
    assert (await send_request(gate.address, raw)).status == 200


@pytest.mark.parametrize(
    "origin", ["http://gateway.test", "HTTP://other.test:80", "https://[::1]:443"]
)
async def test_absolute_target_is_taken(gate: GateHarness, origin: str) -> None:
    raw = build_request(bearer(ALICE), target=f"{origin}/auth-request?a=1")
    assert (await send_request(gate.address, raw)).status == 200


async def test_absolute_target_replaces_the_host(gate: GateHarness) -> None:
    raw = build_request(bearer(ALICE), target="http://gateway.test/auth-request")
    ignored = raw.replace(b"Host: gateway.test", b"Host: a@b")
    assert (await send_request(gate.address, ignored)).status == 200


@pytest.mark.parametrize(
    "origin", ["http://", "HTTP://", "https:", "http://a@b", "http://a,b", "http://###"]
)
async def test_absolute_target_with_an_invalid_host_is_400(gate: GateHarness, origin: str) -> None:
    await assert_closed(gate, build_request(bearer(ALICE), target=f"{origin}/auth-request"), 400)


async def test_absolute_target_without_a_path_is_the_root(gate: GateHarness) -> None:
    raw = build_request(bearer(ALICE), target="http://gateway.test")
    assert (await send_request(gate.address, raw)).status == 404


async def test_transfer_encoding_of_http_1_0_is_400(gate: GateHarness) -> None:
    raw = build_request(bearer(ALICE), b"Connection: keep-alive", b"Transfer-Encoding: chunked")
    await assert_closed(gate, raw.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", 400)


@pytest.mark.parametrize("coding", [b"", b" ", b"\t"])
async def test_empty_transfer_encoding_is_400(gate: GateHarness, coding: bytes) -> None:
    raw = build_request(bearer(ALICE), b"Transfer-Encoding:" + coding)
    await assert_closed(gate, raw, 400)


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/3.0"])
async def test_unknown_version_is_400_in_a_known_one(gate: GateHarness, version: bytes) -> None:
    await assert_closed(gate, build_request(bearer(ALICE)).replace(b"HTTP/1.1", version), 400)


async def test_junk_in_the_packet_of_a_request_is_no_unknown_method() -> None:
    async with open_gate(fast_path=False) as gate, connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)) + b"\0junk\r\n\r\n")
        response = await connection.read_response()
    assert (response.status, response.closes) == (400, True)


@pytest.mark.parametrize("raw", [b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"GET\r\n\r\n"])
async def test_what_is_no_request_is_400_and_closed(gate: GateHarness, raw: bytes) -> None:
    await assert_closed(gate, raw, 400)


async def test_http_2_without_tls_is_answered_and_logged_readably(
    gate: GateHarness, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(gate.address) as connection:
        await connection.send(PREFACE)
        response = await connection.read_response()
    assert (response.status, response.closes) == (400, True)
    assert b"this listener speaks HTTP/1.1" in response.raw
    await assert_closed(gate, PREFACE, 400)
    assert [record.message for record in caplog.records] == ["newer http version refused"]


async def test_http_1_0_gets_no_interim_response(gate: GateHarness) -> None:
    raw = build_request(
        bearer(ALICE), b"Expect: 100-continue", b"Content-Length: 2", method=b"POST"
    )
    response = await send_request(gate.address, raw.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert response.status == 200


@pytest.mark.parametrize("target", ["/auth-request", "/x"])
async def test_response_names_no_server(gate: GateHarness, target: str) -> None:
    response = await send_request(gate.address, build_request(bearer(ALICE), target=target))
    assert response.get_all("Server") == []
