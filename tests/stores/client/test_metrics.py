"""A metered store returns the same results, and each lookup is observed once."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import Fill
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.metrics import Metered, MeteredCache
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend
from tests.support.redis_trust import build_mark


class Observer:
    """Records the observed lookups."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []
        self.seconds: list[float] = []

    def __call__(self, store: str, outcome: str, seconds: float) -> None:
        self.outcomes.append((store, outcome))
        self.seconds.append(seconds)


@pytest.mark.parametrize(
    ("stored", "outcome"),
    [(build_session(), "hit"), (build_tombstone(), "hit"), (None, "miss")],
    ids=["session", "tombstone", "nothing"],
)
async def test_lookup_is_observed_with_its_outcome(stored: Session | None, outcome: str) -> None:
    backend, observer = FakeBackend(*([stored] if stored else [])), Observer()
    digest = stored.digest if stored else build_digest()
    found = await Metered(backend, store="x", observe=observer).find_many([digest])
    assert found.get(digest) == stored
    assert observer.outcomes == [("x", outcome)]


async def test_outage_is_observed_as_error_and_raised() -> None:
    backend, observer = FakeBackend(), Observer()
    backend.down = True
    with pytest.raises(StoreUnavailable):
        await Metered(backend, store="x", observe=observer).find_many([build_digest()])
    assert observer.outcomes == [("x", "error")]


@pytest.mark.parametrize(("others", "errors"), [(0, 1), (2, 0)])
async def test_unreadable_record_is_observed_as_error_when_looked_up_alone(
    others: int, errors: int
) -> None:
    backend, observer, digest = FakeBackend(), Observer(), build_digest()
    backend.unreadable = {digest}
    digests = [digest, *(build_digest() for _ in range(others))]
    with pytest.raises(UnreadableRecord):
        await Metered(backend, store="x", observe=observer).find_many(digests)
    assert observer.outcomes == [("x", "error")] * errors


async def test_each_lookup_is_observed_once_with_its_seconds() -> None:
    observer = Observer()
    metered = Metered(FakeBackend(), store="x", observe=observer)
    for _ in range(5):
        await metered.find_many([build_digest()])
    assert len(observer.seconds) == 5
    assert all(0 <= seconds < 5 for seconds in observer.seconds)


async def test_fill_is_not_observed_and_returns_the_fresher_session() -> None:
    session, observer = build_session(), Observer()
    tombstone = session.revoked(NOON)
    cache = MeteredCache(FakeBackend(tombstone), store="x", observe=observer)
    fill = Fill(session, {0: Seal.begin(build_mark())})
    kept = await cache.fill_many({session.digest: fill})
    assert (kept, observer.outcomes) == ({session.digest: tombstone}, [])


@pytest.mark.parametrize("has_seal", [True, False])
async def test_restriction_is_not_observed_and_returns_whether_it_was_applied(
    has_seal: bool,
) -> None:
    backend, observer = FakeBackend(), Observer()
    backend.has_seal = has_seal
    cache = MeteredCache(backend, store="x", observe=observer)
    assert await cache.restrict_many([build_tombstone()]) is has_seal
    assert observer.outcomes == []


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
