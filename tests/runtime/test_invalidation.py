"""What changes of other instances do to the memory of this process."""

import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import PositionLost
from sidegate.observability.metrics import Metrics
from sidegate.runtime.invalidation import MemorySubscriber
from sidegate.services.database_restore import DatabaseRestore
from sidegate.stores.memory import MemoryStore
from tests.contracts.harnesses import build_memory_store
from tests.contracts.values import build_digest, build_rotated_session, build_session
from tests.services.change_log import FakeChangeLog
from tests.services.test_database_restore import FakeSource
from tests.support.clock import NOON, FakeClock


class Instance:
    """An instance: its memory, and the database and the Redis that a restore affects."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory: MemoryStore = build_memory_store(self.clock)
        self.metrics = Metrics(version="1.2.3", revocation_bound=5.0)
        self.log = FakeChangeLog()
        self.redis = FakeSource()
        self.restore = DatabaseRestore(
            self.log,
            cache=self.redis,
            clock=self.clock,
            count=self.metrics.count_database_restore,
        )
        self.subscriber = MemorySubscriber(self.memory, self.metrics, restore=self.restore)


@pytest.fixture
def instance() -> Instance:
    return Instance()


async def test_changes_read_by_the_change_poller_replace_cached_copies(instance: Instance) -> None:
    session, oldest = build_rotated_session(), build_digest()
    change = ChangedSession(session.revoked(NOON), (oldest,))
    for copy in ChangedSession(session, (oldest,)).copies():
        await instance.memory.put(copy)
    await instance.subscriber.apply([change], age=0.0)
    for copy in change.copies():
        assert await instance.memory.find(copy.digest) == copy


async def test_changes_that_could_not_be_read_expire_memory_and_count_a_gap(
    instance: Instance,
) -> None:
    session = build_session()
    await instance.memory.put(session)
    instance.subscriber.on_overflow()
    assert await instance.memory.find(session.digest) is None
    assert instance.metrics.feed_gaps["change_poller",] == 1
    assert instance.restore.restored_since is None


async def test_tombstone_is_kept_for_comparison_when_changes_could_not_be_read(
    instance: Instance,
) -> None:
    session = build_session()
    tombstone = await instance.memory.put(session.revoked(NOON))
    instance.subscriber.on_overflow()
    assert await instance.memory.put(session) == tombstone


async def test_lost_position_clears_memory_and_counts_a_gap(instance: Instance) -> None:
    session = build_session()
    await instance.memory.put(session)
    instance.subscriber.on_position_lost(PositionLost("lost in this test"))
    assert await instance.memory.find(session.digest) is None
    assert instance.metrics.feed_gaps["change_poller",] == 1
    assert instance.metrics.database_restores == 0


async def test_tombstones_of_a_restored_database_are_written_back(instance: Instance) -> None:
    in_memory, in_redis, active = (build_session() for _ in range(3))
    tombstone = await instance.memory.put(in_memory.revoked(NOON))
    await instance.memory.put(active)
    instance.redis.batches = [[in_redis.revoked(NOON)]]
    lost = PositionLost("lost in this test", restored_since=NOON)
    instance.subscriber.on_position_lost(lost, {"left"})
    assert len(instance.memory) == 0
    await instance.restore.write_back()
    assert instance.log.revoked_again == [tombstone, in_redis.revoked(NOON)]
    assert instance.redis.read == ["left"]
    assert instance.metrics.database_restores == 1


async def test_namespace_left_for_another_reason_leaves_memory_as_it_is(instance: Instance) -> None:
    session = build_session()
    await instance.memory.put(session)
    instance.subscriber.on_position_lost(PositionLost("the mark is older than those kept"), ["a1"])
    assert await instance.memory.find(session.digest) == session
    assert instance.metrics.feed_gaps["change_poller",] == 0
