"""API keys, scopes and host names of the admin API."""

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidegate.web.admin.auth import ApiKey, ApiKeys, KeyRefused, Scope
from tests.web.admin.admin_listener import AdminHarness, Reply, open_admin

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
FORM = {"data": {"token": "sgw_" + "A" * 56}}
LEASE = {"json": {"lease": "sgl_" + "A" * 43}}
ROUTES = [
    ("POST", "/v1/sessions", "write", {"json": {"user_id": "ada"}}, 201),
    ("GET", f"/v1/sessions/{UNKNOWN}", "read", {}, 404),
    ("GET", "/v1/users/ada/sessions", "read", {}, 200),
    ("POST", f"/v1/sessions/{UNKNOWN}/revoke", "revoke", {}, 404),
    ("POST", "/v1/users/ada/revoke", "revoke", {}, 200),
    ("POST", f"/v1/sessions/{UNKNOWN}/lock", "write", {}, 404),
    ("PUT", f"/v1/sessions/{UNKNOWN}/lock", "write", LEASE, 409),
    ("DELETE", f"/v1/sessions/{UNKNOWN}/lock", "write", LEASE, 200),
    ("POST", "/oauth2/introspect", "read", FORM, 200),
    ("POST", "/oauth2/revoke", "revoke", FORM, 200),
]


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


def mint_key(name: str = "ci", scopes: tuple[Scope, ...] = (Scope.READ,)) -> tuple[str, ApiKey]:
    return ApiKey.mint(name, scopes)


def is_refused(key: ApiKey, *lines: str, takes_basic: bool = False) -> bool:
    with suppress(KeyRefused):
        ApiKeys([key]).authenticate(lines, takes_basic=takes_basic)
        return False
    return True


def encode_client(client_id: str, secret: str) -> str:
    """Return the header that OAuth clients send."""
    return f"Basic {b64encode(f'{client_id}:{secret}'.encode()).decode()}"


def test_minted_key_is_authenticated_by_its_text() -> None:
    text, key = mint_key()
    other = mint_key("other")[1]

    assert ApiKeys([other, key]).authenticate([f"Bearer {text}"]) == key


def test_minted_key_stores_only_the_hash_of_its_text() -> None:
    text, key = mint_key()

    assert key.sha256 == sha256(text.encode()).hexdigest()
    assert text not in repr(key)
    assert key.sha256 not in repr(key)


@pytest.mark.parametrize(
    "header",
    [
        "bearer {}",
        "BEARER {}",
        "Bearer  {}",
        "  Bearer {}\t",
    ],
)
def test_valid_authorization_header_is_accepted(header: str) -> None:
    text, key = mint_key()

    assert ApiKeys([key]).authenticate([header.format(text)]) == key


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "{}",
        "Basic {}",
        "Bearer\t{}",
        "Bearer{}",
        "Bearer {}x",
        "Bearer {} {}",
        "Bearer {},",
        "Bearer {}\x00",
        "Bearer \u00a0{}",
        "Bearer {}\u2028",
        "\ufeffBearer {}",
        "Bearer \udcff{}",
    ],
)
def test_malformed_authorization_header_is_refused(header: str) -> None:
    text, key = mint_key()

    assert is_refused(key, header.format(text, text))


def test_modified_key_is_refused() -> None:
    text, key = mint_key()
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")

    assert is_refused(key, f"Bearer {wrong}")
    assert is_refused(key, f"Bearer {text.upper()}")


def test_duplicate_authorization_header_is_refused() -> None:
    text, key = mint_key()

    assert is_refused(key, f"Bearer {text}", f"Bearer {text}")


def test_without_keys_every_key_is_refused() -> None:
    with pytest.raises(KeyRefused):
        ApiKeys([]).authenticate([f"Bearer {mint_key()[0]}"])


def test_hash_may_be_in_upper_case() -> None:
    text, key = mint_key()
    upper_case = ApiKey(key.name, key.sha256.upper(), key.scopes)

    assert ApiKeys([upper_case]).authenticate([f"Bearer {text}"]) == upper_case


