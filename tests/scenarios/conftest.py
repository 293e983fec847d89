"""A full deployment: Redis, Postgres and two instances, each its own process."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256

import aiohttp
import pytest

from sidegate.core.token import TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.support.processes import Server, temporary_directory
from tests.support.sidegate import Sidegate, start_sidegate


@dataclass(frozen=True)
class Deployment:
    """Two instances on one Redis and one Postgres, any of which a test may stop."""

    redis: Server
    postgres: Server
    one: Sidegate
    other: Sidegate

    def environment(self) -> dict[str, str]:
        """Return the settings both instances share, as environment variables."""
        return dict(self.one.server.child.environment)


@pytest.fixture
def shared_settings(own_redis: Server, own_postgres: Server) -> dict[str, str]:
    asyncio.run(migrate_postgres(own_postgres.url))
    return {
        "SIDEGATE_DATABASE_URL": own_postgres.url,
        "SIDEGATE_REDIS_URL": own_redis.url,
        "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
        "SIDEGATE_DRAIN__DELAY": "200ms",
    }


@pytest.fixture
def instances(shared_settings: dict[str, str]) -> Iterator[Callable[..., Sidegate]]:
    """Start an instance per call, with the shared settings and those of the call."""
    key = f"sgk_{secrets.token_urlsafe(32)}"
    scopes = ["read", "write", "revoke"]
    hashed = {"name": "tests", "sha256": sha256(key.encode()).hexdigest(), "scopes": scopes}
    started = list[Server]()
    with ExitStack() as stack:

        def start(*, wait: bool = True, **settings: str) -> Sidegate:
            directory = stack.enter_context(temporary_directory())
            environment = (
                shared_settings | {"SIDEGATE_ADMIN__KEYS": json.dumps([hashed])} | settings
            )
            sidegate = start_sidegate(
                directory, admin_key=key, wait_until_ready=wait, **environment
            )
            started.append(sidegate.server)
            return sidegate

        try:
            yield start
        finally:
            stop_at_once(started)


def stop_at_once(servers: Sequence[Server]) -> None:
    """Stop servers that wait for most of the time in which they stop."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(Server.stop, servers))


@pytest.fixture
def deployment(
    own_redis: Server, own_postgres: Server, instances: Callable[..., Sidegate]
) -> Deployment:
    with ThreadPoolExecutor() as threads:
        one, other = threads.map(lambda _: instances(), range(2))
    return Deployment(own_redis, own_postgres, one, other)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session
