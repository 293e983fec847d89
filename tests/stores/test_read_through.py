"""Near and far: what ReadThrough asks whom, and whose answer it gives."""

import asyncio
from datetime import timedelta
from typing import Final

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.stores.read_through import ReadThrough, SkipCache
from tests.contracts.values import a_digest, a_rotated_session, a_session, a_tombstone
from tests.stores.waiting import until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf

HOUR: Final = timedelta(hours=1)


def between(near: Shelf, far: Shelf, clock: FakeClock | None = None) -> ReadThrough:
    return ReadThrough(near, far, clock=clock or FakeClock())


def out_of_time(which: str) -> Session:
    """Return a session that has run out of time one hour after noon."""
    long = timedelta(days=1)
    return {
        "idle": a_session(expires_at=NOON + long, idle_timeout=HOUR),
        "expired": a_session(expires_at=NOON + HOUR, idle_timeout=long),
    }[which]


# --- The plain roads


async def test_what_near_knows_far_is_not_asked() -> None:
    session = a_session()
    near, far = Shelf(session), Shelf(session)
    assert await between(near, far).find(session.digest) == session
    assert far.asked == []


async def test_what_far_knows_is_left_near() -> None:
    session = a_session()
    near, far = Shelf(), Shelf(session)
    finder = between(near, far)
    assert await finder.find(session.digest) == session
    assert near.sessions == {session.digest: session}
    await finder.find(session.digest)
    assert len(far.asked) == 1


async def test_beyond_near_is_not_asked_but_left_a_copy_and_the_fresher_is_told() -> None:
    session = a_session()
    tombstone = session.revoked(NOON)
    empty, knowing = Shelf(), Shelf(tombstone)

    assert await SkipCache(empty, Shelf(session)).find(session.digest) == session
    assert await SkipCache(knowing, Shelf(session)).find(session.digest) == tombstone
    assert await SkipCache(knowing, Shelf()).find(session.digest) is None
    assert empty.sessions == {session.digest: session}
    assert empty.asked == knowing.asked == []


async def test_a_miss_leaves_nothing_near() -> None:
    near, far = Shelf(), Shelf()
    assert await between(near, far).find(a_digest()) is None
    assert near.sessions == {}


async def test_a_store_that_is_down_is_empty_when_it_is_near() -> None:
    session = a_session()
    near, far = Shelf(session), Shelf(session)
    near.down = True
    finder = between(near, far)
    assert await finder.find(session.digest) == session
    assert await finder.find(a_digest()) is None
    assert len(far.asked) == 2


async def test_a_far_store_that_is_down_could_not_answer() -> None:
    near, far = Shelf(), Shelf()
    far.down = True
    with pytest.raises(StoreUnavailable):
        await between(near, far).find(a_digest())


async def test_when_far_is_down_near_still_answers_what_it_knows() -> None:
    session = a_session()
    near, far = Shelf(session), Shelf()
    far.down = True
    assert await between(near, far).find(session.digest) == session


async def test_an_unreadable_record_far_away_is_not_absence() -> None:
    session = a_session()
    near, far = Shelf(), Shelf(session)
    far.unreadable = {session.digest}
    with pytest.raises(UnreadableRecord):
        await between(near, far).find(session.digest)


# --- Copies that have run out of time


@pytest.mark.parametrize("which", ["idle", "expired"])
async def test_a_near_copy_out_of_time_is_asked_for_again_and_the_fresher_wins(which: str) -> None:
    copy = out_of_time(which)
    fresher = copy.extended(NOON + 5 * HOUR, NOON + HOUR / 2)
    near, far, clock = Shelf(copy), Shelf(fresher), FakeClock()
    clock.advance(HOUR)
    assert await between(near, far, clock).find(copy.digest) == fresher
    assert near.sessions == {copy.digest: fresher}


@pytest.mark.parametrize("which", ["idle", "expired"])
async def test_a_near_copy_out_of_time_is_no_denial_when_far_is_down(which: str) -> None:
    copy = out_of_time(which)
    near, far, clock = Shelf(copy), Shelf(copy), FakeClock()
    far.down = True
    clock.advance(HOUR)
    with pytest.raises(StoreUnavailable):
        await between(near, far, clock).find(copy.digest)


@pytest.mark.parametrize("which", ["idle", "expired"])
async def test_far_confirms_that_a_copy_is_out_of_time(which: str) -> None:
    copy = out_of_time(which)
    near, far, clock = Shelf(copy), Shelf(copy), FakeClock()
    clock.advance(HOUR)
    assert await between(near, far, clock).find(copy.digest) == copy
    assert len(far.asked) == 1


async def test_what_far_has_forgotten_is_gone_however_near_remembers_it() -> None:
    copy = out_of_time("expired")
    near, far, clock = Shelf(copy), Shelf(), FakeClock()
    clock.advance(HOUR)
    assert await between(near, far, clock).find(copy.digest) is None


async def test_a_moment_before_its_time_is_out_far_is_not_asked() -> None:
    copy = out_of_time("idle")
    near, far, clock = Shelf(copy), Shelf(), FakeClock()
    clock.advance(HOUR - timedelta(microseconds=1))
    assert await between(near, far, clock).find(copy.digest) == copy
    assert far.asked == []


async def test_a_tombstone_near_is_final() -> None:
    tombstone = a_tombstone()
    near, far, clock = Shelf(tombstone), Shelf(a_session(digest=tombstone.digest)), FakeClock()
    clock.advance(timedelta(days=7))  # it is out of time besides
    assert await between(near, far, clock).find(tombstone.digest) == tombstone
    assert far.asked == []


async def test_the_end_of_a_grace_is_final() -> None:
    _, previous = a_rotated_session().copies()
    near, far, clock = Shelf(previous), Shelf(), FakeClock()
    clock.advance(60)
    assert await between(near, far, clock).find(previous.digest) == previous
    assert far.asked == []


# --- Races


async def test_a_tombstone_that_came_near_meanwhile_beats_a_late_answer_from_far() -> None:
    session = a_session()
    tombstone = session.revoked(NOON)
    near, far = Shelf(), Shelf(session)
    far.open.clear()
    finding = asyncio.create_task(between(near, far).find(session.digest))
    await until(lambda: bool(far.asked))
    await near.put(tombstone)
    far.open.set()
    assert await finding == tombstone
    assert near.sessions == {session.digest: tombstone}


async def test_a_near_store_that_goes_down_meanwhile_takes_no_answer_away() -> None:
    session = a_session()
    near, far = Shelf(), Shelf(session)
    far.open.clear()
    finding = asyncio.create_task(between(near, far).find(session.digest))
    await until(lambda: bool(far.asked))
    near.down = True
    far.open.set()
    assert await finding == session


async def test_a_tombstone_passes_through_two_storeys() -> None:
    tombstone = a_tombstone()
    live = a_session(digest=tombstone.digest)
    local, redis, durable = Shelf(), Shelf(live), Shelf(tombstone)
    redis.down = True
    clock = FakeClock()
    finder = ReadThrough(local, ReadThrough(redis, durable, clock=clock), clock=clock)
    assert await finder.find(tombstone.digest) == tombstone
    redis.down = False
    assert await finder.find(tombstone.digest) == tombstone
