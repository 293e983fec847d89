"""The Idempotency-Key: a login that is sent again is the same login."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow
from tests.web.admin.admin_listener import Door, Reply, admin_door

ADA = {"user_id": "ada", "metadata": {"b": 1, "a": [2.5, None]}}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    limits = {SessionType.WEB: Limit(1), SessionType.API: Limit(1, AtLimit.REFUSE)}
    async with admin_door(tmp_path, limits=limits) as opened:
        yield opened


async def login(
    door: Door, *keys: str, body: dict[str, Any] | None = None, by: str = "all"
) -> Reply:
    lines = [("Idempotency-Key", key) for key in keys]
    return await door.call("POST", "/v1/sessions", json=body or ADA, headers=lines, key=by)


async def test_the_same_request_gets_the_same_session_and_the_same_token(door: Door) -> None:
    first = await login(door, "login-1")
    door.clock.advance(60)
    again = await login(door, "login-1")
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]
    verdict = await door.validator.validate(again.body["token"])
    assert isinstance(verdict, Allow)
    assert verdict.session.id == first.body["session"]["id"]


async def test_another_key_is_another_login_and_so_is_none(door: Door) -> None:
    replies = [await login(door, *keys) for keys in (["one"], ["two"], [], [])]
    assert len({reply.body["token"] for reply in replies}) == 4
    assert len({reply.body["session"]["id"] for reply in replies}) == 4


async def test_a_key_is_spelled_with_quotes_or_without(door: Door) -> None:
    assert (await login(door, '"login-1"')).text == (await login(door, "login-1")).text


async def test_how_the_body_is_laid_out_makes_no_difference(door: Door) -> None:
    key = ("Idempotency-Key", "k"), ("Content-Type", "application/json")
    bodies = b'{"user_id":"ada","type":"web"}', b'{ "type": "web",\n "user_id": "\\u0061da" }'
    one, other = [
        await door.call("POST", "/v1/sessions", data=body, headers=key) for body in bodies
    ]
    assert one.body["token"] == other.body["token"]


@pytest.mark.parametrize(
    "change",
    [{"user_id": "bob"}, {"type": "sso"}, {"expires_in": 60}, {"metadata": {}}, {"scopes": ["x"]}],
    ids=lambda change: next(iter(change)),
)
async def test_the_same_key_for_another_request_is_refused(
    door: Door, change: dict[str, Any]
) -> None:
    first = await login(door, "login-1")
    reply = await login(door, "login-1", body=ADA | change)
    assert (reply.status, reply.body["code"]) == (422, "idempotency_key_reused")
    assert (await login(door, "login-1")).body == first.body


async def test_the_same_key_of_another_caller_is_another_key(door: Door) -> None:
    mine, theirs = await login(door, "1"), await login(door, "1", by="write")
    assert mine.body["token"] != theirs.body["token"]
    assert mine.body["session"]["id"] != theirs.body["session"]["id"]


async def test_a_login_that_has_ended_is_not_begun_again(door: Door) -> None:
    first = await login(door, "login-1")
    await door.call("POST", f"/v1/sessions/{first.body['session']['id']}/revoke", json={})
    again = await login(door, "login-1")
    assert (again.status, again.body["code"]) == (409, "session_ended")


async def test_a_login_whose_token_was_refreshed_does_not_show_the_old_one(door: Door) -> None:
    first = await login(door, "login-1")
    await door.call("POST", "/v1/refresh", json={"token": first.body["token"]})
    again = await login(door, "login-1")
    assert (again.status, again.body["code"]) == (409, "session_exists")


async def test_a_login_that_became_another_type_does_not_show_its_old_token(door: Door) -> None:
    first = await login(door, "login-1")
    path = f"/v1/sessions/{first.body['session']['id']}/sso"
    await door.call("POST", path, json={"provider": "idp"})
    again = await login(door, "login-1")
    assert (again.status, again.body["code"]) == (409, "session_exists")


async def test_after_its_session_was_deleted_a_key_gives_another_token(door: Door) -> None:
    first = await login(door, "login-1")
    now = door.clock.advance(timedelta(days=1))
    assert await door.store.purge(now, limit=9) == 1
    second = await login(door, "login-1")
    assert second.status == 201
    assert second.body["token"] != first.body["token"]
    assert not isinstance(await door.validator.validate(first.body["token"]), Allow)


@pytest.mark.parametrize("type_", ["web", "api", "service"])
async def test_of_many_at_once_all_get_the_same_whatever_the_limit(door: Door, type_: str) -> None:
    body = {"user_id": "ada", "type": type_}
    replies = await asyncio.gather(*(login(door, "login-1", body=body) for _ in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body["token"] for reply in replies}) == 1
    listed = await door.call("GET", "/v1/users/ada/sessions?include_ended=true")
    assert len(listed.body["sessions"]) == 1


async def test_a_refused_login_may_be_sent_again(door: Door) -> None:
    body = {"user_id": "ada", "type": "api"}
    first = await login(door, "1", body=body)
    assert (await login(door, "2", body=body)).body["code"] == "limit_reached"
    await door.call("POST", f"/v1/sessions/{first.body['session']['id']}/revoke", json={})
    assert (await login(door, "2", body=body)).status == 201


@pytest.mark.parametrize(
    "keys",
    [[""], [" "], ["a b"], ["ü"], ["x" * 256], ['"a'], ['a"b'], ['""'], ["a\\b"], ["one", "two"]],
)
async def test_what_is_no_key_is_refused(door: Door, keys: list[str]) -> None:
    reply = await login(door, *keys)
    assert (reply.status, reply.body["code"]) == (400, "invalid_idempotency_key")
    assert (await door.call("GET", "/v1/users/ada/sessions")).body["sessions"] == []


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def test_neither_the_key_nor_the_token_is_stored(door: Door, tmp_path: Path) -> None:
    reply = await login(door, "a-very-telling-key")
    record = await door.store.get(SessionId(reply.body["session"]["id"]))
    assert record.details.claim is not None
    stored = everything_in(tmp_path)
    for secret in ("a-very-telling-key", reply.body["token"], reply.body["token"][4:]):
        assert secret.encode() not in stored
    assert "a-very-telling-key" not in repr(record)
