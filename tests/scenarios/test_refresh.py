"""Thirty callers refresh one token at once, at two instances: there is one successor."""

import asyncio
from typing import Any

import aiohttp

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check
from tests.support.sidegate import Sidegate

CALLERS = 30


async def refresh(http: aiohttp.ClientSession, sidegate: Sidegate, token: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/refresh"
    headers = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.post(url, json={"token": token}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


async def test_thirty_refreshes_at_once_at_two_instances_get_one_successor(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    both = (deployment.one, deployment.other)
    token = (await asyncio.to_thread(deployment.one.create_session)).token

    answers = await asyncio.gather(*(refresh(http, both[n % 2], token) for n in range(CALLERS)))

    [successor] = {answer["token"] for answer in answers}
    assert {answer["session"]["refresh_count"] for answer in answers} == {1}
    for sidegate in both:
        assert await check(http, sidegate, successor) == 200
        assert await check(http, sidegate, token) == 200  # within its grace
