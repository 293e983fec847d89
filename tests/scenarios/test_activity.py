"""Whoever keeps coming back is noticed, through every tier and across a restart."""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from tests.scenarios.test_outages import check
from tests.support.sidegate import Sidegate


async def test_checks_are_noted_and_written_down_at_the_latest_on_the_way_out(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    leaving, staying = await asyncio.to_thread(lambda: (instances(), instances()))
    token, session_id = await asyncio.to_thread(leaving.create_session)
    for _ in range(7):
        assert await check(http, leaving, token) == 200
    await asyncio.to_thread(leaving.server.stop)
    session = await asyncio.to_thread(staying.show_session, session_id)
    assert session["access_count"] == 7
    assert session["last_seen_at"] > session["created_at"]


async def test_a_session_in_use_does_not_become_idle(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    quick = {
        "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "2s",
        "SIDEGATE_SESSIONS__WEB__TOUCH_THRESHOLD": "500ms",
        "SIDEGATE_TOUCH__INTERVAL": "100ms",
    }
    one, other = await asyncio.to_thread(lambda: (instances(**quick), instances(**quick)))
    busy, _ = await asyncio.to_thread(one.create_session)
    silent, _ = await asyncio.to_thread(one.create_session)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for instance in (one, other):
            assert await check(http, instance, busy) == 200
    assert await check(http, one, silent) == 401
