"""Misses are cached for a short time; hits and errors are not."""

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.negative_cache import NegativeCache, NegativeCaching
from tests.contracts.values import build_digest, build_session
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend


def build_finder(
    backend: FakeBackend, clock: FakeClock, *, max_digests: int = 100
) -> NegativeCaching:
    misses = NegativeCache(max_digests=max_digests, max_age=2.0, clock=clock)
    return NegativeCaching(backend, negative_cache=misses)


async def test_repeated_miss_is_looked_up_once() -> None:
    backend, digest = FakeBackend(), build_digest()
    finder = build_finder(backend, FakeClock())
    assert [await finder.find(digest) for _ in range(5)] == [None] * 5
    assert backend.lookups == [(digest,)]


async def test_miss_expires_at_max_age() -> None:
    backend, clock, session = FakeBackend(), FakeClock(), build_session()
    finder = build_finder(backend, clock)
    await finder.find(session.digest)
    await backend.put(session)
    clock.advance(1.999)
    assert await finder.find(session.digest) is None
    clock.advance(0.001)
    assert await finder.find(session.digest) == session


async def test_repeated_lookup_does_not_renew_a_miss() -> None:
    backend, clock, digest = FakeBackend(), FakeClock(), build_digest()
    finder = build_finder(backend, clock)
    for _ in range(4):
        await finder.find(digest)
        clock.advance(0.5)
    await finder.find(digest)
    assert len(backend.lookups) == 2


async def test_hit_is_not_cached() -> None:
    session = build_session()
    backend = FakeBackend(session)
    finder = build_finder(backend, FakeClock())
    assert [await finder.find(session.digest) for _ in range(3)] == [session] * 3
    assert len(backend.lookups) == 3


async def test_outage_is_not_cached_as_a_miss() -> None:
    session = build_session()
    backend = FakeBackend(session)
    finder = build_finder(backend, FakeClock())
    backend.down = True
    with pytest.raises(StoreUnavailable):
        await finder.find(session.digest)
    backend.down = False
    assert await finder.find(session.digest) == session


async def test_unreadable_record_is_not_cached_as_a_miss() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.unreadable = {session.digest}
    finder = build_finder(backend, FakeClock())
    for _ in range(2):
        with pytest.raises(UnreadableRecord):
            await finder.find(session.digest)


async def test_misses_are_shared_between_lookup_paths() -> None:
    misses = NegativeCache(max_digests=9, max_age=2.0, clock=FakeClock())
    one, other, digest = FakeBackend(), FakeBackend(), build_digest()
    await NegativeCaching(one, negative_cache=misses).find(digest)

    assert digest in misses
    assert await NegativeCaching(other, negative_cache=misses).find(digest) is None
    assert other.lookups == []


async def test_cached_miss_is_returned_during_an_outage() -> None:
    backend, digest = FakeBackend(), build_digest()
    finder = build_finder(backend, FakeClock())
    await finder.find(digest)
    backend.down = True
    assert await finder.find(digest) is None


async def test_miss_does_not_affect_other_digests() -> None:
    session = build_session()
    finder = build_finder(FakeBackend(session), FakeClock())
    await finder.find(build_digest())
    assert await finder.find(session.digest) == session


async def test_oldest_misses_are_evicted_first() -> None:
    backend, digests = FakeBackend(), [build_digest() for _ in range(5)]
    finder = build_finder(backend, FakeClock(), max_digests=3)
    for digest in digests:
        await finder.find(digest)
    backend.lookups.clear()
    for digest in reversed(digests):  # the three newest first: they are cached
        await finder.find(digest)
    assert backend.lookups == [(digests[1],), (digests[0],)]


async def test_many_misses_do_not_hide_existing_sessions() -> None:
    session = build_session()
    backend = FakeBackend(session)
    finder = build_finder(backend, FakeClock(), max_digests=10)
    for _ in range(1000):
        await finder.find(build_digest())
    assert await finder.find(session.digest) == session


async def test_renewed_miss_is_evicted_last() -> None:
    backend, clock = FakeBackend(), FakeClock()
    finder = build_finder(backend, clock, max_digests=2)
    first, second, third = (build_digest() for _ in range(3))
    await finder.find(first)
    await finder.find(second)
    clock.advance(2)
    await finder.find(first)  # looked up again, hence newer than the second
    await finder.find(third)
    backend.lookups.clear()
    await finder.find(first)
    assert backend.lookups == []