def test_key_is_refused_from_its_expiry_on() -> None:
    text, key = mint_key()
    expires_at = datetime(2026, 3, 4, tzinfo=UTC)
    expiring = replace(key, expires_at=expires_at)
    before = ApiKeys([expiring], now=lambda: expires_at - timedelta.resolution)
    assert before.authenticate([f"Bearer {text}"]) == expiring
    with pytest.raises(KeyRefused, match="expired"):
        ApiKeys([expiring], now=lambda: expires_at).authenticate([f"Bearer {text}"])


def test_client_authenticates_by_the_name_of_a_key_and_the_key() -> None:
    text, key = mint_key("ci")
    keys = ApiKeys([key])
    line = encode_client("ci", text)
    assert keys.authenticate([line], takes_basic=True) == key
    assert keys.authenticate([f"Bearer {text}"], takes_basic=True) == key
    assert is_refused(key, line)  # elsewhere only Bearer is taken


@pytest.mark.parametrize(
    "line",
    [
        encode_client("other", "{}"),
        encode_client("", "{}"),
        encode_client("ci", "{}x"),
        encode_client("ci", ""),
        "Basic ",
        "Basic ====",
        "Basic {}",
    ],
)
def test_other_client_is_refused(line: str) -> None:
    text, key = mint_key("ci")
    if line.startswith("Basic ") and line not in ("Basic ", "Basic ====", "Basic {}"):
        line = encode_client(*b64decode(line[6:]).decode().format(text).split(":"))
    assert is_refused(key, line.format(text), takes_basic=True)


@pytest.mark.parametrize(
    ("name", "sha256_hex", "scopes"),
    [
        ("", "0" * 64, {Scope.READ}),
        ("two words", "0" * 64, {Scope.READ}),
        ("line\nfeed", "0" * 64, {Scope.READ}),
        ("x" * 65, "0" * 64, {Scope.READ}),
        ("ci", "0" * 63, {Scope.READ}),
        ("ci", "g" * 64, {Scope.READ}),
        ("ci", "0" * 64, set()),
    ],
)
def test_invalid_key_settings_are_refused(name: str, sha256_hex: str, scopes: set[Scope]) -> None:
    with pytest.raises(ValueError, match="key"):
        ApiKey(name, sha256_hex, frozenset(scopes))


def test_keys_with_the_same_name_or_hash_are_refused() -> None:
    key = mint_key()[1]

    with pytest.raises(ValueError, match="name"):
        ApiKeys([key, mint_key(key.name)[1]])
    with pytest.raises(ValueError, match="sha256"):
        ApiKeys([key, ApiKey("other", key.sha256, key.scopes)])


@pytest.mark.parametrize(("method", "path", "scope", "options", "status"), ROUTES)
async def test_route_requires_its_scope(
    admin: AdminHarness, method: str, path: str, scope: str, options: dict[str, Any], status: int
) -> None:
    replies = {
        str(each): await admin.call(method, path, key=str(each), **options) for each in Scope
    }

    assert replies.pop(scope).status == status
    for refused in replies.values():
        assert refused.status == 403
        assert refused.body["code"] == "insufficient_scope"
        assert f'scope="{scope}"' in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path) for method, path, *_ in ROUTES),
        ("DELETE", "/v1/sessions"),
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/sessions"),
    ],
)
async def test_request_without_a_key_gets_401_on_every_path(
    admin: AdminHarness, method: str, path: str
) -> None:
    reply = await admin.call(method, path, key=None)

    assert reply.status == 401
    assert reply.body["code"] == "unauthenticated"
    challenge = 'Bearer realm="sidegate-admin"'
    if path.startswith("/oauth2/"):
        challenge += ', Basic realm="sidegate-admin"'
    assert reply.headers["WWW-Authenticate"] == challenge


async def test_each_reason_for_a_401_is_told_and_nothing_of_what_was_sent(
    admin: AdminHarness,
) -> None:
    unknown = "sgk_" + "A" * 43
    details = {}
    for line in ("", f"Bearer {unknown}", f"Basic {unknown}", f"Bearer {unknown[:-1]}"):
        headers = [("Authorization", line)] if line else []
        reply = await admin.call("GET", "/v1/users/ada/sessions", key=None, headers=headers)
        assert reply.status == 401
        assert "AAAA" not in reply.text
        details[line] = reply.body["detail"]
    assert len(set(details.values())) == 3
    assert "not one of admin.keys" in details[f"Bearer {unknown}"]


