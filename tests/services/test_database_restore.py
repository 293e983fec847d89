"""A restored database: reported, and its lost revocations written again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session
from sidegate.services.database_restore import DatabaseRestore
from tests.contracts.values import build_record, build_session, build_tombstone
from tests.services.change_log import FakeChangeLog
from tests.stores.waiting import cancel_all, wait_until
from tests.support.clock import NOON, FakeClock

LOST = PositionLost("lost in this test", restored_since=NOON)


class FakeSource:
    """A TombstoneSource of one namespace, in batches. While `down`, it fails after the first."""

    def __init__(self) -> None:
        self.batches: list[list[Session]] = []
        self.down = False
        self.read: list[str] = []

    async def read_tombstones(self, namespace: str) -> AsyncIterator[Sequence[Session]]:
        self.read.append(namespace)
        for batch in self.batches:
            yield batch
            if self.down:
                raise StoreUnavailable("redis", "unavailable in this test")


class Instance:
    """An instance that may notice a restore. `counted`: how many it has counted."""

    def __init__(self) -> None:
        self.log = FakeChangeLog()
        self.source = FakeSource()
        self.clock = FakeClock()
        self.counted = 0
        self.restore = DatabaseRestore(
            self.log, cache=self.source, clock=self.clock, count=self._count
        )

    def _count(self) -> None:
        self.counted += 1


@pytest.fixture
def instance() -> Instance:
    return Instance()


# Reports


async def test_restore_is_logged_and_counted(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sidegate.restore"):
        instance.restore.report(LOST)
    [record] = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "database restored")
    assert vars(record)["restored_since"] == NOON.isoformat()
    assert instance.counted == 1
    assert instance.restore.restored_since == NOON


async def test_lost_position_without_a_restore_is_logged_only(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    lost = PositionLost("the mark is older than those kept")
    with caplog.at_level(logging.INFO, "sidegate.restore"):
        instance.restore.report(lost, tombstones=[build_tombstone()], namespaces=["one"])
    assert caplog.messages == ["change log position lost"]
    assert vars(caplog.records[0])["reason"] == "the mark is older than those kept"
    assert instance.counted == 0
    assert instance.restore.restored_since is None
    assert await instance.restore.write_back() == 0
    assert instance.source.read == []


@pytest.mark.parametrize("seconds", [0, 1])
async def test_restore_noticed_at_several_positions_is_one(
    instance: Instance, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    with caplog.at_level(logging.INFO, "sidegate.restore"):
        for later in (0, 0, 30):  # the last one is that of a mark made after the restore
            instance.restore.report(
                PositionLost("lost", restored_since=NOON + timedelta(seconds=later))
            )
            instance.clock.advance(seconds)
    assert caplog.messages == ["database restored"]
    assert instance.counted == 1
    assert instance.restore.restored_since == NOON


async def test_restore_that_has_lost_more_than_was_known_is_logged_again(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = NOON - timedelta(hours=1)
    with caplog.at_level(logging.INFO, "sidegate.restore"):
        instance.restore.report(LOST)
        instance.restore.report(PositionLost("lost", restored_since=earlier))
    assert caplog.messages == ["database restored"] * 2
    assert instance.counted == 1
    assert instance.restore.restored_since == earlier


async def test_old_position_of_a_known_restore_is_not_a_new_one(instance: Instance) -> None:
    instance.restore.report(LOST)
    instance.clock.advance(timedelta(days=1))
    instance.restore.report(LOST)
    assert instance.counted == 1


async def test_each_restore_is_counted(instance: Instance) -> None:
    for day in range(3):
        lost = PositionLost("lost", restored_since=NOON + timedelta(days=day))
        instance.restore.report(lost)
        instance.clock.advance(timedelta(days=1))
    assert instance.counted == 3
    assert instance.restore.restored_since == NOON + timedelta(days=2)


# Writing back


async def test_tombstones_of_memory_and_redis_are_written_back(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (build_tombstone() for _ in range(3))
    instance.source.batches = [[two], [three]]
    with caplog.at_level(logging.INFO, "sidegate.restore"):
        instance.restore.report(LOST, tombstones=[one], namespaces=["left"])
        assert await instance.restore.write_back() == 3
    assert instance.log.revoked_again == [one, two, three]
    assert instance.source.read == ["left"]
    assert caplog.messages == ["database restored", "revocations restored"]
    assert vars(caplog.records[1])["sessions"] == 3


async def test_each_tombstone_is_written_back_once(instance: Instance) -> None:
    tombstone = build_tombstone()
    instance.source.batches = [[tombstone], [tombstone]]
    instance.restore.report(LOST, tombstones=[tombstone], namespaces=["left"])
    instance.restore.report(LOST, tombstones=[tombstone])
    await instance.restore.write_back()
    assert await instance.restore.write_back() == 0
    assert instance.source.read == ["left"]


async def test_what_could_not_be_written_back_is_kept(instance: Instance) -> None:
    tombstones = [build_tombstone() for _ in range(600)]  # more than one statement
    instance.restore.report(LOST, tombstones=tombstones)
    instance.log.down = True
    with pytest.raises(StoreUnavailable):
        await instance.restore.write_back()
    instance.log.down = False
    assert await instance.restore.write_back() == 600
    assert instance.log.revoked_again == tombstones


async def test_namespace_that_could_not_be_read_to_its_end_is_read_again(
    instance: Instance,
) -> None:
    one, two = build_tombstone(), build_tombstone()
    instance.source.batches = [[one], [two]]
    instance.source.down = True
    instance.restore.report(LOST, namespaces=["left"])
    with pytest.raises(StoreUnavailable):
        await instance.restore.write_back()
    instance.source.down = False
    await instance.restore.write_back()
    assert {each.id for each in instance.log.revoked_again} == {one.id, two.id}
    assert await instance.restore.write_back() == 0


async def test_background_task_retries_until_everything_is_written_back(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    tombstone = build_tombstone()
    instance.log.down = True
    with caplog.at_level(logging.INFO):
        running = asyncio.create_task(instance.restore.run())
        instance.restore.report(LOST, tombstones=[tombstone])
        await wait_until(lambda: "background job failing" in caplog.messages)
        instance.log.down = False
        await wait_until(lambda: "background job recovered" in caplog.messages)
    await cancel_all([running])
    assert instance.log.revoked_again == [tombstone]


async def test_tombstone_that_is_reported_during_the_last_scan_is_written_back(
    instance: Instance,
) -> None:
    tombstone = build_tombstone()

    class LateSource(FakeSource):
        async def read_tombstones(self, namespace: str) -> AsyncIterator[Sequence[Session]]:
            if not self.read:
                instance.restore.report(LOST, tombstones=[tombstone], namespaces=[namespace])
            async for batch in super().read_tombstones(namespace):
                yield batch

    restore = DatabaseRestore(
        instance.log, cache=LateSource(), clock=instance.clock, count=lambda: None
    )
    instance.restore = restore
    running = asyncio.create_task(restore.run())
    restore.report(LOST, namespaces=["left"])
    await wait_until(lambda: instance.log.revoked_again == [tombstone])
    await cancel_all([running])


async def test_restored_session_is_revoked_as_before(durable: DurableStore) -> None:
    """The database has the session as it was before its revocation, which was lost."""
    session, other = build_session(), build_session()
    for each in (session, other):
        await durable.create(build_record(each))
    restore = DatabaseRestore(durable, cache=None, clock=FakeClock(), count=lambda: None)
    tombstone = session.revoked(NOON)
    unknown = build_tombstone()
    restore.report(LOST, tombstones=[tombstone, unknown])
    assert await restore.write_back() == 1
    restored = await durable.get(session.id)
    assert restored is not None
    assert restored.session == tombstone
    assert restored.details.revoked_reason == "restored"
    kept = await durable.get(other.id)
    assert kept is not None
    assert kept.session == other
    assert await durable.get(unknown.id) is None
