"""The Idempotency-Key header of the route that creates sessions."""

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
from tests.web.admin.admin_listener import AdminHarness, Reply, open_admin

BODY = {"user_id": "ada", "metadata": {"b": 1, "a": [2.5, None]}}


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[AdminHarness]:
    limits = {SessionType.WEB: Limit(1), SessionType.API: Limit(1, AtLimit.REFUSE)}
    async with open_admin(tmp_path, limits=limits) as admin:
        yield admin


async def create(
    admin: AdminHarness, *keys: str, body: dict[str, Any] | None = None, api_key: str = "all"
) -> Reply:
    lines = [("Idempotency-Key", key) for key in keys]
    return await admin.call("POST", "/v1/sessions", json=body or BODY, headers=lines, key=api_key)


async def test_retry_gets_the_same_session_and_token(admin: AdminHarness) -> None:
    first = await create(admin, "key-1")
    admin.clock.advance(60)
    again = await create(admin, "key-1")
    assert (first.status, again.status) == (201, 201)
    changed = {"set_cookie": again.body["set_cookie"]}  # it ends at the same time, a minute sooner
    assert again.body == first.body | changed
    assert again.headers["Location"] == first.headers["Location"]
    verdict = await admin.validator.validate(again.body["token"])
    assert isinstance(verdict, Allow)
    assert verdict.session.id == first.body["session"]["id"]


async def test_other_key_or_none_creates_another_session(admin: AdminHarness) -> None:
    replies = [await create(admin, *keys) for keys in (["one"], ["two"], [], [])]
    assert len({reply.body["token"] for reply in replies}) == 4
    assert len({reply.body["session"]["id"] for reply in replies}) == 4


async def test_quotes_around_the_key_are_optional(admin: AdminHarness) -> None:
    assert (await create(admin, '"key-1"')).text == (await create(admin, "key-1")).text


async def test_retry_may_format_the_body_differently(admin: AdminHarness) -> None:
    key = ("Idempotency-Key", "k"), ("Content-Type", "application/json")
    bodies = b'{"user_id":"ada","type":"web"}', b'{ "type": "web",\n "user_id": "\\u0061da" }'
    one, other = [
        await admin.call("POST", "/v1/sessions", data=body, headers=key) for body in bodies
    ]
    assert one.body["token"] == other.body["token"]


@pytest.mark.parametrize(
    "change",
    [{"user_id": "bob"}, {"type": "sso"}, {"expires_in": 60}, {"metadata": {}}, {"scopes": ["x"]}],
    ids=lambda change: next(iter(change)),
)
async def test_reused_key_with_another_body_is_422(
    admin: AdminHarness, change: dict[str, Any]
) -> None:
    first = await create(admin, "key-1")
    reply = await create(admin, "key-1", body=BODY | change)
    assert (reply.status, reply.body["code"]) == (422, "idempotency_key_reused")
    assert (await create(admin, "key-1")).body == first.body


async def test_same_key_with_another_api_key_creates_another_session(admin: AdminHarness) -> None:
    first, second = await create(admin, "1"), await create(admin, "1", api_key="write")
    assert first.body["token"] != second.body["token"]
    assert first.body["session"]["id"] != second.body["session"]["id"]


async def test_retry_after_the_session_ended_is_409(admin: AdminHarness) -> None:
    first = await create(admin, "key-1")
    await admin.call("POST", f"/v1/sessions/{first.body['session']['id']}/revoke", json={})
    again = await create(admin, "key-1")
    assert (again.status, again.body["code"]) == (409, "session_ended")


async def test_retry_after_a_refresh_is_409(admin: AdminHarness) -> None:
    first = await create(admin, "key-1")
    await admin.call("POST", "/v1/refresh", json={"token": first.body["token"]})
    again = await create(admin, "key-1")
    assert (again.status, again.body["code"]) == (409, "session_exists")


async def test_retry_after_a_migration_is_409(admin: AdminHarness) -> None:
    first = await create(admin, "key-1")
    path = f"/v1/sessions/{first.body['session']['id']}/sso"
    await admin.call("POST", path, json={"provider": "idp"})
    again = await create(admin, "key-1")
    assert (again.status, again.body["code"]) == (409, "session_exists")


async def test_retry_after_the_purge_creates_another_token(admin: AdminHarness) -> None:
    first = await create(admin, "key-1")
    now = admin.clock.advance(timedelta(days=1))
    assert await admin.store.purge(now, limit=9) == 1
    second = await create(admin, "key-1")
    assert second.status == 201
    assert second.body["token"] != first.body["token"]
    assert not isinstance(await admin.validator.validate(first.body["token"]), Allow)


@pytest.mark.parametrize("type_", ["web", "api", "service"])
async def test_concurrent_retries_get_one_session_at_any_limit(
    admin: AdminHarness, type_: str
) -> None:
    body = {"user_id": "ada", "type": type_}
    replies = await asyncio.gather(*(create(admin, "key-1", body=body) for _ in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body["token"] for reply in replies}) == 1
    listed = await admin.call("GET", "/v1/users/ada/sessions?include_ended=true")
    assert len(listed.body["sessions"]) == 1


async def test_refused_request_may_be_retried(admin: AdminHarness) -> None:
    body = {"user_id": "ada", "type": "api"}
    first = await create(admin, "1", body=body)
    assert (await create(admin, "2", body=body)).body["code"] == "limit_reached"
    await admin.call("POST", f"/v1/sessions/{first.body['session']['id']}/revoke", json={})
    assert (await create(admin, "2", body=body)).status == 201


@pytest.mark.parametrize(
    "keys",
    [[""], [" "], ["a b"], ["ü"], ["x" * 256], ['"a'], ['a"b'], ['""'], ["a\\b"], ["one", "two"]],
)
async def test_malformed_key_is_400(admin: AdminHarness, keys: list[str]) -> None:
    reply = await create(admin, *keys)
    assert (reply.status, reply.body["code"]) == (400, "invalid_idempotency_key")
    assert (await admin.call("GET", "/v1/users/ada/sessions")).body["sessions"] == []


def read_files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def test_neither_key_nor_token_is_stored(admin: AdminHarness, tmp_path: Path) -> None:
    reply = await create(admin, "a-recognisable-key")
    record = await admin.store.get(SessionId(reply.body["session"]["id"]))
    assert record.details.idempotency_key_hash is not None
    stored = read_files(tmp_path)
    for secret in ("a-recognisable-key", reply.body["token"], reply.body["token"][4:]):
        assert secret.encode() not in stored
    assert "a-recognisable-key" not in repr(record)
