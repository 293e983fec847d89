"""prefetch puts sessions into memory and calls back; every failure of Redis is None."""

import asyncio
from typing import NoReturn

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from tests.contracts.values import build_digest, build_session
from tests.stores.lookup.harness import REDIS_DEADLINE, LookupHarness
from tests.stores.waiting import wait_until
from tests.support.clock import NOON

# --- Results


async def test_session_in_redis_is_put_into_memory_and_returned() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])

    assert await harness.prefetch(session.digest) == session
    assert harness.peek(session.digest) == session
    assert harness.memory.misses == 1
    assert harness.database.lookups == []


@pytest.mark.parametrize("failure", ["miss", "outage", "unreadable"])
async def test_miss_or_failure_returns_none_and_logs_nothing(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = build_session()
    harness = LookupHarness(redis=[] if failure == "miss" else [session], database=[session])
    harness.redis.down = failure == "outage"
    harness.redis.unreadable = {session.digest} if failure == "unreadable" else set()

    assert await harness.prefetch(session.digest) is None
    assert len(harness.memory) == 0
    assert harness.memory.misses == 1
    assert session.digest not in harness.misses
    assert caplog.records == []


async def test_find_after_a_prefetch_reads_redis_and_counts_a_miss_only_once() -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    assert await harness.prefetch(session.digest) is None
    assert await harness.find(session.digest, skip_redis=True) == session
    assert harness.redis.lookups == harness.database.lookups == [(session.digest,)]
    assert harness.memory.misses == 1


async def test_fresher_session_in_memory_is_returned() -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    harness = LookupHarness(redis=[session], memory=[tombstone])

    assert await harness.prefetch(session.digest) == tombstone


async def test_cancelled_batch_returns_none() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    harness.redis.unblocked.clear()
    result = harness.prefetch(session.digest)
    await wait_until(lambda: bool(harness.redis.lookups))

    (batch,) = asyncio.all_tasks() - {asyncio.current_task()}
    batch.cancel()

    assert await result is None


@pytest.mark.parametrize("step", ["find", "put"])
async def test_unexpected_error_is_logged_and_returns_none(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("unexpected")

    session = build_session()
    harness = LookupHarness(redis=[session])
    if step == "find":
        monkeypatch.setattr(harness.redis, "find_many", fail)
    else:
        monkeypatch.setattr(harness.memory, "fill", fail)

    assert await harness.prefetch(session.digest) is None
    assert "prefetch failed" in caplog.text
    assert "unexpected" in caplog.text


# --- Shared round trips


async def test_prefetches_of_one_tick_share_one_round_trip() -> None:
    sessions = [build_session() for _ in range(5)]
    harness = LookupHarness(redis=sessions, max_in_memory=2)

    wanted = [*sessions, sessions[0]]
    results = await asyncio.gather(*(harness.prefetch(session.digest) for session in wanted))

    assert results == wanted
    assert harness.redis.lookups == [tuple(session.digest for session in sessions)]
    assert harness.memory.misses == 6


async def test_digest_in_flight_is_not_looked_up_again() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    harness.redis.unblocked.clear()

    first = harness.prefetch(session.digest)
    await wait_until(lambda: bool(harness.redis.lookups))
    second = harness.prefetch(session.digest)
    harness.redis.unblocked.set()

    assert [await first, await second] == [session, session]
    assert len(harness.redis.lookups) == 1


async def test_ended_prefetch_is_not_used_again() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])

    assert await harness.prefetch(session.digest) == session
    harness.redis.sessions.clear()
    assert await harness.prefetch(session.digest) is None


# --- Refused prefetches


async def test_timeout_shorter_than_the_deadline_of_redis_is_refused_without_a_callback() -> None:
    session, results = build_session(), list[object]()
    harness = LookupHarness(redis=[session])

    assert not harness.lookup.prefetch(
        session.digest, results.append, timeout=REDIS_DEADLINE - 0.001
    )
    await asyncio.sleep(0)
    assert (results, harness.redis.lookups) == ([], [])


