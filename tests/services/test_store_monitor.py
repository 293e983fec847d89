"""Stores are pinged without any request."""

import asyncio

from sidegate.core.errors import StoreUnavailable
from sidegate.services.store_monitor import StoreMonitor


async def succeed() -> None: ...


async def fail() -> None:
    raise StoreUnavailable("redis", "down on purpose")


async def hang() -> None:
    await asyncio.Event().wait()


async def test_each_store_is_reported() -> None:
    reported: dict[str, bool] = {}
    pings = {"postgres": succeed, "redis": fail, "sqlite": hang}
    await StoreMonitor(pings, report=reported.__setitem__).ping()
    assert reported == {"postgres": True, "redis": False, "sqlite": False}
