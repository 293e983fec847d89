"""The routes of session locks."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.lock import LEASE_PATTERN, Lease
from tests.support.databases import SqliteDatabase
from tests.web.admin.admin_listener import AdminHarness, Reply, open_admin

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
SOME_LEASE = Lease.mint().text


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path) as admin:
        yield admin


@pytest.fixture
async def lock(admin: AdminHarness) -> str:
    """The lock path of an active session."""
    _, session = await admin.create()
    return f"/v1/sessions/{session['id']}/lock"


async def acquire(admin: AdminHarness, lock: str, **changes: Any) -> dict[str, Any]:
    reply = await admin.call("POST", lock, json={"ttl": 300} | changes)
    assert reply.status == 201, reply.text
    document: dict[str, Any] = reply.body
    return document


def seconds_from_now(timestamp: str) -> float:
    at = datetime.fromisoformat(timestamp)
    return (at - datetime.now(at.tzinfo)).total_seconds()


def status_and_code(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.body["code"]


async def test_acquire_returns_lease_fence_and_expiry(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock, ttl=300, holder="worker-1")
    assert held.keys() == {"lease", "fence", "expires_at"}
    assert LEASE_PATTERN.fullmatch(held["lease"])
    assert isinstance(held["fence"], int)
    assert 0 < seconds_from_now(held["expires_at"]) <= 300


async def test_lock_without_a_body_lasts_30_seconds(admin: AdminHarness, lock: str) -> None:
    reply = await admin.call("POST", lock)
    assert reply.status == 201
    assert seconds_from_now(reply.body["expires_at"]) <= 30


async def test_held_lock_is_409_with_holder_and_expiry(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock, holder="worker-1")
    reply = await admin.call("POST", lock, json={"holder": "worker-2"})
    assert status_and_code(reply) == (409, "locked")
    assert reply.body["free_at"] == held["expires_at"]
    assert reply.body["holder"] == "worker-1"
    assert 1 <= int(reply.headers["Retry-After"]) <= 300
    assert held["lease"] not in reply.text


async def test_lock_is_free_after_retry_after(
    admin: AdminHarness, lock: str, tmp_path: Path
) -> None:
    held = await acquire(admin, lock)
    wait = int((await admin.call("POST", lock)).headers["Retry-After"])
    await SqliteDatabase(tmp_path / "sessions.db").age_locks(timedelta(seconds=wait))
    assert (await acquire(admin, lock))["fence"] > held["fence"]


async def test_holder_can_renew_the_lock(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock, ttl=100)
    reply = await admin.call("PUT", lock, json={"lease": held["lease"], "ttl": 300})
    assert reply.status == 200
    assert reply.body.keys() == {"fence", "expires_at"}
    assert reply.body["fence"] == held["fence"]
    assert reply.body["expires_at"] > held["expires_at"]


async def test_expired_lock_is_lost(admin: AdminHarness, lock: str, tmp_path: Path) -> None:
    held = await acquire(admin, lock)
    await SqliteDatabase(tmp_path / "sessions.db").age_locks(timedelta(seconds=300))
    reply = await admin.call("PUT", lock, json={"lease": held["lease"]})
    assert status_and_code(reply) == (409, "lock_lost")
    released = await admin.call("DELETE", lock, json={"lease": held["lease"]})
    assert (released.status, released.body) == (200, {"released": False})


async def test_release_is_idempotent(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock)
    for released in (True, False):
        reply = await admin.call("DELETE", lock, json={"lease": held["lease"]})
        assert (reply.status, reply.body) == (200, {"released": released})
    await acquire(admin, lock)


async def test_other_lease_neither_renews_nor_releases(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock)
    assert status_and_code(await admin.call("PUT", lock, json={"lease": SOME_LEASE})) == (
        409,
        "lock_lost",
    )
    reply = await admin.call("DELETE", lock, json={"lease": SOME_LEASE})
    assert reply.body == {"released": False}
    assert (await admin.call("PUT", lock, json={"lease": held["lease"]})).status == 200


@pytest.mark.parametrize("session_id", [UNKNOWN, "malformed"])
async def test_lock_of_an_unknown_session_is_404(admin: AdminHarness, session_id: str) -> None:
    reply = await admin.call("POST", f"/v1/sessions/{session_id}/lock")
    assert status_and_code(reply) == (404, "not_found")


async def test_ended_session_cannot_be_locked(admin: AdminHarness, lock: str) -> None:
    held = await acquire(admin, lock)
    await admin.call("POST", lock.replace("/lock", "/revoke"))
    assert status_and_code(await admin.call("POST", lock)) == (409, "session_ended")
    reply = await admin.call("PUT", lock, json={"lease": held["lease"]})
    assert status_and_code(reply) == (409, "lock_lost")


@pytest.mark.parametrize(
    ("method", "document", "paths"),
    [
        ("POST", {"ttl": 0}, ["ttl"]),
        ("POST", {"ttl": 301}, ["ttl"]),
        ("POST", {"ttl": 1.5}, ["ttl"]),
        ("POST", {"ttl": "30"}, ["ttl"]),
        ("POST", {"ttl": True}, ["ttl"]),
        ("POST", {"holder": "two\nlines"}, ["holder"]),
        ("POST", {"holder": ""}, ["holder"]),
        ("POST", {"lease": SOME_LEASE}, ["lease"]),
        ("PUT", {}, ["lease"]),
        ("PUT", {"lease": SOME_LEASE, "ttl": 0}, ["ttl"]),
        ("PUT", {"lease": SOME_LEASE, "holder": "other"}, ["holder"]),
        ("PUT", {"lease": SOME_LEASE[:-1], "ttl": -1}, ["lease", "ttl"]),
        ("PUT", {"lease": 7}, ["lease"]),
        ("PUT", {"lease": "\ud800" * 47}, ["lease"]),
        ("DELETE", {}, ["lease"]),
        ("DELETE", {"lease": f"{SOME_LEASE}\n"}, ["lease"]),
        ("DELETE", {"lease": SOME_LEASE, "ttl": 1}, ["ttl"]),
    ],
)
async def test_all_validation_errors_are_listed_without_the_lease(
    admin: AdminHarness, lock: str, method: str, document: dict[str, Any], paths: list[str]
) -> None:
    reply = await admin.call(method, lock, json=document)
    assert status_and_code(reply) == (400, "invalid_request")
    assert sorted(each["path"] for each in reply.body["errors"]) == paths
    assert SOME_LEASE[:-1] not in reply.text


@pytest.mark.parametrize(
    ("method", "document"),
    [("POST", {}), ("PUT", {"lease": SOME_LEASE}), ("DELETE", {"lease": SOME_LEASE})],
)
async def test_store_outage_is_503(
    admin: AdminHarness, lock: str, method: str, document: dict[str, Any]
) -> None:
    admin.store.break_store()
    reply = await admin.call(method, lock, json=document)
    assert status_and_code(reply) == (503, "store_unavailable")


async def test_lock_does_not_change_its_session(admin: AdminHarness, lock: str) -> None:
    session = (await admin.call("GET", lock.removesuffix("/lock"))).body
    await acquire(admin, lock)
    assert (await admin.call("GET", lock.removesuffix("/lock"))).body == session
    assert len((await admin.call("GET", "/v1/audit")).body["events"]) == 1