async def test_introspection_and_revocation_take_an_oauth_client(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    client = [("Authorization", encode_client("all", admin.keys["all"]))]
    for path in ("/oauth2/introspect", "/oauth2/revoke"):
        reply = await admin.call("POST", path, data={"token": token}, key=None, headers=client)
        assert reply.status == 200, reply.text
    wrong = [("Authorization", encode_client("all", admin.keys["read"]))]
    reply = await admin.call(
        "POST", "/oauth2/introspect", data={"token": token}, key=None, headers=wrong
    )
    assert (reply.status, reply.body["error"]) == (401, "invalid_client")
    assert "Basic realm=" in reply.headers["WWW-Authenticate"]
    assert (await admin.call("GET", "/v1/audit", key=None, headers=client)).status == 401


async def test_unknown_key_gets_invalid_token_challenge(admin: AdminHarness) -> None:
    unknown = [("Authorization", "Bearer sgk_" + "A" * 43)]

    reply = await admin.call("GET", "/v1/users/ada/sessions", key=None, headers=unknown)

    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]


async def test_session_token_is_not_accepted_as_a_key(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    presented = [("Authorization", f"Bearer {token}")]

    reply = await admin.call("GET", "/v1/users/ada/sessions", key=None, headers=presented)

    assert reply.status == 401


async def test_request_with_two_authorization_headers_gets_401(admin: AdminHarness) -> None:
    line = f"Authorization: Bearer {admin.keys['all']}"

    response = await admin.send(
        admin.head("GET /v1/users/ada/sessions HTTP/1.1", line, "Connection: close")
    )

    assert response.startswith(b"HTTP/1.1 401 ")


async def test_cross_origin_simple_request_is_refused(admin: AdminHarness) -> None:
    headers = [("Origin", "http://evil.example"), ("Content-Type", "text/plain")]

    without_key = await admin.call("POST", "/v1/sessions", key=None, headers=headers, data="{}")
    with_key = await admin.call("POST", "/v1/sessions", headers=headers, data="{}")

    assert (without_key.status, with_key.status) == (401, 415)
    assert not [name for name in with_key.headers if name.lower().startswith("access-control")]


async def request_with_host(admin: AdminHarness, host: str) -> Reply:
    return await admin.call("GET", "/v1/users/ada/sessions", headers=[("Host", host)])


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:7081", "127.0.0.1:1", "localhost.", "[::1]", "[::1]:7081"]
)
async def test_allowed_host_is_accepted_with_any_port(admin: AdminHarness, host: str) -> None:
    assert (await request_with_host(admin, host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebind.evil.example",
        "rebind.evil.example:7081",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.2",
        "[::2]",
        "0",
    ],
)
async def test_other_host_gets_403(admin: AdminHarness, host: str) -> None:
    reply = await request_with_host(admin, host)

    assert reply.status == 403
    assert reply.body["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["localhost@evil.example", "localhost/x", "localhost evil", "localhost:80:80", "[::1"]
)
async def test_malformed_host_gets_400(admin: AdminHarness, host: str) -> None:
    assert (await request_with_host(admin, host)).status == 400


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/users/ada/sessions HTTP/1.0\r\n\r\n",
        b"GET /v1/users/ada/sessions HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET http:/// HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_missing_duplicate_or_other_host_gets_400(admin: AdminHarness, head: bytes) -> None:
    response = await admin.send(head)

    assert response.split(b" ", 2)[1] == b"400"


@pytest.mark.parametrize(("host", "status"), [(b"localhost", b"401"), (b"evil.example", b"403")])
async def test_host_of_an_absolute_target_replaces_the_header(
    admin: AdminHarness, host: bytes, status: bytes
) -> None:
    lines = b"Host: %b\r\nConnection: close\r\n\r\n" % (
        b"x" if host == b"localhost" else b"localhost"
    )
    response = await admin.send(b"GET http://%b/v1/audit HTTP/1.1\r\n%b" % (host, lines))

    assert response.split(b" ", 2)[1] == status
