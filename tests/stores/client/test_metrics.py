"""A store under observation answers the same, and each look-up is told of once."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.client.metrics import Metered, MeteredCache
from tests.contracts.values import a_digest, a_session, a_tombstone
from tests.support.clock import NOON
from tests.support.fakes import Shelf


class Observer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []
        self.seconds: list[float] = []

    def __call__(self, store: str, outcome: str, seconds: float) -> None:
        self.outcomes.append((store, outcome))
        self.seconds.append(seconds)


async def test_a_hit_is_told_as_a_hit() -> None:
    session, observer = a_session(), Observer()
    assert (
        await Metered(Shelf(session), store="x", observe=observer).find(session.digest) == session
    )
    assert observer.outcomes == [("x", "hit")]


async def test_a_tombstone_is_a_hit() -> None:
    tombstone, observer = a_tombstone(), Observer()
    await Metered(Shelf(tombstone), store="x", observe=observer).find(tombstone.digest)
    assert observer.outcomes == [("x", "hit")]


async def test_a_miss_is_told_as_a_miss() -> None:
    observer = Observer()
    assert await Metered(Shelf(), store="x", observe=observer).find(a_digest()) is None
    assert observer.outcomes == [("x", "miss")]


async def test_an_outage_is_told_as_an_error_and_passes() -> None:
    shelf, observer = Shelf(), Observer()
    shelf.down = True
    with pytest.raises(StoreUnavailable):
        await Metered(shelf, store="x", observe=observer).find(a_digest())
    assert observer.outcomes == [("x", "error")]


async def test_an_unreadable_record_is_told_as_an_error_and_passes() -> None:
    shelf, observer, digest = Shelf(), Observer(), a_digest()
    shelf.unreadable = {digest}
    with pytest.raises(UnreadableRecord):
        await Metered(shelf, store="x", observe=observer).find(digest)
    assert observer.outcomes == [("x", "error")]


async def test_each_lookup_is_told_once_with_the_seconds_it_took() -> None:
    observer = Observer()
    metered = Metered(Shelf(), store="x", observe=observer)
    for _ in range(5):
        await metered.find(a_digest())
    assert len(observer.seconds) == 5
    assert all(0 <= seconds < 5 for seconds in observer.seconds)


async def test_what_is_put_is_not_told_and_the_fresher_comes_back() -> None:
    session, observer = a_session(), Observer()
    tombstone = session.revoked(NOON)
    leaf = MeteredCache(Shelf(tombstone), store="x", observe=observer)
    kept = await leaf.put_many({session.digest: session})
    assert (kept, observer.outcomes) == ({session.digest: tombstone}, [])


async def test_of_lookups_that_travel_together_each_is_told_with_its_own_outcome() -> None:
    session, observer = a_session(), Observer()
    leaf = MeteredCache(Shelf(session), store="x", observe=observer)
    found = await leaf.find_many([a_digest(), session.digest])
    assert found == {session.digest: session}
    assert observer.outcomes == [("x", "miss"), ("x", "hit")]
    assert len(set(observer.seconds)) == 1


async def test_when_they_fail_together_each_is_told_as_an_error() -> None:
    shelf, observer = Shelf(), Observer()
    shelf.down = True
    with pytest.raises(StoreUnavailable):
        await MeteredCache(shelf, store="x", observe=observer).find_many([a_digest(), a_digest()])
    assert observer.outcomes == [("x", "error")] * 2


async def test_lookups_that_nobody_waits_for_any_more_are_told_as_errors() -> None:
    shelf, observer = Shelf(), Observer()
    shelf.open.clear()
    leaf = MeteredCache(shelf, store="x", observe=observer)
    asking = asyncio.ensure_future(leaf.find_many([a_digest()]))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert observer.outcomes == [("x", "error")]
