"""The change poller misses no change, or reports that it may have."""

import asyncio
import logging

import pytest

from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionRecord
from tests.contracts.values import (
    build_digest,
    build_record,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.services.change_log import FakeChangeLog, do_nothing
from tests.services.instance import PollingInstance
from tests.stores.waiting import cancel_all, wait_until
from tests.support.clock import NOON

# More than two pages.
MANY = 300


@pytest.fixture
def log() -> FakeChangeLog:
    return FakeChangeLog()


@pytest.fixture
async def instance(log: FakeChangeLog) -> PollingInstance:
    """An instance that has read all changes."""
    instance = PollingInstance(log)
    await instance.poller.poll()
    return instance


async def test_revocation_by_another_instance_updates_memory(durable: DurableStore) -> None:
    instance = PollingInstance(durable)
    await instance.poller.poll()
    session = build_session()
    await durable.create(build_record(session))
    tombstone = session.revoked(NOON)
    assert await durable.replace(SessionRecord(tombstone), expected=session.version)
    assert await instance.poller.poll() == 1
    assert instance.copy_of(session) == tombstone
    assert await instance.poller.poll() == 0


async def test_change_updates_the_copy_for_every_digest(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    oldest = build_digest()
    changed = log.commit(build_rotated_session(), oldest)
    await instance.poller.poll()
    expected = (*changed.copies(), changed.rotated_out(oldest))
    assert instance.memory.sessions == {copy.digest: copy for copy in expected}


async def test_changes_before_the_start_do_not_update_memory(log: FakeChangeLog) -> None:
    log.commit(build_tombstone())
    instance = PollingInstance(log)
    assert await instance.poller.poll() == 0
    assert await instance.poller.poll() == 0
    assert instance.memory.sessions == {}


async def test_created_sessions_do_not_update_memory(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    log.commit(build_session())
    assert await instance.poller.poll() == 0
    assert instance.memory.sessions == {}


# Pages


async def test_changes_of_all_pages_update_memory(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    tombstones = [log.commit(build_tombstone()) for _ in range(MANY)]
    assert await instance.poller.poll() == MANY
    assert instance.memory.sessions == {each.digest: each for each in tombstones}
    assert await instance.poller.poll() == 0


async def test_change_between_two_pages_is_read_in_this_or_the_next_round(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    for _ in range(MANY):
        log.commit(build_tombstone())
    late: list[Session] = []

    async def change_late() -> None:
        late.append(log.commit(build_tombstone()))

    log.before_page = change_late
    await instance.poller.poll()
    log.before_page = do_nothing
    await instance.poller.poll()
    assert all(instance.copy_of(each) == each for each in late)


async def test_more_changes_than_can_be_read_in_time_are_reported_and_not_read_again(
    log: FakeChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    instance = PollingInstance(log, pages_timeout=0.01)
    await instance.poller.poll()
    for _ in range(MANY):
        log.commit(build_tombstone())
    log.endless = True
    log.before_page = lambda: asyncio.sleep(0)
    with caplog.at_level(logging.WARNING, "sidegate.poller"):
        assert await instance.poller.poll() == 0
    assert instance.overflows == 1
    assert caplog.messages == ["too many changes to read"]
    log.endless = False
    tombstone = log.commit(build_tombstone())
    assert await instance.poller.poll() == 1
    assert instance.copy_of(tombstone) == tombstone
    assert instance.overflows == 1


# Lost positions


async def test_lost_position_is_reported_and_changes_are_read_from_the_present_on(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    log.commit(build_tombstone())
    log.lost = PositionLost("lost in this test", restored_since=NOON)
    assert await instance.poller.poll() == 0
    assert instance.lost == [log.lost]
    log.lost = None
    assert await instance.poller.poll() == 0
    tombstone = log.commit(build_tombstone())
    assert await instance.poller.poll() == 1
    assert instance.memory.sessions == {tombstone.digest: tombstone}


async def test_lost_position_is_reported_once_the_present_one_is_known(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    log.lost = PositionLost("lost in this test")
    log.down = True
    with pytest.raises(StoreUnavailable):
        await instance.poller.poll()
    assert instance.lost == []
    log.down = False
    await instance.poller.poll()
    assert instance.lost == [log.lost]


# Rounds


async def test_wake_starts_a_round_immediately(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    running = asyncio.create_task(instance.poller.run(lambda _: None))
    tombstone = log.commit(build_tombstone())
    instance.poller.wake()  # the next periodic round is in an hour
    await wait_until(lambda: instance.copy_of(tombstone) == tombstone)
    await cancel_all([running])


async def test_cancelled_round_is_repeated(log: FakeChangeLog, instance: PollingInstance) -> None:
    tombstones = [log.commit(build_tombstone()) for _ in range(MANY)]
    instance.unblocked.clear()
    interrupted = asyncio.create_task(instance.poller.poll())
    await wait_until(lambda: instance.is_applying)
    await cancel_all([interrupted])
    instance.unblocked.set()
    assert await instance.poller.poll() == MANY
    assert instance.memory.sessions == {each.digest: each for each in tombstones}


async def test_rounds_continue_after_a_database_outage(
    log: FakeChangeLog, instance: PollingInstance
) -> None:
    rounds = asyncio.Queue[bool]()
    log.down = True
    running = asyncio.create_task(instance.poller.run(rounds.put_nowait))
    assert not await rounds.get()
    tombstone = log.commit(build_tombstone())
    log.down = False
    instance.poller.wake()
    assert await rounds.get()
    assert instance.copy_of(tombstone) == tombstone
    await cancel_all([running])
