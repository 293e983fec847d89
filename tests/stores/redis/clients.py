"""Connect a RedisClient, or find out why it cannot connect."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.connection import RedisClient


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[RedisClient]:
    client = RedisClient(url, timeout=5.0)
    try:
        yield client
    finally:
        await client.close()


async def ping(url: str) -> None:
    async with open_client(url) as client:
        await client.ping()


async def read_reason(url: str) -> str:
    """Return why there is no connection."""
    with pytest.raises(StoreUnavailable) as outage:
        await ping(url)
    return outage.value.reason
