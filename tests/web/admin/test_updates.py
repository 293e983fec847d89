"""The routes that change an active session: another authentication, scopes, metadata."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.admin.admin_listener import AdminHarness, open_admin

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


async def is_active(admin: AdminHarness, token: str) -> bool:
    reply = await admin.call("POST", "/oauth2/introspect", data={"token": token})
    return bool(reply.body["active"])


def path_of(session: dict[str, Any]) -> str:
    return f"/v1/sessions/{session['id']}"


async def test_another_authentication_replaces_the_token_and_moves_its_time(
    admin: AdminHarness,
) -> None:
    token, session = await admin.create(scopes=["read"])
    admin.clock.advance(600)

    reply = await admin.call("POST", f"{path_of(session)}/reauthenticated")

    assert reply.status == 200
    again = reply.body["session"]
    assert again["authenticated_at"] > session["authenticated_at"]
    changed = ("authenticated_at", "last_seen_at", "idle_at", "version")
    assert {k: v for k, v in again.items() if k not in changed} == {
        k: v for k, v in session.items() if k not in changed
    }
    assert not await is_active(admin, token)
    assert await is_active(admin, reply.body["token"])
    refreshed = await admin.call("POST", "/v1/refresh", json={"token": token})
    assert (refreshed.status, refreshed.body["code"]) == (400, "invalid_token")
    assert await is_active(admin, reply.body["token"])  # the old token is no sign of theft


async def test_another_authentication_can_replace_the_scopes(admin: AdminHarness) -> None:
    _, session = await admin.create(scopes=["read"])
    reply = await admin.call(
        "POST", f"{path_of(session)}/reauthenticated", json={"scopes": ["read", "pay"]}
    )
    assert reply.body["session"]["scopes"] == ["read", "pay"]


@pytest.mark.parametrize(
    ("body", "member", "value"),
    [
        ({"scopes": ["pay"]}, "scopes", ["pay"]),
        ({"scopes": []}, "scopes", []),
        ({"metadata": {"theme": "dark"}}, "metadata", {"theme": "dark"}),
        ({"metadata": {}}, "metadata", {}),
    ],
)
async def test_update_replaces_what_it_names_and_keeps_the_token(
    admin: AdminHarness, body: dict[str, Any], member: str, value: object
) -> None:
    token, session = await admin.create(scopes=["read"], metadata={"login": "passkey"})

    reply = await admin.call("PATCH", path_of(session), json=body)

    assert reply.status == 200
    assert reply.body == session | {member: value, "version": 2}
    assert (await admin.call("GET", path_of(session))).body == reply.body
    assert await is_active(admin, token)


async def test_update_with_what_is_so_already_changes_nothing(admin: AdminHarness) -> None:
    _, session = await admin.create(scopes=["read"], metadata={"a": 1})
    body = {"scopes": ["read"], "metadata": {"a": 1}}
    reply = await admin.call("PATCH", path_of(session), json=body)
    assert reply.body == session
    assert len((await admin.call("GET", "/v1/audit")).body["events"]) == 1


async def test_changes_are_audited(admin: AdminHarness) -> None:
    _, session = await admin.create()
    await admin.call("POST", f"{path_of(session)}/reauthenticated", key="write")
    await admin.call("PATCH", path_of(session), json={"scopes": ["x"]}, key="write")
    events = (await admin.call("GET", "/v1/audit")).body["events"]
    assert [(event["action"], event["by"]) for event in events[:2]] == [
        ("update", "key:write"),
        ("reauthenticate", "key:write"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": None},
        {"scopes": ["a b"]},
        {"metadata": []},
        {"metadata": {"x": "y" * 20_000}},
        {"user_id": "eve"},
        {"scopes": ["a"], "expires_in": 1},
    ],
    ids=["empty", "null", "scope", "metadata", "large", "user", "deadline"],
)
async def test_invalid_update_is_400_and_changes_nothing(
    admin: AdminHarness, body: dict[str, Any]
) -> None:
    _, session = await admin.create()
    reply = await admin.call("PATCH", path_of(session), json=body)
    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert reply.body["errors"]
    assert (await admin.call("GET", path_of(session))).body == session


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_ended_and_unknown_sessions_are_not_changed(admin: AdminHarness, method: str) -> None:
    suffix = "/reauthenticated" if method == "POST" else ""
    _, session = await admin.create()
    await admin.call("POST", f"{path_of(session)}/revoke")
    body = {"scopes": ["x"]}
    ended = await admin.call(method, path_of(session) + suffix, json=body)
    assert (ended.status, ended.body["code"]) == (409, "session_ended")
    unknown = await admin.call(method, f"/v1/sessions/{UNKNOWN}{suffix}", json=body)
    assert unknown.status == 404


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_scopes_over_the_identity_limit_are_refused(admin: AdminHarness, method: str) -> None:
    suffix = "/reauthenticated" if method == "POST" else ""
    token, session = await admin.create()
    admin.set_max_identity(200)
    reply = await admin.call(method, path_of(session) + suffix, json={"scopes": ["x" * 200]})
    assert (reply.status, reply.body["code"]) == (400, "identity_too_large")
    assert (await admin.call("GET", path_of(session))).body == session
    assert await is_active(admin, token)


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_key_without_the_scope_is_403(admin: AdminHarness, method: str) -> None:
    suffix = "/reauthenticated" if method == "POST" else ""
    _, session = await admin.create()
    reply = await admin.call(method, path_of(session) + suffix, json={"scopes": ["x"]}, key="read")
    assert reply.status == 403


async def test_new_token_comes_with_a_cookie_that_lasts_as_long_as_the_session(
    admin: AdminHarness,
) -> None:
    body = {"user_id": "ada", "expires_in": 600}
    reply = await admin.call("POST", "/v1/sessions", json=body)
    token = reply.body["token"]
    assert reply.body["set_cookie"] == (
        f"__Host-session={token}; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax"
    )
    assert reply.headers.get("Set-Cookie") is None  # its caller is no browser
    admin.clock.advance(60)
    refreshed = await admin.call("POST", "/v1/refresh", json={"token": token})
    assert "; Max-Age=540; " in refreshed.body["set_cookie"]
