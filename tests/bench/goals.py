"""Goals, and whether they are met. A goal that was not measured is neither met nor missed.

A goal is about a metric, or about a further figure of it, whose name follows a colon: `create` is a
rate, `create:cpu` the CPU time of a call.
"""

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


@dataclass(frozen=True, slots=True)
class AtMostTimes:
    """`metric` is at most `ratio` times `reference`, by the median of the rounds' ratios."""

    metric: str
    ratio: float
    reference: str


Goal = AtLeast | AtMost | AtMostTimes


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
            case AtMost(maximum=maximum) | AtMostTimes(ratio=maximum):
                return self.value <= maximum
            case never:
                assert_never(never)


def evaluate(goals: Sequence[Goal], measured: Mapping[str, Series]) -> list[Outcome]:
    """Return the outcome of every goal, in order."""
    return [Outcome(goal, _value(goal, measured)) for goal in goals]


def compared_metrics(goal: Goal) -> set[str]:
    """Return the names of the metrics that the goal needs."""
    return {name.partition(":")[0] for name in _figures(goal)}


def measured_metric(goal: Goal) -> str:
    """Return the name of the metric that the goal is about."""
    return goal.metric.partition(":")[0]


def _figures(goal: Goal) -> list[str]:
    return [goal.metric] if isinstance(goal, AtMost) else [goal.metric, goal.reference]


def _value(goal: Goal, measured: Mapping[str, Series]) -> float | None:
    figures = [measured.get(name) for name in _figures(goal)]
    match figures:
        case [Series() as series]:
            return series.median
        case [Series() as series, Series() as reference]:
            return series.ratio_to(reference).median
        case _:
            return None
