"""The change poller misses no change, whichever store is unavailable."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionRecord
from sidegate.services.change_poller import REDELIVERY_DELAY, ChangePoller
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_record, build_session
from tests.stores.waiting import wait_until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend


@dataclass
class Instance:
    """An instance with its memory and Redis, on a database."""

    database: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    memory: FakeBackend = field(default_factory=FakeBackend)
    redis: FakeBackend = field(default_factory=FakeBackend)
    generations: list[int] = field(default_factory=list)
    trusted: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.poller = ChangePoller(
            self.database,
            caches=[self.memory, self.redis],
            on_generation=self.generations.append,
            on_redis_trust=lambda is_trusted: self.trusted.append(
                self.generations[-1] if is_trusted else None
            ),
            on_gap=self.memory.sessions.clear,
            clock=self.clock,
            interval=3600,
        )

    async def revoke_one(self) -> Session:
        """Revoke a session as another instance does, unpublished; return its tombstone."""
        session = build_session()
        await self.database.create(build_record(session))
        tombstone = session.revoked(NOON)
        assert await self.database.replace(SessionRecord(tombstone), expected=session.version)
        return tombstone


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(tmp_path / "sidegate.db")
    yield store
    await store.close()


@pytest.fixture
async def instance(database: SqliteSessions) -> Instance:
    """An instance that has read all changes."""
    instance = Instance(database)
    await instance.poller.poll()
    return instance


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
    assert instance.generations == [1, 1]  # copies are stored under it
    assert instance.trusted == []
    instance.redis.unblocked.set()
    await starting
    assert instance.redis.sessions[tombstone.digest] == tombstone
    assert instance.trusted == [1]


async def test_redis_unavailable_at_startup_begins_the_next_generation(
    database: SqliteSessions,
) -> None:
    instance = Instance(database)
    await instance.revoke_one()
    instance.redis.down = True
    await instance.poller.poll()
    assert instance.trusted == [2]


async def test_locked_sessions_do_not_delay_trusting_redis_again(instance: Instance) -> None:
    lock_sessions(instance)
    instance.poller.distrust_redis()
    waiting = asyncio.create_task(instance.poller.poll())
    await wait_until(lambda: instance.trusted[-1] == 1)
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_locked_sessions_do_not_delay_redelivery(instance: Instance) -> None:
    tombstone = build_session().revoked(NOON)
    lock_sessions(instance)
    instance.poller.redeliver_later([tombstone])
    waiting = asyncio.create_task(instance.poller.poll())
    await wait_until(lambda: instance.redis.sessions == {tombstone.digest: tombstone})
    waiting.cancel()
    await asyncio.wait([waiting])


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
    assert instance.trusted[-1] == 2
    # Instances that start later distrust the copies, too.
    assert await instance.database.read_generation() == 2


async def test_distrusted_redis_is_trusted_after_the_generation_is_read(
    instance: Instance,
) -> None:
    instance.poller.distrust_redis()
    assert instance.trusted == [1, None]
    await instance.poller.poll()
    assert set(instance.trusted[2:]) == {1}


async def test_distrust_during_a_generation_read_stays_in_force(instance: Instance) -> None:
    read = instance.database.read_generation

    async def distrust_during_read() -> int:
        generation = await read()
        instance.poller.distrust_redis()
        return generation

    instance.database.read_generation = distrust_during_read  # type: ignore[method-assign]  # a fake
    await instance.poller.poll()
    assert set(instance.trusted[1:]) == {None}
    instance.database.read_generation = read  # type: ignore[method-assign]  # as before
    await instance.poller.poll()
    assert instance.trusted[-1] == 1


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
    assert instance.trusted[-1] is None
    assert await instance.poller.poll() == 0
    assert instance.trusted[-1] == 2  # copies in Redis may be of lost changes


async def assert_changes_are_read(
    instance: Instance, *, advance_generation: Callable[[int], Awaitable[int]]
) -> None:
    tombstone = await instance.revoke_one()
    instance.database.advance_generation = advance_generation  # type: ignore[assignment,method-assign]
    instance.redis.down = True
    instance.poller.redeliver_later([build_session().revoked(NOON)])
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


# Changes made here


async def test_undelivered_changes_are_redelivered(instance: Instance) -> None:
    tombstone = build_session().revoked(NOON)
    instance.poller.redeliver_later([tombstone])
    await instance.poller.redeliver()
    assert instance.redis.sessions[tombstone.digest] == tombstone
    assert await instance.database.read_generation() == 1


async def test_many_failed_redeliveries_begin_one_generation(instance: Instance) -> None:
    instance.redis.down = True
    for _ in range(1000):
        instance.poller.redeliver_later([build_session().revoked(NOON)])
    await instance.poller.redeliver()
    assert await instance.database.read_generation() == 2


async def test_during_a_database_outage_changes_are_delivered_every_round() -> None:
    class Unavailable:
        """A database that does not respond."""

        async def read_generation(self) -> int:
            raise StoreUnavailable("database", "unavailable in this test")

    instance = Instance(Unavailable())  # type: ignore[arg-type]  # has the method that is used
    tombstone = build_session().revoked(NOON)
    instance.poller.redeliver_later([tombstone])
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
    instance.poller.redeliver_later([tombstone])
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
