"""Hostile input at the admin door: every oddity is the sender's mistake, never 5xx."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas import strict_json
from tests.web.admin.admin_listener import Door, admin_door

CREATE = "/v1/sessions"
# The door stays open from one example to the next: it is what they all knock at.
same_door = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


def creation(**fields: Any) -> dict[str, Any]:
    return {"user_id": "ada"} | fields


# one field wrong

NESTED_32 = json.loads("[" * 30 + "]" * 30)
WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, "user_id"),
    ({"user_id": None}, "user_id"),
    ({"user_id": 7}, "user_id"),
    ({"user_id": ["ada"]}, "user_id"),
    ({"user_id": ""}, "user_id"),
    ({"user_id": "x" * 257}, "user_id"),
    ({"user_id": " ada"}, "user_id"),
    ({"user_id": "ada "}, "user_id"),
    ({"user_id": "ada\u00a0"}, "user_id"),
    ({"user_id": "\u3000ada"}, "user_id"),
    ({"user_id": " "}, "user_id"),
    ({"user_id": "ad\x00a"}, "user_id"),
    ({"user_id": "ada\r\nX: y"}, "user_id"),
    ({"user_id": "ad\ta"}, "user_id"),
    ({"user_id": "ad\x1ba"}, "user_id"),
    ({"user_id": "ad\x7fa"}, "user_id"),
    ({"user_id": "ad\x85a"}, "user_id"),
    ({"user_id": "ad\x9fa"}, "user_id"),
    ({"user_id": "ad\ud800a"}, "user_id"),
    ({"user_id": "ad\udfffa"}, "user_id"),
    (creation(session_id="s1"), "session_id"),
    (creation(id="01890a5d-ac96-774b-bcce-b302099a8057"), "id"),
    (creation(token="t"), "token"),
    (creation(import_token="t"), "import_token"),
    (creation(created_at="2020-01-01T00:00:00Z"), "created_at"),
    (creation(revoked_at=None), "revoked_at"),
    (creation(User_id="root"), "User_id"),
    (creation(type="root"), "type"),
    (creation(type="WEB"), "type"),
    (creation(type=None), "type"),
    (creation(type=0), "type"),
    (creation(type=["web"]), "type"),
    (creation(scopes="read"), "scopes"),
    (creation(scopes=None), "scopes"),
    (creation(scopes={"read": True}), "scopes"),
    (creation(scopes=["x"] * 65), "scopes"),
    (creation(scopes=["x" * 1024, "y" * 1024]), "scopes"),
    (creation(scopes=["ok", ""]), "scopes.1"),
    (creation(scopes=["two words"]), "scopes.0"),
    (creation(scopes=['"']), "scopes.0"),
    (creation(scopes=["\\"]), "scopes.0"),
    (creation(scopes=["ü"]), "scopes.0"),
    (creation(scopes=["a\nb"]), "scopes.0"),
    (creation(scopes=["a\n"]), "scopes.0"),
    (creation(scopes=[1]), "scopes.0"),
    (creation(binding=[]), "binding"),
    (creation(binding=None), "binding"),
    (creation(binding={"device": "7"}), "binding.device"),
    (creation(binding={"ip": "fe80::1%eth0"}), "binding.ip"),
    (creation(binding={"ip": "192.0.2.1, 192.0.2.2"}), "binding.ip"),
    (creation(binding={"ip": 7}), "binding.ip"),
    (creation(binding={"user_agent": ""}), "binding.user_agent"),
    (creation(binding={"user_agent": "curl/8\n"}), "binding.user_agent"),
    (creation(binding={"user_agent": "curl/8" + " " * 1024}), "binding.user_agent"),
    (creation(binding={"accept_language": "de_CH"}), "binding.accept_language"),
    (creation(binding={"header": " "}), "binding.header"),
    (creation(binding={"header": "ü"}), "binding.header"),
    (creation(binding={"header": "\ud800"}), "binding.header"),
    (creation(expires_in=0), "expires_in"),
    (creation(expires_in=-1), "expires_in"),
    (creation(expires_in=1.0), "expires_in"),
    (creation(expires_in=True), "expires_in"),
    (creation(expires_in="60"), "expires_in"),
    (creation(expires_in=12 * 3600 + 1), "expires_in"),
    (creation(expires_in=10**400), "expires_in"),
    (creation(ip=""), "ip"),
    (creation(ip="localhost"), "ip"),
    (creation(ip="1.2.3"), "ip"),
    (creation(ip="1.2.3.04"), "ip"),
    (creation(ip=" 1.2.3.4"), "ip"),
    (creation(ip="1.2.3.4/32"), "ip"),
    (creation(ip="fe80::1%eth0"), "ip"),
    (creation(ip=16909060), "ip"),
    (creation(user_agent="x" * 513), "user_agent"),
    (creation(user_agent="a\x00b"), "user_agent"),
    (creation(user_agent="\udc80"), "user_agent"),
    (creation(device="x" * 513), "device"),
    (creation(device=1), "device"),
    (creation(metadata=[]), "metadata"),
    (creation(metadata="{}"), "metadata"),
    (creation(metadata=None), "metadata"),
    (creation(metadata={"k": "x" * 16_400}), "metadata"),
    (creation(metadata={"k": "a\x00b"}), "metadata"),
    (creation(metadata={"a\x00b": 1}), "metadata"),
    (creation(metadata={"k": [{"deep": "\x00"}]}), "metadata"),
    (creation(metadata={"k": "\ud83d"}), "metadata"),
    (creation(metadata={"\udc00": 1}), "metadata"),
    (creation(metadata={"k": 2**63}), "metadata"),
    (creation(metadata={"k": [-(2**63) - 1]}), "metadata"),
    (creation(provider="idp"), "provider"),
    (creation(type="web", provider="idp"), "provider"),
    (creation(provider_session_id="1"), "provider_session_id"),
    (creation(type="mobile", provider_subject="u1"), "provider_subject"),
    (creation(type="sso", provider_session_id="1"), "provider_session_id"),
    (creation(type="sso", provider=None, provider_subject="u1"), "provider_subject"),
    (creation(type="sso", provider=""), "provider"),
    (creation(type="sso", provider="x" * 129), "provider"),
    (creation(type="sso", provider="a\nb"), "provider"),
    (creation(type="sso", provider="idp", provider_session_id=""), "provider_session_id"),
    (creation(type="sso", provider="idp", provider_session_id=1), "provider_session_id"),
    (creation(type="sso", provider="idp", provider_subject="a\x00b"), "provider_subject"),
    (creation(type="sso", provider="idp", provider_subject="x" * 513), "provider_subject"),
]


@pytest.mark.parametrize(("document", "path"), WRONG_FIELDS)
async def test_a_wrong_field_is_refused_by_name(
    door: Door, document: dict[str, Any], path: str
) -> None:
    reply = await door.post_raw(CREATE, json.dumps(document).encode())

    assert reply.status == 400
    assert reply.body["code"] == "invalid_request"
    assert [each["path"] for each in reply.body["errors"]] == [path]
    assert reply.body["errors"][0]["message"]
    assert (await door.call("GET", "/v1/users/ada/sessions")).body["sessions"] == []


@pytest.mark.parametrize(
    "document",
    [
        {"user_id": "x"},
        {"user_id": "😀" * 256},
        {"user_id": "a b"},
        {"user_id": "../..'; DROP TABLE sessions; --"},
        {"user_id": "ada\u202e\ufeff"},
        creation(type="service", expires_in=7 * 24 * 3600),
        creation(expires_in=1),
        creation(expires_in=None, ip=None, user_agent=None, device=None),
        creation(scopes=["!#[]~:/?.=" + "x" * 100]),
        creation(scopes=[f"s{number}" for number in range(64)]),
        creation(user_agent="x" * 512, device="ü" * 512),
        creation(metadata={"k": "x" * (16 * 1024 - 8)}),
        creation(metadata={"k": NESTED_32}),
        creation(metadata={"": {"": None}, "__proto__": 1, "k": -(2**63), "f": 1e308}),
        creation(provider=None, provider_session_id=None, provider_subject=None),
        creation(type="sso"),
        creation(type="sso", provider="idp"),
        creation(type="sso", provider="https://id.example", provider_subject="ü" * 512),
    ],
)
async def test_what_is_merely_unusual_is_taken_as_it_is(
    door: Door, document: dict[str, Any]
) -> None:
    _, shown = await door.create(**document)

    again = (await door.call("GET", f"/v1/sessions/{shown['id']}")).body
    assert again == shown
    assert again["user_id"] == document["user_id"]
    assert again["metadata"] == document.get("metadata", {})


async def test_all_mistakes_are_told_at_once(door: Door) -> None:
    wrong = {
        "user_id": "",
        "type": "root",
        "scopes": ["ok", "not ok", 3],
        "ip": "here",
        "device": 1,
        "extra": 1,
    }

    reply = await door.call("POST", CREATE, json=wrong)

    paths = {each["path"] for each in reply.body["errors"]}
    assert paths == {"user_id", "type", "scopes.1", "scopes.2", "ip", "device", "extra"}


async def test_a_lifetime_too_long_is_refused_with_the_longest(door: Door) -> None:
    reply = await door.call("POST", CREATE, json=creation(type="sso", expires_in=10**6))

    message = reply.body["errors"][0]["message"]
    assert message == "sso sessions live for at most 28800 seconds"


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 129}, "reason"),
        ({"reason": "a\nb"}, "reason"),
        ({"reason": "\x1b[31m"}, "reason"),
        ({"reason": "\ud800"}, "reason"),
        ({"reason": None}, "reason"),
        ({"reason": 1}, "reason"),
        ({"by": "root"}, "by"),
        ({"user_id": "ada"}, "user_id"),
    ],
)
async def test_a_wrong_revocation_revokes_nothing(
    door: Door, document: dict[str, Any], path: str
) -> None:
    _, shown = await door.create()

    replies = [
        await door.post_raw(f"/v1/sessions/{shown['id']}/revoke", json.dumps(document).encode()),
        await door.post_raw("/v1/users/ada/revoke", json.dumps(document).encode()),
    ]

    for reply in replies:
        assert reply.status == 400
        assert [each["path"] for each in reply.body["errors"]] == [path]
    after = await door.call("GET", f"/v1/sessions/{shown['id']}")
    assert after.body["state"] == "active"


# bodies that are no JSON, or no one document

NOT_JSON: list[bytes] = [
    b"",
    b" ",
    b"{",
    b"nonsense",
    b'{"user_id": "ada"',
    b'{"user_id": "ada"} {}',
    b'{"user_id": "ada",}',
    b"{'user_id': 'ada'}",
    b'{"user_id": "ada" /* c */}',
    b'{"user_id": "ad\na"}',
    b'{"user_id": "\\x41"}',
    b'{"user_id": "ada", "user_id": "root"}',
    b'{"user_id": "ada", "user\\u005fid": "root"}',
    b'{"user_id": "ada", "metadata": {"a": 1, "a": 1}}',
    b'{"user_id": "ada", "metadata": {"k": [{"a": 1, "a": 2}]}}',
    b'{"user_id": "ada", "metadata": {"k": NaN}}',
    b'{"user_id": "ada", "metadata": {"k": Infinity}}',
    b'{"user_id": "ada", "metadata": {"k": -Infinity}}',
    b'{"user_id": "ada", "metadata": {"k": 1e999}}',
    b'{"user_id": "ada", "metadata": {"k": -1e999}}',
    b'{"user_id": "ada", "expires_in": ' + b"9" * 5000 + b"}",
    b'{"user_id": "ada", "expires_in": 0x10}',
    b'{"user_id": "ada", "expires_in": 01}',
    b'\xef\xbb\xbf{"user_id": "ada"}',
    '{"user_id": "ada"}'.encode("utf-16"),
    '{"user_id": "ada"}'.encode("utf-32"),
    b'{"user_id": "\xff"}',
    b'{"user_id": "\xc0\x80"}',
    b'{"user_id": "\xed\xa0\x80"}',
    b"\x00",
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"[" * 30_000 + b"]" * 30_000,
    b'{"user_id": "ada", "metadata": {"k": ' + b"[" * 31 + b"]" * 31 + b"}}",
    b'"' + b"\\" * 60_000,
    b'{"user_id": "[[[[' + b"\\" * 101 + b'"}',
]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:40]))
async def test_a_body_without_one_meaning_is_refused(door: Door, body: bytes) -> None:
    reply = await door.post_raw(CREATE, body)

    assert reply.status == 400
    assert reply.body["code"] == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"ada"', b"true", b"[{}]"])
async def test_a_body_that_is_no_object_is_refused(door: Door, body: bytes) -> None:
    reply = await door.post_raw(CREATE, body)

    assert (reply.status, reply.body["code"]) == (400, "invalid_request")


def test_brackets_inside_a_string_are_not_depth() -> None:
    text = "[" * 100 + '\\"' + "{" * 100

    assert strict_json.read(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json2",
        "application/problem+json",
        "text/json",
        "application /json",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=latin-1",
        "application/json;charset=",
    ],
)
async def test_a_body_of_another_kind_is_refused(door: Door, kind: str) -> None:
    reply = await door.post_raw(CREATE, b'{"user_id": "ada"}', kind)

    assert (reply.status, reply.body["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    [
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; x=y",
    ],
)
async def test_the_kind_is_spelled_as_the_grammar_allows(door: Door, kind: str) -> None:
    assert (await door.post_raw(CREATE, b'{"user_id": "ada"}', kind)).status == 201


async def test_two_kinds_are_no_kind(door: Door) -> None:
    kinds = ["Content-Type: application/json", "Content-Type: text/plain"]
    head = door.head(f"POST {CREATE} HTTP/1.1", *kinds, "Content-Length: 2", "Connection: close")

    assert _statuses(await door.send(head + b"{}")) == [400]


async def test_a_compressed_body_is_refused_unopened(door: Door) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]

    reply = await door.call("POST", CREATE, data=bomb, headers=headers)

    assert (reply.status, reply.body["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("path", [CREATE, "/v1/users/ada/revoke", "/oauth2/introspect"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_too_large_is_413(door: Door, path: str, chunked: bool) -> None:
    form = path.startswith("/oauth2")
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    body = b" " * (bodies.LIMIT + 1)

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    data = pieces() if chunked else body
    reply = await door.call("POST", path, data=data, headers=[("Content-Type", kind)])

    assert (reply.status, reply.body["code"]) == (413, "body_too_large")


async def test_a_body_of_the_largest_size_is_read(door: Door) -> None:
    body = b'{"user_id": "ada"}'.ljust(bodies.LIMIT)

    assert (await door.post_raw(CREATE, body)).status == 201


async def test_a_body_that_does_not_come_is_408(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.05)
    lines = ["Content-Type: application/json", "Content-Length: 100", "Connection: close"]

    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(door.head(f"POST {CREATE} HTTP/1.1", *lines) + b"{")
    status_line = await reader.readline()
    writer.close()
    await writer.wait_closed()

    assert status_line.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_leaves_in_mid_body_is_no_crash(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["Content-Type: application/json", "Content-Length: 100", "Expect: 100-continue"]

    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(door.head(f"POST {CREATE} HTTP/1.1", *lines))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # it waits for the body now
    writer.write(b"{")
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await door.counted.another.wait()

    assert door.counted == [(CREATE, "POST", 400)]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


# forms


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"token",
        b"token=",
        b"toke=x",
        b"token_type_hint=access_token",
        b"token=a&token=b",
        b"token=a&token=a",
        b"token=a&tok%65n=b",
        b"token=%FF",
        b"token=\xff",
        b"&".join(b"f%d=1" % number for number in range(40)),
        b"&" * 60_000,
        b'{"token": "x"}',
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_a_form_without_one_token_is_refused(door: Door, path: str, body: bytes) -> None:
    reply = await door.post_raw(path, body, "application/x-www-form-urlencoded")

    assert reply.status == 400
    assert reply.body["error"] == "invalid_request"


@pytest.mark.parametrize(
    "body",
    [
        b"token=%00",
        b"token=%zz",
        b"token=%",
        b"token=a;b",
        b"token=a=b",
        b"token=%F0%9F%98%80",
        b"token=" + b"A" * 60_000,
        b"&&token=x&&",
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_a_token_that_is_none_is_merely_not_active(door: Door, body: bytes) -> None:
    reply = await door.post_raw("/oauth2/introspect", body, "application/x-www-form-urlencoded")

    assert (reply.status, reply.body) == (200, {"active": False})


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data"])
async def test_a_form_of_another_kind_is_refused(door: Door, kind: str) -> None:
    assert (await door.post_raw("/oauth2/revoke", b"token=x", kind)).status == 415


# paths and queries


@pytest.mark.parametrize(
    "segment",
    [
        "%00",
        "a%00b",
        "%0A",
        "%0d%0aX:%20y",
        "%1b",
        "%7f",
        "%C2%85",
        "%20ada",
        "ada%20",
        "%20",
        "%C2%A0ada",
        "%",
        "%4",
        "%zz",
        "ada%",
        "%u0041",
        "%FF",
        "%C0%80",
        "%ED%A0%80",
        "%F5%80%80%80",
        "x" * 257,
        "%F0%9F%98%80" * 257,
    ],
)
async def test_a_path_that_holds_no_user_id_is_refused(door: Door, segment: str) -> None:
    replies = [
        await door.call("GET", f"/v1/users/{segment}/sessions"),
        await door.call("POST", f"/v1/users/{segment}/revoke"),
    ]

    for reply in replies:
        assert (reply.status, reply.body["code"]) == (400, "invalid_path")


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=201", "limit"),
        ("limit=1000000000", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=1.0", "limit"),
        ("limit=+1", "limit"),
        ("limit=01", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1%0a", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=", "cursor"),
        ("cursor=x&cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("include_ended=yes", "include_ended"),
        ("include_ended=1", "include_ended"),
        ("include_ended=", "include_ended"),
        ("include_ended=TRUE", "include_ended"),
        ("offset=1", "offset"),
        ("user_id=bob", "user_id"),
        ("Limit=1", "Limit"),
        ("%00=1", "\x00"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(door: Door, query: str, path: str) -> None:
    reply = await door.call("GET", f"/v1/users/ada/sessions?{query}")

    assert (reply.status, reply.body["code"]) == (400, "invalid_query")
    assert [each["path"] for each in reply.body["errors"]] == [path]


async def test_a_route_without_parameters_takes_none(door: Door) -> None:
    reply = await door.call("POST", f"{CREATE}?user_id=root", json=creation())

    assert (reply.status, reply.body["code"]) == (400, "invalid_query")


# bytes

ODD_LINES: list[str] = [
    "X-A: \xff\xfe",
    "X-A: " + "y" * 7000,
    "Expect: 100-continue",
    "Expect: nonsense",
    "Expect: 100-continue, nonsense",
    "Expect: 100-continue\r\nExpect: 100-continue",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c\r\nHTTP2-Settings: AAA",
    "Content-Type: \xff",
    "Content-Type: ;;;=",
    "Content-Encoding: gzip",
    "Content-Encoding: \xff",
    "Content-Encoding: br, gzip",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999999",
    "Content-Length: 0x10",
    "Cookie: \x01",
    "X-Request-Id: \xff\xff\xff\xff\xff\xff\xff\xff",
    "Range: bytes=0-1",
    "If-Match: *",
    "Accept: nonsense/\xff;q=x",
    "X-HTTP-Method-Override: DELETE",
    "Authorization: Bearer x",
    "Host: localhost",
    " folded",
    "no colon",
    "X A: b",
    "X-A : b",
    ": b",
    "X-A: a\x00b",
]


@pytest.mark.parametrize("line", ODD_LINES, ids=repr)
@pytest.mark.parametrize("path", [CREATE, "/oauth2/introspect", "/v1/users/ada/revoke", "/nowhere"])
async def test_an_odd_header_line_is_never_a_crash(door: Door, path: str, line: str) -> None:
    head = door.head(f"POST {path} HTTP/1.1", line, "Connection: close")
    framed = "-Length" in line or "Transfer-" in line  # else a body would be a second request

    statuses = _statuses(await door.send(head + (b"3\r\n{}\n\r\n0\r\n\r\n" if framed else b"")))

    assert statuses
    assert not [status for status in statuses if status >= 500]


@pytest.mark.parametrize("line", ["Expect: x", "Expect: 100-continue\r\nExpect: 100-continue"])
async def test_an_expectation_nobody_knows_is_417(door: Door, line: str) -> None:
    head = door.head(f"POST {CREATE} HTTP/1.1", line, "Connection: close")

    assert _statuses(await door.send(head)) == [417]


async def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(door: Door) -> None:
    lines = ["Content-Type: application/json", "Content-Length: 17", "Expect: 100-Continue"]
    head = door.head(f"POST {CREATE} HTTP/1.1", *lines, "Connection: close")

    assert _statuses(await door.send(head + b'{"user_id":"ada"}')) == [100, 201]


def _statuses(answer: bytes) -> list[int]:
    heads = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split(b" ")[1]) for line in heads]


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "v1/sessions",
        "//",
        "//v1/sessions",
        "/v1//sessions",
        "/v1/users//sessions",
        "/v1/users/../sessions/x",
        "/v1/users/a/b/sessions",
        "/v1/users/{user_id}/sessions",
        "/v1/sessions/%2e%2e",
        "/v1/%73essions/x",
        "/v1/sessions;a=b",
        "/v1/sessions/x#fragment",
        "/v1/users/ada/sessions?%",
        "/v1/users/ada/sessions?&=&;",
        "/v1/users/ada/sessions?limit=%ED%A0%80",
        "/v1/users/ada/sessions?limit=%FF",
        "/%",
        "/%00",
        "/\xff",
        "/" + "a" * 9000,
        "/?" + "a=b&" * 1500,
        "http://localhost/v1/sessions/x",
        "http://[::1/v1",
        "https://evil.example/v1/sessions/x",
        "http://user:pass@localhost/",
        "localhost:80",
    ],
)
async def test_an_odd_target_is_never_a_crash(door: Door, target: str) -> None:
    for method in ("GET", "POST", "CONNECT", "OPTIONS", "TRACE"):
        head = door.head(f"{method} {target} HTTP/1.1", "Connection: close")

        statuses = _statuses(await door.send(head))

        assert statuses
        assert not [status for status in statuses if status >= 500]


# anything at all

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters()
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
names = st.sampled_from(
    [
        "user_id",
        "type",
        "scopes",
        "expires_in",
        "ip",
        "user_agent",
        "device",
        "metadata",
        "reason",
        "except",
    ]
)
nearly: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"user_id": st.text(min_size=1, max_size=20)}
) | st.just({})
creations = st.builds(
    lambda base, more: base | more, nearly, st.dictionaries(names, documents, max_size=4)
)
surrogates = st.text(st.characters(categories=["Cs", "Cc", "Lu", "Zs"]), max_size=8)


@same_door
@given(document=creations | documents | st.dictionaries(names, surrogates))
async def test_no_json_is_ever_a_crash(door: Door, document: Any) -> None:
    body = json.dumps(document).encode()  # NaN and lone surrogates included

    for path in (CREATE, "/v1/users/ada/revoke"):
        reply = await door.post_raw(path, body)
        assert reply.status in (200, 201, 400)


@same_door
@given(body=st.binary(max_size=200))
async def test_no_bytes_are_ever_a_crash(door: Door, body: bytes) -> None:
    replies = [
        await door.post_raw(CREATE, body),
        await door.post_raw("/oauth2/introspect", body, "application/x-www-form-urlencoded"),
        await door.post_raw(
            "/oauth2/revoke", b"token=" + body, "application/x-www-form-urlencoded"
        ),
    ]

    assert not [reply for reply in replies if reply.status >= 500]


@same_door
@given(user_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
async def test_a_user_id_is_taken_whole_or_refused(door: Door, user_id: str) -> None:
    created = await door.call("POST", CREATE, json={"user_id": user_id})
    encoded = "".join(f"%{byte:02X}" for byte in user_id.encode())
    listed = await door.call("GET", f"/v1/users/{encoded}/sessions?limit=1")

    assert (created.status, listed.status) in ((201, 200), (400, 400))
    if listed.status == 200:
        assert listed.body["sessions"][0]["user_id"] == user_id


@same_door
@given(
    path=st.text(st.characters(codec="ascii", exclude_characters=" \r\n"), max_size=40),
    where=st.sampled_from(["/", "/v1/users/", "/v1/sessions/", "/v1/users/ada/sessions?"]),
)
async def test_no_target_is_ever_a_crash(door: Door, path: str, where: str) -> None:
    head = door.head(f"GET {where}{path} HTTP/1.1", "Connection: close")

    statuses = _statuses(await door.send(head))

    assert statuses
    assert not [status for status in statuses if status >= 500]
