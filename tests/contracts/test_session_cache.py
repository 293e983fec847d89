"""The contract of session caches: an older copy never replaces a newer one."""

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.session import Session
from tests.contracts.harnesses import CACHES, NOW, CacheHarness
from tests.contracts.values import build_digest, build_rotated_session, build_session

SECOND = timedelta(seconds=1)


@pytest.fixture(params=CACHES)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[CacheHarness]:
    async with CACHES[request.param](request) as harness:
        yield harness


async def test_put_session_is_found(harness: CacheHarness) -> None:
    session = build_session(at=NOW)
    assert await harness.store.put(session) == session
    assert await harness.store.find(session.digest) == session


async def test_late_cache_fill_does_not_overwrite_a_tombstone(harness: CacheHarness) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await harness.store.put(tombstone)
    assert await harness.store.put(session) == tombstone
    assert await harness.store.find(session.digest) == tombstone


async def test_tombstone_replaces_a_higher_version(harness: CacheHarness) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    extended = session
    for _ in range(4):
        extended = extended.extended(session.expires_at, NOW)
    await harness.store.put(extended)
    assert await harness.store.put(tombstone) == tombstone
    assert await harness.store.put(extended) == tombstone


async def test_later_touched_copy_of_a_version_is_kept(harness: CacheHarness) -> None:
    session = build_session(at=NOW)
    touched = session.touched(NOW + SECOND)
    await harness.store.put(touched)
    assert await harness.store.put(session) == touched
    assert await harness.store.find(session.digest) == touched


async def test_freshest_copy_is_kept_in_any_order_of_puts(harness: CacheHarness) -> None:
    for order in itertools.permutations(range(4)):
        session = build_session(at=NOW)
        touched = session.touched(NOW + SECOND)
        extended = touched.extended(session.expires_at + SECOND, NOW)
        history: list[Session] = [session, touched, extended, extended.revoked(NOW)]
        for place in order:
            await harness.store.put(history[place])
        assert await harness.store.find(session.digest) == history[-1]


async def test_copy_for_one_digest_is_not_found_by_another(harness: CacheHarness) -> None:
    current, previous = build_rotated_session(at=NOW).copies()
    await harness.store.put(previous)
    assert await harness.store.find(current.digest) is None
    assert await harness.store.find(previous.digest) == previous


async def test_tombstone_replaces_the_copy_of_the_previous_digest(harness: CacheHarness) -> None:
    session = build_session(at=NOW)
    await harness.store.put(session)
    for copy in session.rotated(build_digest(), SECOND, at=NOW).revoked(NOW).copies():
        await harness.store.put(copy)
    found = await harness.store.find(session.digest)
    assert found is not None
    assert found.revoked_at == NOW
