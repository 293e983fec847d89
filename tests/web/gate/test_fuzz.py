"""The gate under any bytes: no token, no entry; no bytes, no crash."""

import logging
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.core.token import Token
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    ROUTES,
    TOKENS,
    Gatehouse,
    bearer,
    cookie,
    open_gate,
    request,
    spells_a_token,
)
from tests.web.raw_http import Reply, Wire, ask, wire

fuzzed = settings(
    max_examples=250,
    deadline=None,  # a real socket on a shared machine
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one gate lives through it all
)
# Ends whatever was begun before it, so that something always comes back.
LAST = b"\r\n\r\n" + request(b"Connection: close")
USERS = {"alice": ALICE, "bob": BOB}


@pytest.fixture
async def gate(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Gatehouse]:
    caplog.set_level(logging.DEBUG)
    async with open_gate() as opened:
        yield opened
        assert (await ask(opened.address, request(bearer(ALICE)))).status == 200
    assert not spells_a_token(caplog.text.encode())


async def replies_to(gate: Gatehouse, raw: bytes) -> list[Reply]:
    async with wire(gate.address) as line:
        await line.send(raw + LAST)
        return [reply async for reply in _replies(line)]


async def _replies(line: Wire) -> AsyncIterator[Reply]:
    while True:
        try:
            reply = await line.reply()
        except EOFError:
            return
        yield reply
        if reply.closes:  # it may linger for a body that never comes
            return


def check(raw: bytes, replies: list[Reply]) -> None:
    """Assert that nobody was let in whose token did not stand in `raw`, letter by letter."""
    for reply in replies:
        assert not spells_a_token(reply.raw)
        assert b"Traceback" not in reply.raw
        if reply.status == 200:
            assert USERS[reply.only("X-Auth-User")].text.encode() in raw
        else:
            assert 400 <= reply.status < 500
            assert not any(name.startswith("X-Auth-U") for name, _ in reply.fields)


@fuzzed
@given(st.binary(max_size=300))
async def test_no_bytes_at_all_get_in(gate: Gatehouse, raw: bytes) -> None:
    replies = await replies_to(gate, raw)

    check(b"", replies)


words = st.sampled_from(
    [
        b"GET ", b"POST ", b"OPTIONS ", b"HEAD ", b"CONNECT ", b"PRI ", b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"?",
        b"%00", b"/auth-request", b"/forward-auth", b"/ext-authz/", b"//", b"..", b"Host: a\r\n",
        b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Connection: close\r\n",
        b"Expect: 100-continue\r\n", b"Authorization: ", b"Bearer ", b"Cookie: ",
        b"__Host-session=", b"; ", b", ", b'"', b"\\", b"X-Auth-User: root\r\n",
        *(token.text.encode() for token in TOKENS),
    ]
)  # fmt: skip
strewn = st.lists(st.one_of(words, st.binary(max_size=3)), max_size=25).map(b"".join)


@fuzzed
@given(strewn)
async def test_no_heap_of_words_gets_in_without_a_token(gate: Gatehouse, raw: bytes) -> None:
    check(raw, await replies_to(gate, raw))


@fuzzed
@given(strewn, st.sampled_from([ALICE, BOB]), st.sampled_from(ROUTES))
async def test_whatever_surrounds_a_token_it_opens_for_nobody_else(
    gate: Gatehouse, line: bytes, token: Token, route: str
) -> None:
    raw = request(b"X: " + line, bearer(token), target=route)

    check(raw, await replies_to(gate, raw))


PLAIN = [
    request(bearer(ALICE)),
    request(cookie(BOB), b"X-Real-IP: 192.0.2.1"),
    request(bearer(ALICE), b"Content-Length: 3", target="/forward-auth", method=b"POST") + b"abc",
    request(cookie(BOB), b"Transfer-Encoding: chunked", target="/ext-authz/a") + b"0\r\n\r\n",
]
edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.one_of(words, st.binary(max_size=3))),
    min_size=1,
    max_size=3,
)


@fuzzed
@given(st.sampled_from(PLAIN), edits)
async def test_no_mutation_of_a_good_request_opens_for_another(
    gate: Gatehouse, raw: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for place, gone, put in changes:
        raw = raw[:place] + put + raw[place + gone :]

    check(raw, await replies_to(gate, raw))


@fuzzed
@given(st.integers(4, 59), st.integers(1, 255))
async def test_no_changed_bit_of_a_token_gets_in(gate: Gatehouse, place: int, bits: int) -> None:
    text = bytearray(ALICE.text.encode())
    text[place] ^= bits

    replies = await replies_to(gate, request(bearer(bytes(text))))

    assert all(reply.status in (400, 401) for reply in replies)
