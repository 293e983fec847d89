"""Session limits under fifty concurrent logins of one user at two instances."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.scenarios.test_outages import check, statuses_until
from tests.support.processes import temporary_directory
from tests.support.sidegate import Sidegate, start_sidegate

LOGINS, LIMIT = 50, 3


class Login(NamedTuple):
    status: int
    body: dict[str, Any]


async def log_in(
    http: aiohttp.ClientSession, sidegate: Sidegate, user_id: str = "ada", **headers: str
) -> Login:
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/sessions"
    headers |= {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.post(url, json={"user_id": user_id}, headers=headers) as response:
        return Login(response.status, await response.json(content_type=None))


async def log_in_fifty_times(
    http: aiohttp.ClientSession, instances: tuple[Sidegate, Sidegate]
) -> list[Login]:
    return await asyncio.gather(*(log_in(http, instances[n % 2]) for n in range(LOGINS)))


async def active_ids(http: aiohttp.ClientSession, sidegate: Sidegate) -> set[str]:
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/users/ada/sessions?limit=200"
    headers = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.get(url, headers=headers) as response:
        return {session["id"] for session in (await response.json())["sessions"]}


def limited(at_limit: str, limit: int = LIMIT) -> dict[str, str]:
    return {
        "SIDEGATE_SESSIONS__WEB__LIMIT": str(limit),
        "SIDEGATE_SESSIONS__WEB__AT_LIMIT": at_limit,
    }


@pytest.mark.parametrize("at_limit", ["evict_oldest", "evict_idle_longest"])
async def test_concurrent_logins_beyond_the_limit_evict_others_within_a_second(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession, at_limit: str
) -> None:
    settings = limited(at_limit)
    one, other = await asyncio.to_thread(lambda: (instances(**settings), instances(**settings)))
    logins = await log_in_fifty_times(http, (one, other))
    done = time.monotonic()
    assert [login.status for login in logins] == [HTTPStatus.CREATED] * LOGINS
    remaining = await active_ids(http, other)
    assert len(remaining) == LIMIT
    for sidegate in (one, other):
        for login in logins:
            expected = 200 if login.body["session"]["id"] in remaining else 401
            await statuses_until(http, sidegate, login.body["token"], last=expected)
    assert time.monotonic() - done < 1.0


async def test_concurrent_logins_beyond_the_limit_are_refused(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    settings = limited("refuse")
    one, other = await asyncio.to_thread(lambda: (instances(**settings), instances(**settings)))
    logins = await log_in_fifty_times(http, (one, other))
    created = [login for login in logins if login.status == HTTPStatus.CREATED]
    refused = [login.body["code"] for login in logins if login.status == HTTPStatus.CONFLICT]
    assert len(created) == LIMIT
    assert refused == ["limit_reached"] * (LOGINS - LIMIT)
    assert await active_ids(http, one) == {login.body["session"]["id"] for login in created}


async def test_two_processes_on_one_sqlite_file_keep_the_limit(http: aiohttp.ClientSession) -> None:
    start: Callable[..., Sidegate] = start_sidegate
    with temporary_directory() as directory:
        one, other = await asyncio.to_thread(
            lambda: tuple(start(directory, **limited("evict_oldest")) for _ in range(2))
        )
        try:
            logins = await log_in_fifty_times(http, (one, other))
            assert [login.status for login in logins] == [HTTPStatus.CREATED] * LOGINS
            assert len(await active_ids(http, one)) == LIMIT
        finally:
            for sidegate in (one, other):
                await asyncio.to_thread(sidegate.server.stop)


async def test_limit_lowered_by_a_restart_applies_at_the_next_login(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    generous, strict = await asyncio.to_thread(
        lambda: (
            instances(**limited("evict_oldest", 10)),
            instances(**limited("evict_oldest", 2)),
        )
    )
    logins = [await log_in(http, generous) for _ in range(10)]
    assert len(await active_ids(http, strict)) == 10
    logins.append(await log_in(http, strict))
    assert await active_ids(http, generous) == {
        login.body["session"]["id"] for login in logins[-2:]
    }


async def test_same_idempotency_key_at_both_instances_creates_one_session(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    settings = limited("refuse", 1)
    both = await asyncio.to_thread(lambda: (instances(**settings), instances(**settings)))
    key = {"Idempotency-Key": "9d3f6a52-login"}
    logins = await asyncio.gather(*(log_in(http, both[n % 2], **key) for n in range(20)))
    assert {login.status for login in logins} == {HTTPStatus.CREATED}
    [token] = {login.body["token"] for login in logins}
    assert [await check(http, sidegate, token) for sidegate in both] == [200, 200]
    assert len(await active_ids(http, both[0])) == 1
