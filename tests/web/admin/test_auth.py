"""Who is let in at the admin door, and how far."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidegate.web.admin.auth import ApiKey, ApiKeys, Scope
from tests.web.admin.admin_listener import Door, Reply, admin_door

SOME_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
FORM = {"data": {"token": "sgw_" + "A" * 56}}
LEASE = {"json": {"lease": "sgl_" + "A" * 43}}
ROUTES = [
    ("POST", "/v1/sessions", "write", {"json": {"user_id": "ada"}}, 201),
    ("GET", f"/v1/sessions/{SOME_ID}", "read", {}, 404),
    ("GET", "/v1/users/ada/sessions", "read", {}, 200),
    ("POST", f"/v1/sessions/{SOME_ID}/revoke", "revoke", {}, 404),
    ("POST", "/v1/users/ada/revoke", "revoke", {}, 200),
    ("POST", f"/v1/sessions/{SOME_ID}/lock", "write", {}, 404),
    ("PUT", f"/v1/sessions/{SOME_ID}/lock", "write", LEASE, 409),
    ("DELETE", f"/v1/sessions/{SOME_ID}/lock", "write", LEASE, 200),
    ("POST", "/oauth2/introspect", "read", FORM, 200),
    ("POST", "/oauth2/revoke", "revoke", FORM, 200),
]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


def a_key(name: str = "ci", scopes: tuple[Scope, ...] = (Scope.READ,)) -> tuple[str, ApiKey]:
    return ApiKey.mint(name, scopes)


def test_a_minted_key_is_authenticated_by_its_text() -> None:
    text, key = a_key()
    other = a_key("other")[1]

    assert ApiKeys([other, key]).authenticate([f"Bearer {text}"]) == key


def test_a_minted_key_keeps_the_hash_of_its_text_and_not_the_text() -> None:
    text, key = a_key()

    assert key.sha256 == sha256(text.encode()).hexdigest()
    assert text not in repr(key)
    assert key.sha256 not in repr(key)


@pytest.mark.parametrize(
    "spell",
    [
        "bearer {}",
        "BEARER {}",
        "Bearer  {}",
        "  Bearer {}\t",
    ],
)
def test_the_scheme_is_spelled_as_the_grammar_allows(spell: str) -> None:
    text, key = a_key()

    assert ApiKeys([key]).authenticate([spell.format(text)]) == key


@pytest.mark.parametrize(
    "spell",
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
def test_no_other_spelling_of_a_key_is_taken(spell: str) -> None:
    text, key = a_key()

    assert ApiKeys([key]).authenticate([spell.format(text, text)]) is None


def test_a_key_is_not_taken_with_one_character_changed() -> None:
    text, key = a_key()
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")

    assert ApiKeys([key]).authenticate([f"Bearer {wrong}"]) is None
    assert ApiKeys([key]).authenticate([f"Bearer {text.upper()}"]) is None


def test_two_lines_are_no_key_even_when_they_agree() -> None:
    text, key = a_key()

    assert ApiKeys([key]).authenticate([f"Bearer {text}"] * 2) is None


def test_without_keys_nobody_is_let_in() -> None:
    assert ApiKeys([]).authenticate([f"Bearer {a_key()[0]}"]) is None


def test_a_hash_in_upper_case_is_the_same_hash() -> None:
    text, key = a_key()
    shouted = ApiKey(key.name, key.sha256.upper(), key.scopes)

    assert ApiKeys([shouted]).authenticate([f"Bearer {text}"]) == shouted


@pytest.mark.parametrize(
    ("name", "hexed", "scopes"),
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
def test_a_key_that_makes_no_sense_is_refused(name: str, hexed: str, scopes: set[Scope]) -> None:
    with pytest.raises(ValueError, match="key"):
        ApiKey(name, hexed, frozenset(scopes))


def test_two_keys_of_one_name_or_one_hash_are_refused() -> None:
    key = a_key()[1]

    with pytest.raises(ValueError, match="name"):
        ApiKeys([key, a_key(key.name)[1]])
    with pytest.raises(ValueError, match="sha256"):
        ApiKeys([key, ApiKey("other", key.sha256, key.scopes)])


@pytest.mark.parametrize(("method", "path", "scope", "about", "status"), ROUTES)
async def test_a_route_opens_to_its_scope_alone(
    door: Door, method: str, path: str, scope: str, about: dict[str, Any], status: int
) -> None:
    replies = {str(each): await door.call(method, path, key=str(each), **about) for each in Scope}

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
async def test_a_stranger_learns_nothing_but_401(door: Door, method: str, path: str) -> None:
    reply = await door.call(method, path, key=None)

    assert reply.status == 401
    assert reply.body["code"] == "unauthenticated"
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="sidegate-admin"'


async def test_a_wrong_key_is_told_so_in_rfc_6750s_words(door: Door) -> None:
    wrong = [("Authorization", "Bearer sgk_" + "A" * 43)]

    reply = await door.call("GET", "/v1/users/ada/sessions", key=None, headers=wrong)

    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]


async def test_a_session_token_is_not_an_api_key(door: Door) -> None:
    token, _ = await door.create()
    presented = [("Authorization", f"Bearer {token}")]

    reply = await door.call("GET", "/v1/users/ada/sessions", key=None, headers=presented)

    assert reply.status == 401


async def test_two_authorization_lines_are_refused(door: Door) -> None:
    line = f"Authorization: Bearer {door.keys['all']}"

    answer = await door.send(
        door.head("GET /v1/users/ada/sessions HTTP/1.1", line, "Connection: close")
    )

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_cross_origin_simple_request_is_refused(door: Door) -> None:
    headers = [("Origin", "http://evil.example"), ("Content-Type", "text/plain")]

    stranger = await door.call("POST", "/v1/sessions", key=None, headers=headers, data="{}")
    caller = await door.call("POST", "/v1/sessions", headers=headers, data="{}")

    assert (stranger.status, caller.status) == (401, 415)
    assert not [name for name in caller.headers if name.lower().startswith("access-control")]


async def _with_host(door: Door, host: str) -> Reply:
    return await door.call("GET", "/v1/users/ada/sessions", headers=[("Host", host)])


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:7081", "127.0.0.1:1", "localhost.", "[::1]", "[::1]:7081"]
)
async def test_a_host_on_the_list_is_answered_whatever_the_port(door: Door, host: str) -> None:
    assert (await _with_host(door, host)).status == 200


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
async def test_a_host_that_is_not_on_the_list_is_refused(door: Door, host: str) -> None:
    reply = await _with_host(door, host)

    assert reply.status == 403
    assert reply.body["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["localhost@evil.example", "localhost/x", "localhost evil", "localhost:80:80", "[::1"]
)
async def test_a_host_that_is_no_host_name_is_refused(door: Door, host: str) -> None:
    assert (await _with_host(door, host)).status == 400


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/users/ada/sessions HTTP/1.0\r\n\r\n",
        b"GET /v1/users/ada/sessions HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_request_without_one_clear_host_is_refused(door: Door, head: bytes) -> None:
    answer = await door.send(head)

    assert answer.split(b" ", 2)[1] == b"400"
