"""Both HTTP paths give the same responses to the same bytes, however they are split."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.core.binding import BindingPolicy, PrefixLengths, Signal, Signals, bind
from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import Rule
from sidegate.core.session import Session
from sidegate.services.binding import ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from tests.core.test_target import PIECES
from tests.support.fakes import FakeBackend, raise_on_revocation
from tests.support.replace import replace
from tests.web.fake_transport import FakeTransport, normalize_responses
from tests.web.gate.attack_table import ATTACKS, UNKNOWN_TARGETS, Attack
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    CAROL,
    EXPIRED,
    IDLE,
    NEVER_ISSUED,
    REVOKED,
    RING,
    ROUTES,
    GateHarness,
    bearer,
    build_gate,
    build_request,
    build_sessions,
    cookie,
)

comparison = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
# Ends any incomplete head before it, and the connection: in two chunks that do not cross heads (see
# `split_heads`).
LAST: Final = (b"\r\n\r\n", build_request(b"Connection: close"))
TARGETS: Final = (*ROUTES, "/session", "/ext-authz", "/auth-request?a=1", "/forward-auth?", "/x")


METHODS: Final = (b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE", b"PROPFIND", b"MKCOL")

HEAD: Final = re.compile(rb".+?(?:\r\n\r\n|\Z)", re.DOTALL)

# alice is bound to logged signals, bob to denying ones, too; carol is not bound.
POLICIES: Final = {
    Signal.IP: BindingPolicy.LOG,
    Signal.ACCEPT_LANGUAGE: BindingPolicy.LOG,
    Signal.USER_AGENT: BindingPolicy.DENY,
    Signal.HEADER: BindingPolicy.DENY,
}
CLIENT: Final = Signals("192.0.2.1", "curl/8.5.0", "de-ch", "device 7")
BINDINGS: Final = {
    ALICE.digest(): Signals(CLIENT.ip, accept_language=CLIENT.accept_language),
    BOB.digest(): CLIENT,
}


def bind_session(session: Session) -> Session:
    client = BINDINGS.get(session.digest)
    if client is None:
        return session
    return replace(session, binding=bind(session.id, client, prefixes=PrefixLengths()))


SESSIONS: Final = tuple(map(bind_session, build_sessions()))


@dataclass
class RecordedMismatches:
    """Recorded mismatches."""

    mismatches: list[tuple[str, str]] = field(default_factory=list)

    def binding(self) -> ClientBinding:
        rules = RulesInForce(Rules(ring=RING, binding_policies=POLICIES))
        return ClientBinding(rules, events=self, revoke=raise_on_revocation)

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self.mismatches.append((signal, policy))

    def binding_revocation(self, outcome: str) -> None:
        raise AssertionError(outcome)


POLICY: Final = GatewayPolicy(
    sources=CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True),
    signals=SignalSources(frozenset(POLICIES), b"x-device"),
)

Result = tuple[bytes, list[tuple[str, str, str]], int, list[tuple[str, str]]]


PATHS: Final[tuple[dict[str, Any], ...]] = (
    {"fast_path": False},
    {},
    {"in_memory": True},
    {"prefetches": True},
)

# Loop iterations within which any of the paths has answered a request.
_TICKS_OF_A_REQUEST: Final = 30


async def run_twice(
    gate: GateHarness,
    chunks: Sequence[bytes],
    *,
    one_by_one: bool = False,
    rules: Sequence[Rule] = (),
) -> Result:
    """Return the responses, the counted checks, the number of bad requests and the mismatches.

    The chunks are sent on two connections: the second time, head templates and replies may be
    cached. Both must have the same result. `one_by_one`: what a chunk completes is answered before
    the next chunk is sent.
    """
    recorded = RecordedMismatches()
    build_gate(gate, policy=POLICY, binding=recorded.binding(), rules=rules)
    first = await run_once(gate, recorded, chunks, one_by_one=one_by_one)
    second = await run_once(gate, recorded, chunks, one_by_one=one_by_one)
    await gate.listener.close(drain_timeout=0)
    assert second == first
    return first


async def run_once(
    gate: GateHarness,
    recorded: RecordedMismatches,
    chunks: Sequence[bytes],
    *,
    one_by_one: bool = False,
) -> Result:
    gate.checks, gate.bad_requests, recorded.mismatches = [], 0, []
    transport = FakeTransport(gate.listener)
    for chunk in (*chunks, *LAST):
        transport.feed(chunk)
        if one_by_one or len(chunk) % 2:  # let the loop run between some chunks
            for _ in range(_TICKS_OF_A_REQUEST if one_by_one else 1):
                await asyncio.sleep(0)
    await transport.wait_for_end()
    transport.abort()
    return normalize_responses(transport.sent), gate.checks, gate.bad_requests, recorded.mismatches


async def assert_same_on_all_paths(
    *chunks: bytes, one_by_one: bool = False, rules: Sequence[Rule] = ()
) -> None:
    """Assert the same result on both paths, from memory, by prefetch and by lookup."""
    aiohttp, *others = [
        await run_twice(
            GateHarness(backend=FakeBackend(*SESSIONS), **path),
            chunks,
            one_by_one=one_by_one,
            rules=rules,
        )
        for path in PATHS
    ]

    # The fast path knows methods that aiohttp's parser does not, which refuses them at the first
    # bytes that it gets: with 400 if it cannot tell yet that it is a method.
    if not any(b" 501 " in result[0] for result in (aiohttp, *others)):
        assert others == [aiohttp] * len(others)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack_has_the_same_result_on_all_paths(attack: Attack) -> None:
    for route in ROUTES:
        await assert_same_on_all_paths(attack.build_for(route))


@pytest.mark.parametrize("target", [*UNKNOWN_TARGETS, *TARGETS])
async def test_every_target_has_the_same_result_on_all_paths(target: str) -> None:
    for method in METHODS:
        await assert_same_on_all_paths(build_request(bearer(ALICE), target=target, method=method))
        await assert_same_on_all_paths(build_request(target=target, method=method))


A: Final = ALICE.text.encode()


@pytest.mark.parametrize(
    "lines",
    [
        (b"Cookie: a=" + b"x" * 65_000 + b"; __Host-session=" + A,),
        (bearer(ALICE), b"Cookie: " + b"x" * 40_000, b"X-Session-Token: " + b"x" * 25_000),
        (bearer(ALICE), b"Cookie: " + b"x" * 40_000, b"X-Session-Token: " + b"x" * 26_000),
        (bearer(ALICE), *[b"Cookie: " + b"x" * 40_000] * 9),
        (b"Cookie: " + b"a=1; " * 600 + b"__Host-session=" + A,),
        (cookie(ALICE) + b"; a=1" * 600,),
        (b"Cookie: " + b"a=1;" * 250 + b"__Host-session=" + A + b";a=1" * 251,),
        (cookie(ALICE), b"Cookie: " + b"__Host-session=; " * 300),
        (cookie(ALICE) + b'; a="1"' * 300,),
        (cookie(ALICE), b"Authorization: X " + b"sgw_" * 900),
    ],
)
async def test_large_credentials_have_the_same_result_on_all_paths(
    lines: tuple[bytes, ...],
) -> None:
    for route in ROUTES:
        await assert_same_on_all_paths(build_request(*lines, target=route))


# Bytes up to which every split point is tested.
MAX_EXHAUSTIVE_SIZE: Final = 500
SHORT_ATTACKS: Final = [attack for attack in ATTACKS if len(attack.raw) < 5000]
CORPUS: Final = [attack.build_for(route) for attack in SHORT_ATTACKS for route in ROUTES]
# aiohttp loses a request when more bytes follow in one packet after the last request of a
# connection or after an unknown upgrade. The fast path feeds it one head at a time.
PIPELINABLE: Final = [
    attack.build_for(route)
    for attack in SHORT_ATTACKS
    for route in ROUTES
    if attack.reason and b"HTTP/1.0" not in attack.raw and b"Upgrade" not in attack.raw
]

split_points = st.lists(st.integers(0, 700), max_size=6)


def split(raw: bytes, points: Sequence[int]) -> list[bytes]:
    """Return `raw` in chunks."""
    bounds = sorted({0, len(raw), *(point for point in points if point < len(raw))})
    return [raw[start:end] for start, end in pairwise(bounds)]


def split_heads(raw: bytes, points: Sequence[int]) -> list[bytes]:
    """Return `raw` in chunks none of which crosses from one head into the next.

    aiohttp loses a valid request if invalid bytes follow in one packet; the fast path does not.
    """
    return [piece for head in HEAD.findall(raw) for piece in split(head, points)]


def split_once(heads: Sequence[bytes], point: int) -> list[bytes]:
    """Return the heads with one more split, at an offset into all of them."""
    pieces = []
    for head in heads:
        pieces += split(head, [point] if point > 0 else [])
        point -= len(head)
    return pieces


@comparison
@given(st.sampled_from(CORPUS), split_points)
async def test_split_request_has_the_same_result_on_all_paths(raw: bytes, at: list[int]) -> None:
    await assert_same_on_all_paths(*split_heads(raw, at))


@pytest.mark.parametrize("fast_path", [False, True], ids=["aiohttp", "fast_path"])
async def test_short_request_has_the_same_result_at_every_split(fast_path: bool) -> None:
    for raw in (
        attack.build_for(ROUTES[0]) for attack in ATTACKS if len(attack.raw) < MAX_EXHAUSTIVE_SIZE
    ):
        gate = GateHarness(fast_path=fast_path, backend=FakeBackend(*SESSIONS))
        recorded = RecordedMismatches()
        build_gate(gate, policy=POLICY, binding=recorded.binding())
        heads = HEAD.findall(raw)
        whole = await run_once(gate, recorded, heads)
        for point in range(1, len(raw)):
            assert await run_once(gate, recorded, split_once(heads, point)) == whole, (raw, point)
        await gate.listener.close(drain_timeout=0)


@pytest.mark.parametrize(
    "raw", [build_request(cookie(ALICE)), build_request(bearer(BOB), b"Expect: x")]
)
async def test_request_sent_byte_by_byte_has_the_same_result(raw: bytes) -> None:
    await assert_same_on_all_paths(*(raw[point : point + 1] for point in range(len(raw))))


@comparison
@given(st.lists(st.sampled_from(PIPELINABLE), min_size=2, max_size=6), split_points)
async def test_pipelined_requests_have_the_same_result(raws: list[bytes], at: list[int]) -> None:
    await assert_same_on_all_paths(*split(b"".join(raws), at))


@comparison
@given(st.lists(st.sampled_from(CORPUS), min_size=2, max_size=6), split_points)
async def test_requests_with_invalid_ones_between_have_the_same_result(
    raws: list[bytes], at: list[int]
) -> None:
    # aiohttp drops requests that are queued behind one in progress when an invalid one arrives, so
    # what is answered would depend on the number of loop iterations a lookup takes.
    await assert_same_on_all_paths(*split_heads(b"".join(raws), at), one_by_one=True)


# Random heads, most of them plain

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
    st.builds(lambda token: (b"Authorization", b"Basic " + b64encode(b"a:" + token)), tokens),
    st.builds(lambda token: (b"Authorization", b"Basic " + b64encode(token + b":")), tokens),
    st.builds(lambda token: (b"Authorization", b"Token " + token), tokens),
    st.builds(lambda token: (b"Authorization", b"Bearer\t" + token), tokens),
    st.builds(lambda token: (b"Cookie", b'g={"i":0}; __Host-session=' + token + b";b"), tokens),
    st.builds(lambda token: (b"Cookie", b"a=" + token + b"; \xe9=\xc3\xa9; c"), tokens),
    st.builds(lambda token: (b"Sec-WebSocket-Protocol", b"sidegate, " + token), tokens),
    st.builds(lambda token: (b"Sec-WebSocket-Protocol", token + b", chat"), tokens),
    st.just((b"Sec-WebSocket-Protocol", b"sidegate")),
    st.just((b"Sec-WebSocket-Protocol", b"chat, v2")),
    st.just((b"Authorization", b"Basic YTpi")),
    st.just((b"Cookie", b'p="x; __Host-session=y')),
    st.just((b"Cookie", b"__Host-session=y; __Host-session =z")),
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
        b"Sec-WebSocket-Protocol",
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
    lambda case, name, before, value, after: case(name) + b":" + before + value + after,
    cases,
    names,
    blanks,
    values,
    blanks,
)
SIGNAL_LINES: Final = (
    b"X-Real-IP: 192.0.2.1",
    b"X-Forwarded-For: 192.0.2.1",
    b"User-Agent: curl/8.5.0",
    b"Accept-Language: de-CH, de;q=0.9",
    b"X-Device: device 7",
)


def _change_line(point: int, value: bytes) -> list[bytes]:
    """Return the signal lines with another value in one of them."""
    name, _, _ = SIGNAL_LINES[point].partition(b":")
    return [*SIGNAL_LINES[:point], name + b":" + value, *SIGNAL_LINES[point + 1 :]]


# The bound client, none, or one with a mismatch.
clients = st.one_of(
    st.just([*SIGNAL_LINES]),
    st.just(list[bytes]()),
    st.builds(
        _change_line,
        st.integers(0, len(SIGNAL_LINES) - 1),
        st.sampled_from([b"", b" x", b"192.0.2.9", b" curl/7", b" en", b"\xe9", b" " + b"x" * 500]),
    ),
)
credential_lines = st.builds(
    lambda line, before: line[0] + b":" + before + line[1], credentials, blanks
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Return a head with random credentials, hosts, signals and other lines."""
    method = draw(st.sampled_from(METHODS))
    target = draw(st.sampled_from(TARGETS)).encode()
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0"]))
    host = draw(
        st.sampled_from([[b"Host: a.test"]] * 5 + [[], [b"host:"], [b"Host: a", b"HOST: b"]])
    )
    rest = draw(st.lists(st.one_of(credential_lines, lines), max_size=5))
    fields = draw(st.permutations([*host, *rest, *draw(clients)]))
    return b"\r\n".join([b" ".join((method, target, version)), *fields, b"", b""])


