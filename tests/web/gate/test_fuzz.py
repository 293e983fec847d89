"""The gate with any bytes: no access without a token, and no crash."""

import logging
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.core.token import Token
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.credentials import CredentialSources
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    ROUTES,
    TOKENS,
    GateHarness,
    bearer,
    build_request,
    contains_token,
    cookie,
    drop_returned_lines,
    open_gate,
)
from tests.web.raw_http import RawConnection, RawResponse, connect, send_request

fuzzed = settings(
    max_examples=250,
    deadline=None,  # a real socket on a shared machine
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one gate for all examples
)
# Ends any incomplete head before it, so that there is always a response.
LAST = b"\r\n\r\n" + build_request(b"Connection: close")
POLICY = GatewayPolicy(
    CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
)
USERS = {"alice": ALICE, "bob": BOB}


@pytest.fixture
async def gate(caplog: pytest.LogCaptureFixture) -> AsyncIterator[GateHarness]:
    caplog.set_level(logging.DEBUG)
    async with open_gate(policy=POLICY) as harness:
        yield harness
        assert (await send_request(harness.address, build_request(bearer(ALICE)))).status == 200
    assert not contains_token(caplog.text.encode())


async def send_and_read_all(gate: GateHarness, raw: bytes) -> list[RawResponse]:
    async with connect(gate.address) as connection:
        await connection.send(raw + LAST)
        return [response async for response in _read_all(connection)]


async def _read_all(connection: RawConnection) -> AsyncIterator[RawResponse]:
    while True:
        try:
            response = await connection.read_response()
        except EOFError:
            return
        yield response
        if response.closes:  # the server may wait for a body that never comes
            return


def assert_only_own_user(raw: bytes, responses: list[RawResponse]) -> None:
    """Assert that a 200 names only a user whose token is in `raw`."""
    for response in responses:
        assert not contains_token(drop_returned_lines(response.raw))
        assert b"Traceback" not in response.raw
        if response.status == 200:
            token = USERS[response.get_one("X-Auth-User")].text.encode()
            assert token in raw or b64encode(b":" + token) in raw
            assert token not in response.raw
        else:
            assert 400 <= response.status < 500 or response.status == 501
            assert not any(name.startswith("X-Auth-U") for name, _ in response.fields)


@fuzzed
@given(st.binary(max_size=300))
async def test_random_bytes_are_never_allowed(gate: GateHarness, raw: bytes) -> None:
    responses = await send_and_read_all(gate, raw)

    assert_only_own_user(b"", responses)


words = st.sampled_from(
    [
        b"GET ", b"POST ", b"OPTIONS ", b"HEAD ", b"CONNECT ", b"PRI ", b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"?",
        b"%00", b"/auth-request", b"/forward-auth", b"/ext-authz/", b"//", b"..", b"Host: a\r\n",
        b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Connection: close\r\n",
        b"Expect: 100-continue\r\n", b"Authorization: ", b"Bearer ", b"Cookie: ",
        b"__Host-session=", b"; ", b", ", b'"', b"\\", b"X-Auth-User: root\r\n", b"Basic ",
        b"Sec-WebSocket-Protocol: ", b"sidegate, ", b"X-Session-Token: ",
        *(token.text.encode() for token in TOKENS),
        *(b64encode(b":" + token.text.encode()) for token in TOKENS),
    ]
)  # fmt: skip
mixtures = st.lists(st.one_of(words, st.binary(max_size=3)), max_size=25).map(b"".join)


@fuzzed
@given(mixtures)
async def test_random_words_without_a_token_are_never_allowed(
    gate: GateHarness, raw: bytes
) -> None:
    assert_only_own_user(raw, await send_and_read_all(gate, raw))


@fuzzed
@given(mixtures, st.sampled_from([ALICE, BOB]), st.sampled_from(ROUTES))
async def test_token_among_random_words_allows_only_its_user(
    gate: GateHarness, text: bytes, token: Token, route: str
) -> None:
    raw = build_request(b"X: " + text, bearer(token), target=route)

    assert_only_own_user(raw, await send_and_read_all(gate, raw))


PLAIN = [
    build_request(bearer(ALICE)),
    build_request(cookie(BOB), b"X-Real-IP: 192.0.2.1"),
    build_request(bearer(ALICE), b"Content-Length: 3", target="/forward-auth", method=b"POST")
    + b"abc",
    build_request(cookie(BOB), b"Transfer-Encoding: chunked", target="/ext-authz/a") + b"0\r\n\r\n",
    build_request(
        b"Authorization: Basic " + b64encode(b":" + ALICE.text.encode()),
        b"Cookie: a=1; b=\xe9",
        target="/forward-auth",
    ),
    build_request(
        b"Sec-WebSocket-Protocol: sidegate, " + BOB.text.encode() + b", chat",
        cookie(BOB) + b"; a=1",
        target="/ext-authz/a",
    ),
]
edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.one_of(words, st.binary(max_size=3))),
    min_size=1,
    max_size=3,
)


@fuzzed
@given(st.sampled_from(PLAIN), edits)
async def test_mutated_request_allows_only_its_user(
    gate: GateHarness, raw: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for index, length, inserted in changes:
        raw = raw[:index] + inserted + raw[index + length :]

    assert_only_own_user(raw, await send_and_read_all(gate, raw))


@fuzzed
@given(st.integers(4, 59), st.integers(1, 255))
async def test_changed_bit_of_a_token_gets_401(gate: GateHarness, index: int, bits: int) -> None:
    text = bytearray(ALICE.text.encode())
    text[index] ^= bits

    responses = await send_and_read_all(gate, build_request(bearer(bytes(text))))

    assert all(response.status in (400, 401) for response in responses)
