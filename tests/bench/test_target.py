"""Witnesses: what was measured is what was meant."""

import pytest

from tests.bench.errors import WrongAnswers
from tests.bench.target import Seen, total

SAMPLES = [
    ("lookups", {"store": "memory", "outcome": "hit"}, 5.0),
    ("lookups", {"store": "memory", "outcome": "miss"}, 3.0),
    ("lookups", {"store": "redis", "outcome": "hit"}, 2.0),
    ("checks", {}, 8.0),
]


def test_a_few_answers_from_elsewhere_are_let_pass() -> None:
    Seen(answers=1100, on_the_road=1000).confirm(Seen(answers=100, on_the_road=95), "memory")


def test_an_outing_on_another_road_is_noticed() -> None:
    with pytest.raises(WrongAnswers, match="only 50% of the answers came from redis"):
        Seen(answers=1100, on_the_road=595).confirm(Seen(answers=100, on_the_road=95), "redis")


def test_no_answers_at_all_are_noticed() -> None:
    with pytest.raises(WrongAnswers, match="only 0%"):
        Seen(answers=100, on_the_road=95).confirm(Seen(answers=100, on_the_road=95), "redis")


def test_how_many_answers_came_together_is_of_the_road_alone() -> None:
    before = Seen(answers=100, on_the_road=95, trips=10)

    assert Seen(answers=1100, on_the_road=1095, trips=110).batch_size(before) == 10
    assert Seen(answers=1100, on_the_road=1095, trips=10).batch_size(before) is None


def test_a_total_is_of_all_samples_with_the_labels() -> None:
    assert total(SAMPLES, "lookups") == 10
    assert total(SAMPLES, "lookups", store="memory") == 8
    assert total(SAMPLES, "lookups", store="memory", outcome="hit") == 5
    assert total(SAMPLES, "nothing") == 0
