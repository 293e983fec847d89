"""The bars of the chart."""

from tests.bench.goals import AtLeast, AtMost, AtMostTimes, Outcome
from tests.bench.plot import goal_bars, rate_bars
from tests.bench.run import Measurement, Results
from tests.bench.series import Series


def test_rate_bars_are_in_the_order_of_the_report() -> None:
    results = Results(
        {
            "nginx": Measurement(Series.of(9.0, 7.0, 8.0)),
            "ready": Measurement(Series.of(0.5)),
            "local": Measurement(Series.of(4.0), cpu=Series.of(14.7)),
        },
        {},
    )

    bars = rate_bars(results)

    assert [(bar.value, bar.low, bar.high) for bar in bars] == [(4.0, 4.0, 4.0), (8.0, 7.0, 9.0)]
    assert [bar.label for bar in bars] == [
        "hit in memory, all features on, 15 µs",
        "nginx, return 200",
    ]
    assert bars[0].colour != bars[1].colour  # Sidegate and reference


def test_goal_bar_is_one_when_the_goal_is_just_met() -> None:
    outcomes = [
        Outcome(AtLeast("local", 0.5, "nginx"), 0.5),
        Outcome(AtLeast("local", 6.0, "aiohttp"), 3.0),
        Outcome(AtMost("ready", 1.0), 0.5),
        Outcome(AtMost("memory-idle", 60.0), None),
        Outcome(AtMostTimes("create:cpu", 4.0, "aiohttp:cpu"), 2.0),
        Outcome(AtMost("sidegate-2k-2/3:failed", 0), 0.0),
        Outcome(AtMost("sidegate-2k-2/3:failed", 0), 7.0),
    ]

    bars = goal_bars(outcomes)

    assert [bar.value for bar in bars] == [1.0, 0.5, 2.0, 2.0, 1.0, 0.0]
    assert bars[0].colour == bars[2].colour != bars[1].colour
