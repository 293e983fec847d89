"""Goals are met, missed, or not measured."""

import pytest

from tests.bench.goals import (
    AtLeast,
    AtMost,
    AtMostTimes,
    Goal,
    Outcome,
    compared_metrics,
    evaluate,
)
from tests.bench.series import Series

TWICE = AtLeast("fast", 2.0, "slow")
A_SECOND = AtMost("ready", 1.0)
CPU = AtMostTimes("create:cpu", 4.5, "aiohttp:cpu")


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (TWICE, 1.99, False),
        (TWICE, 2.0, True),
        (TWICE, 2.01, True),
        (A_SECOND, 0.99, True),
        (A_SECOND, 1.0, True),
        (A_SECOND, 1.01, False),
        (TWICE, None, None),
        (A_SECOND, None, None),
        (CPU, 4.5, True),
        (CPU, 4.51, False),
        (CPU, None, None),
    ],
)
def test_goal_is_met_at_its_bound(goal: Goal, value: float | None, met: bool | None) -> None:
    assert Outcome(goal, value).met is met


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    measured = {"fast": Series.of(2.0, 90.0, 4.0), "slow": Series.of(1.0, 30.0, 1.0)}

    # the ratio of the medians would be 4.0
    assert evaluate([TWICE], measured) == [Outcome(TWICE, 3.0)]


def test_goal_without_its_reference_is_not_measured() -> None:
    assert evaluate([TWICE, A_SECOND], {"fast": Series.of(1.0), "ready": Series.of(0.5)}) == [
        Outcome(TWICE, None),
        Outcome(A_SECOND, 0.5),
    ]


def test_goal_needs_the_metrics_it_compares() -> None:
    assert compared_metrics(TWICE) == {"fast", "slow"}
    assert compared_metrics(A_SECOND) == {"ready"}
    assert compared_metrics(CPU) == {"create", "aiohttp"}


def test_goal_about_a_further_figure_does_not_compare_the_metric() -> None:
    measured = {
        "create": Series.of(9.0),
        "create:cpu": Series.of(800.0, 700.0),
        "aiohttp": Series.of(3.0),
        "aiohttp:cpu": Series.of(200.0, 100.0),
    }

    assert evaluate([CPU], measured) == [Outcome(CPU, 5.5)]
