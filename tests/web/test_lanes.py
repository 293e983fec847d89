"""Both lanes of the gate give the same answer to the same bytes, however they are cut."""

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import Shelf
from tests.web.attack_table import ATTACKS, STRAY_TARGETS, Attack
from tests.web.gate_rig import (
    ALICE,
    BOB,
    EXPIRED,
    IDLE,
    NEVER_ISSUED,
    REVOKED,
    ROUTES,
    Gatehouse,
    bearer,
    build_gate,
    cookie,
    known_sessions,
    request,
)
from tests.web.tape import Tape, comparable

compared = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
# Ends whatever was begun before it, and the connection.
LAST: Final = b"\r\n\r\n" + request(b"Connection: close")
TARGETS: Final = (*ROUTES, "/session", "/ext-authz", "/auth-request?a=1", "/forward-auth?", "/x")


METHODS: Final = (b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE", b"PROPFIND", b"MKCOL", b"get")

SESSIONS: Final = known_sessions()
HEAD: Final = re.compile(rb".+?(?:\r\n\r\n|\Z)", re.DOTALL)

Told = tuple[bytes, list[tuple[str, str, str]], int]


async def told(gate: Gatehouse, chunks: Sequence[bytes]) -> Told:
    """Return all that is answered, the checks counted, and how often it was no request at all."""
    build_gate(gate)
    tape = Tape(gate.door)
    for chunk in (*chunks, LAST):
        tape.feed(chunk)
        if len(chunk) % 2:  # between some chunks there is time
            await asyncio.sleep(0)
    await tape.until_it_has_ended()
    tape.abort()
    await gate.door.close(patience=0)
    return comparable(tape.sent), gate.checks, gate.bad_requests


async def check(*chunks: bytes) -> None:
    """Assert that nobody can tell by which lane he is answered, nor from where."""
    aiohttp = await told(Gatehouse(express=False, shelf=Shelf(*SESSIONS)), chunks)

    assert await told(Gatehouse(shelf=Shelf(*SESSIONS)), chunks) == aiohttp
    assert await told(Gatehouse(shelf=Shelf(*SESSIONS), remembers=True), chunks) == aiohttp


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_is_answered_the_same(attack: Attack) -> None:
    for route in ROUTES:
        await check(attack.at(route))


@pytest.mark.parametrize("target", [*STRAY_TARGETS, *TARGETS])
async def test_every_path_is_answered_the_same(target: str) -> None:
    for method in METHODS:
        await check(request(bearer(ALICE), target=target, method=method))
        await check(request(target=target, method=method))


SHORT: Final = [attack for attack in ATTACKS if len(attack.raw) < 5000]
CORPUS: Final = [attack.at(route) for attack in SHORT for route in ROUTES]
# When anything comes in one packet behind the last request of a connection, or behind an upgrade
# that nobody knows, aiohttp forgets one or the other. The express lane feeds it head by head.
GOOD: Final = [
    attack.at(route)
    for attack in SHORT
    for route in ROUTES
    if attack.reason and b"HTTP/1.0" not in attack.raw and b"Upgrade" not in attack.raw
]

cuts = st.lists(st.integers(0, 700), max_size=6)


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """Return `raw` in pieces."""
    bounds = sorted({0, len(raw), *(place for place in places if place < len(raw))})
    return [raw[start:end] for start, end in pairwise(bounds)]


def cut_heads(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """Return `raw` in pieces none of which reaches from one head into the next.

    When junk comes in one packet with a good request before it, aiohttp forgets the request; the
    express lane does not.
    """
    return [piece for head in HEAD.findall(raw) for piece in cut(head, places)]


@compared
@given(st.sampled_from(CORPUS), cuts)
async def test_a_request_is_answered_the_same_however_it_is_cut(raw: bytes, at: list[int]) -> None:
    await check(*cut_heads(raw, at))


@pytest.mark.parametrize("raw", [request(cookie(ALICE)), request(bearer(BOB), b"Expect: x")])
async def test_a_request_is_answered_the_same_when_it_comes_byte_by_byte(raw: bytes) -> None:
    await check(*(raw[place : place + 1] for place in range(len(raw))))


@compared
@given(st.lists(st.sampled_from(GOOD), min_size=2, max_size=6), cuts)
async def test_requests_in_a_row_are_answered_the_same(raws: list[bytes], at: list[int]) -> None:
    await check(*cut(b"".join(raws), at))


@compared
@given(st.lists(st.sampled_from(CORPUS), min_size=2, max_size=6), cuts)
async def test_requests_with_junk_between_are_answered_the_same(
    raws: list[bytes], at: list[int]
) -> None:
    await check(*cut_heads(b"".join(raws), at))


# Heads of all kinds, most of which are plain.

blanks = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t "])
tokens = st.sampled_from(
    [token.text.encode() for token in (ALICE, BOB, NEVER_ISSUED, REVOKED, EXPIRED, IDLE)]
)
credentials = st.one_of(
    st.builds(lambda token: (b"Authorization", b"Bearer " + token), tokens),
    st.builds(lambda token: (b"Authorization", b"bearer   " + token), tokens),
    st.builds(lambda token: (b"Cookie", b"a=1; __Host-session=" + token + b"; b=2"), tokens),
    st.builds(lambda token: (b"X-Session-Token", token), tokens),
    st.just((b"Authorization", b"Basic YTpi")),
    st.just((b"Cookie", b'p="x; __Host-session=y')),
)
names = st.sampled_from(
    [
        b"Host", b"Connection", b"Content-Length", b"Content-Type", b"Content-Encoding",
        b"Content-Range", b"Content-Location", b"Transfer-Encoding", b"Upgrade", b"Expect", b"ETag",
        b"Max-Forwards", b"Server", b"Proxy-Connection", b"User-Agent", b"Accept-Language",
        b"X-Real-IP", b"X-Forwarded-For", b"X-Forwarded-Method", b"X-Forwarded-Uri",
        b"X-Original-Method", b"X-Original-URI", b"X-Envoy-Expected-Rq-Timeout-Ms",
        b"Sec-WebSocket-Key1", b"HTTP2-Settings", b"Authorization", b"Cookie", b"Cookie2", b"X",
        b"Keep-Alive", b"TE", b"Trailer",
    ]
)  # fmt: skip
values = st.one_of(
    st.sampled_from(
        [
            b"", b"0", b"1", b"00", b"0, 0", b"close", b"Close", b"CLOSE", b"keep-alive",
            b"Keep-Alive", b"keep-alive, close", b"upgrade", b"websocket", b"chunked", b"gzip",
            b"deflate", b"identity", b"100-continue", b"text/plain", b"a, b", b"\xe9", b"\x7f",
            b"\x00", b"a\rb", b"a\nb", b"Bearer", b"200", b"192.0.2.1",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
cases = st.sampled_from([bytes, bytes.lower, bytes.upper])
lines = st.builds(
    lambda case, name, before, value, behind: case(name) + b":" + before + value + behind,
    cases,
    names,
    blanks,
    values,
    blanks,
)
told_lines = st.builds(lambda line, before: line[0] + b":" + before + line[1], credentials, blanks)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Return a head with a credential or two, a host or none, and whatever else there is."""
    method = draw(st.sampled_from(METHODS))
    target = draw(st.sampled_from(TARGETS)).encode()
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0"]))
    host = draw(
        st.sampled_from([[b"Host: a.test"]] * 5 + [[], [b"host:"], [b"Host: a", b"HOST: b"]])
    )
    rest = draw(st.lists(st.one_of(told_lines, lines), max_size=5))
    fields = draw(st.permutations([*host, *rest]))
    return b"\r\n".join([b" ".join((method, target, version)), *fields, b"", b""])


@compared
@given(st.lists(heads(), min_size=1, max_size=3), cuts)
async def test_heads_of_any_kind_are_answered_the_same(raws: list[bytes], at: list[int]) -> None:
    await check(*cut_heads(b"".join(raws), at))


edits = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), values), min_size=1, max_size=3)


@compared
@given(st.sampled_from(CORPUS), edits, cuts)
async def test_a_damaged_request_is_answered_the_same(
    raw: bytes, damage: list[tuple[int, int, bytes]], at: list[int]
) -> None:
    for place, gone, put in damage:
        raw = raw[:place] + put + raw[place + gone :]

    await check(*cut_heads(raw, at))
