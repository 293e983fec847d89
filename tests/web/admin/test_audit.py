"""The audit trail at the admin door: who did what, when, from where, and why."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.admin.admin_listener import Door, admin_door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


async def test_every_change_is_told_with_who_what_when_from_where_and_why(door: Door) -> None:
    token, session = await door.create(tenant="north")
    door.clock.advance(1)
    await door.call("POST", "/v1/refresh", json={"token": token}, key="write")
    await door.call("POST", f"/v1/sessions/{session['id']}/sso", json={"provider": "idp"})
    path = f"/v1/sessions/{session['id']}/revoke"
    await door.call("POST", path, json={"reason": "stolen"}, key="revoke")

    reply = await door.call("GET", "/v1/audit", key="read")

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


async def test_a_token_used_again_is_noted_as_ended_by_sidegate(door: Door) -> None:
    token, _ = await door.create()
    await door.call("POST", "/v1/refresh", json={"token": token})
    door.clock.advance(60)
    await door.call("POST", "/v1/refresh", json={"token": token})
    [last, *_] = (await door.call("GET", "/v1/audit")).body["events"]
    assert (last["action"], last["by"], last["reason"]) == ("revoke", "sidegate", "token_reuse")


async def test_the_trail_is_read_page_by_page(door: Door) -> None:
    for _ in range(5):
        await door.create()
    numbers, path = [], "/v1/audit?limit=2"
    while True:
        page = (await door.call("GET", path)).body
        numbers += [event["number"] for event in page["events"]]
        if page["next_cursor"] is None:
            break
        path = f"/v1/audit?limit=2&cursor={page['next_cursor']}"
    assert numbers == [5, 4, 3, 2, 1]


async def test_the_trail_is_chosen_from(door: Door) -> None:
    _, ada = await door.create("ada")
    door.clock.advance(10)
    await door.create("bob")
    await door.call("POST", f"/v1/sessions/{ada['id']}/revoke", json={})

    async def told(query: str) -> list[tuple[str, str]]:
        events = (await door.call("GET", f"/v1/audit?{query}")).body["events"]
        return [(event["user_id"], event["action"]) for event in events]

    assert await told("user_id=bob") == [("bob", "create")]
    assert await told(f"session_id={ada['id']}") == [("ada", "revoke"), ("ada", "create")]
    assert await told("action=revoke") == [("ada", "revoke")]
    assert await told("by=key:read") == []
    assert await told("until=2026-03-04T12:00:05Z") == [("ada", "create")]
    assert await told("since=2026-03-04T12:00:05Z&action=create") == [("bob", "create")]


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
async def test_what_is_no_question_is_refused(door: Door, query: str) -> None:
    assert (await door.call("GET", f"/v1/audit?{query}")).status == 400


async def test_a_cursor_of_another_question_is_refused(door: Door) -> None:
    for _ in range(2):
        await door.create()
    cursor = (await door.call("GET", "/v1/audit?limit=1")).body["next_cursor"]
    assert (await door.call("GET", f"/v1/audit?limit=1&cursor={cursor}")).status == 200
    reply = await door.call("GET", f"/v1/audit?limit=1&user_id=bob&cursor={cursor}")
    assert reply.status == 400


async def test_an_outage_is_no_empty_trail(door: Door) -> None:
    door.store.breaks()
    assert (await door.call("GET", "/v1/audit")).status == 503


async def test_no_event_holds_a_token_or_a_digest(door: Door) -> None:
    token, _ = await door.create()
    text = (await door.call("GET", "/v1/audit")).text
    assert token not in text
    assert token[4:] not in text
