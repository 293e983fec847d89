"""One suite for all gateways, with the whole configuration of `sidegate gateway`."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import (
    Client,
    HeaderLine,
    Response,
    normalize_name,
    send,
    send_over_websocket,
)
from tests.gateways.launch import GATEWAYS, start_gateway
from tests.support.processes import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateways.conftest import Outage
    from tests.support.processes import Server
    from tests.support.sidegate import Created, Sidegate

    Credential = Callable[[str], list[HeaderLine]]

# Seconds. The timeout in the files is half a second, the gateways' defaults are three to sixty; the
# rest is for a busy machine.
MAX_OUTAGE_LATENCY = 2.0

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

IDENTITY = [
    "X-Auth-User",
    "X-Auth-Session",
    "X-Auth-Type",
    "X-Auth-Scopes",
    "X-Auth-Time",
    "X-Auth-Expires",
]


def bearer(token: str) -> list[HeaderLine]:
    return [("Authorization", f"Bearer {token}")]


def cookie(token: str) -> list[HeaderLine]:
    return [("Cookie", f"theme=dark; __Host-session={token}; lang=en")]


def is_denied(response: Response) -> bool:
    """Return whether it is a 401 as in RFC 6750, without identity, before the application."""
    return (
        response.status == 401
        and response.headers["WWW-Authenticate"].startswith('Bearer realm="sidegate"')
        and not response.reached_upstream
        and not identity_in(response)
    )


def is_unavailable(response: Response) -> bool:
    return (
        response.status == 503
        and response.headers["Retry-After"] == "1"
        and "WWW-Authenticate" not in response.headers
        and not response.reached_upstream
        and not identity_in(response)
    )


def identity_in(response: Response) -> list[str]:
    identity = {normalize_name(name) for name in IDENTITY}
    return [name for name in response.headers if normalize_name(name) in identity]


# Allow


@pytest.mark.parametrize("credential", [bearer, cookie])
def test_active_session_is_allowed_with_its_identity(
    gateway: int, alice: Created, credential: Credential
) -> None:
    response = send(gateway, "GET", "/page?x=1&y=%2F", credential(alice.token))

    assert response.status == 200
    assert response.upstream_request["path"] == "/page?x=1&y=%2F"
    identity = {name: response.upstream_values(name) for name in IDENTITY}
    assert all(len(values) == 1 and values[0] for values in identity.values()), identity
    assert identity["X-Auth-User"] == ["alice"]
    assert identity["X-Auth-Session"] == [alice.session_id]
    assert identity["X-Auth-Type"] == ["web"]
    assert identity["X-Auth-Scopes"] == ["read write"]
    assert not identity_in(response)


@pytest.mark.parametrize("padding_first", [True, False])
def test_nine_kilobyte_cookie_is_forwarded(
    gateway: int, alice: Created, padding_first: bool
) -> None:
    pairs = [f"__Host-session={alice.token}", f"padding={'x' * 9000}"]
    line = "; ".join(reversed(pairs) if padding_first else pairs)

    response = send(gateway, lines=[("Cookie", line)])

    assert response.status == 200
    assert response.upstream_values("Cookie") == [pairs[1]]


def test_websocket_needs_a_token(gateway: int, alice: Created) -> None:
    assert send_over_websocket(gateway, bearer(alice.token), "hello") == (101, "alice: hello")
    assert send_over_websocket(gateway, cookie(alice.token), "hello") == (101, "alice: hello")
    assert send_over_websocket(gateway, [], "hello") == (401, "")


@pytest.mark.parametrize("gateway_name", [name for name in GATEWAYS if name != "traefik"])
def test_gate_on_a_unix_socket_is_used(
    gateway_on_a_socket: int, alice_on_a_socket: Created
) -> None:
    response = send(gateway_on_a_socket, lines=bearer(alice_on_a_socket.token))

    assert response.upstream_values("X-Auth-User") == ["alice"]
    assert is_denied(send(gateway_on_a_socket))


# Identity headers from the client


@pytest.mark.parametrize(
    "name",
    [
        "X-Auth-User",
        "x-auth-user",
        "X_Auth_User",
        "x-auth_user",
        "x.auth.user",
        "X-Auth.User",
        "X-Auth-Scopes",
        "X_AUTH_SCOPES",
        "X.Auth.Session",
        "X-Auth-User ",
    ],
)
def test_identity_header_from_the_client_is_removed(
    gateway: int, alice: Created, name: str
) -> None:
    own = [(name, "mallory"), (name, "root")]

    response = send(gateway, lines=[*own, *bearer(alice.token), *own])

    if response.status != 200:
        assert response.status == 400
        assert not response.reached_upstream
        return
    identities = [response.upstream_values(name) for name in IDENTITY]
    assert [len(values) for values in identities] == [1] * len(IDENTITY)
    assert not {"mallory", "root"} & {value for _, value in response.upstream_request["headers"]}


# What a header name may contain besides letters and digits (RFC 9110 section 5.6.2).
SEPARATORS = "!#$%&'*+-.^_`|~"


def test_identity_name_with_other_separators_does_not_reach_the_application(
    gateway: int, alice: Created
) -> None:
    names = [f"X{a}Auth{b}User" for a in SEPARATORS for b in SEPARATORS]

    with Client(gateway) as client:
        passed = [
            name
            for name in names
            if has_value(client.send(lines=[(name, "root"), *bearer(alice.token)]), "root")
        ]

    assert passed == []


def has_value(response: Response, value: str) -> bool:
    """Return whether the application received a header of that value. Only a 400 is without."""
    if response.status == 400:
        assert not response.reached_upstream
        return False
    return value in {received for _, received in response.upstream_request["headers"]}


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_header_listed_in_connection_is_kept(
    gateway: int, alice: Created, name: str
) -> None:
    response = send(gateway, lines=[("Connection", f"keep-alive, {name}"), *bearer(alice.token)])

    if response.status != 200:
        assert response.status == 400
        return
    assert len(response.upstream_values(name)) == 1
    # a proxy behind would remove it
    assert name.lower() not in "".join(response.upstream_values("Connection")).lower()


# Values of the Upgrade lines of a request. With "websocket" in front or behind, a proxy that looks
# at one of them passes the other.
OTHER_UPGRADES = [
    ["h2c"],
    ["H2C"],
    ["h2c", "websocket"],
    ["websocket", "h2c"],
    ["h2c, websocket"],
    ["websocket,h2c"],
    ["\th2c , WebSocket "],
    ["websocket", "websocket"],
    ["TLS/1.0"],
    ["TLS/1.0", "websocket"],
    ["HTTP/2.0"],
    ["websocket/13"],
    ["other"],
]


@pytest.mark.parametrize("values", OTHER_UPGRADES, ids=" + ".join)
@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "upgrade"])
def test_only_an_upgrade_to_a_websocket_reaches_the_application(
    gateway: int, alice: Created, connection: str, values: list[str]
) -> None:
    upgrade = [("Connection", connection), *(("Upgrade", value) for value in values)]

    response = send(gateway, lines=[*upgrade, ("HTTP2-Settings", "AAMAAABk"), *bearer(alice.token)])

    assert response.status != 101
    assert not response.reached_upstream or not response.upstream_values("Upgrade")


def test_client_that_offers_h2c_is_served(gateway: int, alice: Created) -> None:
    offer = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]

    response = send(gateway, lines=[*offer, ("HTTP2-Settings", "AAMAAABk"), *bearer(alice.token)])

    assert response.status == 200
    assert response.upstream_values("X-Auth-User") == ["alice"]


# Deny


def test_missing_credential_is_denied_without_error_code(gateway: int) -> None:
    response = send(gateway)

    assert is_denied(response)
    assert "error" not in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("credential", [bearer, cookie])
@pytest.mark.parametrize("malformed", ["junk", "sgw_", "sgw_" + "A" * 56, "%00", "a" * 3000])
def test_malformed_token_is_denied(gateway: int, credential: Credential, malformed: str) -> None:
    response = send(gateway, lines=credential(malformed))

    assert is_denied(response)
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("credential", [bearer, cookie])
def test_forged_token_is_denied(gateway: int, alice: Created, credential: Credential) -> None:
    last = "A" if alice.token[-1] != "A" else "B"

    assert is_denied(send(gateway, lines=credential(alice.token[:-1] + last)))


def test_two_different_credentials_are_denied(
    gateway: int, alice: Created, sidegate: Sidegate
) -> None:
    bob = sidegate.create_session(user_id="bob")

    assert is_denied(send(gateway, lines=[*bearer(alice.token), *cookie(bob.token)]))


@pytest.mark.parametrize("credential", [bearer, cookie])
def test_revoked_session_is_denied_after_the_acknowledgement(
    gateway: int, sidegate: Sidegate, credential: Credential
) -> None:
    created = sidegate.create_session(user_id="revoked")
    assert send(gateway, lines=credential(created.token)).status == 200

    sidegate.revoke_session(created.session_id)

    assert is_denied(send(gateway, lines=credential(created.token)))


def test_expired_session_is_denied(gateway: int, expiring_session: Created) -> None:
    deadline = time.monotonic() + 5
    with Client(gateway) as client:
        response = client.send(lines=bearer(expiring_session.token))
        while response.status == 200 and time.monotonic() < deadline:
            response = client.send(lines=bearer(expiring_session.token))

    assert is_denied(response)


@pytest.mark.parametrize(
    "other",
    [
        [("User-Agent", "curl/8.5.0"), ("Accept-Language", "de-CH,de")],
        [("User-Agent", FIREFOX), ("Accept-Language", "en")],
        [("User-Agent", FIREFOX)],
        [("Accept-Language", "de-CH,de")],
        [],
    ],
    ids=["other user agent", "other language", "no language", "no user agent", "no signals"],
)
def test_bound_session_is_allowed_only_for_its_client(
    gateway: int, sidegate: Sidegate, other: list[HeaderLine]
) -> None:
    binding = {"user_agent": FIREFOX, "accept_language": "de-CH,de;q=0.9", "ip": "127.0.0.1"}
    created = sidegate.create_session(binding=binding)
    own = [("User-Agent", FIREFOX.replace("128.0", "128.9")), ("Accept-Language", "de-CH")]

    assert send(gateway, lines=[*own, *bearer(created.token)]).status == 200
    assert is_denied(send(gateway, lines=[*other, *bearer(created.token)]))


def test_second_user_agent_header_is_denied(gateway: int, sidegate: Sidegate) -> None:
    created = sidegate.create_session(binding={"user_agent": FIREFOX})
    two = [("User-Agent", "curl/8.5.0"), ("User-Agent", FIREFOX)]

    response = send(gateway, lines=[*two, *bearer(created.token)])

    assert response.status in {400, 401}
    assert not response.reached_upstream


def test_session_bound_to_another_address_is_denied_despite_client_headers(
    gateway: int, sidegate: Sidegate
) -> None:
    created = sidegate.create_session(binding={"ip": "192.0.2.7"})
    claims = [("X-Forwarded-For", "192.0.2.7"), ("X-Real-IP", "192.0.2.7")]

    assert is_denied(send(gateway, lines=bearer(created.token)))
    assert is_denied(send(gateway, lines=[*claims, *bearer(created.token), *claims]))


# Every method and every body


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
)
def test_every_method_is_checked(gateway: int, alice: Created, method: str) -> None:
    allowed = send(gateway, method, "/thing", bearer(alice.token))

    assert allowed.status == 200
    assert allowed.reached_upstream
    if method != "HEAD":
        assert allowed.upstream_request["method"] == method
        assert allowed.upstream_values("X-Auth-User") == ["alice"]
    assert is_denied(send(gateway, method, "/thing", bearer("junk")))


def test_bodies_on_one_connection_arrive_unchanged(gateway: int, alice: Created) -> None:
    bodies = [f"{turn}:".encode() * 1000 for turn in range(20)]

    with Client(gateway) as client:
        responses = [client.send("POST", "/", bearer(alice.token), body) for body in bodies]

    assert [response.upstream_request["body_sha256"] for response in responses] == [
        hashlib.sha256(body).hexdigest() for body in bodies
    ]


def test_body_of_a_denied_request_is_not_parsed_as_a_request(gateway: int, alice: Created) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    with Client(gateway) as client:
        for turn in range(20):
            assert is_denied(client.send("POST", "/refused", bearer("junk"), smuggled))
            response = client.send("POST", f"/{turn}", bearer(alice.token), b"body")
            assert (
                response.upstream_request["path"],
                response.upstream_request["body_length"],
            ) == (f"/{turn}", 4)


def test_chunked_body_arrives_unchanged(gateway: int, alice: Created) -> None:
    body = bytes(range(256)) * 100

    response = send(gateway, "PUT", "/file", bearer(alice.token), body, chunked=True)

    assert response.upstream_request["method"] == "PUT"
    assert response.upstream_request["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert is_denied(send(gateway, "PUT", "/file", [], body, chunked=True))


# Every path


@pytest.mark.parametrize(
    "path",
    [
        "/a/../b",
        "/a/./b",
        "//a//b",
        "/../../etc/passwd",
        "/%2e%2e/admin",
        "/a%2Fb",
        "/%61dmin",
        "/a%00b",
        "/a;b=c/d",
        "/a\\b",
        "/?a=../b",
        "/favicon.ico",
        "http://other.example.test/a",
    ],
)
def test_no_path_variant_bypasses_the_check(gateway: int, alice: Created, path: str) -> None:
    refused = send(gateway, "GET", path)
    allowed = send(gateway, "GET", path, bearer(alice.token))

    assert refused.status in {400, 401}
    assert not refused.reached_upstream
    assert allowed.status in {200, 400}
    assert not allowed.reached_upstream or allowed.upstream_values("X-Auth-User") == ["alice"]


@pytest.mark.parametrize(
    "path",
    ["/_sidegate", "/auth-request", "/forward-auth?x=1", "/ext-authz/x", "/outage", "/livez"],
)
def test_sidegate_endpoints_are_not_reachable_from_outside(
    gateway: int, alice: Created, path: str
) -> None:
    response = send(gateway, "GET", path, bearer(alice.token))

    assert response.reached_upstream or response.status == 404
    assert not identity_in(response)
    assert send(gateway, "GET", path).status in {401, 404}


# Unavailable


@pytest.mark.parametrize("credential", [bearer, cookie])
def test_unavailable_is_503(
    gateway_in_an_outage: int, outage: Outage, credential: Credential
) -> None:
    lines = credential(outage.unreachable.token)

    assert is_unavailable(send(gateway_in_an_outage, lines=lines))
    assert is_unavailable(send(gateway_in_an_outage, "POST", "/", lines, b"body"))


def test_blocked_sidegate_is_503_until_it_resumes(
    gateway: int, sidegate: Sidegate, alice: Created
) -> None:
    assert send(gateway, lines=bearer(alice.token)).status == 200  # its connections are open

    sidegate.server.pause()
    try:
        begin = time.monotonic()
        response = send(gateway, lines=bearer(alice.token))
        took = time.monotonic() - begin
    finally:
        sidegate.server.resume()

    assert is_unavailable(response)
    assert took < MAX_OUTAGE_LATENCY
    assert send(gateway, lines=bearer(alice.token)).status == 200


def test_refused_connection_to_sidegate_is_503(
    gateway_without_sidegate: int, alice: Created
) -> None:
    begin = time.monotonic()

    assert is_unavailable(send(gateway_without_sidegate, lines=bearer(alice.token)))
    assert is_unavailable(send(gateway_without_sidegate, "POST", "/", [], b"body"))
    assert time.monotonic() - begin < MAX_OUTAGE_LATENCY


def test_instance_that_refuses_connections_is_replaced_by_another(
    gateway_name: str, sidegate: Sidegate, closed_address: str, upstream: Server, alice: Created
) -> None:
    gates = [closed_address, sidegate.address]
    with temporary_directory() as directory:
        server = start_gateway(gateway_name, directory, gates=gates, upstream=upstream.url)
        statuses = [send(server.port, lines=bearer(alice.token)).status for _ in range(20)]
        server.stop()

    assert statuses == [200] * 20
