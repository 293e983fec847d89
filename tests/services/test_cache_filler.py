"""The cache filler: what was read too early does not stay in the caches."""

import asyncio

import pytest

from sidegate.core.change_log import Mark
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.core.snapshot import Snapshot
from sidegate.services.cache_filler import CacheFiller
from sidegate.stores.memory import MemoryStore
from tests.contracts.values import build_rotated_session, build_session
from tests.stores.waiting import wait_until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend, FakeCacheTrust

MAX_AGE = 5.0
SEAL = Seal.begin(Mark(Snapshot(100, 100), "1"))


class Caches:
    """Memory, a remote cache, and the filler of both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = MemoryStore(
            max_sessions=9,
            max_bytes=2**20,
            max_age=MAX_AGE,
            clock=self.clock,
            jitter=lambda: 0.0,
        )
        self.remote = FakeBackend()
        self.trust = FakeCacheTrust({0: SEAL})
        self.filler = CacheFiller(
            self.memory, remote=self.remote, trust=self.trust, clock=self.clock
        )

    def copy_in_memory(self, session: Session) -> Session | None:
        return self.memory.get_nowait(session.digest)


@pytest.fixture
def caches() -> Caches:
    return Caches()


async def test_both_caches_are_filled_with_each_copy(caches: Caches) -> None:
    session = build_rotated_session()
    await caches.filler.fill([session], caches.filler.begin())
    expected = {copy.digest: copy for copy in session.copies()}
    assert caches.remote.sessions == expected
    assert {digest: caches.memory.get_nowait(digest) for digest in expected} == expected


async def test_fill_carries_the_position_from_before_the_database_was_read(
    caches: Caches,
) -> None:
    start = caches.filler.begin()
    caches.trust.position = {0: SEAL.advanced(Mark(Snapshot(200, 200), "1"))}
    await caches.filler.fill([build_session()], start)
    [fill] = caches.remote.fills
    assert fill.position == {0: SEAL}


async def test_without_a_trusted_position_the_remote_cache_is_not_filled(caches: Caches) -> None:
    caches.trust.position = {}
    session, start = build_session(), caches.filler.begin()
    caches.trust.position = {0: SEAL}
    await caches.filler.fill([session], start)
    assert caches.remote.sessions == {}
    assert caches.copy_in_memory(session) == session


async def test_copy_read_before_memory_was_expired_is_not_kept(caches: Caches) -> None:
    start = caches.filler.begin()
    caches.memory.expire_all()
    session = build_session()
    await caches.filler.fill([session], start)
    assert caches.copy_in_memory(session) is None


async def test_age_of_a_copy_counts_from_before_it_was_read(caches: Caches) -> None:
    start = caches.filler.begin()
    caches.clock.advance(3)
    session = build_session()
    await caches.filler.fill([session], start)
    caches.clock.advance(MAX_AGE - 3 - 0.001)
    assert caches.copy_in_memory(session) == session
    caches.clock.advance(0.001)
    assert caches.copy_in_memory(session) is None


async def test_copy_read_longer_ago_than_copies_live_is_not_used(caches: Caches) -> None:
    start = caches.filler.begin()
    caches.clock.advance(MAX_AGE)
    session = build_session()
    await caches.filler.fill([session], start)
    assert caches.copy_in_memory(session) is None


async def test_late_copy_does_not_replace_a_tombstone(caches: Caches) -> None:
    session, start = build_session(), caches.filler.begin()
    tombstone = await caches.memory.put(session.revoked(NOON))
    await caches.filler.fill([session], start)
    assert caches.copy_in_memory(session) == tombstone


async def test_memory_is_filled_while_the_remote_cache_is_unavailable(caches: Caches) -> None:
    caches.remote.down = True
    session = build_session()
    await caches.filler.fill([session], caches.filler.begin())
    assert caches.copy_in_memory(session) == session


async def test_memory_does_not_wait_for_the_remote_cache(caches: Caches) -> None:
    caches.remote.unblocked.clear()
    session = build_session()
    filling = asyncio.create_task(caches.filler.fill([session], caches.filler.begin()))
    await wait_until(lambda: caches.copy_in_memory(session) == session)
    caches.remote.unblocked.set()
    await filling
    assert caches.remote.sessions == {session.digest: session}
