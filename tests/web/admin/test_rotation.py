"""The routes that give a session another token."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.admin.admin_listener import Door, admin_door

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


async def test_a_refresh_answers_with_the_successor_and_the_session(door: Door) -> None:
    token, session = await door.create()

    reply = await door.call("POST", "/v1/refresh", json={"token": token})

    assert reply.status == 200
    assert reply.body["token"] != token
    assert reply.body["session"]["id"] == session["id"]
    assert reply.body["session"]["refresh_count"] == 1


async def test_a_retried_refresh_answers_the_same(door: Door) -> None:
    token, _ = await door.create()
    first = await door.call("POST", "/v1/refresh", json={"token": token})
    again = await door.call("POST", "/v1/refresh", json={"token": token})
    assert again.body["token"] == first.body["token"]


async def test_a_refresh_may_move_the_deadline(door: Door) -> None:
    token, session = await door.create(expires_in=60)
    reply = await door.call("POST", "/v1/refresh", json={"token": token, "expires_in": 600})
    assert reply.body["session"]["expires_at"] > session["expires_at"]


@pytest.mark.parametrize("token", ["", "sgw_junk", "sgw_" + "A" * 56])
async def test_what_is_no_token_is_not_refreshed_and_not_repeated(door: Door, token: str) -> None:
    reply = await door.call("POST", "/v1/refresh", json={"token": token})
    assert (reply.status, reply.body["code"]) == (400, "invalid_token")
    assert not token or token not in str(reply.body)


async def test_a_session_cannot_be_refreshed_by_its_id(door: Door) -> None:
    _, session = await door.create()
    reply = await door.call("POST", "/v1/refresh", json={"session_id": session["id"]})
    assert reply.status == 400


async def test_a_migration_answers_with_a_token_of_its_own(door: Door) -> None:
    token, session = await door.create()

    reply = await door.call(
        "POST",
        f"/v1/sessions/{session['id']}/sso",
        json={"provider": "https://id.example", "provider_session_id": "42"},
    )

    assert reply.status == 200
    assert reply.body["token"].startswith("sgs_")
    assert reply.body["session"]["type"] == "sso"
    assert reply.body["session"]["provider_session_id"] == "42"
    assert (await door.call("POST", "/oauth2/introspect", data={"token": token})).body == {
        "active": False
    }


async def test_nobody_cannot_be_migrated(door: Door) -> None:
    reply = await door.call("POST", f"/v1/sessions/{UNKNOWN}/sso", json={"provider": "x"})
    assert reply.status == 404


async def test_an_ended_session_cannot_be_migrated(door: Door) -> None:
    _, session = await door.create()
    await door.call("POST", f"/v1/sessions/{session['id']}/revoke", json={})
    reply = await door.call("POST", f"/v1/sessions/{session['id']}/sso", json={"provider": "x"})
    assert (reply.status, reply.body["code"]) == (409, "session_ended")


@pytest.mark.parametrize("path", ["/v1/refresh", f"/v1/sessions/{UNKNOWN}/sso"])
async def test_a_new_token_needs_the_scope_write(door: Door, path: str) -> None:
    for scope in ("read", "revoke"):
        reply = await door.call("POST", path, json={"token": "x", "provider": "x"}, key=scope)
        assert reply.status == 403
