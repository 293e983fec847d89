"""The contract of session finders: None means absent, an error means outage."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidegate.core.errors import StoreUnavailable
from tests.contracts.harnesses import FINDERS, NOW, FinderHarness
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)


@pytest.fixture(params=FINDERS)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
    async with FINDERS[request.param](request) as harness:
        yield harness


async def test_stored_session_is_found_complete(harness: FinderHarness) -> None:
    session = build_session(at=NOW, user_id="Zoë ☂ %/", scopes=())
    await harness.store_session(session)
    assert await harness.finder.find(session.digest) == session


async def test_unknown_digest_is_not_found(harness: FinderHarness) -> None:
    await harness.store_session(build_session(at=NOW))
    assert await harness.finder.find(build_digest()) is None


async def test_tombstone_is_found(harness: FinderHarness) -> None:
    tombstone = build_tombstone(at=NOW)
    await harness.store_session(tombstone)
    found = await harness.finder.find(tombstone.digest)
    assert found is not None
    assert found.revoked_at == NOW


async def test_rotated_session_is_found_by_both_digests(harness: FinderHarness) -> None:
    session = build_rotated_session(at=NOW)
    await harness.store_session(session)
    for copy in session.copies():
        assert await harness.finder.find(copy.digest) == copy


async def test_concurrent_lookups_get_their_own_results(harness: FinderHarness) -> None:
    stored = [build_session(at=NOW) for _ in range(20)]
    for session in stored:
        await harness.store_session(session)
    digests = [session.digest for session in stored for _ in range(3)] + [
        build_digest() for _ in range(20)
    ]
    results = await asyncio.gather(*(harness.finder.find(digest) for digest in digests))
    by_digest = {session.digest: session for session in stored}
    assert results == [by_digest.get(digest) for digest in digests]


async def test_cancelled_lookups_do_not_affect_others(harness: FinderHarness) -> None:
    stored = [build_session(at=NOW) for _ in range(10)]
    for session in stored:
        await harness.store_session(session)
    callers = [asyncio.create_task(harness.finder.find(session.digest)) for session in stored * 2]
    await asyncio.sleep(0)
    for caller in callers[:10:2]:
        caller.cancel()
    results = await asyncio.gather(*callers[10:])
    assert results == stored
    assert [await harness.finder.find(session.digest) for session in stored] == stored


async def test_outage_raises_store_unavailable(harness: FinderHarness) -> None:
    if harness.fail is None:
        return  # it cannot become unavailable
    stored = build_session(at=NOW)
    await harness.store_session(stored)
    harness.fail()
    for digest in (stored.digest, build_digest()):
        with pytest.raises(StoreUnavailable):
            await harness.finder.find(digest)


async def test_lookups_work_after_an_outage(harness: FinderHarness) -> None:
    if harness.fail is None or harness.recover is None:
        return
    harness.fail()
    with pytest.raises(StoreUnavailable):
        await harness.finder.find(build_digest())
    harness.recover()
    stored = build_session(at=NOW)
    await harness.store_session(stored)
    assert await harness.finder.find(stored.digest) == stored
