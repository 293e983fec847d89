"""The log during an outage of a store: one event when it starts, one when it ends."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from tests.scenarios.test_outages import check
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

START, END = "store unavailable", "store available"
PAIRS = {
    START: END,
    "pubsub disconnected": "pubsub connected",
    "notify disconnected": "notify connected",
    "background job failing": "background job recovered",
}


def read_events(sidegate: Sidegate) -> list[dict[str, Any]]:
    lines = sidegate.server.child.log.splitlines()
    # A start whose port was taken ends with a plain text line.
    return [json.loads(line) for line in lines if line.startswith("{")]


def count_events(sidegate: Sidegate, *names: str) -> Counter[tuple[str, str]]:
    """Count the events with these names, by the store or job they are about."""
    return Counter(
        (event["event"], event.get("store") or event.get("job") or "")
        for event in read_events(sidegate)
        if event["event"] in names
    )


class Outages:
    """An instance whose stores a test stops and restarts, under lookups that reach them."""

    def __init__(self, sidegate: Sidegate, http: aiohttp.ClientSession, ring: KeyRing) -> None:
        self.sidegate = sidegate
        self._http = http
        self._ring = ring

    async def look_up(self) -> None:
        """Check a token that no cache knows, so that Redis and the database are asked."""
        await check(self._http, self.sidegate, self._ring.mint(SessionType.WEB).text)

    async def look_up_until(self, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            await self.look_up()
            return condition()

        await wait_until_async(holds, within=30.0)

    async def failed_rounds(self, metric: str) -> float:
        """Return how many rounds of a background job have failed so far."""
        url = f"http://127.0.0.1:{self.sidegate.ops_port}/metrics"
        async with self._http.get(url) as response:
            lines = (await response.text()).splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(metric) and 'outcome="failed"' in line
        )


@pytest.fixture
def outages(
    shared_settings: dict[str, str],
    instances: Callable[..., Sidegate],
    http: aiohttp.ClientSession,
) -> Outages:
    sidegate = instances(
        # On a slow machine no lookup may fail before the store is stopped.
        SIDEGATE_GATE__DEADLINE="5s",
        SIDEGATE_REDIS__DEADLINE="2s",
        SIDEGATE_POSTGRES__DEADLINE="2s",
        # A job whose round the outage meets recovers with its next one.
        SIDEGATE_AUDIT__INTERVAL="100ms",
        SIDEGATE_ANALYTICS__INTERVAL="100ms",
        SIDEGATE_CLEANUP__INTERVAL="100ms",
    )
    ring = KeyRing([TokenKey.parse(shared_settings["SIDEGATE_TOKEN__KEYS"])])
    return Outages(sidegate, http, ring)


async def test_redis_outage_is_one_start_and_one_end(outages: Outages, own_redis: Server) -> None:
    sidegate = outages.sidegate
    await outages.look_up()
    for outage in (1, 2):
        starts = {
            (START, "redis"): outage,
            ("pubsub disconnected", ""): outage,
            ("background job failing", "cache_follower"): outage,
        }
        ends = {(PAIRS[name], subject): outage for name, subject in starts}
        await asyncio.to_thread(own_redis.kill)
        await outages.look_up_until(lambda: count_events(sidegate, *PAIRS) == starts)  # noqa: B023
        for _ in range(50):
            await outages.look_up()
        await asyncio.to_thread(own_redis.restart)
        await outages.look_up_until(
            lambda: count_events(sidegate, *PAIRS.values()) == ends  # noqa: B023
        )
        assert count_events(sidegate, *PAIRS) == starts
    reasons = [each["reason"] for each in read_events(sidegate) if each["event"] in PAIRS]
    assert all(reasons)


async def test_postgres_outage_is_one_start_and_one_end_for_each_job(
    outages: Outages, own_postgres: Server
) -> None:
    sidegate = outages.sidegate
    await outages.look_up()
    await asyncio.to_thread(own_postgres.kill)

    async def many_rounds_failed() -> bool:
        await outages.look_up()
        return await outages.failed_rounds("sidegate_audit_events_total") >= 10

    await wait_until_async(many_rounds_failed, within=30.0)
    starts = count_events(sidegate, *PAIRS)
    assert {(START, "postgres"), ("notify disconnected", "")} <= starts.keys()
    assert {
        ("background job failing", job) for job in ("change_poller", "audit_seal")
    } <= starts.keys()
    await asyncio.to_thread(own_postgres.restart)

    def all_ended() -> bool:
        ends = count_events(sidegate, *PAIRS.values())
        return ends.keys() >= {(PAIRS[name], subject) for name, subject in starts}

    await outages.look_up_until(all_ended)
    assert set(count_events(sidegate, *PAIRS, *PAIRS.values()).values()) == {1}
