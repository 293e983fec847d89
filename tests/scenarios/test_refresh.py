"""Concurrent refreshes of one token at two instances."""

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
    async with http.post(url, json={"token": token}, headers=headers) as response:
        assert response.status == 200, await response.text()
        return dict(await response.json())


async def test_concurrent_refreshes_at_two_instances_get_one_successor(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    both = (deployment.one, deployment.other)
    token = (await asyncio.to_thread(deployment.one.create_session)).token

    responses = await asyncio.gather(*(refresh(http, both[n % 2], token) for n in range(CALLERS)))

    [successor] = {response["token"] for response in responses}
    assert {response["session"]["refresh_count"] for response in responses} == {1}
    for sidegate in both:
        assert await check(http, sidegate, successor) == 200
        assert await check(http, sidegate, token) == 200  # within its grace
