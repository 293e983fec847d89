"""Read-through cache: which store is looked up, and whose result is returned."""

import asyncio
from datetime import timedelta
from typing import Final

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.stores.read_through import ReadThrough, SkipCache
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.stores.waiting import wait_until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend

HOUR: Final = timedelta(hours=1)


def build_read_through(
    cache: FakeBackend, origin: FakeBackend, clock: FakeClock | None = None
) -> ReadThrough:
    return ReadThrough(cache, origin, clock=clock or FakeClock())


def build_expiring_session(reason: str) -> Session:
    """Return a session that expires one hour after noon, by `reason`."""
    day = timedelta(days=1)
    return {
        "idle": build_session(expires_at=NOON + day, idle_timeout=HOUR),
        "expired": build_session(expires_at=NOON + HOUR, idle_timeout=day),
    }[reason]


# --- Hits, misses and outages


async def test_cache_hit_does_not_look_up_the_origin() -> None:
    session = build_session()
    cache, origin = FakeBackend(session), FakeBackend(session)
    assert await build_read_through(cache, origin).find(session.digest) == session
    assert origin.lookups == []


async def test_cache_miss_fills_the_cache_from_the_origin() -> None:
    session = build_session()
    cache, origin = FakeBackend(), FakeBackend(session)
    finder = build_read_through(cache, origin)
    assert await finder.find(session.digest) == session
    assert cache.sessions == {session.digest: session}
    await finder.find(session.digest)
    assert len(origin.lookups) == 1


async def test_skip_cache_fills_the_cache_and_returns_the_fresher_session() -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    empty, filled = FakeBackend(), FakeBackend(tombstone)

    assert await SkipCache(empty, FakeBackend(session)).find(session.digest) == session
    assert await SkipCache(filled, FakeBackend(session)).find(session.digest) == tombstone
    assert await SkipCache(filled, FakeBackend()).find(session.digest) is None
    assert empty.sessions == {session.digest: session}
    assert empty.lookups == filled.lookups == []


async def test_miss_is_not_cached() -> None:
    cache, origin = FakeBackend(), FakeBackend()
    assert await build_read_through(cache, origin).find(build_digest()) is None
    assert cache.sessions == {}


async def test_unavailable_cache_counts_as_a_miss() -> None:
    session = build_session()
    cache, origin = FakeBackend(session), FakeBackend(session)
    cache.down = True
    finder = build_read_through(cache, origin)
    assert await finder.find(session.digest) == session
    assert await finder.find(build_digest()) is None
    assert len(origin.lookups) == 2


async def test_unavailable_origin_raises_unavailable() -> None:
    cache, origin = FakeBackend(), FakeBackend()
    origin.down = True
    with pytest.raises(StoreUnavailable):
        await build_read_through(cache, origin).find(build_digest())


async def test_cache_hit_is_returned_while_the_origin_is_unavailable() -> None:
    session = build_session()
    cache, origin = FakeBackend(session), FakeBackend()
    origin.down = True
    assert await build_read_through(cache, origin).find(session.digest) == session


async def test_unreadable_record_at_the_origin_is_raised() -> None:
    session = build_session()
    cache, origin = FakeBackend(), FakeBackend(session)
    origin.unreadable = {session.digest}
    with pytest.raises(UnreadableRecord):
        await build_read_through(cache, origin).find(session.digest)


# --- Expired sessions in the cache


@pytest.mark.parametrize("reason", ["idle", "expired"])
async def test_expired_cached_session_is_replaced_by_a_fresher_one(reason: str) -> None:
    cached = build_expiring_session(reason)
    fresher = cached.extended(NOON + 5 * HOUR, NOON + HOUR / 2)
    cache, origin, clock = FakeBackend(cached), FakeBackend(fresher), FakeClock()
    clock.advance(HOUR)
    assert await build_read_through(cache, origin, clock).find(cached.digest) == fresher
    assert cache.sessions == {cached.digest: fresher}


