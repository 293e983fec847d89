"""The admin API: sessions, lists, revocation, OAuth, outages and the log."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.binding import PrefixLengths, Signals, bind
from sidegate.core.errors import Conflict, SessionEnded, SessionExists, UnreadableRecord
from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow
from sidegate.web.schemas.pagination import CursorCodec
from tests.web.admin.admin_listener import CURSOR_KEY, AdminHarness, open_admin

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
TOKEN = re.compile(r"sg[a-z]_[A-Za-z0-9_-]{20,}")


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


async def introspect(admin: AdminHarness, token: str) -> dict[str, Any]:
    reply = await admin.call("POST", "/oauth2/introspect", data={"token": token})
    assert reply.status == 200
    document: dict[str, Any] = reply.body
    return document


async def get_state(admin: AdminHarness, session_id: str) -> str:
    return str((await admin.call("GET", f"/v1/sessions/{session_id}")).body["state"])


# create and show


async def test_created_session_is_allowed_with_its_token(admin: AdminHarness) -> None:
    token, session = await admin.create("ada")

    verdict = await admin.validator.validate(token)

    assert isinstance(verdict, Allow)
    assert verdict.session.id == session["id"]
    assert verdict.session.user_id == "ada"


async def test_location_of_a_created_session_returns_it(admin: AdminHarness) -> None:
    reply = await admin.call("POST", "/v1/sessions", json={"user_id": "ada"})

    found = await admin.call("GET", reply.headers["Location"])

    assert reply.headers["Location"] == f"/v1/sessions/{reply.body['session']['id']}"
    assert found.body == reply.body["session"]


async def test_created_session_has_the_requested_members(admin: AdminHarness) -> None:
    requested: dict[str, Any] = {
        "user_id": "Grüße/{x} 😀",
        "type": "mobile",
        "tenant": "north",
        "scopes": ["read", "write", "read"],
        "expires_in": 60,
        "ip": "2001:DB8::1",
        "user_agent": "curl/8 \x1b[31m",
        "device": "telephone",
        "metadata": {"nested": {"list": [1, 2.5, None, True, "ü"]}, "big": 2**63 - 1},
    }

    _, session = await admin.create(**requested)

    del requested["expires_in"]
    assert session == requested | {
        "id": session["id"],
        "scopes": ["read", "write"],
        "ip": "2001:db8::1",
        "state": "active",
        "created_at": "2026-03-04T12:00:00.123456Z",
        "authenticated_at": "2026-03-04T12:00:00.123456Z",
        "last_seen_at": "2026-03-04T12:00:00.123456Z",
        "expires_at": "2026-03-04T12:01:00.123456Z",
        "idle_at": "2026-03-11T12:00:00.123456Z",
        "revoked_at": None,
        "revoked_by": None,
        "revoked_reason": None,
        "access_count": 0,
        "refresh_count": 0,
        "binding": [],
        "provider": None,
        "provider_session_id": None,
        "provider_subject": None,
        "version": 1,
    }


async def test_created_session_is_bound_to_the_given_signals(admin: AdminHarness) -> None:
    signals = {"ip": "192.0.2.7:5555", "user_agent": "curl/8.5.0", "header": "device 7"}

    token, session = await admin.create(binding=signals)

    verdict = await admin.validator.validate(token)
    assert isinstance(verdict, Allow)
    assert verdict.session.binding == bind(
        session["id"], Signals(**signals), prefixes=PrefixLengths()
    )
    assert session["binding"] == ["ip", "user_agent", "header"]


@pytest.mark.parametrize("type_", list(SessionType))
async def test_session_of_every_type_can_be_created(
    admin: AdminHarness, type_: SessionType
) -> None:
    token, session = await admin.create(type=type_.value)

    assert session["type"] == type_.value
    assert token.startswith(f"sg{type_.letter}_")


async def test_only_create_responses_contain_a_token_or_digest(admin: AdminHarness) -> None:
    token, session = await admin.create()
    secrets = [token, sha256(token.encode()).hexdigest()]

    replies = [
        await admin.call("GET", f"/v1/sessions/{session['id']}"),
        await admin.call("GET", "/v1/users/ada/sessions"),
        await admin.call("POST", "/oauth2/introspect", data={"token": token}),
        await admin.call("POST", f"/v1/sessions/{session['id']}/revoke"),
    ]

    for reply in replies:
        assert reply.status == 200
        assert not TOKEN.search(reply.text)
        assert "digest" not in reply.text
        assert not [secret for secret in secrets if secret in reply.text]


async def test_unknown_session_is_404(admin: AdminHarness) -> None:
    for path in (f"/v1/sessions/{UNKNOWN}", "/v1/sessions/nonsense"):
        reply = await admin.call("GET", path)

        assert reply.status == 404
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["code"] == "not_found"


async def test_state_of_an_ended_session_is_idle_expired_or_revoked(admin: AdminHarness) -> None:
    idle, expired, revoked = [(await admin.create())[1]["id"] for _ in range(3)]
    service = (await admin.create(type="service", expires_in=60))[1]["id"]
    await admin.call("POST", f"/v1/sessions/{revoked}/revoke")

    admin.clock.advance(timedelta(minutes=31))
    states = [await get_state(admin, each) for each in (idle, service, revoked)]
    admin.clock.advance(timedelta(hours=12))

    assert states == ["idle", "expired", "revoked"]
    assert await get_state(admin, expired) == "expired"


async def test_idle_at_is_null_without_an_idle_timeout(admin: AdminHarness) -> None:
    assert (await admin.create(type="service"))[1]["idle_at"] is None


# list


async def test_user_sessions_are_listed_newest_first(admin: AdminHarness) -> None:
    created = []
    for _ in range(3):
        admin.clock.advance(1)
        created.append((await admin.create())[1])
    await admin.create("bob")

    reply = await admin.call("GET", "/v1/users/ada/sessions")

    assert reply.body == {"sessions": created[::-1], "next_cursor": None}


async def test_pages_contain_every_session_once(admin: AdminHarness) -> None:
    created = {(await admin.create())[1]["id"] for _ in range(7)}  # all with the same time
    listed: list[str] = []
    path, pages = "/v1/users/ada/sessions?limit=3", 0
    cursor: str | None = ""

    while cursor is not None:
        body = (await admin.call("GET", path + (cursor and f"&cursor={cursor}"))).body
        listed += [each["id"] for each in body["sessions"]]
        cursor = body["next_cursor"]
        pages += 1

    assert pages == 3
    assert len(listed) == 7
    assert set(listed) == created


async def test_ended_sessions_are_listed_only_with_include_ended(admin: AdminHarness) -> None:
    _, active = await admin.create()
    _, ended = await admin.create()
    await admin.call("POST", f"/v1/sessions/{ended['id']}/revoke")

    without = await admin.call("GET", "/v1/users/ada/sessions?include_ended=false")
    with_ended = await admin.call("GET", "/v1/users/ada/sessions?include_ended=true")

    assert [each["id"] for each in without.body["sessions"]] == [active["id"]]
    assert len(with_ended.body["sessions"]) == 2


async def test_unknown_user_has_no_sessions(admin: AdminHarness) -> None:
    reply = await admin.call("GET", "/v1/users/unknown/sessions")

    assert reply.body == {"sessions": [], "next_cursor": None}


async def test_similar_user_ids_are_different_users(admin: AdminHarness) -> None:
    user_ids = [
        "Ada",
        "ada",
        "ada\u0301",
        "ad\u00e1",
        "\uff41da",
        "a%64a",
        "a/da",
        "a+da",
        "{ada}",
        "..",
    ]
    for name in user_ids:
        await admin.create(name)

    for name in user_ids:
        encoded = "".join(f"%{byte:02X}" for byte in name.encode())
        reply = await admin.call("GET", f"/v1/users/{encoded}/sessions")
        assert [each["user_id"] for each in reply.body["sessions"]] == [name]


async def test_user_id_in_a_path_is_decoded_once(admin: AdminHarness) -> None:
    await admin.create("a%2Fb")

    single = await admin.call("GET", "/v1/users/a%2Fb/sessions")
    double = await admin.call("GET", "/v1/users/a%252Fb/sessions")

    assert len(single.body["sessions"]) == 0
    assert len(double.body["sessions"]) == 1


async def get_cursor(admin: AdminHarness, user_id: str = "ada") -> str:
    for _ in range(2):
        await admin.create(user_id)
    body = (await admin.call("GET", f"/v1/users/{user_id}/sessions?limit=1")).body
    return str(body["next_cursor"])


async def test_cursor_of_another_list_is_refused(admin: AdminHarness) -> None:
    cursor = await get_cursor(admin)

    for path in ("/v1/users/bob/sessions?", "/v1/users/ada/sessions?include_ended=true&"):
        reply = await admin.call("GET", f"{path}cursor={cursor}")
        assert reply.status == 400
        assert reply.body["errors"][0]["path"] == "cursor"


async def test_modified_cursor_is_refused(admin: AdminHarness) -> None:
    cursor = await get_cursor(admin)

    for index, character in enumerate(cursor):
        forged = cursor[:index] + ("A" if character != "A" else "B") + cursor[index + 1 :]
        reply = await admin.call("GET", f"/v1/users/ada/sessions?cursor={forged}")
        assert reply.status == 400


@pytest.mark.parametrize("cursor", ["", "A", "A" * 56, "=" * 56, "A" * 5000, "%00", "%FF", "%F0"])
async def test_malformed_cursor_is_refused(admin: AdminHarness, cursor: str) -> None:
    reply = await admin.call("GET", f"/v1/users/ada/sessions?cursor={cursor}")

    assert reply.status == 400


async def test_cursor_of_another_key_is_refused(admin: AdminHarness) -> None:
    position = Cursor(admin.clock.now(), SessionId(UNKNOWN))
    list_id = json.dumps(["ada", None, None, None, "active"])
    codecs = [CursorCodec(CURSOR_KEY), CursorCodec(bytes(32))]

    replies = [
        await admin.call(
            "GET",
            f"/v1/users/ada/sessions?cursor={codec.encode_session(position, list_id=list_id)}",
        )
        for codec in codecs
    ]

    assert [reply.status for reply in replies] == [200, 400]


# revoke


async def test_revoked_session_is_inactive_and_has_its_actor(admin: AdminHarness) -> None:
    token, session = await admin.create()
    admin.clock.advance(5)

    reply = await admin.call(
        "POST",
        f"/v1/sessions/{session['id']}/revoke",
        key="revoke",
        json={"reason": "stolen laptop"},
    )

    assert reply.status == 200
    assert reply.body == session | {
        "state": "revoked",
        "revoked_at": "2026-03-04T12:00:05.123456Z",
        "revoked_by": "key:revoke",
        "revoked_reason": "stolen laptop",
        "version": 2,
    }
    assert (await introspect(admin, token)) == {"active": False}


async def test_second_revocation_changes_nothing(admin: AdminHarness) -> None:
    _, session = await admin.create()
    path = f"/v1/sessions/{session['id']}/revoke"
    first = await admin.call("POST", path, json={"reason": "first"})
    admin.clock.advance(60)

    second = await admin.call("POST", path, json={"reason": "second"})

    assert (second.status, second.body) == (200, first.body)


async def test_concurrent_revocations_all_succeed(admin: AdminHarness) -> None:
    _, session = await admin.create()

    replies = await asyncio.gather(
        *(admin.call("POST", f"/v1/sessions/{session['id']}/revoke") for _ in range(20))
    )

    assert {reply.status for reply in replies} == {200}
    assert {reply.body["version"] for reply in replies} == {2}


async def test_revoking_an_unknown_session_is_404(admin: AdminHarness) -> None:
    for session_id in (UNKNOWN, UNKNOWN.upper(), "nonsense", "%00", "%FF", "..", UNKNOWN + "%0a"):
        reply = await admin.call("POST", f"/v1/sessions/{session_id}/revoke")
        assert reply.status == 404


async def test_revoking_a_user_ends_only_that_users_sessions(admin: AdminHarness) -> None:
    tokens = [(await admin.create(type=type_))[0] for type_ in ("web", "mobile")]
    other, _ = await admin.create("bob")

    reply = await admin.call("POST", "/v1/users/ada/revoke", json={"reason": "left"})

    assert reply.body == {"revoked": 2, "more": False}
    assert [await introspect(admin, token) for token in tokens] == [{"active": False}] * 2
    assert (await introspect(admin, other))["active"] is True


async def test_revoking_a_user_by_type_spares_other_types(admin: AdminHarness) -> None:
    _, web = await admin.create(type="web")
    _, mobile = await admin.create(type="mobile")

    reply = await admin.call("POST", "/v1/users/ada/revoke", json={"type": "mobile"})

    assert reply.body == {"revoked": 1, "more": False}
    assert await get_state(admin, web["id"]) == "active"
    assert await get_state(admin, mobile["id"]) == "revoked"


async def test_revoking_a_user_spares_the_excepted_session(admin: AdminHarness) -> None:
    ids = [(await admin.create())[1]["id"] for _ in range(3)]

    reply = await admin.call("POST", "/v1/users/ada/revoke", json={"except": ids[1]})

    assert reply.body == {"revoked": 2, "more": False}
    assert [await get_state(admin, each) for each in ids] == ["revoked", "active", "revoked"]


async def test_invalid_except_id_revokes_nothing(admin: AdminHarness) -> None:
    _, session = await admin.create()

    for wrong in ("nonsense", "", 7, session["id"].upper() + "x"):
        reply = await admin.call("POST", "/v1/users/ada/revoke", json={"except": wrong})
        assert reply.status == 400
        assert reply.body["errors"][0]["path"] == "except"

    assert await get_state(admin, session["id"]) == "active"


# OAuth


async def test_introspection_of_a_valid_token_returns_its_session(admin: AdminHarness) -> None:
    token, session = await admin.create(scopes=["a", "b"])
    now = int(admin.clock.now().timestamp())

    assert await introspect(admin, token) == {
        "active": True,
        "sub": "ada",
        "sid": session["id"],
        "token_type": "Bearer",
        "session_type": "web",
        "scope": "a b",
        "iat": now,
        "auth_time": now,
        "exp": now + 12 * 3600,
    }


async def test_introspection_of_any_other_token_is_only_inactive(admin: AdminHarness) -> None:
    revoked, session = await admin.create()
    await admin.call("POST", f"/v1/sessions/{session['id']}/revoke")
    idle, _ = await admin.create()
    admin.clock.advance(timedelta(hours=1))
    unknown = admin.ring.mint(SessionType.WEB).text

    for token in (revoked, idle, unknown, "nonsense", "sgw_" + "A" * 56, "\x00", "ü" * 1000):
        assert await introspect(admin, token) == {"active": False}


async def test_token_revocation_ends_its_session(admin: AdminHarness) -> None:
    token, session = await admin.create()

    reply = await admin.call("POST", "/oauth2/revoke", data={"token": token})

    assert (reply.status, reply.text) == (200, "")
    ended = (await admin.call("GET", f"/v1/sessions/{session['id']}")).body
    assert ended["state"] == "revoked"
    assert ended["revoked_by"] == "key:all"


@pytest.mark.parametrize("delay", [0, 3600])
async def test_revoking_a_rotated_out_token_ends_its_session(
    admin: AdminHarness, delay: int
) -> None:
    token, session = await admin.create(type="service")
    await rotate(admin, session["id"])
    admin.clock.advance(delay)

    reply = await admin.call("POST", "/oauth2/revoke", data={"token": token})

    assert reply.status == 200
    assert await get_state(admin, session["id"]) == "revoked"


async def rotate(admin: AdminHarness, session_id: str) -> None:
    record = await admin.store.get(SessionId(session_id))
    successor = admin.ring.mint(record.session.type).digest()
    rotated = record.session.rotated(successor, timedelta(seconds=10), at=admin.clock.now())
    assert await admin.store.replace(
        type(record)(rotated, record.details), expected=record.session.version
    )


async def test_revoking_an_unknown_token_succeeds(admin: AdminHarness) -> None:
    unknown = admin.ring.mint(SessionType.WEB).text

    for token in (unknown, "nonsense", "sgw_" + "A" * 56):
        reply = await admin.call("POST", "/oauth2/revoke", data={"token": token})
        assert reply.status == 200


async def test_token_type_hint_and_unknown_fields_are_ignored(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    fields = {"token": token, "token_type_hint": "refresh_token", "client_id": "x"}

    reply = await admin.call("POST", "/oauth2/introspect", data=fields)

    assert reply.body["active"] is True


# outages, conflicts and activity


STORE_REQUESTS = [
    ("POST", "/v1/sessions", {"json": {"user_id": "ada"}}),
    ("GET", f"/v1/sessions/{UNKNOWN}", {}),
    ("GET", "/v1/users/ada/sessions", {}),
    ("POST", f"/v1/sessions/{UNKNOWN}/revoke", {}),
    ("POST", "/v1/users/ada/revoke", {}),
]


@pytest.mark.parametrize(("method", "path", "options"), STORE_REQUESTS)
async def test_store_outage_is_503_with_retry_after(
    admin: AdminHarness, method: str, path: str, options: dict[str, Any]
) -> None:
    admin.store.break_store()

    reply = await admin.call(method, path, **options)

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "1"
    assert reply.body["code"] == "store_unavailable"


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", "/v1/sessions", {"json": {"user_id": "ada"}}),
        ("GET", "/v1/sessions/{id}", {}),
        ("POST", "/v1/sessions/{id}/revoke", {}),
        ("POST", "/v1/sessions/{id}/touch", {}),
        ("POST", "/v1/sessions/{id}/lock", {}),
        (
            "POST",
            "/v1/sessions/{id}/sso",
            {"json": {"provider": "idp", "provider_session_id": "s"}},
        ),
        ("GET", "/v1/users/ada/sessions", {}),
        ("POST", "/v1/users/ada/revoke", {}),
        ("POST", "/v1/revoke", {"json": {"condition": {"all": True}}}),
        ("POST", "/v1/revoke", {"json": {"condition": {"all": True}, "dry_run": True}}),
        ("POST", "/v1/refresh", {"json": {"token": "{token}"}}),
        ("POST", "/oauth2/introspect", {"data": {"token": "{token}"}}),
        ("POST", "/oauth2/revoke", {"data": {"token": "{token}"}}),
    ],
)
async def test_until_the_clock_is_set_requests_get_503_and_change_nothing(
    admin: AdminHarness, method: str, path: str, options: dict[str, Any]
) -> None:
    token, session = await admin.create()
    bodies: dict[str, Any] = {kind: json_with_token(body, token) for kind, body in options.items()}
    admin.clock.is_set = False

    reply = await admin.call(method, path.replace("{id}", session["id"]), **bodies)

    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    if "data" not in options:  # else an error of OAuth
        assert reply.body["code"] == "store_unavailable"
        assert reply.body["detail"] == "the database's time is not known yet"
    admin.clock.is_set = True
    listed = await admin.call("GET", "/v1/users/ada/sessions")
    assert listed.body["sessions"] == [session]


def json_with_token(body: dict[str, Any], token: str) -> dict[str, Any]:
    """Return the members of a body, with `token` in place of its placeholder."""
    return {name: token if value == "{token}" else value for name, value in body.items()}


async def test_touch_moves_the_idle_deadline(admin: AdminHarness) -> None:
    _, session = await admin.create()
    admin.clock.advance(timedelta(minutes=29))

    reply = await admin.call("POST", f"/v1/sessions/{session['id']}/touch")

    assert reply.status == 200
    assert reply.body["access_count"] == 1
    assert reply.body["last_seen_at"] == "2026-03-04T12:29:00.123456Z"
    admin.clock.advance(timedelta(minutes=29))
    assert await get_state(admin, session["id"]) == "active"


async def test_touching_an_ended_session_is_409(admin: AdminHarness) -> None:
    _, session = await admin.create()
    admin.clock.advance(timedelta(minutes=31))
    reply = await admin.call("POST", f"/v1/sessions/{session['id']}/touch")
    assert (reply.status, reply.body["code"]) == (409, "session_ended")
    assert await get_state(admin, session["id"]) == "idle"
    assert (await admin.call("POST", f"/v1/sessions/{UNKNOWN}/touch")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"/v1/sessions/{UNKNOWN}", "store_unavailable"),
        ("POST", f"/v1/sessions/{UNKNOWN}/touch", "outcome_unknown"),
    ],
)
async def test_hanging_store_times_out_and_a_change_has_an_unknown_outcome(
    tmp_path: Path, method: str, path: str, code: str
) -> None:
    async with open_admin(tmp_path, request_timeout=0.05) as admin:
        admin.store.hanging = True

        reply = await admin.call(method, path)

        assert reply.status == 503
        assert reply.body["code"] == code
        assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_store_outage_never_decides_about_a_token(admin: AdminHarness, path: str) -> None:
    token, session = await admin.create()
    admin.store.break_store()

    reply = await admin.call("POST", path, data={"token": token})
    admin.store.failure = None

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "1"
    assert reply.body["error"] == "temporarily_unavailable"
    assert await get_state(admin, session["id"]) == "active"


@pytest.mark.parametrize(
    ("path", "body", "failure", "status", "code"),
    [
        (f"/v1/sessions/{UNKNOWN}/revoke", {}, Conflict("x"), 409, "conflict"),
        ("/v1/sessions", {"user_id": "ada"}, SessionExists("x"), 409, "session_exists"),
        ("/v1/sessions", {"user_id": "ada"}, SessionEnded("x"), 409, "session_ended"),
        ("/v1/sessions", {"user_id": "ada"}, UnreadableRecord("x"), 503, "store_unavailable"),
        ("/v1/sessions", {"user_id": "ada"}, RuntimeError("x"), 500, "internal_error"),
    ],
)
async def test_service_error_is_rendered_as_a_problem(
    admin: AdminHarness, path: str, body: dict[str, Any], failure: Exception, status: int, code: str
) -> None:
    admin.store.failure = failure

    reply = await admin.call("POST", path, json=body)

    assert (reply.status, reply.body["code"]) == (status, code)
    assert reply.body["status"] == status


async def test_unhandled_exception_is_logged_without_secrets_and_not_returned(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    token, _ = await admin.create()
    admin.store.failure = RuntimeError(f"cannot bind {token} and hunter2")

    reply = await admin.call("POST", "/oauth2/introspect", data={"token": token})

    assert reply.status == 500
    assert "detail" not in reply.body
    logged = log_text(caplog)
    assert "RuntimeError" in logged
    assert reply.headers["X-Request-Id"] in logged
    assert not [secret for secret in (token, "hunter2") if secret in logged + reply.text]


# what every response has


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/users/ada/sessions", 200),
        ("HEAD", "/v1/users/ada/sessions", 200),
        ("GET", "/nowhere", 404),
        ("GET", "//evil.example/v1/sessions", 404),
        ("DELETE", "/v1/sessions", 405),
        ("GET", "/v1/sessions?limit=0", 400),
        ("GET", "/v1/sessions/", 404),
        ("POST", "/v1/sessions", 415),
        ("GET", f"/v1/sessions/{UNKNOWN}", 404),
    ],
)
async def test_every_response_has_common_headers_and_errors_are_problems(
    admin: AdminHarness, method: str, path: str, status: int
) -> None:
    reply = await admin.call(method, path, headers=[("X-Request-Id", "0123-abcd-EF")])

    assert reply.status == status
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Server"] == "sidegate"
    assert reply.headers["X-Request-Id"] == "0123-abcd-EF"
    if status >= 400:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["type"] == "about:blank"
        assert reply.body["status"] == status
        assert reply.body["title"]
        assert reply.body["request_id"] == "0123-abcd-EF"


async def test_wrong_method_gets_405_with_allow(admin: AdminHarness) -> None:
    reply = await admin.call("PUT", "/v1/users/ada/sessions")

    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "request_id", ["short", "x" * 65, "with space", "sgw_" + "A" * 56, "ü-ü-ü-ü-ü"]
)
async def test_invalid_request_id_is_replaced(admin: AdminHarness, request_id: str) -> None:
    reply = await admin.call(
        "GET", "/v1/users/ada/sessions", headers=[("X-Request-Id", request_id)]
    )

    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["X-Request-Id"])


async def test_requests_are_counted_by_route_template(admin: AdminHarness) -> None:
    await admin.create()
    await admin.call("GET", "/v1/users/ada/sessions")
    await admin.call("GET", f"/v1/sessions/{UNKNOWN}")
    await admin.call("GET", "/nowhere")
    await admin.call("PUT", "/v1/sessions")
    await admin.call("GET", "/v1/users/ada/sessions", key=None)
    await admin.call("GET", "/v1/users/ada/sessions", headers=[("Host", "evil.example")])

    assert admin.requests == [
        ("/v1/sessions", "POST", 201),
        ("/v1/users/{user_id}/sessions", "GET", 200),
        ("/v1/sessions/{session_id}", "GET", 404),
        ("unmatched", "GET", 404),
        ("/v1/sessions", "PUT", 405),
        ("/v1/users/{user_id}/sessions", "GET", 401),
        ("/v1/users/{user_id}/sessions", "GET", 403),
    ]


async def test_unknown_methods_are_counted_as_other(admin: AdminHarness) -> None:
    for method in ("PROPFIND", "PURGE", "MKCOL"):
        await admin.call(method, "/v1/sessions")

    assert set(admin.requests) == {("/v1/sessions", "other", 405)}


# the log


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(each)} {vars(each)}" for each in caplog.records)


def logged_changes(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = ("actor", "action", "session_id", "user_id", "revoked")
    return [
        {name: vars(record)[name] for name in fields if name in vars(record)}
        for record in caplog.records
        if record.name == "sidegate.admin"
    ]


async def test_each_change_is_logged_once(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    token, first = await admin.create()
    _, second = await admin.create()
    await admin.call("GET", "/v1/users/ada/sessions")
    await admin.call("POST", f"/v1/sessions/{second['id']}/revoke", key="revoke")
    await admin.call("POST", "/oauth2/revoke", data={"token": token})
    await admin.call("POST", "/v1/users/ada/revoke")

    assert logged_changes(caplog) == [
        {"actor": "key:all", "action": "session.create", "session_id": first["id"]},
        {"actor": "key:all", "action": "session.create", "session_id": second["id"]},
        {"actor": "key:revoke", "action": "session.revoke", "session_id": second["id"]},
        {"actor": "key:all", "action": "token.revoke", "session_id": first["id"]},
        {"actor": "key:all", "action": "user.revoke", "user_id": "ada", "revoked": 0},
    ]


async def test_tokens_and_keys_are_never_logged(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    token, _ = await admin.create()
    await admin.call("POST", "/oauth2/introspect", data={"token": token})
    await admin.call("POST", f"/oauth2/introspect?token={token}")
    await admin.call("POST", "/v1/sessions", json={token: token})
    await admin.call("GET", f"/v1/sessions/{token}")
    await admin.call("GET", f"/{token}", headers=[("X-Request-Id", token)])
    await admin.call("POST", "/oauth2/revoke", data={"token": token})

    logged = log_text(caplog)
    assert not [secret for secret in (token, *admin.keys.values()) if secret in logged]


async def test_misplaced_token_is_not_echoed(admin: AdminHarness) -> None:
    token, _ = await admin.create()

    replies = [
        await admin.call("POST", f"/oauth2/introspect?token={token}&{token}=1"),
        await admin.call("POST", "/v1/sessions", json={token: token, "user_id": 1, "type": token}),
        await admin.post_raw("/v1/sessions", f'{{"{token}"'.encode()),
        await admin.call("GET", f"/v1/users/ada/sessions?cursor={token}&limit={token}"),
        await admin.call("GET", f"/v1/sessions/{token}"),
        await admin.call("POST", "/v1/sessions", headers=[("Content-Type", token)], data="{}"),
        await admin.call("GET", "/v1/sessions", headers=[("Expect", token)]),
    ]

    for reply in replies:
        assert 400 <= reply.status < 500
        assert token not in reply.text


@pytest.mark.parametrize(
    "line",
    ["Authorization : Bearer {}", "X {}", "Content-Length: {}", "X-A: {}\x00", "Cookie: {}\r\n x"],
)
async def test_token_in_a_malformed_header_is_neither_echoed_nor_logged(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    token, _ = await admin.create()
    caplog.set_level(logging.DEBUG)

    response = await admin.send(
        admin.head("GET / HTTP/1.1", line.format(token), "Connection: close")
    )

    assert response.split(b" ", 2)[1] == b"400"
    assert token.encode() not in response
    assert token not in log_text(caplog)


async def test_unreadable_row_is_503_and_not_404(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    _, session = await admin.create()
    admin.store.failure = UnreadableRecord("the row of a session: ValueError")

    for path in (f"/v1/sessions/{session['id']}", "/v1/users/ada/sessions", "/v1/audit"):
        reply = await admin.call("GET", path)
        assert (reply.status, reply.body["code"]) == (503, "store_unavailable")
        assert reply.body["detail"] == "a stored record cannot be read"
    assert "unreadable record" in caplog.text
