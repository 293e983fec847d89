"""Activity is recorded across instances and a shutdown."""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from tests.scenarios.test_outages import CHECK_INTERVAL, check
from tests.support.sidegate import Sidegate

# Seconds, longer than an instance takes to know that a session is idle (services/idleness.py).
_TIMEOUT = 20.0


async def test_buffered_activity_is_written_on_shutdown(
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


async def test_session_in_use_does_not_become_idle(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    quick = {
        "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "2s",
        "SIDEGATE_SESSIONS__WEB__TOUCH_THRESHOLD": "500ms",
        "SIDEGATE_TOUCH__INTERVAL": "100ms",
    }
    one, other = await asyncio.to_thread(lambda: (instances(**quick), instances(**quick)))
    busy, _ = await asyncio.to_thread(one.create_session)
    unused, _ = await asyncio.to_thread(one.create_session)
    start, status = time.monotonic(), 0
    while time.monotonic() < start + 5 or status != 401:
        assert time.monotonic() < start + _TIMEOUT
        for instance in (one, other):
            assert await check(http, instance, busy) == 200
        if time.monotonic() > start + 5:  # 503 until the instances have run for long enough
            status = await check(http, one, unused)
            assert status in {401, 503}
        await asyncio.sleep(CHECK_INTERVAL)
