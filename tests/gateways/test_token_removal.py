"""The application does not get the token, whatever is beside it, behind every gateway."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import (
    Client,
    HeaderLine,
    Response,
    send,
    send_over_websocket,
)
from tests.gateways.test_gateways import SEPARATORS, bearer, has_value, is_denied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.sidegate import Created

NAME = "__Host-session"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhcHAifQ.c2lnbmF0dXJl"

# The head that each gateway's file accepts, in bytes, with all of it in one cookie.
LIMITS = {"nginx": 31_000, "traefik": 58_000, "envoy": 58_000, "caddy": 19_000, "haproxy": 26_000}


def split_pairs(lines: Sequence[str]) -> list[str]:
    """Return the cookies of these Cookie lines, as servers read them."""
    pairs = [pair.strip(" \t") for line in lines for pair in line.split(";")]
    return [pair for pair in pairs if pair]


def find_token(response: Response, token: str) -> list[str]:
    """Return the names of the headers in which the application got a part of the token."""
    pieces = {token, token[4:], base64.b64encode(f"user:{token}".encode()).decode()}
    return [
        name
        for name, value in response.upstream_request["headers"]
        if any(piece in value for piece in pieces)
    ]


# TOKEN stands for the token, LONG for a value that makes the line 9 KB.
COOKIES = [
    "S=TOKEN",
    "S=TOKEN; a=1",
    "a=1; S=TOKEN",
    "a=1; S=TOKEN; b=2",
    "a=1;S=TOKEN;b=2",
    "a=1 ;  S=TOKEN  ;b=2",
    "\ta=1;\tS=TOKEN;\tb=2",
    "a=1; S=TOKEN; S=TOKEN; b=2",
    "S=TOKEN; a=1; S=TOKEN",
    "S=junk; S=TOKEN; a=1",
    "a=1; S=TOKEN; S=junk",
    'a="1"; S=TOKEN; b="x y"',
    'm="open; S=TOKEN; b=2',
    "xS=1; S=TOKEN; S2=2; s=3; Sx=4",
    "S=TOKEN; a=b=c; =d; e; f=",
    "S=TOKEN;",
    ";;S=TOKEN;;a=1",
    "a=1;,;S=TOKEN;,;b=2",
    "LONG; S=TOKEN; b=2",
    "S=TOKEN; LONG",
]


def fill(cookie: str, token: str) -> str:
    named = (
        cookie.replace("S=", f"{NAME}=")
        if not cookie.startswith("xS")
        else cookie.replace(" S=", f" {NAME}=")
    )
    return named.replace("TOKEN", token).replace("LONG", f"padding={'x' * 9000}")


def keep_others(cookie: str) -> list[str]:
    return [pair for pair in split_pairs([cookie]) if pair.split("=")[0].strip() != NAME]


@pytest.mark.parametrize("cookie", COOKIES)
def test_cookies_arrive_without_the_sessions(gateway: int, alice: Created, cookie: str) -> None:
    line = fill(cookie, alice.token)

    response = send(gateway, lines=[("Cookie", line)])

    assert response.status == 200
    assert find_token(response, alice.token) == []
    assert split_pairs(response.upstream_values("Cookie")) == keep_others(line)


@pytest.mark.parametrize(
    "lines",
    [
        ["a=1; S=TOKEN", "b=2"],
        ["S=TOKEN", "a=1"],
        ["a=1", "b=2; S=TOKEN; c=3"],
        ["S=TOKEN", "S=TOKEN"],
        ["a=1", "S=TOKEN", "b=2"],
        ["a=1", "b=2", "S=TOKEN"],
        ["a=1", "S=TOKEN", "S=TOKEN", "b=2"],
        ["S=TOKEN", "a=1", "S=TOKEN", "b=2"],
        ["a=1", "S=TOKEN", "b=2", "c=3", "S=TOKEN"],
    ],
)
def test_cookie_lines_arrive_without_the_sessions(
    gateway: int, alice: Created, lines: list[str]
) -> None:
    filled = [fill(line, alice.token) for line in lines]

    response = send(gateway, lines=[("Cookie", line) for line in filled])

    assert response.status == 200
    assert find_token(response, alice.token) == []
    assert split_pairs(response.upstream_values("Cookie")) == keep_others("; ".join(filled))


def test_cookie_bytes_arrive_unchanged(gateway_name: str, gateway: int, alice: Created) -> None:
    """UTF-8, and bytes that are not; the application reports them as Latin-1."""
    for name in ("ü", "\xff\x80"):
        pair = f"n={name}"
        response = send(gateway, lines=[("Cookie", f"{pair}; {NAME}={alice.token}")])

        assert response.status == 200, gateway_name
        assert response.upstream_values("Cookie") == [pair.encode().decode("latin-1")]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_bearer_token_does_not_arrive(gateway: int, alice: Created, scheme: str) -> None:
    response = send(
        gateway, lines=[("Authorization", f"{scheme} {alice.token}"), ("Cookie", "a=1")]
    )

    assert response.status == 200
    assert find_token(response, alice.token) == []
    assert response.upstream_values("Authorization") == []
    assert response.upstream_values("Cookie") == ["a=1"]


@pytest.mark.parametrize("own", [f"Bearer {JWT}", "Basic dXNlcjpwYXNzd29yZA==", "Digest a=b"])
def test_authorization_of_the_application_arrives(gateway: int, alice: Created, own: str) -> None:
    response = send(
        gateway, lines=[("Authorization", own), ("Cookie", f"a=1; {NAME}={alice.token}")]
    )

    assert response.status == 200
    assert find_token(response, alice.token) == []
    assert response.upstream_values("Authorization") == [own]
    assert response.upstream_values("Cookie") == ["a=1"]


@pytest.mark.parametrize(
    "authorization", ["Bearer TOKEN, x", "Token TOKEN", "Bearer\tTOKEN", "Bearer xTOKEN", "TOKEN"]
)
def test_authorization_of_which_the_token_is_a_part_is_denied(
    gateway: int, alice: Created, authorization: str
) -> None:
    lines = [("Authorization", authorization.replace("TOKEN", alice.token))]

    for beside in ([], [("Cookie", f"{NAME}={alice.token}")]):
        response = send(gateway, lines=[*lines, *beside])
        assert response.status in {400, 401}
        assert not response.reached_upstream


def test_head_of_the_gateways_own_limit_arrives_without_the_token(
    gateway_name: str, gateway: int, alice: Created
) -> None:
    """The file of each gateway says how large a head it accepts."""
    rest = LIMITS[gateway_name] - 200
    padding = f"padding={'x' * rest}"

    for line in (f"{padding}; {NAME}={alice.token}", f"{NAME}={alice.token}; {padding}"):
        response = send(gateway, lines=[("Cookie", line)])
        assert response.status == 200
        assert response.upstream_values("Cookie") == [padding]


def test_denial_carries_no_header_of_the_client(gateway: int, alice: Created) -> None:
    last = "A" if alice.token[-1] != "A" else "B"
    lines: list[HeaderLine] = [("Cookie", f"secret=1; {NAME}={alice.token[:-1]}{last}")]

    response = send(gateway, lines=lines)

    assert is_denied(response)
    assert "secret" not in str(response.headers) + response.body.decode()


# The optional sources


def basic(token: str) -> list[HeaderLine]:
    encoded = base64.b64encode(f"user:{token}".encode()).decode()
    return [("Authorization", f"Basic {encoded}")]


def header(token: str) -> list[HeaderLine]:
    return [("X-Session-Token", token)]


def websocket_protocol(token: str) -> list[HeaderLine]:
    return [("Sec-WebSocket-Protocol", f"sidegate, {token}, chat, superchat")]


@pytest.mark.parametrize("credential", [bearer, basic, header, websocket_protocol])
def test_optional_credential_does_not_arrive(
    gateway_with_all_sources: int,
    alice_with_all_sources: Created,
    credential: Callable[[str], list[HeaderLine]],
) -> None:
    token = alice_with_all_sources.token

    response = send(gateway_with_all_sources, lines=[("Cookie", "a=1"), *credential(token)])

    assert response.status == 200
    assert response.upstream_values("X-Auth-User") == ["alice"]
    assert find_token(response, token) == []
    assert response.upstream_values("Authorization") == []
    assert response.upstream_values("X-Session-Token") == []
    assert response.upstream_values("Cookie") == ["a=1"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda token: base64.b64encode(b"user:") + base64.b64encode(token),
        lambda token: base64.b64encode(b"us:") + b"=" + base64.b64encode(token),
        lambda token: base64.urlsafe_b64encode(b"~~~???:" + token),
        lambda token: base64.urlsafe_b64encode(b"~~~???:" + token).rstrip(b"="),
        lambda token: base64.b64encode(b"user:" + token).rstrip(b"="),
        lambda token: base64.b64encode(b"user:" + token).replace(b"c", b"c ", 1),
    ],
)
def test_basic_password_in_another_form_does_not_arrive(
    gateway_with_all_sources: int,
    alice_with_all_sources: Created,
    encode: Callable[[bytes], bytes],
) -> None:
    token = alice_with_all_sources.token
    line = ("Authorization", f"Basic {encode(token.encode()).decode()}")

    response = send(gateway_with_all_sources, lines=[line, ("Cookie", f"{NAME}={token}")])

    assert not response.reached_upstream or response.upstream_values("Authorization") == []


def test_header_with_other_separators_does_not_arrive(
    gateway_with_all_sources: int, alice_with_all_sources: Created
) -> None:
    token = alice_with_all_sources.token
    names = [f"X{a}Session{b}Token" for a in SEPARATORS for b in SEPARATORS]

    with Client(gateway_with_all_sources) as client:
        responses = {
            name: client.send(lines=[(name, token), ("Cookie", f"{NAME}={token}")])
            for name in names
        }

    assert {response.status for response in responses.values()} <= {200, 400}
    passed = {name for name, response in responses.items() if has_value(response, token)}
    assert passed == set()


def test_own_headers_arrive_beside_a_session_cookie(
    gateway_with_all_sources: int, alice_with_all_sources: Created
) -> None:
    own = [
        ("Authorization", "Basic dXNlcjpwYXNzd29yZA=="),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
    ]

    response = send(
        gateway_with_all_sources,
        lines=[*own, ("Cookie", f"{NAME}={alice_with_all_sources.token}")],
    )

    assert response.status == 200
    for name, value in own:
        assert response.upstream_values(name) == [value]


def test_websocket_is_opened_by_its_subprotocol(
    gateway_with_all_sources: int, alice_with_all_sources: Created
) -> None:
    lines = websocket_protocol(alice_with_all_sources.token)

    assert send_over_websocket(gateway_with_all_sources, lines, "hi") == (101, "alice: hi")
