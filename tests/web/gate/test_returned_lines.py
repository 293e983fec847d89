"""The client's headers in the answers of a running gate: byte for byte, for each request."""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from sidegate.core.token import KeyRing, TokenText
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.cookies import SessionCookie
from sidegate.web.gateways.credentials import CredentialSources
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    FORGED,
    REVOKED,
    GateHarness,
    bearer,
    build_request,
    cookie,
    open_gate,
)
from tests.web.raw_http import RawResponse, connect, send_request

A = ALICE.text.encode()
POLICY = GatewayPolicy(
    CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
)
RETURNED = ("Cookie", "Authorization", "Sec-WebSocket-Protocol", "X-Session-Token")
REMOVED = "x-envoy-auth-headers-to-remove"
PATHS: Mapping[str, Mapping[str, Any]] = {
    "aiohttp": {"fast_path": False},
    "fast path": {},
    "memory": {"in_memory": True},
    "prefetch": {"prefetches": True},
}

both_protocols = pytest.mark.parametrize("route", ["/forward-auth", "/ext-authz/app"])


@pytest.fixture(params=PATHS)
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    async with open_gate(policy=POLICY, **PATHS[request.param]) as harness:
        yield harness


def basic(password: bytes) -> bytes:
    return b"Authorization: Basic " + b64encode(b"ada:" + password)


def offer(protocols: bytes) -> bytes:
    return b"Sec-WebSocket-Protocol: " + protocols


def returned(response: RawResponse) -> dict[str, bytes]:
    """Return the client's headers in the response, each of which occurs at most once."""
    names = [name for name in RETURNED if response.get_all(name)]
    return {name: response.get_one(name).encode("latin-1") for name in names}


@both_protocols
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((bearer(A),), {}),
        ((cookie(A),), {}),
        ((basic(A),), {}),
        ((offer(b"sidegate, " + A),), {}),
        ((b"X-Session-Token: " + A,), {}),
        ((cookie(A), bearer(FORGED)), {}),
        ((bearer(A), b"Cookie: a=1; b=2"), {"Cookie": b"a=1; b=2"}),
        ((bearer(A), b"Cookie: a=1", b"Cookie: b=2"), {"Cookie": b"a=1; b=2"}),
        (
            (cookie(A) + b"; b=2", b"Authorization: Basic YTpi"),
            {"Cookie": b"b=2", "Authorization": b"Basic YTpi"},
        ),
        ((cookie(A), bearer(b"e.y.J")), {"Authorization": b"Bearer e.y.J"}),
        ((cookie(A), offer(b"chat, v2")), {"Sec-WebSocket-Protocol": b"chat, v2"}),
        (
            (offer(b"sidegate, " + A + b", chat"), b"X-Session-Token: x"),
            {"Sec-WebSocket-Protocol": b"chat", "X-Session-Token": b"x"},
        ),
        (
            (b"Cookie: a=\xe9\xff\x80; __Host-session=" + A + b"; b=\xc3\xa9",),
            {"Cookie": b"a=\xe9\xff\x80; b=\xc3\xa9"},
        ),
        ((b"Cookie: a=\t\xa0x; __Host-session=" + A + b'; b="',), {"Cookie": b'a=\t\xa0x; b="'}),
    ],
)
async def test_allow_returns_the_headers_without_the_credential(
    gate: GateHarness, route: str, lines: tuple[bytes, ...], expected: dict[str, bytes]
) -> None:
    for _ in range(2):  # the second time, replies are cached
        response = await send_request(gate.address, build_request(*lines, target=route))

        assert (response.status, response.get_all("X-Auth-User")) == (200, ["alice"])
        assert returned(response) == expected
        assert A not in response.raw
        assert bool(response.get_all(REMOVED)) == route.startswith("/ext-authz")
        if response.get_all(REMOVED):
            removed = set(response.get_one(REMOVED).split(","))
            present = {name.lower() for name in RETURNED} - removed
            assert present == {name.lower() for name in expected}


@both_protocols
async def test_each_client_of_a_session_gets_its_own_headers(gate: GateHarness, route: str) -> None:
    async with connect(gate.address) as one, connect(gate.address) as other:
        for number in range(3):
            first, second = b"a=%d" % number, b"b=%d; c" % number
            await one.send(build_request(cookie(A) + b"; " + first, target=route))
            await other.send(build_request(bearer(A), b"Cookie: " + second, target=route))
            assert returned(await one.read_response()) == {"Cookie": first}
            assert returned(await other.read_response()) == {"Cookie": second}
            await one.send(build_request(cookie(A), target=route))
            assert returned(await one.read_response()) == {}


@both_protocols
@pytest.mark.parametrize(
    "lines",
    [
        (),
        (bearer(REVOKED),),
        (bearer(b"x"),),
        (bearer(A), bearer(A)),
        (cookie(A), bearer(BOB)),
    ],
)
async def test_denial_returns_no_header_of_the_client(
    gate: GateHarness, route: str, lines: tuple[bytes, ...]
) -> None:
    own = (b"Cookie: a=1", b"X-Session-Token: x", offer(b"chat"))
    response = await send_request(gate.address, build_request(*own, *lines, target=route))

    assert response.status == 401
    assert returned(response) == {}
    assert not response.get_all(REMOVED)


