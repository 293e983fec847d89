"""The services of one process, connected: what becomes of a change that Redis did not take."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from sidegate.core.token import TokenKey
from sidegate.observability.metrics import build_registry
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import NewSession
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import TESTER, build_digest
from tests.stores.waiting import cancel_all, wait_until
from tests.support.processes import Server


def read(container: Container, name: str, **labels: str) -> float | None:
    """Return the value of a series; None: it is not exported."""
    value: float | None = build_registry(container.metrics).get_sample_value(name, labels)
    return value


@pytest.fixture
async def container(database_url: str, own_redis: Server) -> AsyncIterator[Container]:
    """The services on a Postgres and a Redis that the test may stop."""
    await migrate_postgres(database_url)
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": database_url,
            "SIDEGATE_REDIS_URL": own_redis.url,
            "SIDEGATE_REDIS__DEADLINE": "5s",  # for a busy machine
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
        },
    )
    async with build_services(settings) as container:
        assert container.clock_sync is not None
        await container.clock_sync.sync()
        yield container


async def test_rounds_of_the_follower_are_exported(container: Container) -> None:
    follower, up = container.cache_follower, container.metrics.set_feed_up
    assert follower is not None
    assert await container.lookup.find(build_digest()) is None
    assert read(container, "sidegate_redis_trusted") == 0
    assert read(container, "sidegate_redis_verified_age_seconds") == float("inf")
    running = asyncio.create_task(follower.run(partial(up, "cache_follower")))
    await wait_until(lambda: read(container, "sidegate_redis_trusted") == 1)
    await wait_until(lambda: read(container, "sidegate_feed_up", feed="cache_follower") == 1)
    assert read(container, "sidegate_redis_seals_total", change="begun") == 1
    age = read(container, "sidegate_redis_verified_age_seconds")
    assert age is not None
    assert 0 <= age < 10
    await cancel_all([running])


async def test_change_that_redis_did_not_take_ends_trust(
    container: Container, own_redis: Server
) -> None:
    assert container.cache_follower is not None
    await container.cache_follower.follow()
    issued = await container.sessions.create(NewSession("ada", TESTER))
    own_redis.kill()
    await container.sessions.revoke(issued.record.session.id, by=TESTER, reason="test")
    assert read(container, "sidegate_redis_trusted") == 0
    assert read(container, "sidegate_redis_invalidations_total", reason="undelivered") == 1


async def test_without_redis_there_is_nothing_to_follow(tmp_path: Path) -> None:
    settings = load(
        None,
        {
            "SIDEGATE_DATA_DIR": str(tmp_path),
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
        },
    )
    async with build_services(settings) as container:
        assert container.cache_follower is None
        await container.change_poller.poll()
        issued = await container.sessions.create(NewSession("ada", TESTER))
        await container.sessions.revoke(issued.record.session.id, by=TESTER, reason="test")
        assert read(container, "sidegate_redis_trusted") is None
        assert container.metrics.redis_invalidations == {}
