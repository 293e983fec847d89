"""find: which stores are read, which copy is returned, and which caches are filled."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import Fill
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import LAPSE
from sidegate.stores.memory import MemoryStore
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.stores.lookup.harness import LookupHarness
from tests.support.clock import NOON
from tests.support.redis_trust import build_mark

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
INSTANT: Final = timedelta(microseconds=1)

in_each_cache = pytest.mark.parametrize("cache", ["memory", "redis"])
with_and_without_redis = pytest.mark.parametrize("skip_redis", [False, True])


def build_idle_session() -> Session:
    """Return a session that is idle one hour after noon."""
    return build_session(expires_at=NOON + DAY, idle_timeout=HOUR)


def build_expired_session() -> Session:
    """Return a session that expires one hour after noon."""
    return build_session(expires_at=NOON + HOUR, idle_timeout=DAY)


def build_rotated_out_copy() -> Session:
    """Return the copy for a digest whose grace ends ten seconds after noon."""
    return build_rotated_session().copies()[1]


# --- Cached sessions that end the lookup

CONCLUSIVE = {
    "active": (build_session, 0 * HOUR),
    "before_it_is_idle": (build_idle_session, HOUR - INSTANT),
    "before_it_expires": (build_expired_session, HOUR - INSTANT),
    "revoked": (build_tombstone, 0 * HOUR),
    "revoked_and_expired": (build_tombstone, 7 * DAY),
    "rotated_out": (build_rotated_out_copy, timedelta(seconds=60)),
}


@in_each_cache
@pytest.mark.parametrize(("build", "age"), CONCLUSIVE.values(), ids=CONCLUSIVE)
async def test_conclusive_cached_session_is_returned_without_the_database(
    build: Callable[[], Session], age: timedelta, cache: str
) -> None:
    session, harness = build(), LookupHarness()
    harness.put(cache, session)
    harness.database.down = True
    harness.clock.advance(age)

    assert await harness.find(session.digest) == session
    assert harness.database.lookups == []
    assert len(harness.redis.lookups) == (cache == "redis")


async def test_session_from_redis_is_put_into_memory() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])

    assert [await harness.find(session.digest) for _ in range(3)] == [session] * 3
    assert harness.peek(session.digest) == session
    assert harness.redis.lookups == [(session.digest,)]


async def test_find_counts_one_miss_of_memory_and_peek_counts_none() -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    assert harness.peek(session.digest) is None
    assert (harness.memory.hits, harness.memory.misses) == (0, 0)
    await harness.find(session.digest)
    assert (harness.memory.hits, harness.memory.misses) == (0, 1)
    await harness.find(session.digest)
    assert (harness.memory.hits, harness.memory.misses) == (1, 1)


# --- The database, and the caches filled from it


async def test_session_from_the_database_is_put_into_memory_and_redis() -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    assert [await harness.find(session.digest) for _ in range(3)] == [session] * 3
    assert harness.peek(session.digest) == session
    assert harness.redis.sessions == {session.digest: session}
    assert harness.database.lookups == harness.redis.lookups == [(session.digest,)]


async def test_skip_redis_reads_the_database_only_and_fills_memory_and_redis() -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    for _ in range(2):
        assert await harness.find(session.digest, skip_redis=True) == session
    assert harness.peek(session.digest) == session
    assert harness.redis.sessions == {session.digest: session}
    assert harness.redis.lookups == []
    assert harness.database.lookups == [(session.digest,)] * 2
    assert harness.memory.misses == 0  # the prefetch has counted it


@in_each_cache
async def test_skip_redis_returns_a_fresher_cached_session(cache: str) -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    harness = LookupHarness(database=[session])
    harness.put(cache, tombstone)

    assert await harness.find(session.digest, skip_redis=True) == tombstone
    assert harness.read(cache, session.digest) == tombstone


@in_each_cache
async def test_skip_redis_returns_none_for_a_cached_session_missing_in_the_database(
    cache: str,
) -> None:
    tombstone, harness = build_tombstone(), LookupHarness()
    harness.put(cache, tombstone)

    assert await harness.find(tombstone.digest, skip_redis=True) is None
    assert harness.redis.lookups == []


@with_and_without_redis
async def test_lookup_without_redis_reads_memory_and_the_database(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(redis=None, database=[session])

    assert await harness.find(session.digest, skip_redis=skip_redis) == session
    assert await harness.find(build_digest(), skip_redis=skip_redis) is None
    assert harness.peek(session.digest) == session
    assert len(harness.database.lookups) == 2


@with_and_without_redis
async def test_unknown_digest_is_put_into_no_cache_of_sessions(skip_redis: bool) -> None:
    harness = LookupHarness()

    assert await harness.find(build_digest(), skip_redis=skip_redis) is None
    assert harness.redis.sessions == {}
    assert len(harness.memory) == 0


# --- Outages


async def test_unavailable_redis_counts_as_a_miss() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session], database=[session])
    harness.redis.down = True

    assert await harness.find(session.digest) == session
    assert await harness.find(build_digest()) is None
    assert len(harness.database.lookups) == 2
    assert harness.peek(session.digest) == session


@with_and_without_redis
async def test_unavailable_database_raises_unavailable_with_its_store(skip_redis: bool) -> None:
    session, harness = build_session(), LookupHarness()
    harness.database.down = True

    with pytest.raises(StoreUnavailable) as outage:
        await harness.find(session.digest, skip_redis=skip_redis)
    assert outage.value.store == "backend"


@with_and_without_redis
async def test_unreadable_record_in_the_database_is_raised(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    harness.database.unreadable = {session.digest}

    with pytest.raises(UnreadableRecord):
        await harness.find(session.digest, skip_redis=skip_redis)


@with_and_without_redis
async def test_error_is_not_cached(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    harness.database.down = True
    with pytest.raises(StoreUnavailable):
        await harness.find(session.digest, skip_redis=skip_redis)
    harness.database.down, harness.database.unreadable = False, {session.digest}
    for _ in range(2):
        with pytest.raises(UnreadableRecord):
            await harness.find(session.digest, skip_redis=skip_redis)
    assert session.digest not in harness.misses
    harness.database.unreadable = set()
    assert await harness.find(session.digest, skip_redis=skip_redis) == session


# --- Cached sessions that may be stale

STALE = {"idle": build_idle_session, "expired": build_expired_session}
after_it_has_ended = pytest.mark.parametrize("build", STALE.values(), ids=STALE)


@in_each_cache
@after_it_has_ended
async def test_ended_cached_session_is_replaced_by_a_fresher_one(
    build: Callable[[], Session], cache: str
) -> None:
    cached = build()
    fresher = cached.extended(NOON + 5 * HOUR, NOON + HOUR / 2)
    harness = LookupHarness(database=[fresher])
    harness.put(cache, cached)
    harness.clock.advance(HOUR)

    assert await harness.find(cached.digest) == fresher
    assert harness.peek(cached.digest) == fresher
    assert harness.redis.sessions == {cached.digest: fresher}


@in_each_cache
@after_it_has_ended
async def test_ended_cached_session_raises_while_the_database_is_unavailable(
    build: Callable[[], Session], cache: str
) -> None:
    cached = build()
    harness = LookupHarness(database=[cached])
    harness.put(cache, cached)
    harness.database.down = True
    harness.clock.advance(HOUR)

    with pytest.raises(StoreUnavailable):
        await harness.find(cached.digest)


@in_each_cache
@after_it_has_ended
async def test_ended_session_is_returned_after_the_database_confirms_it(
    build: Callable[[], Session], cache: str
) -> None:
    cached = build()
    harness = LookupHarness(database=[cached])
    harness.put(cache, cached)
    harness.clock.advance(HOUR)

    assert await harness.find(cached.digest) == cached
    assert harness.database.lookups == [(cached.digest,)]


@in_each_cache
@after_it_has_ended
async def test_ended_cached_session_missing_in_the_database_is_none(
    build: Callable[[], Session], cache: str
) -> None:
    cached, harness = build(), LookupHarness()
    harness.put(cache, cached)
    harness.clock.advance(HOUR)

    assert await harness.find(cached.digest) is None


@after_it_has_ended
async def test_ended_session_in_memory_is_replaced_by_a_fresher_one_in_redis(
    build: Callable[[], Session],
) -> None:
    cached = build()
    fresher = cached.extended(NOON + 5 * HOUR, NOON + HOUR / 2)
    harness = LookupHarness(memory=[cached], redis=[fresher])
    harness.clock.advance(HOUR)

    assert await harness.find(cached.digest) == fresher
    assert harness.peek(cached.digest) == fresher
    assert harness.database.lookups == []


# --- Races


@in_each_cache
@with_and_without_redis
async def test_late_cache_fill_does_not_overwrite_a_tombstone(skip_redis: bool, cache: str) -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    harness = LookupHarness(database=[session])
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    harness.put(cache, tombstone)
    harness.database.unblocked.set()

    assert await caller == tombstone
    assert harness.read(cache, session.digest) == tombstone
    assert harness.peek(session.digest) == tombstone


@with_and_without_redis
async def test_failed_fill_of_redis_still_fills_memory_and_returns_the_session(
    skip_redis: bool,
) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    harness.redis.down = True
    harness.database.unblocked.set()

    assert await caller == session
    assert harness.peek(session.digest) == session


async def test_stale_session_in_redis_does_not_replace_a_tombstone_in_memory() -> None:
    tombstone = build_tombstone()
    active = build_session(digest=tombstone.digest)
    harness = LookupHarness(redis=[active], database=[tombstone])
    harness.redis.down = True
    assert await harness.find(tombstone.digest) == tombstone

    harness.redis.down = False
    assert await harness.find(tombstone.digest) == tombstone
    harness.memory.expire_all()
    assert await harness.find(tombstone.digest) == tombstone


async def test_copy_in_redis_is_judged_with_the_activity_seen_in_memory() -> None:
    idle = build_session(idle_timeout=HOUR)
    touched = idle.touched(NOON + HOUR / 2)
    harness = LookupHarness(memory=[touched], redis=[idle])
    harness.database.down = True
    harness.memory.expire_all()
    harness.clock.advance(HOUR + HOUR / 4)

    assert await harness.find(idle.digest) == touched


@pytest.mark.parametrize("forget", [MemoryStore.expire_all, MemoryStore.clear])
@with_and_without_redis
async def test_copy_read_before_memory_was_expired_does_not_fill_memory(
    skip_redis: bool, forget: Callable[[MemoryStore], None]
) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    forget(harness.memory)
    harness.database.unblocked.set()

    assert await caller == session
    assert harness.peek(session.digest) is None


# --- Fills of Redis, and the age of copies in memory


@with_and_without_redis
async def test_fill_of_redis_has_the_position_from_before_the_database_was_read(
    skip_redis: bool,
) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    before = harness.redis_trust.position
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    harness.redis_trust.position = {0: Seal.begin(build_mark())}
    harness.database.unblocked.set()

    assert await caller == session
    assert harness.redis.fills == [Fill(session, before)]


@with_and_without_redis
async def test_redis_is_not_filled_without_a_position(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    harness.redis_trust.position = {}

    assert await harness.find(session.digest, skip_redis=skip_redis) == session
    assert harness.redis.fills == []
    assert harness.peek(session.digest) == session


@pytest.mark.parametrize(("age", "counted"), [(0.0, 0.0), (1.5, 1.5), (3600.0, LAPSE)])
async def test_copy_from_redis_is_as_old_in_memory_as_the_last_round_until_trust_lapses(
    age: float, counted: float
) -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    harness.redis_trust.age = age

    await harness.find(session.digest)
    assert harness.age_in_memory(session.digest) == counted


@with_and_without_redis
async def test_copy_from_the_database_is_as_old_in_memory_as_its_lookup(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])
    harness.redis_trust.age = 1.5
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    harness.clock.advance(3.0)
    harness.database.unblocked.set()

    await caller
    assert harness.age_in_memory(session.digest) == 3.0
