"""The route of the analytics."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.admin.admin_listener import AdminHarness, open_admin

ZERO_BY_TYPE = {"web": 0, "mobile": 0, "api": 0, "service": 0, "sso": 0}
ZERO_BY_CAUSE = {
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
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


async def sample_and_get(admin: AdminHarness) -> dict[str, Any]:
    """Take a sample, and return the analytics document."""
    assert await admin.analytics.sample()
    reply = await admin.call("GET", "/v1/analytics", key="read")
    assert reply.status == 200, reply.text
    document: dict[str, Any] = reply.body
    return document


async def test_without_sessions_counts_are_zero_and_durations_null(
    admin: AdminHarness,
) -> None:
    empty_window = {
        "since": NOON,
        "peak": {"active": 0, "at": None},
        "created": {"total": 0, "by_type": ZERO_BY_TYPE},
        "ended": {"total": 0, "by_cause": ZERO_BY_CAUSE, "by_type": ZERO_BY_TYPE},
        "duration": {"average": None, "p50": None, "p95": None},
    }
    assert await sample_and_get(admin) == {
        "as_of": NOON,
        "active": {"total": 0, "by_type": ZERO_BY_TYPE, "users": 0},
        "windows": {"1h": empty_window, "24h": empty_window, "7d": empty_window},
    }


async def test_analytics_count_created_and_ended_sessions(admin: AdminHarness) -> None:
    await sample_and_get(admin)
    await admin.create("ada")
    await admin.create("bob", type="mobile")
    token, _ = await admin.create("cy")
    admin.clock.advance(600)
    _, session = await admin.create("ada", type="service")
    await admin.call("POST", f"/v1/sessions/{session['id']}/revoke", json={"reason": "bye"})
    successor = (await admin.call("POST", "/v1/refresh", json={"token": token})).body["token"]
    await admin.call("POST", "/v1/refresh", json={"token": successor})  # it has arrived
    admin.clock.advance(1200)
    await admin.call("POST", "/v1/refresh", json={"token": token})  # after the grace period

    document = await sample_and_get(admin)

    assert document["as_of"] == "2026-03-04T12:30:00.123456Z"
    assert document["active"] == {"total": 1, "by_type": ZERO_BY_TYPE | {"mobile": 1}, "users": 1}
    hour = document["windows"]["1h"]
    assert hour["since"] == NOON
    assert hour["peak"] == {"active": 1, "at": document["as_of"]}
    assert hour["created"] == {
        "total": 4,
        "by_type": ZERO_BY_TYPE | {"web": 2, "mobile": 1, "service": 1},
    }
    assert hour["ended"] == {
        "total": 3,
        "by_cause": ZERO_BY_CAUSE | {"revoked": 1, "token_reuse": 1, "idle": 1},
        "by_type": ZERO_BY_TYPE | {"web": 2, "service": 1},
    }
    assert hour["duration"]["average"] == 1200
    assert hour["duration"]["p95"] == pytest.approx(1800, rel=0.045)
    assert document["windows"]["7d"] == hour


async def test_request_takes_no_sample(admin: AdminHarness) -> None:
    before = await sample_and_get(admin)
    await admin.create()
    admin.clock.advance(3600)
    reply = await admin.call("GET", "/v1/analytics")
    assert reply.body == before


async def test_request_before_the_first_sample_is_503(admin: AdminHarness) -> None:
    reply = await admin.call("GET", "/v1/analytics")
    assert (reply.status, reply.body["code"]) == (503, "analytics_not_ready")
    assert reply.headers["Retry-After"] == "1"


async def test_store_outage_is_503(admin: AdminHarness) -> None:
    await sample_and_get(admin)
    admin.store.break_store()
    reply = await admin.call("GET", "/v1/analytics")
    assert (reply.status, reply.body["code"]) == (503, "store_unavailable")


async def test_other_scopes_get_403(admin: AdminHarness) -> None:
    for key in ("write", "revoke"):
        assert (await admin.call("GET", "/v1/analytics", key=key)).status == 403


async def test_query_parameter_is_refused(admin: AdminHarness) -> None:
    reply = await admin.call("GET", "/v1/analytics?window=1h")
    assert (reply.status, reply.body["code"]) == (400, "invalid_query")
