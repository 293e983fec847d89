"""The contract of remote caches: no stale copy is returned, and none replaces a fresher one."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import CacheNotTrusted
from sidegate.core.protocols import Fill
from sidegate.core.session import Session
from tests.contracts.harnesses import NOW, REMOTE_CACHES, RemoteCacheHarness
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.support.replace import replace

SECOND: Final = timedelta(seconds=1)


@pytest.fixture(params=REMOTE_CACHES)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[RemoteCacheHarness]:
    async with REMOTE_CACHES[request.param](request) as harness:
        yield harness


async def commit(harness: RemoteCacheHarness, session: Session) -> ChangedSession:
    """Commit a change without a round, and restrict the cache as the instance does that made it."""
    change = ChangedSession(harness.redis.change_log.commit(session))
    assert await harness.cache.restrict([change])
    return change


# --- Fills


async def test_filled_session_is_found(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW, user_id="Zoë ☂ %/", scopes=())
    assert await harness.fill(session) == session
    assert await harness.cache.find(session.digest) == session


async def test_unknown_digest_is_not_found(harness: RemoteCacheHarness) -> None:
    await harness.fill(build_session(at=NOW))
    assert await harness.cache.find(build_digest()) is None


async def test_late_cache_fill_does_not_overwrite_a_tombstone(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await harness.fill(tombstone)
    assert await harness.fill(session) == tombstone
    assert await harness.cache.find(session.digest) == tombstone


async def test_filled_tombstone_replaces_a_higher_version(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    extended = session
    for _ in range(4):
        extended = extended.extended(session.expires_at, NOW)
    await harness.fill(extended)
    assert await harness.fill(tombstone) == tombstone
    assert await harness.fill(extended) == tombstone


async def test_later_touched_copy_of_a_version_is_kept(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    touched = session.touched(NOW + SECOND)
    await harness.fill(touched)
    assert await harness.fill(session) == touched
    assert await harness.cache.find(session.digest) == touched


async def test_freshest_copy_is_kept_in_any_order_of_fills(harness: RemoteCacheHarness) -> None:
    for order in itertools.permutations(range(4)):
        session = build_session(at=NOW)
        touched = session.touched(NOW + SECOND)
        extended = touched.extended(session.expires_at + SECOND, NOW)
        history: list[Session] = [session, touched, extended, extended.revoked(NOW)]
        for place in order:
            await harness.fill(history[place])
        assert await harness.cache.find(session.digest) == history[-1]


async def test_copy_for_one_digest_is_not_found_by_another(harness: RemoteCacheHarness) -> None:
    current, previous = build_rotated_session(at=NOW).copies()
    await harness.fill(previous)
    assert await harness.cache.find(current.digest) is None
    assert await harness.cache.find(previous.digest) == previous


async def test_concurrent_fills_and_lookups_get_their_own_results(
    harness: RemoteCacheHarness,
) -> None:
    sessions = [build_session(at=NOW) for _ in range(20)]
    assert await asyncio.gather(*map(harness.fill, sessions)) == sessions
    digests = [*(session.digest for session in sessions), *(build_digest() for _ in range(20))]
    found = await asyncio.gather(*map(harness.cache.find, digests))
    assert found == [*sessions, *[None] * 20]


async def test_fill_with_a_session_that_the_seal_does_not_cover_is_dropped(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    assert await harness.cache.find(session.digest) is None
    position = harness.redis.trust.position
    committed = harness.redis.change_log.commit(session)
    for uncovered in (committed, replace(session, changed_xid=0)):
        assert await harness.cache.fill(Fill(uncovered, position)) == session
        assert await harness.cache.find(session.digest) is None


async def test_fill_without_a_position_is_dropped(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    assert await harness.cache.fill(Fill(replace(session, changed_xid=1), {})) == session
    assert await harness.cache.find(session.digest) is None


async def test_fill_at_a_position_from_before_a_round_is_dropped(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    assert await harness.cache.find(session.digest) is None
    late = harness.redis.build_fill(session)
    harness.redis.change_log.commit(build_session(at=NOW))
    await harness.redis.follow()
    assert await harness.cache.fill(late) == session
    assert await harness.cache.find(session.digest) is None


async def test_late_fill_does_not_bring_back_a_revoked_session_after_a_round(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    await harness.cache.find(session.digest)
    late = harness.redis.build_fill(session)
    tombstone = harness.redis.change_log.commit(session.revoked(NOW))
    await harness.redis.follow()
    await harness.cache.fill(late)
    assert await harness.cache.find(session.digest) == tombstone


# --- Restrictions


async def test_tombstone_is_found_by_every_digest_at_once(harness: RemoteCacheHarness) -> None:
    session = build_rotated_session(at=NOW)
    for copy in session.copies():
        await harness.fill(copy)
    change = await commit(harness, session.revoked(NOW))
    for copy in change.copies():
        assert await harness.cache.find(copy.digest) == copy


async def test_rotated_out_digests_never_open_at_once(harness: RemoteCacheHarness) -> None:
    """Those older than the previous digest, too, whose copies were stored before the rotations."""
    oldest = build_session(at=NOW)
    await harness.fill(oldest)
    rotated = oldest.rotated(build_digest(), SECOND, at=NOW)
    twice = rotated.rotated(build_digest(), SECOND, at=NOW)
    change = ChangedSession(harness.redis.change_log.commit(twice), (oldest.digest,))
    assert await harness.cache.restrict([change])
    assert await harness.cache.find(oldest.digest) == twice.rotated_out(oldest.digest)


async def test_changed_copies_that_open_are_misses_until_the_next_round(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    await harness.fill(session)
    change = await commit(harness, session.rotated(build_digest(), SECOND, at=NOW))
    for copy in change.copies():
        assert await harness.cache.find(copy.digest) is None
    await harness.redis.follow()
    for copy in change.copies():
        assert await harness.cache.find(copy.digest) == copy


async def test_late_fill_does_not_bring_back_what_was_restricted_under_the_same_seal(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    await harness.fill(session)
    late = harness.redis.build_fill(session)
    await commit(harness, session.rotated(build_digest(), SECOND, at=NOW))
    assert await harness.cache.fill(late) == session
    assert await harness.cache.find(session.digest) is None


async def test_restricted_digest_takes_a_fresher_fill(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    await harness.fill(session)
    extended = session.extended(session.expires_at + SECOND, NOW)
    await harness.cache.restrict([ChangedSession(extended)])
    assert await harness.fill(extended) == extended
    assert await harness.cache.find(session.digest) == extended


async def test_restriction_keeps_a_fresher_copy(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    extended = session.extended(session.expires_at + SECOND, NOW)
    tombstone = extended.revoked(NOW)
    await harness.fill(tombstone)
    for older in (session, extended, session.rotated(build_digest(), SECOND, at=NOW)):
        assert await harness.cache.restrict([ChangedSession(older)])
        assert await harness.cache.find(session.digest) == tombstone


async def test_restriction_of_many_sessions_is_applied_to_all(harness: RemoteCacheHarness) -> None:
    sessions = [build_session(at=NOW) for _ in range(150)]
    await asyncio.gather(*map(harness.fill, sessions))
    tombstones = [session.revoked(NOW) for session in sessions]
    assert await harness.cache.restrict([ChangedSession(tombstone) for tombstone in tombstones])
    found = await asyncio.gather(*(harness.cache.find(session.digest) for session in sessions))
    assert found == tombstones


async def test_restriction_without_changes_is_applied(harness: RemoteCacheHarness) -> None:
    assert await harness.cache.restrict([])


async def test_restriction_while_not_trusted_is_applied(harness: RemoteCacheHarness) -> None:
    session = build_session(at=NOW)
    await harness.fill(session)
    harness.redis.trust.invalidate("test")
    change = await commit(harness, session.revoked(NOW))
    await harness.redis.follow()
    assert await harness.cache.find(session.digest) == change.session


# --- Trust


async def test_lookup_while_not_trusted_raises_not_trusted(harness: RemoteCacheHarness) -> None:
    session, tombstone = build_session(at=NOW), build_tombstone(at=NOW)
    await harness.fill(session)
    await harness.fill(tombstone)
    harness.redis.trust.invalidate("test")
    for digest in (session.digest, tombstone.digest, build_digest()):
        with pytest.raises(CacheNotTrusted):
            await harness.cache.find(digest)
    await harness.redis.follow()
    assert await harness.cache.find(session.digest) == session
    assert await harness.cache.find(tombstone.digest) == tombstone


async def test_fill_while_not_trusted_has_no_effect_on_the_caller(
    harness: RemoteCacheHarness,
) -> None:
    session = build_session(at=NOW)
    await harness.cache.find(session.digest)
    fill = harness.redis.build_fill(session)
    harness.redis.trust.invalidate("test")
    assert await harness.cache.fill(fill) == session


async def test_change_of_another_instance_is_found_after_a_round(
    harness: RemoteCacheHarness,
) -> None:
    session = build_rotated_session(at=NOW)
    for copy in session.copies():
        await harness.fill(copy)
    tombstone = harness.redis.change_log.commit(session.revoked(NOW))
    await harness.redis.follow()
    for copy in tombstone.copies():
        assert await harness.cache.find(copy.digest) == copy
