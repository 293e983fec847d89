"""What is drawn."""

from tests.bench.goals import AtLeast, AtMost, Outcome
from tests.bench.plot import goal_bars, rate_bars
from tests.bench.run import Findings, Measured
from tests.bench.series import Series


def test_roads_have_bars_in_the_order_of_the_report_and_the_rest_has_none() -> None:
    findings = Findings(
        {
            "nginx": Measured(Series.of(9.0, 7.0, 8.0)),
            "ready": Measured(Series.of(0.5)),
            "local": Measured(Series.of(4.0)),
        },
        {},
    )

    bars = rate_bars(findings)

    assert [(bar.value, bar.low, bar.high) for bar in bars] == [(4.0, 4.0, 4.0), (8.0, 7.0, 9.0)]
    assert bars[0].colour != bars[1].colour  # ours and theirs


def test_a_goal_that_is_just_met_reaches_one_and_more_is_better() -> None:
    outcomes = [
        Outcome(AtLeast("local", 0.5, "nginx"), 0.5),
        Outcome(AtLeast("local", 6.0, "aiohttp"), 3.0),
        Outcome(AtMost("ready", 1.0), 0.5),
        Outcome(AtMost("memory-idle", 60.0), None),
    ]

    bars = goal_bars(outcomes)

    assert [bar.value for bar in bars] == [1.0, 0.5, 2.0]
    assert bars[0].colour == bars[2].colour != bars[1].colour
