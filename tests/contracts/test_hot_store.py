"""The hot store contract: it may forget, but it never goes back in time."""

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.session import Session
from tests.contracts.rigs import HOT_STORES, NOW, HotRig
from tests.contracts.values import a_digest, a_rotated_session, a_session

SECOND = timedelta(seconds=1)


@pytest.fixture(params=HOT_STORES)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[HotRig]:
    async with HOT_STORES[request.param](request) as made:
        yield made


async def test_what_is_put_is_found(rig: HotRig) -> None:
    session = a_session(at=NOW)
    assert await rig.store.put(session) == session
    assert await rig.store.find(session.digest) == session


async def test_a_late_fill_loses_to_a_tombstone(rig: HotRig) -> None:
    session = a_session(at=NOW)
    tombstone = session.revoked(NOW)
    await rig.store.put(tombstone)
    assert await rig.store.put(session) == tombstone
    assert await rig.store.find(session.digest) == tombstone


async def test_a_tombstone_wins_over_a_higher_version(rig: HotRig) -> None:
    session = a_session(at=NOW)
    tombstone = session.revoked(NOW)
    extended = session
    for _ in range(4):
        extended = extended.extended(session.expires_at, NOW)
    await rig.store.put(extended)
    assert await rig.store.put(tombstone) == tombstone
    assert await rig.store.put(extended) == tombstone


async def test_of_two_copies_of_a_version_the_later_seen_stays(rig: HotRig) -> None:
    session = a_session(at=NOW)
    touched = session.touched(NOW + SECOND)
    await rig.store.put(touched)
    assert await rig.store.put(session) == touched
    assert await rig.store.find(session.digest) == touched


async def test_in_whatever_order_copies_arrive_the_freshest_stays(rig: HotRig) -> None:
    for order in itertools.permutations(range(4)):
        session = a_session(at=NOW)
        touched = session.touched(NOW + SECOND)
        extended = touched.extended(session.expires_at + SECOND, NOW)
        history: list[Session] = [session, touched, extended, extended.revoked(NOW)]
        for place in order:
            await rig.store.put(history[place])
        assert await rig.store.find(session.digest) == history[-1]


async def test_a_copy_for_one_digest_says_nothing_about_another(rig: HotRig) -> None:
    current, previous = a_rotated_session(at=NOW).copies()
    await rig.store.put(previous)
    assert await rig.store.find(current.digest) is None
    assert await rig.store.find(previous.digest) == previous


async def test_the_old_digest_is_told_of_the_end_too(rig: HotRig) -> None:
    session = a_session(at=NOW)
    await rig.store.put(session)
    for copy in session.rotated(a_digest(), SECOND, NOW).revoked(NOW).copies():
        await rig.store.put(copy)
    found = await rig.store.find(session.digest)
    assert found is not None
    assert found.revoked_at == NOW
