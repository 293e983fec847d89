"""The finder contract: absence is an answer, an error is an outage, and nobody gets another's."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidegate.core.errors import StoreUnavailable
from tests.contracts.rigs import FINDERS, NOW, Rig
from tests.contracts.values import a_digest, a_rotated_session, a_session, a_tombstone


@pytest.fixture(params=FINDERS)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with FINDERS[request.param](request) as made:
        yield made


async def test_what_is_known_is_found_whole(rig: Rig) -> None:
    session = a_session(at=NOW, user_id="Zoë ☂ %/", scopes=())
    await rig.learn(session)
    assert await rig.finder.find(session.digest) == session


async def test_what_is_not_known_is_not_found(rig: Rig) -> None:
    await rig.learn(a_session(at=NOW))
    assert await rig.finder.find(a_digest()) is None


async def test_a_tombstone_is_found(rig: Rig) -> None:
    tombstone = a_tombstone(at=NOW)
    await rig.learn(tombstone)
    found = await rig.finder.find(tombstone.digest)
    assert found is not None
    assert found.revoked_at == NOW


async def test_after_a_rotation_each_digest_is_answered_for(rig: Rig) -> None:
    session = a_rotated_session(at=NOW)
    await rig.learn(session)
    for copy in session.copies():
        assert await rig.finder.find(copy.digest) == copy


async def test_a_crowd_is_answered_each_with_its_own(rig: Rig) -> None:
    known = [a_session(at=NOW) for _ in range(20)]
    for session in known:
        await rig.learn(session)
    asked = [session.digest for session in known for _ in range(3)] + [
        a_digest() for _ in range(20)
    ]
    answers = await asyncio.gather(*(rig.finder.find(digest) for digest in asked))
    by_digest = {session.digest: session for session in known}
    assert answers == [by_digest.get(digest) for digest in asked]


async def test_a_caller_that_leaves_takes_nothing_from_the_others(rig: Rig) -> None:
    known = [a_session(at=NOW) for _ in range(10)]
    for session in known:
        await rig.learn(session)
    callers = [asyncio.create_task(rig.finder.find(session.digest)) for session in known * 2]
    await asyncio.sleep(0)
    for caller in callers[:10:2]:
        caller.cancel()
    answers = await asyncio.gather(*callers[10:])
    assert answers == known
    assert [await rig.finder.find(session.digest) for session in known] == known


async def test_an_outage_is_neither_absence_nor_an_answer(rig: Rig) -> None:
    if rig.fail is None:
        return  # nothing of it can be taken away
    known = a_session(at=NOW)
    await rig.learn(known)
    rig.fail()
    for digest in (known.digest, a_digest()):
        with pytest.raises(StoreUnavailable):
            await rig.finder.find(digest)


async def test_after_an_outage_it_answers_again(rig: Rig) -> None:
    if rig.fail is None or rig.heal is None:
        return
    rig.fail()
    with pytest.raises(StoreUnavailable):
        await rig.finder.find(a_digest())
    rig.heal()
    known = a_session(at=NOW)
    await rig.learn(known)
    assert await rig.finder.find(known.digest) == known
