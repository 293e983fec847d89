"""Analytics of two instances: nothing is missed and nothing is counted twice."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import aiohttp

from tests.support.processes import START_TIMEOUT, Server
from tests.support.sidegate import Sidegate

FREQUENT_SAMPLES = {"SIDEGATE_ANALYTICS__INTERVAL": "50ms"}


async def analytics(http: aiohttp.ClientSession, sidegate: Sidegate) -> dict[str, Any] | None:
    """Return the analytics of the admin API; None while it responds 503."""
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/analytics"
    headers = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.get(url, headers=headers) as response:
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        assert response.status == HTTPStatus.OK
        found: dict[str, Any] = await response.json()
        return found


async def wait_for_analytics(
    http: aiohttp.ClientSession, sidegate: Sidegate, condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait until the analytics meet a condition, and return them."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            found = await analytics(http, sidegate)
            if found is not None and condition(found):
                return found
            await asyncio.sleep(0.02)


def taken_after(sample: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    return lambda found: str(found["as_of"]) > str(sample["as_of"])


async def wait_for_metric(http: aiohttp.ClientSession, sidegate: Sidegate, wanted: str) -> None:
    """Wait until a scrape of the ops listener has the line."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            async with http.get(f"http://127.0.0.1:{sidegate.ops_port}/metrics") as response:
                if wanted in await response.text():
                    return
            await asyncio.sleep(0.02)


async def test_events_of_two_instances_are_counted_once_despite_an_outage(
    instances: Callable[..., Sidegate], own_postgres: Server, http: aiohttp.ClientSession
) -> None:
    one, other = await asyncio.to_thread(
        lambda: (instances(**FREQUENT_SAMPLES), instances(**FREQUENT_SAMPLES))
    )
    await wait_for_analytics(http, one, lambda _: True)

    for number in range(20):
        sidegate = (one, other)[number % 2]
        created = await asyncio.to_thread(sidegate.create_session, user_id=f"user {number % 4}")
        if number < 5:
            await asyncio.to_thread((other, one)[number % 2].revoke_session, created.session_id)
        if number == 10:
            await wait_for_analytics(
                http, one, lambda found: found["windows"]["1h"]["created"]["total"] > 0
            )
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.to_thread(own_postgres.restart)
            for each in (one, other):
                await wait_for_analytics(http, each, lambda _: True)

    for sidegate in (one, other):
        first = await wait_for_analytics(
            http, sidegate, lambda found: found["active"]["total"] == 15
        )
        found = await wait_for_analytics(http, sidegate, taken_after(first))
        hour = found["windows"]["1h"]
        assert (hour["created"]["total"], hour["ended"]["total"]) == (20, 5)
        assert hour["ended"]["by_cause"]["revoked"] == 5
        assert found["active"]["users"] == 4
        await wait_for_metric(http, sidegate, 'sidegate_analytics_active_sessions{type="web"} 15.0')