@comparison
@given(st.sampled_from(ROUTES), tokens, st.lists(clients, min_size=1, max_size=3))
async def test_bound_sessions_have_the_same_result_on_all_paths(
    route: str, token: bytes, clients_lines: list[list[bytes]]
) -> None:
    await assert_same_on_all_paths(
        *(build_request(bearer(token), *each, target=route) for each in clients_lines)
    )


async def test_comparison_includes_mismatches() -> None:
    """alice is allowed with any signals, bob only with those of the bound client."""
    gate = GateHarness(backend=FakeBackend(*SESSIONS), in_memory=True)
    other_client = [b"User-Agent: x"]
    requests = [
        build_request(bearer(ALICE), *other_client),
        build_request(bearer(BOB), *other_client),
    ]
    requests += [
        build_request(bearer(BOB), *SIGNAL_LINES),
        build_request(b"X-Session-Token: " + CAROL.text.encode()),
    ]

    _, checks, _, mismatches = await run_twice(gate, requests)

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


@comparison
@given(st.lists(heads(), min_size=1, max_size=3), split_points)
async def test_random_heads_have_the_same_result_on_all_paths(
    raws: list[bytes], at: list[int]
) -> None:
    await assert_same_on_all_paths(*split_heads(b"".join(raws), at))


edits = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), values), min_size=1, max_size=3)


