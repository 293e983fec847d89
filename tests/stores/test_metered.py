"""A finder under observation answers the same, and is told of once for each look-up."""

import pytest

from proxy.core.errors import StoreUnavailable, UnreadableRecord
from proxy.stores.metered import Metered, MeteredHot
from tests.clock import NOON
from tests.contracts.values import a_digest, a_session, a_tombstone
from tests.fakes import Shelf


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
    hot = MeteredHot(Shelf(tombstone), store="x", observe=observer)
    assert await hot.put(session) == tombstone
    assert observer.outcomes == []
