"""The simulated Redis, by the contract suite of remote caches: the product's store talks to it."""

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.contracts import test_remote_cache
from tests.contracts.harnesses import RemoteCacheHarness
from tests.simulation.contracts import select_contract
from tests.simulation.redis_server import RedisServer, TcpProtocol
from tests.support.redis_trust import FollowedRedis

globals().update(select_contract(test_remote_cache, without=frozenset({"harness"})))


@pytest.fixture
async def harness() -> AsyncIterator[RemoteCacheHarness]:
    redis = RedisServer(None, Random(1), now=time.time)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: TcpProtocol(redis), "127.0.0.1", 0)
    store = FollowedRedis(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    await store.follow()
    yield RemoteCacheHarness(store, store)
    await store.close()
    listener.close()
    await listener.wait_closed()