async def test_cached_miss_is_refused_without_a_callback_until_it_expires() -> None:
    harness, digest, results = LookupHarness(), build_digest(), list[object]()
    await harness.find(digest, skip_redis=True)

    assert not harness.lookup.prefetch(digest, results.append, timeout=REDIS_DEADLINE)
    await asyncio.sleep(0)
    assert (results, harness.redis.lookups) == ([], [])

    harness.clock.advance(2)
    assert await harness.prefetch(digest) is None


@pytest.mark.parametrize("skip_redis", [False, True])
async def test_digest_with_a_flight_is_refused_without_a_callback_until_it_ends(
    skip_redis: bool,
) -> None:
    session, results = build_session(), list[object]()
    harness = LookupHarness(database=[session])
    (caller,) = await harness.start_callers(session.digest, 1, skip_redis=skip_redis)
    harness.redis.lookups.clear()

    assert not harness.lookup.prefetch(session.digest, results.append, timeout=REDIS_DEADLINE)
    await asyncio.sleep(0)
    assert (results, harness.redis.lookups) == ([], [])

    harness.database.unblocked.set()
    await caller
    assert await harness.prefetch(session.digest) == session


async def test_prefetched_copy_is_as_old_in_memory_as_the_last_round() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    harness.redis_trust.age = 1.5

    await harness.prefetch(session.digest)
    assert harness.age_in_memory(session.digest) == 1.5


async def test_copy_read_before_memory_was_expired_does_not_fill_memory() -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    first = harness.prefetch(session.digest)
    harness.memory.expire_all()
    joined = harness.prefetch(session.digest)

    assert [await first, await joined] == [session, session]
    assert harness.peek(session.digest) is None


# --- Without Redis: the database


async def test_without_redis_the_database_is_read_once_for_all_callers() -> None:
    session = build_session()
    harness = LookupHarness(redis=None, database=[session])
    results = [harness.prefetch(session.digest) for _ in range(3)]

    assert await asyncio.gather(*results) == [session] * 3
    assert harness.database.lookups == [(session.digest,)]
    assert harness.peek(session.digest) == session
    assert harness.memory.misses == 3


async def test_without_redis_an_unknown_digest_is_a_cached_miss() -> None:
    harness, digest = LookupHarness(redis=None), build_digest()

    assert await harness.prefetch(digest) is None
    assert harness.refuses_prefetch(digest, timeout=harness.prefetch_timeout)
    assert await harness.find(digest, skip_redis=True) is None
    assert len(harness.database.lookups) == 1


@pytest.mark.parametrize("error", [StoreUnavailable, UnreadableRecord])
async def test_without_redis_the_error_of_the_database_is_the_result(
    error: type[Exception],
) -> None:
    session = build_session()
    harness = LookupHarness(redis=None, database=[session])
    harness.database.down = error is StoreUnavailable
    harness.database.unreadable = {session.digest}

    with pytest.raises(error):
        await harness.prefetch(session.digest)
    assert session.digest not in harness.misses
    assert harness.peek(session.digest) is None


async def test_without_redis_each_caller_waits_until_the_deadline() -> None:
    session = build_session()
    harness = LookupHarness(redis=None, database=[session], deadline=0.05)
    harness.database.unblocked.clear()
    first = harness.prefetch(session.digest)
    with pytest.raises(StoreUnavailable, match="no answer within 50 ms"):
        await first
    joined = harness.prefetch(session.digest)
    harness.database.unblocked.set()

    assert await joined == session
    assert len(harness.database.lookups) == 1


async def test_without_redis_too_many_lookups_are_an_outage() -> None:
    sessions = [build_session() for _ in range(2)]
    harness = LookupHarness(redis=None, database=sessions, max_outstanding=1)
    first, second = (harness.prefetch(session.digest) for session in sessions)

    with pytest.raises(StoreUnavailable, match="too many lookups"):
        await second
    assert await first == sessions[0]
