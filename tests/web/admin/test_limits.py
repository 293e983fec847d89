"""Sessions beyond the limit, at the admin door."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason
from tests.web.admin.admin_listener import Door, admin_door

LIMITS = {
    SessionType.WEB: Limit(2, AtLimit.EVICT_OLDEST),
    SessionType.API: Limit(2, AtLimit.REFUSE),
}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path, limits=LIMITS) as opened:
        yield opened


async def test_the_login_that_is_one_too_many_ends_the_oldest(door: Door) -> None:
    token, oldest = await door.create()
    for _ in range(2):
        door.clock.advance(1)
        await door.create()
    ended = (await door.call("GET", f"/v1/sessions/{oldest['id']}")).body
    assert (ended["state"], ended["revoked_by"], ended["revoked_reason"]) == (
        "revoked",
        "sidegate",
        "limit",
    )
    assert await door.validator.validate(token) == Deny(Reason.REVOKED)
    assert len((await door.call("GET", "/v1/users/ada/sessions")).body["sessions"]) == 2


async def test_at_the_limit_a_login_is_refused_until_one_ends(door: Door) -> None:
    _, first = await door.create(type="api")
    await door.create(type="api")
    refused = await door.call("POST", "/v1/sessions", json={"user_id": "ada", "type": "api"})
    assert (refused.status, refused.body["code"]) == (409, "limit_reached")
    assert "2 living api sessions" in refused.body["detail"]
    await door.call("POST", f"/v1/sessions/{first['id']}/revoke", json={})
    await door.create(type="api")


async def test_a_limit_refuses_no_other_user_and_no_other_type(door: Door) -> None:
    for _ in range(2):
        await door.create(type="api")
    await door.create("bob", type="api")
    await door.create(type="service")


async def test_a_type_without_a_limit_has_none(door: Door) -> None:
    for _ in range(20):
        await door.create(type="service")
    listed = (await door.call("GET", "/v1/users/ada/sessions")).body["sessions"]
    assert len(listed) == 20
