"""Goals, and whether they are met. A goal that was not measured is neither met nor missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from tests.bench.series import Series


@dataclass(frozen=True, slots=True)
class AtLeast:
    """`metric` is at least `ratio` times `reference`, by the median of the rounds' ratios."""

    metric: str
    ratio: float
    reference: str


@dataclass(frozen=True, slots=True)
class AtMost:
    """The median of `metric` is at most `maximum`, in its own unit."""

    metric: str
    maximum: float


Goal = AtLeast | AtMost


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a goal. `value` is compared with the bound; None: not measured."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        match self.goal:
            case AtLeast(ratio=ratio):
                return self.value >= ratio
            case AtMost(maximum=maximum):
                return self.value <= maximum
            case never:
                assert_never(never)


def evaluate(goals: Sequence[Goal], measured: Mapping[str, Series]) -> list[Outcome]:
    """Return the outcome of every goal, in order."""
    return [Outcome(goal, _value(goal, measured)) for goal in goals]


def compared_metrics(goal: Goal) -> set[str]:
    """Return the names of the metrics that the goal needs."""
    return {goal.metric, goal.reference} if isinstance(goal, AtLeast) else {goal.metric}


def _value(goal: Goal, measured: Mapping[str, Series]) -> float | None:
    if not compared_metrics(goal) <= measured.keys():
        return None
    series = measured[goal.metric]
    return (
        series.ratio_to(measured[goal.reference]).median
        if isinstance(goal, AtLeast)
        else series.median
    )
