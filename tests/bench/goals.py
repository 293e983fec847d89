"""What is wanted, and whether it was met. Something that was not measured is neither."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from tests.bench.series import Series


@dataclass(frozen=True, slots=True)
class AtLeast:
    """`of` is at least so many times `against`, by the median of the rounds' ratios."""

    of: str
    times: float
    against: str


@dataclass(frozen=True, slots=True)
class AtMost:
    """The median of `of` is at most so much, in its own unit."""

    of: str
    most: float


Goal = AtLeast | AtMost


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a goal came out. `value` is what the bound is compared with; None: not measured."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        match self.goal:
            case AtLeast(times=times):
                return self.value >= times
            case AtMost(most=most):
                return self.value <= most
            case never:
                assert_never(never)


def judged(goals: Sequence[Goal], measured: Mapping[str, Series]) -> list[Outcome]:
    """Return the outcome of every goal, in order."""
    return [Outcome(goal, _value(goal, measured)) for goal in goals]


def wanted_by(goal: Goal) -> set[str]:
    """Return the names of what has to be measured to judge it."""
    return {goal.of, goal.against} if isinstance(goal, AtLeast) else {goal.of}


def _value(goal: Goal, measured: Mapping[str, Series]) -> float | None:
    if not wanted_by(goal) <= measured.keys():
        return None
    series = measured[goal.of]
    return (
        series.over(measured[goal.against]).median if isinstance(goal, AtLeast) else series.median
    )
