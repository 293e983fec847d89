"""A session lock, between two instances, during store outages."""

import asyncio
from typing import Any, NamedTuple

import aiohttp

from tests.scenarios.conftest import Deployment
from tests.stores.waiting import wait_until_async
from tests.support.sidegate import Sidegate


class Response(NamedTuple):
    status: int
    body: dict[str, Any]


class Worker:
    """An application instance that locks one session, through one Sidegate instance."""

    def __init__(self, http: aiohttp.ClientSession, sidegate: Sidegate, session_id: str) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{sidegate.admin_port}/v1/sessions/{session_id}/lock"
        self._headers = {"Authorization": f"Bearer {sidegate.admin_key}"}

    async def request(self, method: str, **body: object) -> Response:
        request = self._http.request(method, self._url, json=body, headers=self._headers)
        async with request as response:
            return Response(response.status, await response.json(content_type=None))

    async def is_database_available(self) -> bool:
        """Return whether the database is available again."""
        return (await self.request("DELETE", lease="sgl_" + "A" * 43)).status == 200


async def test_lock_survives_outages_of_both_stores(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session_id = (await asyncio.to_thread(deployment.one.create_session)).session_id
    one = Worker(http, deployment.one, session_id)
    other = Worker(http, deployment.other, session_id)
    held = await one.request("POST", ttl=300, holder="one")
    assert held.status == 201
    lease, fence = held.body["lease"], held.body["fence"]

    await asyncio.to_thread(deployment.redis.kill)
    assert (await other.request("POST")).body["code"] == "locked"
    await asyncio.to_thread(deployment.redis.restart)
    assert (await other.request("POST")).body["holder"] == "one"

    await asyncio.to_thread(deployment.postgres.kill)
    assert (await other.request("POST")).status == 503
    assert (await one.request("PUT", lease=lease)).status == 503
    await asyncio.to_thread(deployment.postgres.restart)
    for worker in (one, other):
        await wait_until_async(worker.is_database_available)
    assert (await other.request("POST")).body["code"] == "locked"
    assert (await one.request("PUT", lease=lease)).body["fence"] == fence

    assert (await one.request("DELETE", lease=lease)).body == {"released": True}
    taken = await other.request("POST", holder="other")
    assert taken.status == 201
    assert taken.body["fence"] > fence
