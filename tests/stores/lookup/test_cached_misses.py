"""find and the negative cache: which misses are cached, for how long, and what they hide."""

import pytest

from tests.contracts.values import build_digest, build_session
from tests.stores.lookup.harness import LookupHarness


async def test_repeated_miss_is_looked_up_once_with_and_without_redis() -> None:
    harness, digest = LookupHarness(), build_digest()

    for skip_redis in (False, True, False, True):
        assert await harness.find(digest, skip_redis=skip_redis) is None
    assert digest in harness.misses
    assert harness.redis.lookups == harness.database.lookups == [(digest,)]


async def test_miss_expires_at_max_age() -> None:
    session, harness = build_session(), LookupHarness()
    await harness.find(session.digest)
    harness.database.sessions[session.digest] = session

    harness.clock.advance(1.999)
    assert await harness.find(session.digest) is None
    harness.clock.advance(0.001)
    assert await harness.find(session.digest) == session


async def test_repeated_lookup_does_not_renew_a_miss() -> None:
    harness, digest = LookupHarness(), build_digest()

    for _ in range(4):
        await harness.find(digest)
        harness.clock.advance(0.5)
    await harness.find(digest)
    assert len(harness.database.lookups) == 2


@pytest.mark.parametrize("skip_redis", [False, True])
async def test_hit_is_not_cached_as_a_miss(skip_redis: bool) -> None:
    session = build_session()
    harness = LookupHarness(database=[session])

    await harness.find(session.digest, skip_redis=skip_redis)
    assert session.digest not in harness.misses


async def test_cached_miss_is_returned_during_an_outage() -> None:
    harness, digest = LookupHarness(), build_digest()
    await harness.find(digest)
    harness.redis.down = harness.database.down = True

    assert await harness.find(digest) is None


async def test_session_in_memory_is_returned_despite_a_cached_miss() -> None:
    session, harness = build_session(), LookupHarness()
    await harness.find(session.digest)
    harness.put("memory", session)

    assert await harness.find(session.digest) == session


async def test_many_misses_do_not_hide_other_sessions() -> None:
    session = build_session()
    harness = LookupHarness(database=[session], max_misses=10)
    for _ in range(100):
        await harness.find(build_digest())

    assert await harness.find(session.digest) == session
