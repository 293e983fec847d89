"""Misses that are remembered, and everything that is not."""

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.negative_cache import NegativeCache, NegativeCaching
from tests.contracts.values import a_digest, a_session
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf


def remembering(shelf: Shelf, clock: FakeClock, *, max_digests: int = 100) -> NegativeCaching:
    misses = NegativeCache(max_digests=max_digests, max_age=2.0, clock=clock)
    return NegativeCaching(shelf, misses=misses)


async def test_a_miss_is_asked_for_once() -> None:
    shelf, digest = Shelf(), a_digest()
    finder = remembering(shelf, FakeClock())
    assert [await finder.find(digest) for _ in range(5)] == [None] * 5
    assert shelf.asked == [(digest,)]


async def test_a_miss_is_forgotten_at_its_age() -> None:
    shelf, clock, session = Shelf(), FakeClock(), a_session()
    finder = remembering(shelf, clock)
    await finder.find(session.digest)
    await shelf.put(session)
    clock.advance(1.999)
    assert await finder.find(session.digest) is None
    clock.advance(0.001)
    assert await finder.find(session.digest) == session


async def test_being_asked_again_makes_no_miss_younger() -> None:
    shelf, clock, digest = Shelf(), FakeClock(), a_digest()
    finder = remembering(shelf, clock)
    for _ in range(4):
        await finder.find(digest)
        clock.advance(0.5)
    await finder.find(digest)
    assert len(shelf.asked) == 2


async def test_what_was_found_is_asked_for_each_time() -> None:
    session = a_session()
    shelf = Shelf(session)
    finder = remembering(shelf, FakeClock())
    assert [await finder.find(session.digest) for _ in range(3)] == [session] * 3
    assert len(shelf.asked) == 3


async def test_an_outage_is_not_a_miss() -> None:
    session = a_session()
    shelf = Shelf(session)
    finder = remembering(shelf, FakeClock())
    shelf.down = True
    with pytest.raises(StoreUnavailable):
        await finder.find(session.digest)
    shelf.down = False
    assert await finder.find(session.digest) == session


async def test_an_unreadable_record_is_not_a_miss() -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.unreadable = {session.digest}
    finder = remembering(shelf, FakeClock())
    for _ in range(2):
        with pytest.raises(UnreadableRecord):
            await finder.find(session.digest)


async def test_what_one_road_has_missed_another_to_the_same_truth_need_not_ask_for() -> None:
    misses = NegativeCache(max_digests=9, max_age=2.0, clock=FakeClock())
    one, another, digest = Shelf(), Shelf(), a_digest()
    await NegativeCaching(one, misses=misses).find(digest)

    assert digest in misses
    assert await NegativeCaching(another, misses=misses).find(digest) is None
    assert another.asked == []


async def test_a_remembered_miss_needs_no_store() -> None:
    shelf, digest = Shelf(), a_digest()
    finder = remembering(shelf, FakeClock())
    await finder.find(digest)
    shelf.down = True
    assert await finder.find(digest) is None


async def test_a_miss_says_nothing_about_another_digest() -> None:
    session = a_session()
    finder = remembering(Shelf(session), FakeClock())
    await finder.find(a_digest())
    assert await finder.find(session.digest) == session


async def test_the_oldest_misses_make_room() -> None:
    shelf, digests = Shelf(), [a_digest() for _ in range(5)]
    finder = remembering(shelf, FakeClock(), max_digests=3)
    for digest in digests:
        await finder.find(digest)
    shelf.asked.clear()
    for digest in reversed(digests):  # the three newest first: asking evicts nothing they need
        await finder.find(digest)
    assert shelf.asked == [(digests[1],), (digests[0],)]


async def test_a_flood_of_misses_displaces_misses_only() -> None:
    session = a_session()
    shelf = Shelf(session)
    finder = remembering(shelf, FakeClock(), max_digests=10)
    for _ in range(1000):
        await finder.find(a_digest())
    assert await finder.find(session.digest) == session


async def test_a_miss_renewed_in_time_is_the_youngest_again() -> None:
    shelf, clock = Shelf(), FakeClock()
    finder = remembering(shelf, clock, max_digests=2)
    first, second, third = (a_digest() for _ in range(3))
    await finder.find(first)
    await finder.find(second)
    clock.advance(2)
    await finder.find(first)  # asked for again, hence younger than the second
    await finder.find(third)
    shelf.asked.clear()
    await finder.find(first)
    assert shelf.asked == []
