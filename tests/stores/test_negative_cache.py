"""The negative cache: how long a miss is remembered, and which one is evicted first."""

from sidegate.stores.negative_cache import NegativeCache
from tests.contracts.values import build_digest
from tests.support.clock import FakeClock


def build_negative_cache(
    clock: FakeClock | None = None, *, max_digests: int = 100
) -> NegativeCache:
    return NegativeCache(max_digests=max_digests, max_age=2.0, clock=clock or FakeClock())


def test_only_added_digests_are_remembered() -> None:
    misses, digest = build_negative_cache(), build_digest()
    misses.add(digest)
    assert digest in misses
    assert build_digest() not in misses


def test_miss_expires_at_max_age() -> None:
    clock, digest = FakeClock(), build_digest()
    misses = build_negative_cache(clock)
    misses.add(digest)
    clock.advance(1.999)
    assert digest in misses
    clock.advance(0.001)
    assert digest not in misses


def test_repeated_lookup_does_not_renew_a_miss() -> None:
    clock, digest = FakeClock(), build_digest()
    misses = build_negative_cache(clock)
    misses.add(digest)
    for _ in range(4):
        assert digest in misses
        clock.advance(0.5)
    assert digest not in misses


def test_miss_that_is_added_again_is_renewed() -> None:
    clock, digest = FakeClock(), build_digest()
    misses = build_negative_cache(clock)
    misses.add(digest)
    clock.advance(1.5)
    misses.add(digest)
    clock.advance(1.5)
    assert digest in misses


def test_oldest_misses_are_evicted_first() -> None:
    misses, digests = build_negative_cache(max_digests=3), [build_digest() for _ in range(5)]
    for digest in digests:
        misses.add(digest)
    assert [digest in misses for digest in digests] == [False, False, True, True, True]


def test_renewed_miss_is_evicted_last() -> None:
    misses = build_negative_cache(max_digests=2)
    first, second, third = (build_digest() for _ in range(3))
    for digest in (first, second, first, third):
        misses.add(digest)
    assert [digest in misses for digest in (first, second, third)] == [True, False, True]
