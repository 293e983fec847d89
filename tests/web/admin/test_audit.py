"""The route of the audit trail."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.admin.admin_listener import AdminHarness, open_admin


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


async def test_each_change_is_an_event_with_actor_time_address_and_reason(
    admin: AdminHarness,
) -> None:
    token, session = await admin.create(tenant="north")
    admin.clock.advance(1)
    await admin.call("POST", "/v1/refresh", json={"token": token}, key="write")
    await admin.call("POST", f"/v1/sessions/{session['id']}/sso", json={"provider": "idp"})
    path = f"/v1/sessions/{session['id']}/revoke"
    await admin.call("POST", path, json={"reason": "stolen"}, key="revoke")

    reply = await admin.call("GET", "/v1/audit", key="read")

    events = reply.body["events"]
    assert [event["action"] for event in events] == ["revoke", "migrate", "refresh", "create"]
    assert [event["by"] for event in events] == ["key:revoke", "key:all", "key:write", "key:all"]
    assert events[0] == {
        "number": 4,
        "at": "2026-03-04T12:00:01.123456Z",
        "action": "revoke",
        "session_id": session["id"],
        "version": 4,
        "user_id": "ada",
        "type": "sso",
        "tenant": "north",
        "by": "key:revoke",
        "from": "127.0.0.1",
        "reason": "stolen",
    }
    assert reply.body["next_cursor"] is None


async def test_token_reuse_is_an_event_by_sidegate(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    successor = (await admin.call("POST", "/v1/refresh", json={"token": token})).body["token"]
    await admin.call("POST", "/v1/refresh", json={"token": successor})  # it has arrived
    admin.clock.advance(60)
    await admin.call("POST", "/v1/refresh", json={"token": token})
    [last, *_] = (await admin.call("GET", "/v1/audit")).body["events"]
    assert (last["action"], last["by"], last["reason"]) == ("revoke", "sidegate", "token_reuse")


async def test_pages_contain_every_event_once(admin: AdminHarness) -> None:
    for _ in range(5):
        await admin.create()
    numbers, path = [], "/v1/audit?limit=2"
    while True:
        page = (await admin.call("GET", path)).body
        numbers += [event["number"] for event in page["events"]]
        if page["next_cursor"] is None:
            break
        path = f"/v1/audit?limit=2&cursor={page['next_cursor']}"
    assert numbers == [5, 4, 3, 2, 1]


async def test_events_are_filtered_by_query_parameters(admin: AdminHarness) -> None:
    _, ada = await admin.create("ada")
    admin.clock.advance(10)
    await admin.create("bob")
    await admin.call("POST", f"/v1/sessions/{ada['id']}/revoke", json={})

    async def list_events(query: str) -> list[tuple[str, str]]:
        events = (await admin.call("GET", f"/v1/audit?{query}")).body["events"]
        return [(event["user_id"], event["action"]) for event in events]

    assert await list_events("user_id=bob") == [("bob", "create")]
    assert await list_events(f"session_id={ada['id']}") == [("ada", "revoke"), ("ada", "create")]
    assert await list_events("action=revoke") == [("ada", "revoke")]
    assert await list_events("by=key:read") == []
    assert await list_events("until=2026-03-04T12:00:05Z") == [("ada", "create")]
    assert await list_events("since=2026-03-04T12:00:05Z&action=create") == [("bob", "create")]


@pytest.mark.parametrize(
    "query",
    [
        "cursor=AAAA",
        "limit=1000",
        "session_id=ada",
        "action=delete",
        "since=yesterday",
        "until=2026-03-04T12:00:00",
        "who=me",
        "user_id=",
    ],
)
async def test_invalid_query_is_refused(admin: AdminHarness, query: str) -> None:
    assert (await admin.call("GET", f"/v1/audit?{query}")).status == 400


async def test_cursor_of_another_query_is_refused(admin: AdminHarness) -> None:
    for _ in range(2):
        await admin.create()
    cursor = (await admin.call("GET", "/v1/audit?limit=1")).body["next_cursor"]
    assert (await admin.call("GET", f"/v1/audit?limit=1&cursor={cursor}")).status == 200
    reply = await admin.call("GET", f"/v1/audit?limit=1&user_id=bob&cursor={cursor}")
    assert reply.status == 400


async def test_store_outage_is_503(admin: AdminHarness) -> None:
    admin.store.break_store()
    assert (await admin.call("GET", "/v1/audit")).status == 503


async def test_events_contain_no_token(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    text = (await admin.call("GET", "/v1/audit")).text
    assert token not in text
    assert token[4:] not in text
