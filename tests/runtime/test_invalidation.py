"""What changes of other instances do to the memory of this process."""

import pytest

from sidegate.observability.metrics import Metrics
from sidegate.runtime.invalidation import MemorySubscriber
from sidegate.stores.memory import MemoryStore
from tests.contracts.harnesses import build_memory_store
from tests.contracts.values import build_session
from tests.support.clock import NOON, FakeClock


@pytest.fixture
def memory() -> MemoryStore:
    return build_memory_store(FakeClock())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3", revocation_bound=5.0)


async def test_changes_read_by_the_change_poller_replace_cached_copies(
    memory: MemoryStore, metrics: Metrics
) -> None:
    session = build_session()
    await memory.put(session)
    tombstone = session.revoked(NOON)
    await MemorySubscriber(memory, metrics).apply([tombstone])
    assert await memory.find(session.digest) == tombstone


async def test_lost_position_clears_memory_and_counts_a_gap(
    memory: MemoryStore, metrics: Metrics
) -> None:
    session = build_session()
    await memory.put(session)
    MemorySubscriber(memory, metrics).on_position_lost()
    assert await memory.find(session.digest) is None
    assert metrics.feed_gaps["change_poller",] == 1
