"""Met, missed, or not measured."""

import pytest

from tests.bench.goals import AtLeast, AtMost, Goal, Outcome, judged, wanted_by
from tests.bench.series import Series

TWICE = AtLeast("ours", 2.0, "theirs")
A_SECOND = AtMost("ready", 1.0)


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
    ],
)
def test_a_bound_that_is_just_reached_is_met(
    goal: Goal, value: float | None, met: bool | None
) -> None:
    assert Outcome(goal, value).met is met


def test_a_ratio_is_judged_by_the_median_of_the_rounds_ratios() -> None:
    measured = {"ours": Series.of(2.0, 90.0, 4.0), "theirs": Series.of(1.0, 30.0, 1.0)}

    # the ratio of the medians would be 4.0
    assert judged([TWICE], measured) == [Outcome(TWICE, 3.0)]


def test_without_its_reference_a_goal_is_not_measured() -> None:
    assert judged([TWICE, A_SECOND], {"ours": Series.of(1.0), "ready": Series.of(0.5)}) == [
        Outcome(TWICE, None),
        Outcome(A_SECOND, 0.5),
    ]


def test_a_goal_wants_what_it_compares() -> None:
    assert wanted_by(TWICE) == {"ours", "theirs"}
    assert wanted_by(A_SECOND) == {"ready"}
