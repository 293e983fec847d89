"""The chart: the rate of each benchmark, and how far each goal is met."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from tests.bench.catalogue import Metric, Unit, all_metrics
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, Outcome
from tests.bench.report import format_goal
from tests.bench.run import Measurement, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS: Final = "#2f6f9f"
_REFERENCE: Final = "#b9bec4"
_MISSED: Final = "#c2553f"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from 0 to `value`, with a whisker from `low` to `high`."""

    label: str
    value: float
    low: float
    high: float
    colour: str


def rate_bars(results: Results) -> list[Bar]:
    """Return the rate of each benchmark, in the order of the report."""
    found = ((metric, results.measured.get(metric.name)) for metric in all_metrics())
    return [
        Bar(
            _label(metric, each),
            each.series.median,
            each.series.low,
            each.series.high,
            _REFERENCE if metric.is_reference else _OURS,
        )
        for metric, each in found
        if each is not None and metric.unit is Unit.RATE
    ]


def _label(metric: Metric, measured: Measurement) -> str:
    """Return the title, with the CPU time of an answer."""
    return metric.title if measured.cpu is None else f"{metric.title}, {measured.cpu.median:.0f} µs"


def goal_bars(outcomes: Sequence[Outcome]) -> list[Bar]:
    """Return the ratio of each measured goal: at 1 it is just met, more is better."""
    return list(_goal_bars(outcomes))


def _goal_bars(outcomes: Sequence[Outcome]) -> Iterator[Bar]:
    for outcome in outcomes:
        if outcome.value is not None:
            achieved = _ratio_to_goal(outcome, outcome.value)
            colour = _OURS if outcome.met else _MISSED
            yield Bar(format_goal(outcome.goal), achieved, achieved, achieved, colour)


def _ratio_to_goal(outcome: Outcome, value: float) -> float:
    match outcome.goal:
        case AtLeast(ratio=ratio):
            return value / ratio
        case AtMost(maximum=maximum) | AtMostTimes(ratio=maximum):
            return maximum / value if value else 1.0
        case never:
            assert_never(never)


def draw(results: Results, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the chart as PNG. ImportError: the dependency group `bench` is not installed."""
    from matplotlib.figure import Figure  # only the group `bench` has it

    rates, goals = rate_bars(results), goal_bars(outcomes)
    figure = Figure(figsize=(9, 1.6 + 0.3 * (len(rates) + len(goals))), layout="constrained")
    above, below = figure.subplots(
        2, 1, height_ratios=[max(len(rates), 1), max(len(goals), 1)], squeeze=True
    )
    _draw(
        above,
        rates,
        "responses per second, one core: median, lowest and highest round; CPU time of one",
    )
    _draw(below, goals, "goals: at 1 a goal is just met")
    below.axvline(1, color="black", linewidth=0.8)
    figure.savefig(path, dpi=120)


def _draw(axes: "Axes", bars: Sequence[Bar], title: str) -> None:
    values = [bar.value for bar in bars]
    whiskers = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
    positions = range(len(bars))
    axes.barh(positions, values, xerr=whiskers, color=[bar.colour for bar in bars], height=0.7)
    axes.set_yticks(positions, [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set_title(title, fontsize="medium", loc="left")
    axes.xaxis.set_major_formatter("{x:,g}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
