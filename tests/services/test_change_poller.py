"""The change poller misses no change, whichever store is unavailable."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_session
from tests.services.instance import Instance
from tests.stores.waiting import wait_until
from tests.support.clock import NOON


def lock_sessions(instance: Instance) -> None:
    """Stall reads of changes, as locked rows do."""

    async def stalled(_: int) -> tuple[int, list[Session]]:
        await asyncio.Event().wait()
        raise AssertionError

    instance.database.list_changed_since = stalled  # type: ignore[assignment,method-assign]  # a fake


async def test_revocation_by_another_instance_updates_memory(instance: Instance) -> None:
    tombstone = await instance.revoke_one()
    assert await instance.poller.poll() == 1
    assert instance.memory.sessions[tombstone.digest] == tombstone
    assert await instance.poller.poll() == 0


async def test_changes_before_the_start_do_not_update_memory(database: SqliteSessions) -> None:
    instance = Instance(database)
    await instance.revoke_one()
    await instance.poller.poll()
    assert instance.memory.sessions == {}


async def test_locked_sessions_do_not_delay_trusting_redis_again(instance: Instance) -> None:
    lock_sessions(instance)
    instance.trust.distrust()
    waiting = asyncio.create_task(instance.poller.poll())
    await wait_until(lambda: instance.trust.is_trusted)
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_locked_sessions_do_not_delay_redelivery(instance: Instance) -> None:
    tombstone = build_session().revoked(NOON)
    lock_sessions(instance)
    instance.redelivery.retry([tombstone])
    waiting = asyncio.create_task(instance.poller.poll())
    await wait_until(lambda: instance.redis.sessions == {tombstone.digest: tombstone})
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_lost_position_clears_memory_and_begins_the_next_generation() -> None:
    class FailedOver:
        """A database whose replica took over without the last changes."""

        generation = 1

        async def read_generation(self) -> int:
            return self.generation

        async def advance_generation(self, after: int) -> int:
            self.generation = after + 1
            return self.generation

        async def list_last_changed(self, _: int) -> list[Session]:
            return []

        async def list_changed_since(self, position: int) -> tuple[int, list[Session]]:
            if position == 9 and memory.sessions:
                raise PositionLost("lost in this test")
            return (3 if memory.sessions else 9), []

    instance = Instance(FailedOver())  # type: ignore[arg-type]  # has the methods that are used
    memory = instance.memory
    await instance.poller.poll()
    await memory.put(build_session())
    assert await instance.poller.poll() == 0
    assert memory.sessions == {}  # its copies may be outdated
    assert not instance.trust.is_trusted
    assert await instance.poller.poll() == 0
    assert instance.trusted_generation == 2  # copies in Redis may be of lost changes


async def assert_changes_are_read(
    instance: Instance, *, advance_generation: Callable[[int], Awaitable[int]]
) -> None:
    tombstone = await instance.revoke_one()
    instance.database.advance_generation = advance_generation  # type: ignore[assignment,method-assign]
    instance.redis.down = True
    instance.redelivery.retry([build_session().revoked(NOON)])
    with pytest.raises(StoreUnavailable):
        await instance.poller.poll()
    assert instance.memory.sessions[tombstone.digest] == tombstone


async def test_read_only_database_does_not_block_reading_changes(instance: Instance) -> None:
    """A read-only database cannot advance the generation, but has changes to read."""

    async def read_only(_: int) -> int:
        raise StoreUnavailable("database", "it is read-only")

    await assert_changes_are_read(instance, advance_generation=read_only)


async def test_stalled_commit_does_not_block_reading_changes(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit may wait for a synchronous replica that is unavailable."""

    async def never(_: int) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("sidegate.services.change_poller._REDELIVERY_TIMEOUT", 0.05)
    await assert_changes_are_read(instance, advance_generation=never)


# Outages


async def test_during_a_database_outage_changes_are_delivered_every_round() -> None:
    class Unavailable:
        """A database that does not respond."""

        async def read_generation(self) -> int:
            raise StoreUnavailable("database", "unavailable in this test")

    instance = Instance(Unavailable())  # type: ignore[arg-type]  # has the method that is used
    tombstone = build_session().revoked(NOON)
    instance.redelivery.retry([tombstone])
    rounds = asyncio.Queue[bool]()
    running = asyncio.create_task(instance.poller.run(rounds.put_nowait))
    for _ in range(2):
        assert not await rounds.get()
        assert instance.redis.sessions == {tombstone.digest: tombstone}
        instance.redis.sessions.clear()
        instance.poller.wake()
    running.cancel()
    await asyncio.wait([running])


# Rounds


async def test_wake_starts_a_round_immediately(instance: Instance) -> None:
    running = asyncio.create_task(instance.poller.run(lambda _: None))
    tombstone = await instance.revoke_one()
    instance.poller.wake()  # the next periodic round is in an hour
    await wait_until(lambda: tombstone.digest in instance.memory.sessions)
    running.cancel()
    await asyncio.wait([running])


async def test_shutdown_redelivers_undelivered_changes(instance: Instance) -> None:
    rounds = asyncio.Queue[bool]()
    running = asyncio.create_task(instance.poller.run(rounds.put_nowait))
    await rounds.get()
    tombstone = build_session().revoked(NOON)
    instance.redelivery.retry([tombstone])
    running.cancel()
    await asyncio.wait([running])
    assert instance.redis.sessions == {tombstone.digest: tombstone}


async def test_cancelled_round_is_repeated(instance: Instance) -> None:
    tombstone = await instance.revoke_one()
    instance.memory.unblocked.clear()
    interrupted = asyncio.create_task(instance.poller.poll())
    await asyncio.sleep(0.01)
    interrupted.cancel()
    instance.memory.unblocked.set()
    assert await instance.poller.poll() == 1
    assert instance.memory.sessions[tombstone.digest] == tombstone


async def test_rounds_continue_after_a_database_outage() -> None:
    rounds = asyncio.Queue[bool]()

    class Flaky:
        """A database that fails at the first of every three reads of changes."""

        reads = 0

        async def read_generation(self) -> int:
            return 1

        async def list_last_changed(self, _: int) -> list[Session]:
            return []

        async def list_changed_since(self, position: int) -> tuple[int, list[Session]]:
            self.reads += 1
            if self.reads % 3 == 1:
                raise StoreUnavailable("database", "unavailable in this test")
            return position + 1, []

    instance = Instance(Flaky())  # type: ignore[arg-type]  # has the methods that are used
    running = asyncio.create_task(instance.poller.run(rounds.put_nowait))
    results = []
    for _ in range(4):
        instance.poller.wake()
        results.append(await rounds.get())
    running.cancel()
    assert results == [False, True, False, True]
