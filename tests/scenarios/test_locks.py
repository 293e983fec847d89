"""A lock on a session, between two instances, while stores die and come back."""

import asyncio
from typing import Any, NamedTuple

import aiohttp

from tests.scenarios.conftest import Deployment
from tests.stores.waiting import until_answered
from tests.support.sidegate import Sidegate


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]


class Worker:
    """An application's instance, which asks one Sidegate for the lock of one session."""

    def __init__(self, http: aiohttp.ClientSession, sidegate: Sidegate, session_id: str) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{sidegate.admin_port}/v1/sessions/{session_id}/lock"
        self._headers = {"Authorization": f"Bearer {sidegate.admin_key}"}

    async def ask(self, method: str, **body: object) -> Answer:
        asked = self._http.request(method, self._url, json=body, headers=self._headers)
        async with asked as answer:
            return Answer(answer.status, await answer.json(content_type=None))

    async def is_answered(self) -> bool:
        """Say whether the database is there again."""
        return (await self.ask("DELETE", lease="sgl_" + "A" * 43)).status == 200


async def test_a_lock_outlives_both_stores_and_stays_with_its_holder(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session_id = (await asyncio.to_thread(deployment.one.create_session)).session_id
    one = Worker(http, deployment.one, session_id)
    other = Worker(http, deployment.other, session_id)
    held = await one.ask("POST", ttl=300, holder="one")
    assert held.status == 201
    lease, fence = held.body["lease"], held.body["fence"]

    await asyncio.to_thread(deployment.redis.kill)
    assert (await other.ask("POST")).body["code"] == "locked"
    await asyncio.to_thread(deployment.redis.restart)
    assert (await other.ask("POST")).body["holder"] == "one"

    await asyncio.to_thread(deployment.postgres.kill)
    assert (await other.ask("POST")).status == 503
    assert (await one.ask("PUT", lease=lease)).status == 503
    await asyncio.to_thread(deployment.postgres.restart)
    for worker in (one, other):
        await until_answered(worker.is_answered)
    assert (await other.ask("POST")).body["code"] == "locked"
    assert (await one.ask("PUT", lease=lease)).body["fence"] == fence

    assert (await one.ask("DELETE", lease=lease)).body == {"released": True}
    taken = await other.ask("POST", holder="other")
    assert taken.status == 201
    assert taken.body["fence"] > fence