@both_protocols
async def test_outage_returns_no_header_of_the_client(route: str) -> None:
    for fast_path in (False, True):
        async with open_gate(policy=POLICY, fast_path=fast_path) as gate:
            gate.backend.down = True
            response = await send_request(
                gate.address, build_request(bearer(A), b"Cookie: a=1", target=route)
            )
        assert response.status == 503
        assert returned(response) == {}
        assert not response.get_all(REMOVED)


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: Bearer " + A + b", x",),
        (b"Authorization: Bearer\t" + A,),
        (b"Authorization: Token " + A,),
        (b"Authorization: Bearer " + A + b"x",),
        (basic(A + b"x"),),
        (offer(b"chat, " + A),),
        (b"X-Session-Token: x" + A,),
        (b"X-Session-Token: " + A, b"X-Session-Token: " + A + b";"),
    ],
)
@pytest.mark.parametrize("route", ["/auth-request", "/forward-auth"])
async def test_token_as_a_part_of_a_value_is_ambiguous_beside_a_good_cookie(
    gate: GateHarness, route: str, lines: tuple[bytes, ...]
) -> None:
    ours = await send_request(gate.address, build_request(*lines, cookie(A), target=route))
    foreign_lines = (line.replace(A, FORGED.text.encode()) for line in lines)
    foreign = await send_request(
        gate.address, build_request(*foreign_lines, cookie(A), target=route)
    )

    # Only the tag tells whose it is.
    basic_is_ours = 401 if basic(A + b"x") in lines else 200
    assert (ours.status, foreign.status) == (401, basic_is_ours)
    assert gate.checks[0][1:] == ("deny", "ambiguous")


@pytest.mark.parametrize(
    "value",
    [
        b"dX==" + b64encode(b"user:" + A + b":x")[2:],
        b64encode(b"user:" + A)[:9] + b"-" + b64encode(b"user:" + A)[9:],
        urlsafe_b64encode(b"\xff\xfe\xfd:" + A),
    ],
)
async def test_basic_credentials_that_a_tolerant_parser_reads_are_ambiguous(
    gate: GateHarness, value: bytes
) -> None:
    lines = (cookie(A), b"Authorization: Basic " + value)
    response = await send_request(gate.address, build_request(*lines, target="/forward-auth"))

    assert response.status == 401
    assert gate.checks[0][1:] == ("deny", "ambiguous")


NUMBERED = [b"sgw_%056d" % number for number in range(2_000)]


@pytest.mark.parametrize(
    "lines",
    [
        (cookie(A), cookie(FORGED)),
        (b'Cookie: q="1"; __Host-session=' + A,),
        (cookie(A), *map(cookie, NUMBERED[:7]), b"Authorization: X " + b" ".join(NUMBERED[7:39])),
        (cookie(A), b"Authorization: X " + b" ".join(NUMBERED[:900])),
        tuple(map(cookie, (A, *NUMBERED[:180]))),
    ],
)
async def test_head_is_read_once_and_few_tags_are_verified(
    gate: GateHarness, lines: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_valid_tag, is_ambiguous = KeyRing.has_valid_tag, SessionCookie.is_ambiguous
    verified, read = list[TokenText](), list[bytes]()

    def verify(ring: KeyRing, token: TokenText) -> bool:
        verified.append(token)
        return has_valid_tag(ring, token)

    def find(session_cookie: SessionCookie, cookies: bytes) -> bool:
        read.append(cookies)
        return is_ambiguous(session_cookie, cookies)

    monkeypatch.setattr(KeyRing, "has_valid_tag", verify)
    monkeypatch.setattr(SessionCookie, "is_ambiguous", find)

    await send_request(gate.address, build_request(*lines, b"Cookie: b", target="/forward-auth"))

    assert len(read) == 1
    assert len(verified) <= 42


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((basic(A),), ["basic"]),
        ((basic(A), cookie(A)), ["basic"]),
        ((basic(FORGED.text.encode()), cookie(A)), ["basic"]),
        ((basic(b"secret"), cookie(A)), []),
        ((bearer(A),), []),
    ],
)
async def test_auth_request_names_a_basic_password_as_the_source(
    gate: GateHarness, lines: tuple[bytes, ...], expected: list[str]
) -> None:
    for _ in range(2):
        response = await send_request(gate.address, build_request(*lines, b"Cookie: b=1"))
        assert response.status == 200
        assert response.get_all("X-Auth-Source") == expected
        assert returned(response) == {}


async def test_auth_request_denies_without_a_source(gate: GateHarness) -> None:
    response = await send_request(gate.address, build_request(basic(REVOKED.text.encode())))
    assert (response.status, response.get_all("X-Auth-Source")) == (401, [])


@both_protocols
async def test_sixty_kilobytes_of_cookies_are_returned(gate: GateHarness, route: str) -> None:
    cookies = b"; ".join(b"c%d=%b" % (number, b"\xe9" * 5990) for number in range(10))
    lines = (b"Cookie: " + cookies + b"; __Host-session=" + A,)
    response = await send_request(gate.address, build_request(*lines, target=route))
    assert returned(response) == {"Cookie": cookies}


@both_protocols
@pytest.mark.parametrize("method", [b"HEAD", b"POST"])
async def test_every_method_gets_the_headers(gate: GateHarness, route: str, method: bytes) -> None:
    lines = (cookie(A) + b"; a=\xe9",)
    async with connect(gate.address) as connection:
        for _ in range(2):
            await connection.send(build_request(*lines, target=route, method=method))
            response = await connection.read_response(to_head=method == b"HEAD")
            assert returned(response) == {"Cookie": b"a=\xe9"}