@comparison
@given(st.sampled_from(CORPUS), edits, split_points)
async def test_damaged_request_has_the_same_result_on_all_paths(
    raw: bytes, damage: list[tuple[int, int, bytes]], at: list[int]
) -> None:
    for point, length, inserted in damage:
        raw = raw[:point] + inserted + raw[point + length :]

    await assert_same_on_all_paths(*split_heads(raw, at))


RULES: Final = (
    Rule("public", Requirement(Access.PUBLIC), paths=("/public/**",), methods=("GET",)),
    Rule("home", Requirement(Access.OPTIONAL), paths=("/",)),
    Rule("admin", Requirement(scopes=frozenset({"admin"})), paths=("/admin/**",)),
    Rule("bound", Requirement(bound=True), hosts=("app.test",), paths=("/a/**",), shadow=True),
    Rule("host", Requirement(Access.PUBLIC), hosts=("open.test",), preflight=True),
)
CREDENTIALS: Final = (
    (),
    (bearer(ALICE),),
    (cookie(CAROL), b"User-Agent: curl/8.5.0"),
    (bearer(BOB), b"X-Device: device 7"),
    (bearer(EXPIRED),),
    (bearer(ALICE), bearer(BOB)),
    (b"Authorization: Basic " + b64encode(b"ada:" + A),),
    (b"Cookie: a=1; other=" + A,),
)


@settings(comparison, max_examples=100)
@given(
    route=st.sampled_from(["auth-request", "forward-auth", "ext-authz"]),
    pieces=PIECES.map("".join),
    stated=st.lists(st.sampled_from(["app.test", "OPEN.test.:80", "a, b", ""]), max_size=2),
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS"]),
    lines=st.sampled_from(CREDENTIALS),
)
async def test_access_rules_have_the_same_result_on_all_paths(
    route: str, pieces: str, stated: list[str], method: bytes, lines: tuple[bytes, ...]
) -> None:
    name = "Original" if route == "auth-request" else "Forwarded"
    uri = f"/{pieces}".encode()
    own = [f"X-{name}-Host: {host}".encode() for host in stated]
    own += [b"X-%b-Uri: %b" % (name.encode(), uri), b"X-%b-Method: %b" % (name.encode(), method)]
    if route == "ext-authz":
        target = f"/ext-authz/{pieces}" if pieces.isascii() and "#" not in pieces else "/ext-authz"
        raw = build_request(*lines, target=target, method=method)
    else:
        raw = build_request(*lines, *own, target=f"/{route}")

    await assert_same_on_all_paths(raw, rules=RULES)
