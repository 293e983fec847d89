"""The routes of many sessions: lists by state and provider, and revocation by condition."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.verdict import Allow
from tests.web.admin.admin_listener import Door, Reply, admin_door

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


def ids(reply: Reply) -> list[str]:
    return [session["id"] for session in reply.body["sessions"]]


async def revoke_where(door: Door, condition: dict[str, Any], **more: Any) -> Reply:
    return await door.call("POST", "/v1/revoke", json={"condition": condition, **more})


# --- Lists


async def test_a_session_that_begins_as_sso_is_found_by_its_provider(door: Door) -> None:
    of_provider = {"provider": "idp", "provider_session_id": "s1", "provider_subject": "u1"}
    _, begun = await door.create(type="sso", **of_provider)
    await door.create(type="sso", **of_provider | {"provider": "other"})

    by_session = await door.call("GET", "/v1/sessions?provider=idp&provider_session_id=s1")
    by_subject = await door.call("GET", "/v1/sessions?provider=idp&provider_subject=u1")

    assert begun.items() >= of_provider.items()
    assert ids(by_session) == ids(by_subject) == [begun["id"]]


async def test_a_list_by_state_holds_only_those(door: Door) -> None:
    _, revoked = await door.create()
    await door.call("POST", f"/v1/sessions/{revoked['id']}/revoke", json={})
    _, expired = await door.create(expires_in=1)
    _, idle = await door.create()
    door.clock.advance(31 * 60)
    _, active = await door.create()

    listed = {
        state: ids(await door.call("GET", f"/v1/users/ada/sessions?state={state}"))
        for state in ("active", "idle", "expired", "revoked")
    }

    assert listed == {
        "active": [active["id"]],
        "idle": [idle["id"]],
        "expired": [expired["id"]],
        "revoked": [revoked["id"]],
    }
    everything = await door.call("GET", "/v1/users/ada/sessions?include_ended=true")
    assert len(ids(everything)) == 4
    assert ids(await door.call("GET", "/v1/users/ada/sessions")) == [active["id"]]


async def test_a_caller_who_says_which_is_current_is_told_which_are_not(door: Door) -> None:
    _, current = await door.create()
    _, other = await door.create()

    told = await door.call("GET", f"/v1/users/ada/sessions?current={current['id']}")
    untold = await door.call("GET", "/v1/users/ada/sessions")

    assert {s["id"]: s["is_current"] for s in told.body["sessions"]} == {
        current["id"]: True,
        other["id"]: False,
    }
    assert all("is_current" not in session for session in untold.body["sessions"])


async def test_a_cursor_of_one_state_is_none_of_another(door: Door) -> None:
    for _ in range(2):
        await door.create()
    cursor = (await door.call("GET", "/v1/users/ada/sessions?limit=1")).body["next_cursor"]
    path = f"/v1/users/ada/sessions?limit=1&cursor={cursor}"
    assert (await door.call("GET", path)).status == 200
    assert (await door.call("GET", f"{path}&state=active")).status == 200
    assert (await door.call("GET", f"{path}&state=idle")).status == 400
    assert (await door.call("GET", f"{path}&include_ended=true")).status == 400


@pytest.mark.parametrize(
    ("query", "mistaken"),
    [
        ("state=dead", ["state"]),
        ("state=ACTIVE", ["state"]),
        ("state=active&include_ended=true", ["include_ended"]),
        ("current=ada", ["current"]),
        (
            "limit=0&state=x&current=y&cursor=z&include_ended=maybe",
            ["limit", "state", "include_ended", "current", "cursor"],
        ),
    ],
)
async def test_every_mistake_of_a_query_is_told(
    door: Door, query: str, mistaken: list[str]
) -> None:
    reply = await door.call("GET", f"/v1/users/ada/sessions?{query}")
    assert reply.status == 400
    assert sorted(each["path"] for each in reply.body["errors"]) == sorted(mistaken)


async def test_the_sessions_of_a_providers_session_or_subject_are_listed(door: Door) -> None:
    made = {}
    for sid, sub in (("1", "x"), ("2", "x"), ("3", "y")):
        _, session = await door.create()
        migrated = await door.call(
            "POST",
            f"/v1/sessions/{session['id']}/sso",
            json={"provider": "idp", "provider_session_id": sid, "provider_subject": sub},
        )
        assert migrated.body["session"]["provider_subject"] == sub
        made[sid] = session["id"]
    await door.create()

    one = await door.call("GET", "/v1/sessions?provider=idp&provider_session_id=1")
    two = await door.call("GET", "/v1/sessions?provider=idp&provider_subject=x")
    none = await door.call("GET", "/v1/sessions?provider=other&provider_subject=x")

    assert ids(one) == [made["1"]]
    assert ids(two) == [made["2"], made["1"]]
    assert ids(none) == []


@pytest.mark.parametrize("query", ["", "provider=idp", "provider_session_id=1"])
async def test_a_list_of_everybody_is_not_to_be_had(door: Door, query: str) -> None:
    assert (await door.call("GET", f"/v1/sessions?{query}")).status == 400


# --- Revocation by condition


async def test_a_condition_ends_those_that_match_and_no_others(door: Door) -> None:
    taken, _ = await door.create(tenant="north", type="mobile", ip="192.0.2.7")
    spared, _ = await door.create(tenant="north", type="mobile", ip="198.51.100.1")

    reply = await revoke_where(
        door, {"tenant": "north", "type": "mobile", "ip_prefix": "192.0.2.0/24"}, reason="stolen"
    )

    assert (reply.status, reply.body) == (200, {"revoked": 1, "more": False})
    assert not isinstance(await door.validator.validate(taken), Allow)
    assert isinstance(await door.validator.validate(spared), Allow)


async def test_a_dry_run_counts_and_ends_nobody(door: Door) -> None:
    token, _ = await door.create()
    for _ in range(2):
        await door.create()
    await door.create("bob")

    reply = await revoke_where(door, {"user_id": "ada"}, dry_run=True)

    assert reply.body == {"would_revoke": 3}
    assert isinstance(await door.validator.validate(token), Allow)


async def test_more_than_a_batch_is_ended_to_the_last(door: Door) -> None:
    everybody = 1003  # two batches and a bit
    for n in range(everybody):
        await door.create(f"user {n}")
    reply = await revoke_where(door, {"all": True})
    assert reply.body == {"revoked": everybody, "more": False}
    assert (await revoke_where(door, {"all": True}, dry_run=True)).body == {"would_revoke": 0}


async def test_moments_are_compared_whatever_their_zone(door: Door) -> None:
    await door.create()  # at noon, UTC
    before = await revoke_where(door, {"created_before": "2026-03-04T13:00:00+01:00"}, dry_run=True)
    after = await revoke_where(door, {"created_before": "2026-03-04T13:00:01+01:00"}, dry_run=True)
    assert (before.body["would_revoke"], after.body["would_revoke"]) == (0, 1)


@pytest.mark.parametrize(
    ("document", "mistaken"),
    [
        ({}, ["condition"]),
        ({"condition": {}}, ["condition"]),
        ({"condition": {"all": True, "user_id": "ada"}}, ["condition"]),
        ({"condition": {"all": False}}, ["condition"]),
        ({"condition": {"user": "ada"}}, ["condition.user"]),
        ({"condition": {"ip_prefix": "192.0.2.1/24"}}, ["condition.ip_prefix"]),
        ({"condition": {"ip_prefix": "fe80::%eth0/64"}}, ["condition.ip_prefix"]),
        ({"condition": {"created_before": "2026-03-04"}}, ["condition.created_before"]),
        ({"condition": {"created_before": "2026-03-04T12:00:00"}}, ["condition.created_before"]),
        ({"condition": {"created_before": 1772625600}}, ["condition.created_before"]),
        ({"condition": {"last_seen_before": "9999-12-31T23:59:59-01:00"}},
         ["condition.last_seen_before"]),
        ({"condition": {"user_agent_contains": ""}}, ["condition.user_agent_contains"]),
        ({"condition": {"type": "root", "scope": "a b", "except": "x"}},
         ["condition.type", "condition.scope", "condition.except"]),
        ({"condition": {"user_id": "ada"}, "dry_run": "yes"}, ["dry_run"]),
        ({"condition": {"user_id": "ada"}, "reason": ""}, ["reason"]),
    ],
)  # fmt: skip
async def test_a_condition_with_mistakes_ends_nobody(
    door: Door, document: dict[str, Any], mistaken: list[str]
) -> None:
    token, _ = await door.create()
    reply = await door.call("POST", "/v1/revoke", json=document)
    assert reply.status == 400
    assert sorted(each["path"] for each in reply.body["errors"]) == sorted(mistaken)
    assert isinstance(await door.validator.validate(token), Allow)


async def test_an_outage_is_no_count(door: Door) -> None:
    door.store.breaks()
    for more in ({}, {"dry_run": True}):
        assert (await revoke_where(door, {"user_id": "ada"}, **more)).status == 503


async def test_only_who_may_revoke_may_revoke_by_condition(door: Door) -> None:
    for key in ("read", "write"):
        reply = await door.call(
            "POST", "/v1/revoke", key=key, json={"condition": {"all": True}, "dry_run": True}
        )
        assert reply.status == 403
