"""Session limits in the admin API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason
from tests.web.admin.admin_listener import AdminHarness, open_admin

LIMITS = {
    SessionType.WEB: Limit(2, AtLimit.EVICT_OLDEST),
    SessionType.API: Limit(2, AtLimit.REFUSE),
}


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path, limits=LIMITS) as admin:
        yield admin


async def test_session_above_the_limit_evicts_the_oldest(admin: AdminHarness) -> None:
    token, oldest = await admin.create()
    for _ in range(2):
        admin.clock.advance(1)
        await admin.create()
    ended = (await admin.call("GET", f"/v1/sessions/{oldest['id']}")).body
    assert (ended["state"], ended["revoked_by"], ended["revoked_reason"]) == (
        "revoked",
        "sidegate",
        "limit",
    )
    assert await admin.validator.validate(token) == Deny(Reason.REVOKED)
    assert len((await admin.call("GET", "/v1/users/ada/sessions")).body["sessions"]) == 2


async def test_session_above_the_limit_is_refused_until_one_ends(admin: AdminHarness) -> None:
    _, first = await admin.create(type="api")
    await admin.create(type="api")
    refused = await admin.call("POST", "/v1/sessions", json={"user_id": "ada", "type": "api"})
    assert (refused.status, refused.body["code"]) == (409, "limit_reached")
    assert "2 active api sessions" in refused.body["detail"]
    await admin.call("POST", f"/v1/sessions/{first['id']}/revoke", json={})
    await admin.create(type="api")


async def test_limit_applies_per_user_and_type(admin: AdminHarness) -> None:
    for _ in range(2):
        await admin.create(type="api")
    await admin.create("bob", type="api")
    await admin.create(type="service")


async def test_type_without_a_limit_is_unlimited(admin: AdminHarness) -> None:
    for _ in range(20):
        await admin.create(type="service")
    listed = (await admin.call("GET", "/v1/users/ada/sessions")).body["sessions"]
    assert len(listed) == 20
