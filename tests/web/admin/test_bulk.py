"""The routes of many sessions: lists by state and provider, revocation by condition."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.verdict import Allow
from tests.web.admin.admin_listener import AdminHarness, Reply, open_admin


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


def session_ids(reply: Reply) -> list[str]:
    return [session["id"] for session in reply.body["sessions"]]


async def revoke_where(admin: AdminHarness, condition: dict[str, Any], **more: Any) -> Reply:
    return await admin.call("POST", "/v1/revoke", json={"condition": condition, **more})


# --- Lists


async def test_session_created_as_sso_is_listed_by_provider(admin: AdminHarness) -> None:
    of_provider = {"provider": "idp", "provider_session_id": "s1", "provider_subject": "u1"}
    _, created = await admin.create(type="sso", **of_provider)
    await admin.create(type="sso", **of_provider | {"provider": "other"})

    by_session = await admin.call("GET", "/v1/sessions?provider=idp&provider_session_id=s1")
    by_subject = await admin.call("GET", "/v1/sessions?provider=idp&provider_subject=u1")

    assert created.items() >= of_provider.items()
    assert session_ids(by_session) == session_ids(by_subject) == [created["id"]]


async def test_list_by_state_contains_only_that_state(admin: AdminHarness) -> None:
    _, revoked = await admin.create()
    await admin.call("POST", f"/v1/sessions/{revoked['id']}/revoke", json={})
    _, expired = await admin.create(expires_in=1)
    _, idle = await admin.create()
    admin.clock.advance(31 * 60)
    _, active = await admin.create()

    listed = {
        state: session_ids(await admin.call("GET", f"/v1/users/ada/sessions?state={state}"))
        for state in ("active", "idle", "expired", "revoked")
    }

    assert listed == {
        "active": [active["id"]],
        "idle": [idle["id"]],
        "expired": [expired["id"]],
        "revoked": [revoked["id"]],
    }
    all_states = await admin.call("GET", "/v1/users/ada/sessions?include_ended=true")
    assert len(session_ids(all_states)) == 4
    assert session_ids(await admin.call("GET", "/v1/users/ada/sessions")) == [active["id"]]


async def test_current_parameter_adds_is_current(admin: AdminHarness) -> None:
    _, current = await admin.create()
    _, other = await admin.create()

    marked = await admin.call("GET", f"/v1/users/ada/sessions?current={current['id']}")
    unmarked = await admin.call("GET", "/v1/users/ada/sessions")

    assert {s["id"]: s["is_current"] for s in marked.body["sessions"]} == {
        current["id"]: True,
        other["id"]: False,
    }
    assert all("is_current" not in session for session in unmarked.body["sessions"])


async def test_cursor_of_another_state_is_refused(admin: AdminHarness) -> None:
    for _ in range(2):
        await admin.create()
    cursor = (await admin.call("GET", "/v1/users/ada/sessions?limit=1")).body["next_cursor"]
    path = f"/v1/users/ada/sessions?limit=1&cursor={cursor}"
    assert (await admin.call("GET", path)).status == 200
    assert (await admin.call("GET", f"{path}&state=active")).status == 200
    assert (await admin.call("GET", f"{path}&state=idle")).status == 400
    assert (await admin.call("GET", f"{path}&include_ended=true")).status == 400


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("state=ended", ["state"]),
        ("state=ACTIVE", ["state"]),
        ("state=active&include_ended=true", ["include_ended"]),
        ("current=ada", ["current"]),
        (
            "limit=0&state=x&current=y&cursor=z&include_ended=maybe",
            ["limit", "state", "include_ended", "current", "cursor"],
        ),
    ],
)
async def test_all_query_errors_are_listed(
    admin: AdminHarness, query: str, paths: list[str]
) -> None:
    reply = await admin.call("GET", f"/v1/users/ada/sessions?{query}")
    assert reply.status == 400
    assert sorted(each["path"] for each in reply.body["errors"]) == sorted(paths)


async def test_provider_sessions_are_listed_by_session_or_subject(admin: AdminHarness) -> None:
    created = {}
    for sid, sub in (("1", "x"), ("2", "x"), ("3", "y")):
        _, session = await admin.create()
        migrated = await admin.call(
            "POST",
            f"/v1/sessions/{session['id']}/sso",
            json={"provider": "idp", "provider_session_id": sid, "provider_subject": sub},
        )
        assert migrated.body["session"]["provider_subject"] == sub
        created[sid] = session["id"]
    await admin.create()

    one = await admin.call("GET", "/v1/sessions?provider=idp&provider_session_id=1")
    two = await admin.call("GET", "/v1/sessions?provider=idp&provider_subject=x")
    none = await admin.call("GET", "/v1/sessions?provider=other&provider_subject=x")

    assert session_ids(one) == [created["1"]]
    assert session_ids(two) == [created["2"], created["1"]]
    assert session_ids(none) == []


async def test_sessions_of_all_users_are_listed_newest_first(admin: AdminHarness) -> None:
    created = []
    for number in range(5):
        admin.clock.advance(1)
        _, session = await admin.create(user_id=f"user-{number}")
        created.append(session["id"])
    await admin.call("POST", f"/v1/sessions/{created[2]}/revoke")
    active = [created[number] for number in (4, 3, 1, 0)]

    first = await admin.call("GET", "/v1/sessions?limit=3")
    rest = await admin.call("GET", f"/v1/sessions?limit=3&cursor={first.body['next_cursor']}")

    assert session_ids(first) + session_ids(rest) == active
    assert rest.body["next_cursor"] is None
    ended = await admin.call("GET", "/v1/sessions?state=revoked")
    assert session_ids(ended) == [created[2]]


async def test_list_of_all_users_can_be_narrowed(admin: AdminHarness) -> None:
    _, web = await admin.create()
    _, api = await admin.create(type="api", tenant="north")
    assert session_ids(await admin.call("GET", "/v1/sessions?type=web")) == [web["id"]]
    assert session_ids(await admin.call("GET", "/v1/sessions?tenant=north")) == [api["id"]]
    assert session_ids(await admin.call("GET", "/v1/sessions?type=web&tenant=north")) == []


@pytest.mark.parametrize(
    "query", ["provider_session_id=1", "provider_subject=1", "type=Web", "tenant=", "user_id=ada"]
)
async def test_invalid_list_query_is_400(admin: AdminHarness, query: str) -> None:
    reply = await admin.call("GET", f"/v1/sessions?{query}")
    assert (reply.status, reply.body["code"]) == (400, "invalid_query")
    assert [each["path"] for each in reply.body["errors"]] == [query.partition("=")[0]]


# --- Revocation by condition


async def test_condition_revokes_only_matching_sessions(admin: AdminHarness) -> None:
    matching, _ = await admin.create(tenant="north", type="mobile", ip="192.0.2.7")
    other, _ = await admin.create(tenant="north", type="mobile", ip="198.51.100.1")

    reply = await revoke_where(
        admin, {"tenant": "north", "type": "mobile", "ip_prefix": "192.0.2.0/24"}, reason="stolen"
    )

    assert (reply.status, reply.body) == (200, {"revoked": 1, "more": False})
    assert not isinstance(await admin.validator.validate(matching), Allow)
    assert isinstance(await admin.validator.validate(other), Allow)


async def test_dry_run_counts_and_revokes_nothing(admin: AdminHarness) -> None:
    token, _ = await admin.create()
    for _ in range(2):
        await admin.create()
    await admin.create("bob")

    reply = await revoke_where(admin, {"user_id": "ada"}, dry_run=True)

    assert reply.body == {"would_revoke": 3}
    assert isinstance(await admin.validator.validate(token), Allow)


async def test_revocation_spans_several_batches(admin: AdminHarness) -> None:
    total = 1003  # three batches
    for n in range(total):
        await admin.create(f"user {n}")
    reply = await revoke_where(admin, {"all": True})
    assert reply.body == {"revoked": total, "more": False}
    assert (await revoke_where(admin, {"all": True}, dry_run=True)).body == {"would_revoke": 0}


async def test_timestamps_are_compared_across_time_zones(admin: AdminHarness) -> None:
    await admin.create()  # at 12:00 UTC
    before = await revoke_where(
        admin, {"created_before": "2026-03-04T13:00:00+01:00"}, dry_run=True
    )
    after = await revoke_where(admin, {"created_before": "2026-03-04T13:00:01+01:00"}, dry_run=True)
    assert (before.body["would_revoke"], after.body["would_revoke"]) == (0, 1)


@pytest.mark.parametrize(
    ("document", "paths"),
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
async def test_invalid_condition_revokes_nothing(
    admin: AdminHarness, document: dict[str, Any], paths: list[str]
) -> None:
    token, _ = await admin.create()
    reply = await admin.call("POST", "/v1/revoke", json=document)
    assert reply.status == 400
    assert sorted(each["path"] for each in reply.body["errors"]) == sorted(paths)
    assert isinstance(await admin.validator.validate(token), Allow)


async def test_store_outage_is_503(admin: AdminHarness) -> None:
    admin.store.break_store()
    for more in ({}, {"dry_run": True}):
        assert (await revoke_where(admin, {"user_id": "ada"}, **more)).status == 503


async def test_revocation_by_condition_requires_scope_revoke(admin: AdminHarness) -> None:
    for key in ("read", "write"):
        reply = await admin.call(
            "POST", "/v1/revoke", key=key, json={"condition": {"all": True}, "dry_run": True}
        )
        assert reply.status == 403
