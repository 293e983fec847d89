"""Both lanes of the gate give the same answer to the same bytes, however they are cut."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.core.binding import Policy, Signal, Signals, Widths, bind
from sidegate.core.session import Session
from sidegate.services.binding import ClientBinding
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from tests.support.fakes import Shelf, ends_nobody
from tests.web.gate.attack_table import ATTACKS, STRAY_TARGETS, Attack
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    CAROL,
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
# They end whatever was begun before them, and the connection: in two pieces, none of which reaches
# from one head into the next (see `cut_heads`).
LAST: Final = (b"\r\n\r\n", request(b"Connection: close"))
TARGETS: Final = (*ROUTES, "/session", "/ext-authz", "/auth-request?a=1", "/forward-auth?", "/x")


METHODS: Final = (b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE", b"PROPFIND", b"MKCOL", b"get")

HEAD: Final = re.compile(rb".+?(?:\r\n\r\n|\Z)", re.DOTALL)

# Alice is bound to what is only counted, bob to what he is refused for, too; carol to nothing.
POLICIES: Final = {
    Signal.IP: Policy.LOG,
    Signal.ACCEPT_LANGUAGE: Policy.LOG,
    Signal.USER_AGENT: Policy.DENY,
    Signal.HEADER: Policy.DENY,
}
CLIENT: Final = Signals("192.0.2.1", "curl/8.5.0", "de-ch", "device 7")
BINDINGS: Final = {
    ALICE.digest(): Signals(CLIENT.ip, accept_language=CLIENT.accept_language),
    BOB.digest(): CLIENT,
}


def bound(session: Session) -> Session:
    client = BINDINGS.get(session.digest)
    if client is None:
        return session
    return replace(session, binding=bind(session.id, client, Widths()))


SESSIONS: Final = tuple(map(bound, known_sessions()))


@dataclass
class Noted:
    """What is told of mismatches."""

    mismatches: list[tuple[str, str]] = field(default_factory=list)

    def binding(self) -> ClientBinding:
        return ClientBinding(POLICIES, widths=Widths(), events=self, revoke=ends_nobody)

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self.mismatches.append((signal, policy))

    def binding_revocation(self, outcome: str) -> None:
        raise AssertionError(outcome)


MANNERS: Final = GatewayPolicy(
    sources=CredentialSources(header=b"x-session-token"),
    signals=SignalSources(frozenset(POLICIES), b"x-device"),
)

Told = tuple[bytes, list[tuple[str, str, str]], int, list[tuple[str, str]]]


async def told(gate: Gatehouse, chunks: Sequence[bytes]) -> Told:
    """Return all that is answered, the checks counted, how often it was no request at all, and in
    what clients differed from those their sessions are bound to.

    It is said twice, on two connections: the second time the gate knows the form of it, and may
    have noted its answers.
    """
    noted = Noted()
    build_gate(gate, manners=MANNERS, binding=noted.binding())
    first = await told_once(gate, noted, chunks)
    again = await told_once(gate, noted, chunks)
    await gate.door.close(patience=0)
    assert again == first
    return first


async def told_once(gate: Gatehouse, noted: Noted, chunks: Sequence[bytes]) -> Told:
    gate.checks, gate.bad_requests, noted.mismatches = [], 0, []
    tape = Tape(gate.door)
    for chunk in (*chunks, *LAST):
        tape.feed(chunk)
        if len(chunk) % 2:  # between some chunks there is time
            await asyncio.sleep(0)
    await tape.until_it_has_ended()
    tape.abort()
    return comparable(tape.sent), gate.checks, gate.bad_requests, noted.mismatches


async def check(*chunks: bytes) -> None:
    """Assert that nobody can tell by which lane he is answered, nor from where."""
    aiohttp = await told(Gatehouse(fast_path=False, shelf=Shelf(*SESSIONS)), chunks)

    assert await told(Gatehouse(shelf=Shelf(*SESSIONS)), chunks) == aiohttp
    assert await told(Gatehouse(shelf=Shelf(*SESSIONS), remembers=True), chunks) == aiohttp
    assert await told(Gatehouse(shelf=Shelf(*SESSIONS), fetches=True), chunks) == aiohttp


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_is_answered_the_same(attack: Attack) -> None:
    for route in ROUTES:
        await check(attack.at(route))


@pytest.mark.parametrize("target", [*STRAY_TARGETS, *TARGETS])
async def test_every_path_is_answered_the_same(target: str) -> None:
    for method in METHODS:
        await check(request(bearer(ALICE), target=target, method=method))
        await check(request(target=target, method=method))


# So few bytes that every place to cut them can be tried.
SHORTEST: Final = 500
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


def cut_once(heads: Sequence[bytes], place: int) -> list[bytes]:
    """Return heads with one cut more, at a place of all of them together."""
    pieces = []
    for head in heads:
        pieces += cut(head, [place] if place > 0 else [])
        place -= len(head)
    return pieces


@compared
@given(st.sampled_from(CORPUS), cuts)
async def test_a_request_is_answered_the_same_however_it_is_cut(raw: bytes, at: list[int]) -> None:
    await check(*cut_heads(raw, at))


@pytest.mark.parametrize("express", [False, True], ids=["aiohttp", "express"])
async def test_a_short_request_is_answered_the_same_wherever_it_is_cut(express: bool) -> None:
    for raw in (attack.at(ROUTES[0]) for attack in ATTACKS if len(attack.raw) < SHORTEST):
        gate, noted = Gatehouse(fast_path=express, shelf=Shelf(*SESSIONS)), Noted()
        build_gate(gate, manners=MANNERS, binding=noted.binding())
        heads = HEAD.findall(raw)
        whole = await told_once(gate, noted, heads)
        for place in range(1, len(raw)):
            assert await told_once(gate, noted, cut_once(heads, place)) == whole, (raw, place)
        await gate.door.close(patience=0)


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
    [token.text.encode() for token in (ALICE, BOB, CAROL, NEVER_ISSUED, REVOKED, EXPIRED, IDLE)]
)
credentials = st.one_of(
    st.builds(lambda token: (b"Authorization", b"Bearer " + token), tokens),
    st.builds(lambda token: (b"Authorization", b"bearer   " + token), tokens),
    st.builds(lambda token: (b"Cookie", b"a=1; __Host-session=" + token + b"; b=2"), tokens),
    st.builds(lambda token: (b"X-Session-Token", token), tokens),
    st.builds(lambda token: (b"x-session-token", token + b" "), tokens),
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
        b"Keep-Alive", b"TE", b"Trailer", b"X-Device", b"X-Session-Token",
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
SHOWN: Final = (
    b"X-Real-IP: 192.0.2.1",
    b"X-Forwarded-For: 192.0.2.1",
    b"User-Agent: curl/8.5.0",
    b"Accept-Language: de-CH, de;q=0.9",
    b"X-Device: device 7",
)


def _otherwise(place: int, odd: bytes) -> list[bytes]:
    """Return what the client shows, with one line that is another."""
    name, _, _ = SHOWN[place].partition(b":")
    return [*SHOWN[:place], name + b":" + odd, *SHOWN[place + 1 :]]


# The client of those who are bound; nobody; or one who differs a little.
clients = st.one_of(
    st.just([*SHOWN]),
    st.just(list[bytes]()),
    st.builds(
        _otherwise,
        st.integers(0, len(SHOWN) - 1),
        st.sampled_from([b"", b" x", b"192.0.2.9", b" curl/7", b" en", b"\xe9", b" " + b"x" * 500]),
    ),
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
    fields = draw(st.permutations([*host, *rest, *draw(clients)]))
    return b"\r\n".join([b" ".join((method, target, version)), *fields, b"", b""])


@compared
@given(st.sampled_from(ROUTES), tokens, st.lists(clients, min_size=1, max_size=3))
async def test_who_is_bound_and_who_is_not_is_answered_the_same(
    route: str, token: bytes, shown: list[list[bytes]]
) -> None:
    await check(*(request(bearer(token), *each, target=route) for each in shown))


async def test_mismatches_are_among_what_is_compared() -> None:
    """What is counted of each: alice passes whatever she shows, bob for his client only."""
    gate, stranger = Gatehouse(shelf=Shelf(*SESSIONS), remembers=True), [b"User-Agent: x"]
    asked = [request(bearer(ALICE), *stranger), request(bearer(BOB), *stranger)]
    asked += [request(bearer(BOB), *SHOWN), request(b"X-Session-Token: " + CAROL.text.encode())]

    _, checks, _, mismatches = await told(gate, asked)

    counted = [(result, reason) for _, result, reason in checks]
    assert counted[:4] == [("allow", "ok"), ("deny", "binding"), ("allow", "ok"), ("allow", "ok")]
    assert sorted(mismatches) == [
        ("accept_language", "log"),  # of alice
        ("accept_language", "log"),
        ("header", "deny"),
        ("ip", "log"),  # of alice
        ("ip", "log"),
        ("user_agent", "deny"),
    ]


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
