"""Two instances count together: nothing is missed and nothing is counted twice."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import aiohttp

from tests.support.processes import PATIENCE, Server
from tests.support.sidegate import Sidegate

OFTEN = {"SIDEGATE_ANALYTICS__INTERVAL": "50ms"}


async def analytics(http: aiohttp.ClientSession, sidegate: Sidegate) -> dict[str, Any] | None:
    """Return what the admin door says; None: nobody knows yet, or just now."""
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/analytics"
    headers = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.get(url, headers=headers) as answer:
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        assert answer.status == HTTPStatus.OK
        found: dict[str, Any] = await answer.json()
        return found


async def until(
    http: aiohttp.ClientSession, sidegate: Sidegate, true_of: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait until the door says what is to be true of it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await analytics(http, sidegate)
            if found is not None and true_of(found):
                return found
            await asyncio.sleep(0.02)


def taken_after(sample: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    return lambda found: str(found["as_of"]) > str(sample["as_of"])


async def until_scraped(http: aiohttp.ClientSession, sidegate: Sidegate, wanted: str) -> None:
    """Wait until a scrape of the ops door has the line."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"http://127.0.0.1:{sidegate.ops_port}/metrics") as answer:
                if wanted in await answer.text():
                    return
            await asyncio.sleep(0.02)


async def test_what_two_instances_did_is_counted_once_though_the_database_went_away(
    instances: Callable[..., Sidegate], own_postgres: Server, http: aiohttp.ClientSession
) -> None:
    one, other = await asyncio.to_thread(lambda: (instances(**OFTEN), instances(**OFTEN)))
    await until(http, one, lambda _: True)

    for number in range(20):
        sidegate = (one, other)[number % 2]
        created = await asyncio.to_thread(sidegate.create_session, user_id=f"user {number % 4}")
        if number < 5:
            await asyncio.to_thread((other, one)[number % 2].revoke_session, created.session_id)
        if number == 10:
            await until(http, one, lambda found: found["windows"]["1h"]["created"]["total"] > 0)
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.to_thread(own_postgres.restart)
            for each in (one, other):
                await until(http, each, lambda _: True)

    for sidegate in (one, other):
        first = await until(http, sidegate, lambda found: found["active"]["total"] == 15)
        found = await until(http, sidegate, taken_after(first))
        hour = found["windows"]["1h"]
        assert (hour["created"]["total"], hour["ended"]["total"]) == (20, 5)
        assert hour["ended"]["by_cause"]["revoked"] == 5
        assert found["active"]["users"] == 4
        await until_scraped(http, sidegate, 'sidegate_analytics_active_sessions{type="web"} 15.0')
