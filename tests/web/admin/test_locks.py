"""The lock of a session, at the admin door."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.lock import LEASE, Lease
from tests.support.databases import SqliteDatabase
from tests.web.admin.admin_listener import Door, Reply, admin_door

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
SOME_LEASE = Lease.mint().text


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


@pytest.fixture
async def lock(door: Door) -> str:
    """The path of a session's lock."""
    _, session = await door.create()
    return f"/v1/sessions/{session['id']}/lock"


async def acquired(door: Door, lock: str, **wanted: Any) -> dict[str, Any]:
    reply = await door.call("POST", lock, json={"ttl": 300} | wanted)
    assert reply.status == 201, reply.text
    document: dict[str, Any] = reply.body
    return document


def seconds_from_now(moment: str) -> float:
    at = datetime.fromisoformat(moment)
    return (at - datetime.now(at.tzinfo)).total_seconds()


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.body["code"]


async def test_an_acquired_lock_answers_with_lease_fence_and_end(door: Door, lock: str) -> None:
    held = await acquired(door, lock, ttl=300, holder="worker-1")
    assert held.keys() == {"lease", "fence", "expires_at"}
    assert LEASE.fullmatch(held["lease"])
    assert isinstance(held["fence"], int)
    assert 0 < seconds_from_now(held["expires_at"]) <= 300


async def test_without_a_body_a_lock_is_held_for_thirty_seconds(door: Door, lock: str) -> None:
    reply = await door.call("POST", lock)
    assert reply.status == 201
    assert seconds_from_now(reply.body["expires_at"]) <= 30


async def test_whoever_finds_it_held_is_told_by_whom_and_until_when(door: Door, lock: str) -> None:
    held = await acquired(door, lock, holder="worker-1")
    reply = await door.call("POST", lock, json={"holder": "worker-2"})
    assert refusal(reply) == (409, "locked")
    assert reply.body["free_at"] == held["expires_at"]
    assert reply.body["holder"] == "worker-1"
    assert 1 <= int(reply.headers["Retry-After"]) <= 300
    assert held["lease"] not in reply.text


async def test_whoever_waits_as_long_as_it_said_gets_it(
    door: Door, lock: str, tmp_path: Path
) -> None:
    held = await acquired(door, lock)
    wait = int((await door.call("POST", lock)).headers["Retry-After"])
    await SqliteDatabase(tmp_path / "sessions.db").age_locks(timedelta(seconds=wait))
    assert (await acquired(door, lock))["fence"] > held["fence"]


async def test_the_holder_renews_it(door: Door, lock: str) -> None:
    held = await acquired(door, lock, ttl=100)
    reply = await door.call("PUT", lock, json={"lease": held["lease"], "ttl": 300})
    assert reply.status == 200
    assert reply.body.keys() == {"fence", "expires_at"}
    assert reply.body["fence"] == held["fence"]
    assert reply.body["expires_at"] > held["expires_at"]


async def test_what_is_over_is_lost(door: Door, lock: str, tmp_path: Path) -> None:
    held = await acquired(door, lock)
    await SqliteDatabase(tmp_path / "sessions.db").age_locks(timedelta(seconds=300))
    reply = await door.call("PUT", lock, json={"lease": held["lease"]})
    assert refusal(reply) == (409, "lock_lost")
    released = await door.call("DELETE", lock, json={"lease": held["lease"]})
    assert (released.status, released.body) == (200, {"released": False})


async def test_the_holder_releases_it_and_says_so_again_without_harm(door: Door, lock: str) -> None:
    held = await acquired(door, lock)
    for released in (True, False):
        reply = await door.call("DELETE", lock, json={"lease": held["lease"]})
        assert (reply.status, reply.body) == (200, {"released": released})
    await acquired(door, lock)


async def test_another_lease_neither_renews_nor_releases(door: Door, lock: str) -> None:
    held = await acquired(door, lock)
    assert refusal(await door.call("PUT", lock, json={"lease": SOME_LEASE})) == (409, "lock_lost")
    reply = await door.call("DELETE", lock, json={"lease": SOME_LEASE})
    assert reply.body == {"released": False}
    assert (await door.call("PUT", lock, json={"lease": held["lease"]})).status == 200


@pytest.mark.parametrize("session_id", [UNKNOWN, "nobody"])
async def test_nobody_cannot_be_locked(door: Door, session_id: str) -> None:
    reply = await door.call("POST", f"/v1/sessions/{session_id}/lock")
    assert refusal(reply) == (404, "not_found")


async def test_an_ended_session_has_no_lock(door: Door, lock: str) -> None:
    held = await acquired(door, lock)
    await door.call("POST", lock.replace("/lock", "/revoke"))
    assert refusal(await door.call("POST", lock)) == (409, "session_ended")
    reply = await door.call("PUT", lock, json={"lease": held["lease"]})
    assert refusal(reply) == (409, "lock_lost")


@pytest.mark.parametrize(
    ("method", "document", "mistaken"),
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
async def test_every_mistake_is_told_and_no_lease_repeated(
    door: Door, lock: str, method: str, document: dict[str, Any], mistaken: list[str]
) -> None:
    reply = await door.call(method, lock, json=document)
    assert refusal(reply) == (400, "invalid_request")
    assert sorted(each["path"] for each in reply.body["errors"]) == mistaken
    assert SOME_LEASE[:-1] not in reply.text


@pytest.mark.parametrize(
    ("method", "document"),
    [("POST", {}), ("PUT", {"lease": SOME_LEASE}), ("DELETE", {"lease": SOME_LEASE})],
)
async def test_an_outage_is_neither_a_lock_nor_a_loss(
    door: Door, lock: str, method: str, document: dict[str, Any]
) -> None:
    door.store.breaks()
    reply = await door.call(method, lock, json=document)
    assert refusal(reply) == (503, "store_unavailable")


async def test_a_lock_is_no_change_of_its_session(door: Door, lock: str) -> None:
    shown = (await door.call("GET", lock.removesuffix("/lock"))).body
    await acquired(door, lock)
    assert (await door.call("GET", lock.removesuffix("/lock"))).body == shown
    assert len((await door.call("GET", "/v1/audit")).body["events"]) == 1
