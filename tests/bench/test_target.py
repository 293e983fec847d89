"""Hit counters verify that the intended store was measured."""

import pytest

from tests.bench.errors import UnexpectedResponses
from tests.bench.target import HitCounts, sum_samples

SAMPLES = [
    ("lookups", {"store": "memory", "outcome": "hit"}, 5.0),
    ("lookups", {"store": "memory", "outcome": "miss"}, 3.0),
    ("lookups", {"store": "redis", "outcome": "hit"}, 2.0),
    ("checks", {}, 8.0),
]


def test_few_responses_from_other_stores_pass() -> None:
    HitCounts(responses=1100, hits=1000).verify(HitCounts(responses=100, hits=95), "memory")


def test_too_few_hits_in_the_store_raise() -> None:
    with pytest.raises(UnexpectedResponses, match="only 50% of the responses were hits in redis"):
        HitCounts(responses=1100, hits=595).verify(HitCounts(responses=100, hits=95), "redis")


def test_no_responses_raise() -> None:
    with pytest.raises(UnexpectedResponses, match="only 0%"):
        HitCounts(responses=100, hits=95).verify(HitCounts(responses=100, hits=95), "redis")


def test_batch_size_is_hits_per_round_trip() -> None:
    before = HitCounts(responses=100, hits=95, round_trips=10)

    assert HitCounts(responses=1100, hits=1095, round_trips=110).batch_size(before) == 10
    assert HitCounts(responses=1100, hits=1095, round_trips=10).batch_size(before) is None


def test_samples_with_the_labels_are_summed() -> None:
    assert sum_samples(SAMPLES, "lookups") == 10
    assert sum_samples(SAMPLES, "lookups", store="memory") == 8
    assert sum_samples(SAMPLES, "lookups", store="memory", outcome="hit") == 5
    assert sum_samples(SAMPLES, "nothing") == 0
