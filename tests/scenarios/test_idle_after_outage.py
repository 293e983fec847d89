"""After an outage of the database no session that was in use elsewhere is called idle."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from tests.scenarios.test_outages import check
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

IDLE_TIMEOUT: Final = 3.0
SETTINGS: Final = {
    "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "3s",
    "SIDEGATE_SESSIONS__WEB__TOUCH_THRESHOLD": "1s",
    "SIDEGATE_TOUCH__INTERVAL": "100ms",
    "SIDEGATE_MEMORY__MAX_AGE": "30s",  # for the whole outage
}
# Seconds, longer than the settle time (services/idleness.py).
SETTLED: Final = 20.0


@dataclass(frozen=True)
class Pair:
    """Two instances, each with a link of its own to Postgres, which is cut by the test."""

    busy: Sidegate
    other: Sidegate
    link: TcpProxy
    other_link: TcpProxy
    http: aiohttp.ClientSession

    async def use(self, token: str) -> bool:
        """Use a session at the busy instance; return whether it is allowed."""
        return await check(self.http, self.busy, token) == 200

    async def use_without_database(self, token: str, seconds: float) -> None:
        assert await self.use(token)
        cut(self.link, self.other_link)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert await self.use(token)
            await asyncio.sleep(0.05)

    async def ask_other(self, token: str) -> int:
        """Return the other instance's answer, without using the session."""
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://{self.other.address}/session"
        async with self.http.get(url, headers=headers) as response:
            return response.status

    async def wait_until_other_answers(self) -> None:
        """Return when the other instance reaches the database again."""
        url = f"http://127.0.0.1:{self.other.ops_port}/readyz"

        async def is_ready() -> bool:
            async with self.http.get(url) as response:
                return response.status == 200

        await wait_until_async(is_ready)

    async def wait_for_other(self, token: str, status: int, *, before: set[int]) -> None:
        """Ask the other instance until it answers with `status`, and until then as expected."""

        async def is_answered() -> bool:
            answer = await self.ask_other(token)
            assert answer in {status, *before}
            return answer == status

        await wait_until_async(is_answered, within=SETTLED)


def cut(*links: TcpProxy) -> None:
    for link in links:
        link.refuse_new = True
        link.reset_connections()


def heal(*links: TcpProxy) -> None:
    for link in links:
        link.refuse_new = False


@pytest.fixture
async def pair(
    own_postgres: Server, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> AsyncIterator[Pair]:
    async with TcpProxy(own_postgres.port) as link, TcpProxy(own_postgres.port) as other_link:

        def start(proxy: TcpProxy) -> Sidegate:
            url = own_postgres.url.replace(f":{own_postgres.port}/", f":{proxy.port}/")
            return instances(SIDEGATE_DATABASE_URL=url, **SETTINGS)

        busy = await asyncio.to_thread(start, link)
        other = await asyncio.to_thread(start, other_link)
        yield Pair(busy, other, link, other_link, http)


async def test_session_in_use_elsewhere_is_not_called_idle_after_an_outage(pair: Pair) -> None:
    unused, _ = await asyncio.to_thread(pair.busy.create_session)
    await pair.wait_for_other(unused, 401, before={200, 503})  # idleness is known now
    used, _ = await asyncio.to_thread(pair.busy.create_session)
    await pair.use_without_database(used, IDLE_TIMEOUT + 2.0)

    heal(pair.other_link)  # first the one that has seen nothing of the session
    await pair.wait_until_other_answers()
    for _ in range(20):
        assert await pair.use(used)
        assert await pair.ask_other(used) == 503

    heal(pair.link)
    await pair.wait_for_other(used, 200, before={503})
