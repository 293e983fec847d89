"""A trusted remote cache has every change that is due, whichever store is unavailable."""

import asyncio

from sidegate.services.redelivery import REDELIVERY_DELAY
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_session
from tests.services.instance import Instance
from tests.support.clock import NOON


async def test_startup_redelivers_the_last_changes_before_redis_is_trusted(
    database: SqliteSessions,
) -> None:
    instance = Instance(database)
    tombstone = await instance.revoke_one()
    active = build_session(id=tombstone.id, digest=tombstone.digest)
    await instance.redis.put(active)
    instance.redis.unblocked.clear()
    starting = asyncio.create_task(instance.poller.poll())
    await asyncio.sleep(0.01)
    assert instance.trust.generation == 1  # copies are stored under it
    assert not instance.trust.is_trusted
    instance.redis.unblocked.set()
    await starting
    assert instance.redis.sessions[tombstone.digest] == tombstone
    assert instance.trusted_generation == 1


async def test_redis_unavailable_at_startup_begins_the_next_generation(
    database: SqliteSessions,
) -> None:
    instance = Instance(database)
    await instance.revoke_one()
    instance.redis.down = True
    await instance.poller.poll()
    assert instance.trusted_generation == 2


async def test_late_cache_fill_is_overwritten_by_the_redelivered_tombstone(
    instance: Instance,
) -> None:
    tombstone = await instance.revoke_one()
    await instance.poller.poll()
    active = build_session(id=tombstone.id, digest=tombstone.digest)
    await instance.redis.put(active)  # a lookup that read it before it was revoked
    instance.clock.advance(REDELIVERY_DELAY)
    await instance.poller.poll()
    assert instance.redis.sessions[tombstone.digest] == tombstone


async def test_failed_redelivery_begins_the_next_generation(instance: Instance) -> None:
    instance.redis.down = True
    await instance.revoke_one()
    await instance.poller.poll()
    instance.clock.advance(REDELIVERY_DELAY)
    await instance.poller.poll()
    assert instance.trusted_generation == 2
    # Instances that start later distrust the copies, too.
    assert await instance.database.read_generation() == 2


async def test_distrusted_redis_is_trusted_after_the_generation_is_read(
    instance: Instance,
) -> None:
    assert instance.trusted_generation == 1
    instance.trust.distrust()
    assert not instance.trust.is_trusted
    await instance.poller.poll()
    assert instance.trusted_generation == 1


async def test_distrust_during_a_generation_read_stays_in_force(instance: Instance) -> None:
    read = instance.database.read_generation

    async def distrust_during_read() -> int:
        generation = await read()
        instance.trust.distrust()
        return generation

    instance.database.read_generation = distrust_during_read  # type: ignore[method-assign]  # a fake
    await instance.poller.poll()
    assert not instance.trust.is_trusted
    instance.database.read_generation = read  # type: ignore[method-assign]  # as before
    await instance.poller.poll()
    assert instance.trusted_generation == 1


async def test_failed_redelivery_is_not_repeated_in_the_next_generation(instance: Instance) -> None:
    instance.redis.down = True
    await instance.revoke_one()
    await instance.poller.poll()
    instance.clock.advance(REDELIVERY_DELAY)
    for _ in range(3):
        await instance.poller.poll()
    assert await instance.database.read_generation() == 2


async def test_concurrent_failed_redeliveries_begin_one_generation(
    instance: Instance,
) -> None:
    other_instances = [Instance(instance.database, redis=instance.redis) for _ in range(3)]
    instances = [instance, *other_instances]
    for each in other_instances:
        await each.poller.poll()
    instance.redis.down = True
    await instance.revoke_one()
    for each in instances:
        await each.poller.poll()
        each.clock.advance(REDELIVERY_DELAY)
    read = instance.database.read_generation
    before = await read()

    async def read_before() -> int:
        return before

    # All read it before one advances it.
    instance.database.read_generation = read_before  # type: ignore[method-assign]  # a fake
    await asyncio.gather(*(each.poller.poll() for each in instances))
    assert await read() == 2


async def test_undelivered_changes_are_redelivered(instance: Instance) -> None:
    tombstone = build_session().revoked(NOON)
    instance.redelivery.retry([tombstone])
    await instance.redelivery.deliver_due()
    assert instance.redis.sessions[tombstone.digest] == tombstone
    assert await instance.database.read_generation() == 1


async def test_many_failed_redeliveries_begin_one_generation(instance: Instance) -> None:
    instance.redis.down = True
    for _ in range(1000):
        instance.redelivery.retry([build_session().revoked(NOON)])
    await instance.redelivery.deliver_due()
    assert await instance.database.read_generation() == 2
