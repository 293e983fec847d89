"""The picture: how much each road carries, and how far each goal is met."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from tests.bench.catalogue import Unit, things
from tests.bench.goals import AtLeast, AtMost, Outcome
from tests.bench.report import wording
from tests.bench.run import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS: Final = "#2f6f9f"
_THEIRS: Final = "#b9bec4"
_MISSED: Final = "#c2553f"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from nothing to `value`; the whisker goes from `low` to `high`."""

    label: str
    value: float
    low: float
    high: float
    colour: str


def rate_bars(findings: Findings) -> list[Bar]:
    """Return what each road carries, a second, in the order of the report."""
    found = ((thing, findings.measured.get(thing.name)) for thing in things())
    return [
        Bar(
            thing.title,
            each.series.median,
            each.series.low,
            each.series.high,
            _THEIRS if thing.theirs else _OURS,
        )
        for thing, each in found
        if each is not None and thing.unit is Unit.RATE
    ]


def goal_bars(outcomes: Sequence[Outcome]) -> list[Bar]:
    """Return how far each goal that was measured is met: 1 is just met, more is better."""
    return list(_goal_bars(outcomes))


def _goal_bars(outcomes: Sequence[Outcome]) -> Iterator[Bar]:
    for outcome in outcomes:
        if outcome.value is not None:
            reached = _reached(outcome, outcome.value)
            colour = _OURS if outcome.met else _MISSED
            yield Bar(wording(outcome.goal), reached, reached, reached, colour)


def _reached(outcome: Outcome, value: float) -> float:
    match outcome.goal:
        case AtLeast(times=times):
            return value / times
        case AtMost(most=most):
            return most / value
        case never:
            assert_never(never)


def draw(findings: Findings, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the picture as a PNG. ImportError: the dependency group `bench` is not installed."""
    from matplotlib.figure import Figure  # nobody else of the tests has it

    rates, goals = rate_bars(findings), goal_bars(outcomes)
    figure = Figure(figsize=(9, 1.6 + 0.3 * (len(rates) + len(goals))), layout="constrained")
    above, below = figure.subplots(
        2, 1, height_ratios=[max(len(rates), 1), max(len(goals), 1)], squeeze=True
    )
    _draw(above, rates, "answers per second, one core: median, lowest and highest round")
    _draw(below, goals, "goals: at 1 a goal is met, beyond it surpassed")
    below.axvline(1, color="black", linewidth=0.8)
    figure.savefig(path, dpi=120)


def _draw(axes: "Axes", bars: Sequence[Bar], title: str) -> None:
    values = [bar.value for bar in bars]
    whiskers = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
    places = range(len(bars))
    axes.barh(places, values, xerr=whiskers, color=[bar.colour for bar in bars], height=0.7)
    axes.set_yticks(places, [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set_title(title, fontsize="medium", loc="left")
    axes.xaxis.set_major_formatter("{x:,g}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
