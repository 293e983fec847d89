"""Hostile and unusual input to the admin API: always a 4xx response, never 5xx."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas import strict_json
from tests.web.admin.admin_listener import AdminHarness, open_admin

CREATE = "/v1/sessions"
# All examples of a test share one listener.
shared_listener = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


def session_body(**fields: Any) -> dict[str, Any]:
    return {"user_id": "ada"} | fields


# invalid members

NESTED_32 = json.loads("[" * 30 + "]" * 30)
INVALID_MEMBERS: list[tuple[dict[str, Any], str]] = [
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
    (session_body(session_id="s1"), "session_id"),
    (session_body(id="01890a5d-ac96-774b-bcce-b302099a8057"), "id"),
    (session_body(token="t"), "token"),
    (session_body(import_token="t"), "import_token"),
    (session_body(created_at="2020-01-01T00:00:00Z"), "created_at"),
    (session_body(revoked_at=None), "revoked_at"),
    (session_body(User_id="root"), "User_id"),
    (session_body(type="root"), "type"),
    (session_body(type="WEB"), "type"),
    (session_body(type=None), "type"),
    (session_body(type=0), "type"),
    (session_body(type=["web"]), "type"),
    (session_body(scopes="read"), "scopes"),
    (session_body(scopes=None), "scopes"),
    (session_body(scopes={"read": True}), "scopes"),
    (session_body(scopes=["x"] * 65), "scopes"),
    (session_body(scopes=["x" * 1024, "y" * 1024]), "scopes"),
    (session_body(scopes=["ok", ""]), "scopes.1"),
    (session_body(scopes=["two words"]), "scopes.0"),
    (session_body(scopes=['"']), "scopes.0"),
    (session_body(scopes=["\\"]), "scopes.0"),
    (session_body(scopes=["ü"]), "scopes.0"),
    (session_body(scopes=["a\nb"]), "scopes.0"),
    (session_body(scopes=["a\n"]), "scopes.0"),
    (session_body(scopes=[1]), "scopes.0"),
    (session_body(binding=[]), "binding"),
    (session_body(binding=None), "binding"),
    (session_body(binding={"device": "7"}), "binding.device"),
    (session_body(binding={"ip": "fe80::1%eth0"}), "binding.ip"),
    (session_body(binding={"ip": "192.0.2.1, 192.0.2.2"}), "binding.ip"),
    (session_body(binding={"ip": 7}), "binding.ip"),
    (session_body(binding={"user_agent": ""}), "binding.user_agent"),
    (session_body(binding={"user_agent": "curl/8\n"}), "binding.user_agent"),
    (session_body(binding={"user_agent": "curl/8" + " " * 1024}), "binding.user_agent"),
    (session_body(binding={"accept_language": "de_CH"}), "binding.accept_language"),
    (session_body(binding={"header": " "}), "binding.header"),
    (session_body(binding={"header": "ü"}), "binding.header"),
    (session_body(binding={"header": "\ud800"}), "binding.header"),
    (session_body(expires_in=0), "expires_in"),
    (session_body(expires_in=-1), "expires_in"),
    (session_body(expires_in=1.0), "expires_in"),
    (session_body(expires_in=True), "expires_in"),
    (session_body(expires_in="60"), "expires_in"),
    (session_body(expires_in=12 * 3600 + 1), "expires_in"),
    (session_body(expires_in=10**400), "expires_in"),
    (session_body(ip=""), "ip"),
    (session_body(ip="localhost"), "ip"),
    (session_body(ip="1.2.3"), "ip"),
    (session_body(ip="1.2.3.04"), "ip"),
    (session_body(ip=" 1.2.3.4"), "ip"),
    (session_body(ip="1.2.3.4/32"), "ip"),
    (session_body(ip="fe80::1%eth0"), "ip"),
    (session_body(ip=16909060), "ip"),
    (session_body(user_agent="x" * 513), "user_agent"),
    (session_body(user_agent="a\x00b"), "user_agent"),
    (session_body(user_agent="\udc80"), "user_agent"),
    (session_body(device="x" * 513), "device"),
    (session_body(device=1), "device"),
    (session_body(metadata=[]), "metadata"),
    (session_body(metadata="{}"), "metadata"),
    (session_body(metadata=None), "metadata"),
    (session_body(metadata={"k": "x" * 16_400}), "metadata"),
    (session_body(metadata={"k": "a\x00b"}), "metadata"),
    (session_body(metadata={"a\x00b": 1}), "metadata"),
    (session_body(metadata={"k": [{"deep": "\x00"}]}), "metadata"),
    (session_body(metadata={"k": "\ud83d"}), "metadata"),
    (session_body(metadata={"\udc00": 1}), "metadata"),
    (session_body(metadata={"k": 2**63}), "metadata"),
    (session_body(metadata={"k": [-(2**63) - 1]}), "metadata"),
    (session_body(provider="idp"), "provider"),
    (session_body(type="web", provider="idp"), "provider"),
    (session_body(provider_session_id="1"), "provider_session_id"),
    (session_body(type="mobile", provider_subject="u1"), "provider_subject"),
    (session_body(type="sso", provider_session_id="1"), "provider_session_id"),
    (session_body(type="sso", provider=None, provider_subject="u1"), "provider_subject"),
    (session_body(type="sso", provider=""), "provider"),
    (session_body(type="sso", provider="x" * 129), "provider"),
    (session_body(type="sso", provider="a\nb"), "provider"),
    (session_body(type="sso", provider="idp", provider_session_id=""), "provider_session_id"),
    (session_body(type="sso", provider="idp", provider_session_id=1), "provider_session_id"),
    (session_body(type="sso", provider="idp", provider_subject="a\x00b"), "provider_subject"),
    (session_body(type="sso", provider="idp", provider_subject="x" * 513), "provider_subject"),
]


@pytest.mark.parametrize(("document", "path"), INVALID_MEMBERS)
async def test_invalid_member_is_refused_by_path(
    admin: AdminHarness, document: dict[str, Any], path: str
) -> None:
    reply = await admin.post_raw(CREATE, json.dumps(document).encode())

    assert reply.status == 400
    assert reply.body["code"] == "invalid_request"
    assert [each["path"] for each in reply.body["errors"]] == [path]
    assert reply.body["errors"][0]["message"]
    assert (await admin.call("GET", "/v1/users/ada/sessions")).body["sessions"] == []


@pytest.mark.parametrize(
    "document",
    [
        {"user_id": "x"},
        {"user_id": "😀" * 256},
        {"user_id": "a b"},
        {"user_id": "../..'; DROP TABLE sessions; --"},
        {"user_id": "ada\u202e\ufeff"},
        session_body(type="service", expires_in=7 * 24 * 3600),
        session_body(expires_in=1),
        session_body(expires_in=None, ip=None, user_agent=None, device=None),
        session_body(scopes=["!#[]~:/?.=" + "x" * 100]),
        session_body(scopes=[f"s{number}" for number in range(64)]),
        session_body(user_agent="x" * 512, device="ü" * 512),
        session_body(metadata={"k": "x" * (16 * 1024 - 8)}),
        session_body(metadata={"k": NESTED_32}),
        session_body(metadata={"": {"": None}, "__proto__": 1, "k": -(2**63), "f": 1e308}),
        session_body(provider=None, provider_session_id=None, provider_subject=None),
        session_body(type="sso"),
        session_body(type="sso", provider="idp"),
        session_body(type="sso", provider="https://id.example", provider_subject="ü" * 512),
    ],
)
async def test_unusual_but_valid_session_is_created_unchanged(
    admin: AdminHarness, document: dict[str, Any]
) -> None:
    _, session = await admin.create(**document)

    stored = (await admin.call("GET", f"/v1/sessions/{session['id']}")).body
    assert stored == session
    assert stored["user_id"] == document["user_id"]
    assert stored["metadata"] == document.get("metadata", {})


async def test_all_validation_errors_are_listed(admin: AdminHarness) -> None:
    invalid = {
        "user_id": "",
        "type": "root",
        "scopes": ["ok", "not ok", 3],
        "ip": "here",
        "device": 1,
        "extra": 1,
    }

    reply = await admin.call("POST", CREATE, json=invalid)

    paths = {each["path"] for each in reply.body["errors"]}
    assert paths == {"user_id", "type", "scopes.1", "scopes.2", "ip", "device", "extra"}


async def test_error_for_a_long_lifetime_names_the_maximum(admin: AdminHarness) -> None:
    reply = await admin.call("POST", CREATE, json=session_body(type="sso", expires_in=10**6))

    message = reply.body["errors"][0]["message"]
    assert message == "sso sessions last at most 28800 seconds"


@pytest.mark.parametrize(
    ("document", "size"),
    [
        (session_body(scopes=["," * 1311, "xxx"]), 4_097),
        (session_body(user_id="\U0001f600" * 256, scopes=["a" * 868]), 4_097),
        (
            session_body(user_id="\U0001f600" * 256, scopes=[f"new,{n:09}" for n in range(64)]),
            4_252,
        ),
    ],
)
async def test_oversized_identity_is_refused_by_its_own_code_and_not_created(
    admin: AdminHarness, document: dict[str, Any], size: int
) -> None:
    admin.set_max_identity(4096)

    reply = await admin.call("POST", CREATE, json=document)

    sessions = await admin.call("GET", f"/v1/users/{quote(document['user_id'])}/sessions")
    events = await admin.call("GET", "/v1/audit")
    assert (reply.status, reply.body["code"]) == (400, "identity_too_large")
    assert reply.body["detail"] == (
        f"the identity headers take at most 4096 bytes (gate.max_identity); these would take {size}"
    )
    assert sessions.body["sessions"] == events.body["events"] == []


async def test_identity_of_exactly_the_limit_is_created(admin: AdminHarness) -> None:
    admin.set_max_identity(4096)
    await admin.create(user_id="\U0001f600" * 256, scopes=["a" * 867])


async def test_other_errors_of_a_session_with_an_oversized_identity_are_listed(
    admin: AdminHarness,
) -> None:
    admin.set_max_identity(1024)
    invalid = session_body(user_id="ü" * 200, expires_in=0, ip="here", scopes=["ok", ""])

    reply = await admin.call("POST", CREATE, json=invalid)

    assert reply.body["code"] == "invalid_request"
    paths = {each["path"] for each in reply.body["errors"]}
    assert paths == {"expires_in", "ip", "scopes.1"}


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
async def test_invalid_revocation_revokes_nothing(
    admin: AdminHarness, document: dict[str, Any], path: str
) -> None:
    _, session = await admin.create()

    replies = [
        await admin.post_raw(f"/v1/sessions/{session['id']}/revoke", json.dumps(document).encode()),
        await admin.post_raw("/v1/users/ada/revoke", json.dumps(document).encode()),
    ]

    for reply in replies:
        assert reply.status == 400
        assert [each["path"] for each in reply.body["errors"]] == [path]
    after = await admin.call("GET", f"/v1/sessions/{session['id']}")
    assert after.body["state"] == "active"


# bodies that are not valid JSON

INVALID_JSON: list[bytes] = [
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


@pytest.mark.parametrize("body", INVALID_JSON, ids=lambda body: repr(body[:40]))
async def test_invalid_or_ambiguous_json_is_refused(admin: AdminHarness, body: bytes) -> None:
    reply = await admin.post_raw(CREATE, body)

    assert reply.status == 400
    assert reply.body["code"] == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"ada"', b"true", b"[{}]"])
async def test_json_that_is_not_an_object_is_refused(admin: AdminHarness, body: bytes) -> None:
    reply = await admin.post_raw(CREATE, body)

    assert (reply.status, reply.body["code"]) == (400, "invalid_request")


def test_brackets_in_a_string_do_not_count_as_depth() -> None:
    text = "[" * 100 + '\\"' + "{" * 100

    assert strict_json.parse(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "media_type",
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
async def test_other_media_type_is_415(admin: AdminHarness, media_type: str) -> None:
    reply = await admin.post_raw(CREATE, b'{"user_id": "ada"}', media_type)

    assert (reply.status, reply.body["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type",
    [
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; x=y",
    ],
)
async def test_valid_content_type_is_accepted(admin: AdminHarness, media_type: str) -> None:
    assert (await admin.post_raw(CREATE, b'{"user_id": "ada"}', media_type)).status == 201


async def test_duplicate_content_type_is_refused(admin: AdminHarness) -> None:
    lines = ["Content-Type: application/json", "Content-Type: text/plain"]
    head = admin.head(f"POST {CREATE} HTTP/1.1", *lines, "Content-Length: 2", "Connection: close")

    assert read_statuses(await admin.send(head + b"{}")) == [400]


async def test_compressed_body_is_415(admin: AdminHarness) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]

    reply = await admin.call("POST", CREATE, data=bomb, headers=headers)

    assert (reply.status, reply.body["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("path", [CREATE, "/v1/users/ada/revoke", "/oauth2/introspect"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_body_is_413(admin: AdminHarness, path: str, chunked: bool) -> None:
    form = path.startswith("/oauth2")
    media_type = "application/x-www-form-urlencoded" if form else "application/json"
    body = b" " * (bodies.MAX_SIZE + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    data = chunks() if chunked else body
    reply = await admin.call("POST", path, data=data, headers=[("Content-Type", media_type)])

    assert (reply.status, reply.body["code"]) == (413, "body_too_large")


async def test_body_of_the_maximum_size_is_accepted(admin: AdminHarness) -> None:
    body = b'{"user_id": "ada"}'.ljust(bodies.MAX_SIZE)

    assert (await admin.post_raw(CREATE, body)).status == 201


async def test_incomplete_body_times_out_with_408(
    admin: AdminHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_TIMEOUT", 0.05)
    lines = ["Content-Type: application/json", "Content-Length: 100", "Connection: close"]

    reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
    writer.write(admin.head(f"POST {CREATE} HTTP/1.1", *lines) + b"{")
    status_line = await reader.readline()
    writer.close()
    await writer.wait_closed()

    assert status_line.startswith(b"HTTP/1.1 408 ")


async def test_disconnect_during_the_body_is_no_server_error(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["Content-Type: application/json", "Content-Length: 100", "Expect: 100-continue"]

    reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
    writer.write(admin.head(f"POST {CREATE} HTTP/1.1", *lines))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b"{")
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await admin.requests.updated.wait()

    assert admin.requests == [(CREATE, "POST", 400)]
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
async def test_form_without_exactly_one_token_is_400(
    admin: AdminHarness, path: str, body: bytes
) -> None:
    reply = await admin.post_raw(path, body, "application/x-www-form-urlencoded")

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
async def test_introspection_of_a_malformed_token_is_inactive(
    admin: AdminHarness, body: bytes
) -> None:
    reply = await admin.post_raw("/oauth2/introspect", body, "application/x-www-form-urlencoded")

    assert (reply.status, reply.body) == (200, {"active": False})


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "multipart/form-data"])
async def test_form_with_other_media_type_is_415(admin: AdminHarness, media_type: str) -> None:
    assert (await admin.post_raw("/oauth2/revoke", b"token=x", media_type)).status == 415


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
async def test_invalid_user_id_in_a_path_is_400(admin: AdminHarness, segment: str) -> None:
    replies = [
        await admin.call("GET", f"/v1/users/{segment}/sessions"),
        await admin.call("POST", f"/v1/users/{segment}/revoke"),
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
async def test_invalid_query_parameter_is_refused_by_name(
    admin: AdminHarness, query: str, path: str
) -> None:
    reply = await admin.call("GET", f"/v1/users/ada/sessions?{query}")

    assert (reply.status, reply.body["code"]) == (400, "invalid_query")
    assert [each["path"] for each in reply.body["errors"]] == [path]


async def test_route_without_parameters_refuses_any(admin: AdminHarness) -> None:
    reply = await admin.call("POST", f"{CREATE}?user_id=root", json=session_body())

    assert (reply.status, reply.body["code"]) == (400, "invalid_query")


# header lines and targets

UNUSUAL_LINES: list[str] = [
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


@pytest.mark.parametrize("line", UNUSUAL_LINES, ids=repr)
@pytest.mark.parametrize("path", [CREATE, "/oauth2/introspect", "/v1/users/ada/revoke", "/nowhere"])
async def test_unusual_header_is_never_a_server_error(
    admin: AdminHarness, path: str, line: str
) -> None:
    head = admin.head(f"POST {path} HTTP/1.1", line, "Connection: close")
    has_body = "-Length" in line or "Transfer-" in line  # otherwise it would be a second request

    statuses = read_statuses(
        await admin.send(head + (b"3\r\n{}\n\r\n0\r\n\r\n" if has_body else b""))
    )

    assert statuses
    assert not [status for status in statuses if status >= 500]


@pytest.mark.parametrize("line", ["Expect: x", "Expect: 100-continue\r\nExpect: 100-continue"])
async def test_unknown_expectation_is_417(admin: AdminHarness, line: str) -> None:
    head = admin.head(f"POST {CREATE} HTTP/1.1", line, "Connection: close")

    assert read_statuses(await admin.send(head)) == [417]


async def test_expect_100_continue_is_answered(admin: AdminHarness) -> None:
    lines = ["Content-Type: application/json", "Content-Length: 17", "Expect: 100-Continue"]
    head = admin.head(f"POST {CREATE} HTTP/1.1", *lines, "Connection: close")

    assert read_statuses(await admin.send(head + b'{"user_id":"ada"}')) == [100, 201]


def read_statuses(response: bytes) -> list[int]:
    heads = [line for line in response.split(b"\r\n") if line.startswith(b"HTTP/1.")]
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
async def test_unusual_target_is_never_a_server_error(admin: AdminHarness, target: str) -> None:
    for method in ("GET", "POST", "CONNECT", "OPTIONS", "TRACE"):
        head = admin.head(f"{method} {target} HTTP/1.1", "Connection: close")

        statuses = read_statuses(await admin.send(head))

        assert statuses
        assert not [status for status in statuses if status >= 500]


# property tests

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters()
documents = st.recursive(
    scalars,
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
bases: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"user_id": st.text(min_size=1, max_size=20)}
) | st.just({})
session_bodies = st.builds(
    lambda base, members: base | members, bases, st.dictionaries(names, documents, max_size=4)
)
surrogates = st.text(st.characters(categories=["Cs", "Cc", "Lu", "Zs"]), max_size=8)


@shared_listener
@given(document=session_bodies | documents | st.dictionaries(names, surrogates))
async def test_arbitrary_json_is_never_a_server_error(admin: AdminHarness, document: Any) -> None:
    body = json.dumps(document).encode()  # NaN and lone surrogates included

    for path in (CREATE, "/v1/users/ada/revoke"):
        reply = await admin.post_raw(path, body)
        assert reply.status in (200, 201, 400)


@shared_listener
@given(body=st.binary(max_size=200))
async def test_arbitrary_bytes_are_never_a_server_error(admin: AdminHarness, body: bytes) -> None:
    replies = [
        await admin.post_raw(CREATE, body),
        await admin.post_raw("/oauth2/introspect", body, "application/x-www-form-urlencoded"),
        await admin.post_raw(
            "/oauth2/revoke", b"token=" + body, "application/x-www-form-urlencoded"
        ),
    ]

    assert not [reply for reply in replies if reply.status >= 500]


@shared_listener
@given(user_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
async def test_user_id_is_kept_unchanged_or_refused(admin: AdminHarness, user_id: str) -> None:
    created = await admin.call("POST", CREATE, json={"user_id": user_id})
    encoded = "".join(f"%{byte:02X}" for byte in user_id.encode())
    listed = await admin.call("GET", f"/v1/users/{encoded}/sessions?limit=1")

    assert (created.status, listed.status) in ((201, 200), (400, 400))
    if listed.status == 200:
        assert listed.body["sessions"][0]["user_id"] == user_id


@shared_listener
@given(
    path=st.text(st.characters(codec="ascii", exclude_characters=" \r\n"), max_size=40),
    prefix=st.sampled_from(["/", "/v1/users/", "/v1/sessions/", "/v1/users/ada/sessions?"]),
)
async def test_arbitrary_target_is_never_a_server_error(
    admin: AdminHarness, path: str, prefix: str
) -> None:
    head = admin.head(f"GET {prefix}{path} HTTP/1.1", "Connection: close")

    statuses = read_statuses(await admin.send(head))

    assert statuses
    assert not [status for status in statuses if status >= 500]
