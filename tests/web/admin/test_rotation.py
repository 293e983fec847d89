"""The routes that issue another token: refresh, and migration to SSO."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.admin.admin_listener import AdminHarness, open_admin

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


async def test_refresh_returns_the_new_token_and_the_session(admin: AdminHarness) -> None:
    token, session = await admin.create()

    reply = await admin.call("POST", "/v1/refresh", json={"token": token})

    assert reply.status == 200
    assert reply.body["token"] != token
    assert reply.body["session"]["id"] == session["id"]
    assert reply.body["session"]["refresh_count"] == 1


async def test_retried_refresh_returns_the_same_token(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    first = await admin.call("POST", "/v1/refresh", json={"token": token})
    again = await admin.call("POST", "/v1/refresh", json={"token": token})
    assert again.body["token"] == first.body["token"]


async def test_refresh_can_move_the_deadline(admin: AdminHarness) -> None:
    token, session = await admin.create(expires_in=60)
    reply = await admin.call("POST", "/v1/refresh", json={"token": token, "expires_in": 600})
    assert reply.body["session"]["expires_at"] > session["expires_at"]


@pytest.mark.parametrize("token", ["", "sgw_junk", "sgw_" + "A" * 56])
async def test_refresh_of_an_invalid_token_is_400_without_echo(
    admin: AdminHarness, token: str
) -> None:
    reply = await admin.call("POST", "/v1/refresh", json={"token": token})
    assert (reply.status, reply.body["code"]) == (400, "invalid_token")
    assert not token or token not in str(reply.body)


async def test_session_cannot_be_refreshed_by_its_id(admin: AdminHarness) -> None:
    _, session = await admin.create()
    reply = await admin.call("POST", "/v1/refresh", json={"session_id": session["id"]})
    assert reply.status == 400


async def test_migration_returns_a_new_token_and_ends_the_old_one(admin: AdminHarness) -> None:
    token, session = await admin.create()

    reply = await admin.call(
        "POST",
        f"/v1/sessions/{session['id']}/sso",
        json={"provider": "https://id.example", "provider_session_id": "42"},
    )

    assert reply.status == 200
    assert reply.body["token"].startswith("sgs_")
    assert reply.body["session"]["type"] == "sso"
    assert reply.body["session"]["provider_session_id"] == "42"
    assert (await admin.call("POST", "/oauth2/introspect", data={"token": token})).body == {
        "active": False
    }


async def test_migration_of_an_unknown_session_is_404(admin: AdminHarness) -> None:
    reply = await admin.call("POST", f"/v1/sessions/{UNKNOWN}/sso", json={"provider": "x"})
    assert reply.status == 404


@pytest.mark.parametrize("operation", ["refresh", "migration"])
async def test_session_over_a_lowered_identity_limit_is_400_and_unchanged(
    admin: AdminHarness, operation: str
) -> None:
    token, session = await admin.create(scopes=["x" * 865])
    path, body = {
        "refresh": ("/v1/refresh", {"token": token}),
        "migration": (f"/v1/sessions/{session['id']}/sso", {"provider": "x"}),
    }[operation]
    admin.set_max_identity(1024)
    reply = await admin.call("POST", path, json=body)

    assert (reply.status, reply.body["code"]) == (400, "identity_too_large")
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.body["detail"] == (
        "the identity headers take at most 1024 bytes (gate.max_identity); these would take 1025"
    )
    assert (await admin.call("GET", f"/v1/sessions/{session['id']}")).body == session
    introspected = await admin.call("POST", "/oauth2/introspect", data={"token": token})
    assert introspected.body["active"]
    admin.set_max_identity(1025)
    assert (await admin.call("POST", path, json=body)).status == 200


async def test_refresh_over_the_identity_limit_is_logged(
    admin: AdminHarness, caplog: pytest.LogCaptureFixture
) -> None:
    token, _ = await admin.create()
    admin.set_max_identity(100)
    with caplog.at_level(logging.INFO, "sidegate.admin"):
        await admin.call("POST", "/v1/refresh", json={"token": token})

    [record] = [each for each in caplog.records if each.message == "admin change"]
    assert vars(record)["action"] == "session.refresh_refused"
    assert vars(record)["reason"] == "identity_too_large"


async def test_migration_of_an_ended_session_is_409(admin: AdminHarness) -> None:
    _, session = await admin.create()
    await admin.call("POST", f"/v1/sessions/{session['id']}/revoke", json={})
    reply = await admin.call("POST", f"/v1/sessions/{session['id']}/sso", json={"provider": "x"})
    assert (reply.status, reply.body["code"]) == (409, "session_ended")


@pytest.mark.parametrize("path", ["/v1/refresh", f"/v1/sessions/{UNKNOWN}/sso"])
async def test_rotation_requires_scope_write(admin: AdminHarness, path: str) -> None:
    for scope in ("read", "revoke"):
        reply = await admin.call("POST", path, json={"token": "x", "provider": "x"}, key=scope)
        assert reply.status == 403
