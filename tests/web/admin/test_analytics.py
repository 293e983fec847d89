"""The analytics at the admin door: how many sessions there are, began and ended."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.admin.admin_listener import Door, admin_door

NO_TYPE = {"web": 0, "mobile": 0, "api": 0, "service": 0, "sso": 0}
NO_CAUSE = {
    "revoked": 0,
    "limit": 0,
    "token_reuse": 0,
    "binding": 0,
    "logout": 0,
    "expired": 0,
    "idle": 0,
}
NOON = "2026-03-04T12:00:00.123456Z"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


async def shown(door: Door) -> dict[str, Any]:
    """Take a sample, and return what the door says."""
    assert await door.analytics.sample()
    reply = await door.call("GET", "/v1/analytics", key="read")
    assert reply.status == 200, reply.text
    document: dict[str, Any] = reply.body
    return document


async def test_where_there_are_no_sessions_all_is_zero_and_what_does_not_exist_is_null(
    door: Door,
) -> None:
    nothing = {
        "since": NOON,
        "peak": {"active": 0, "at": None},
        "created": {"total": 0, "by_type": NO_TYPE},
        "ended": {"total": 0, "by_cause": NO_CAUSE, "by_type": NO_TYPE},
        "duration": {"average": None, "p50": None, "p95": None},
    }
    assert await shown(door) == {
        "as_of": NOON,
        "active": {"total": 0, "by_type": NO_TYPE, "users": 0},
        "windows": {"1h": nothing, "24h": nothing, "7d": nothing},
    }


async def test_all_that_happened_is_told(door: Door) -> None:
    await shown(door)
    await door.create("ada")
    await door.create("bob", type="mobile")
    token, _ = await door.create("cy")
    door.clock.advance(600)
    _, session = await door.create("ada", type="service")
    await door.call("POST", f"/v1/sessions/{session['id']}/revoke", json={"reason": "bye"})
    await door.call("POST", "/v1/refresh", json={"token": token})
    door.clock.advance(1200)
    await door.call("POST", "/v1/refresh", json={"token": token})  # after its grace

    found = await shown(door)

    assert found["as_of"] == "2026-03-04T12:30:00.123456Z"
    assert found["active"] == {"total": 1, "by_type": NO_TYPE | {"mobile": 1}, "users": 1}
    hour = found["windows"]["1h"]
    assert hour["since"] == NOON
    assert hour["peak"] == {"active": 1, "at": found["as_of"]}
    assert hour["created"] == {
        "total": 4,
        "by_type": NO_TYPE | {"web": 2, "mobile": 1, "service": 1},
    }
    assert hour["ended"] == {
        "total": 3,
        "by_cause": NO_CAUSE | {"revoked": 1, "token_reuse": 1, "idle": 1},
        "by_type": NO_TYPE | {"web": 2, "service": 1},
    }
    assert hour["duration"]["average"] == 1200
    assert hour["duration"]["p95"] == pytest.approx(1800, rel=0.045)
    assert found["windows"]["7d"] == hour


async def test_a_request_changes_nothing_and_takes_no_sample(door: Door) -> None:
    before = await shown(door)
    await door.create()
    door.clock.advance(3600)
    reply = await door.call("GET", "/v1/analytics")
    assert reply.body == before


async def test_before_the_first_sample_nobody_knows(door: Door) -> None:
    reply = await door.call("GET", "/v1/analytics")
    assert (reply.status, reply.body["code"]) == (503, "not_sampled_yet")
    assert reply.headers["Retry-After"] == "1"


async def test_an_outage_is_no_zero(door: Door) -> None:
    await shown(door)
    door.store.breaks()
    reply = await door.call("GET", "/v1/analytics")
    assert (reply.status, reply.body["code"]) == (503, "store_unavailable")


async def test_only_who_may_read_sees_them(door: Door) -> None:
    for key in ("write", "revoke"):
        assert (await door.call("GET", "/v1/analytics", key=key)).status == 403


async def test_a_parameter_is_a_mistake(door: Door) -> None:
    reply = await door.call("GET", "/v1/analytics?window=1h")
    assert (reply.status, reply.body["code"]) == (400, "invalid_query")