@pytest.mark.parametrize("reason", ["idle", "expired"])
async def test_expired_cached_session_raises_when_the_origin_is_unavailable(reason: str) -> None:
    cached = build_expiring_session(reason)
    cache, origin, clock = FakeBackend(cached), FakeBackend(cached), FakeClock()
    origin.down = True
    clock.advance(HOUR)
    with pytest.raises(StoreUnavailable):
        await build_read_through(cache, origin, clock).find(cached.digest)


@pytest.mark.parametrize("reason", ["idle", "expired"])
async def test_expired_session_is_returned_after_the_origin_confirms_it(reason: str) -> None:
    cached = build_expiring_session(reason)
    cache, origin, clock = FakeBackend(cached), FakeBackend(cached), FakeClock()
    clock.advance(HOUR)
    assert await build_read_through(cache, origin, clock).find(cached.digest) == cached
    assert len(origin.lookups) == 1


async def test_expired_cached_session_missing_at_the_origin_is_none() -> None:
    cached = build_expiring_session("expired")
    cache, origin, clock = FakeBackend(cached), FakeBackend(), FakeClock()
    clock.advance(HOUR)
    assert await build_read_through(cache, origin, clock).find(cached.digest) is None


async def test_session_just_before_expiry_is_returned_from_the_cache() -> None:
    cached = build_expiring_session("idle")
    cache, origin, clock = FakeBackend(cached), FakeBackend(), FakeClock()
    clock.advance(HOUR - timedelta(microseconds=1))
    assert await build_read_through(cache, origin, clock).find(cached.digest) == cached
    assert origin.lookups == []


async def test_cached_tombstone_does_not_look_up_the_origin() -> None:
    tombstone = build_tombstone()
    cache, origin, clock = (
        FakeBackend(tombstone),
        FakeBackend(build_session(digest=tombstone.digest)),
        FakeClock(),
    )
    clock.advance(timedelta(days=7))  # it has expired, too
    assert await build_read_through(cache, origin, clock).find(tombstone.digest) == tombstone
    assert origin.lookups == []


async def test_rotated_digest_after_grace_does_not_look_up_the_origin() -> None:
    _, previous = build_rotated_session().copies()
    cache, origin, clock = FakeBackend(previous), FakeBackend(), FakeClock()
    clock.advance(60)
    assert await build_read_through(cache, origin, clock).find(previous.digest) == previous
    assert origin.lookups == []


# --- Races


async def test_late_cache_fill_does_not_overwrite_a_tombstone() -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    cache, origin = FakeBackend(), FakeBackend(session)
    origin.unblocked.clear()
    lookup = asyncio.create_task(build_read_through(cache, origin).find(session.digest))
    await wait_until(lambda: bool(origin.lookups))
    await cache.put(tombstone)
    origin.unblocked.set()
    assert await lookup == tombstone
    assert cache.sessions == {session.digest: tombstone}


async def test_failed_cache_fill_still_returns_the_session() -> None:
    session = build_session()
    cache, origin = FakeBackend(), FakeBackend(session)
    origin.unblocked.clear()
    lookup = asyncio.create_task(build_read_through(cache, origin).find(session.digest))
    await wait_until(lambda: bool(origin.lookups))
    cache.down = True
    origin.unblocked.set()
    assert await lookup == session


async def test_tombstone_passes_through_two_caches() -> None:
    tombstone = build_tombstone()
    active = build_session(digest=tombstone.digest)
    memory, redis, database = FakeBackend(), FakeBackend(active), FakeBackend(tombstone)
    redis.down = True
    clock = FakeClock()
    finder = ReadThrough(memory, ReadThrough(redis, database, clock=clock), clock=clock)
    assert await finder.find(tombstone.digest) == tombstone
    redis.down = False
    assert await finder.find(tombstone.digest) == tombstone
