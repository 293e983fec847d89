"""A metered store returns the same results, and each look-up is observed once."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.client.metrics import Metered, MeteredCache
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend


class Observer:
    """Records the observed look-ups."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []
        self.seconds: list[float] = []

    def __call__(self, store: str, outcome: str, seconds: float) -> None:
        self.outcomes.append((store, outcome))
        self.seconds.append(seconds)


async def test_hit_is_observed_as_hit() -> None:
    session, observer = build_session(), Observer()
    assert (
        await Metered(FakeBackend(session), store="x", observe=observer).find(session.digest)
        == session
    )
    assert observer.outcomes == [("x", "hit")]


async def test_tombstone_is_observed_as_hit() -> None:
    tombstone, observer = build_tombstone(), Observer()
    await Metered(FakeBackend(tombstone), store="x", observe=observer).find(tombstone.digest)
    assert observer.outcomes == [("x", "hit")]


async def test_miss_is_observed_as_miss() -> None:
    observer = Observer()
    assert await Metered(FakeBackend(), store="x", observe=observer).find(build_digest()) is None
    assert observer.outcomes == [("x", "miss")]


async def test_outage_is_observed_as_error_and_raised() -> None:
    backend, observer = FakeBackend(), Observer()
    backend.down = True
    with pytest.raises(StoreUnavailable):
        await Metered(backend, store="x", observe=observer).find(build_digest())
    assert observer.outcomes == [("x", "error")]


async def test_unreadable_record_is_observed_as_error_and_raised() -> None:
    backend, observer, digest = FakeBackend(), Observer(), build_digest()
    backend.unreadable = {digest}
    with pytest.raises(UnreadableRecord):
        await Metered(backend, store="x", observe=observer).find(digest)
    assert observer.outcomes == [("x", "error")]


async def test_each_lookup_is_observed_once_with_its_seconds() -> None:
    observer = Observer()
    metered = Metered(FakeBackend(), store="x", observe=observer)
    for _ in range(5):
        await metered.find(build_digest())
    assert len(observer.seconds) == 5
    assert all(0 <= seconds < 5 for seconds in observer.seconds)


async def test_put_is_not_observed_and_returns_the_fresher_session() -> None:
    session, observer = build_session(), Observer()
    tombstone = session.revoked(NOON)
    cache = MeteredCache(FakeBackend(tombstone), store="x", observe=observer)
    kept = await cache.put_many({session.digest: session})
    assert (kept, observer.outcomes) == ({session.digest: tombstone}, [])


async def test_each_lookup_of_a_batch_is_observed_with_its_outcome() -> None:
    session, observer = build_session(), Observer()
    cache = MeteredCache(FakeBackend(session), store="x", observe=observer)
    found = await cache.find_many([build_digest(), session.digest])
    assert found == {session.digest: session}
    assert observer.outcomes == [("x", "miss"), ("x", "hit")]
    assert len(set(observer.seconds)) == 1


async def test_each_lookup_of_a_failed_batch_is_observed_as_error() -> None:
    backend, observer = FakeBackend(), Observer()
    backend.down = True
    with pytest.raises(StoreUnavailable):
        await MeteredCache(backend, store="x", observe=observer).find_many(
            [build_digest(), build_digest()]
        )
    assert observer.outcomes == [("x", "error")] * 2


async def test_cancelled_lookup_is_observed_as_error() -> None:
    backend, observer = FakeBackend(), Observer()
    backend.unblocked.clear()
    cache = MeteredCache(backend, store="x", observe=observer)
    lookup = asyncio.ensure_future(cache.find_many([build_digest()]))
    await asyncio.sleep(0)
    lookup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lookup
    assert observer.outcomes == [("x", "error")]
