"""Which rates are measured, and what the goals are about."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from tests.bench.errors import UnexpectedResponses
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, evaluate
from tests.bench.open_loop import OpenLoopSample
from tests.bench.series import Series
from tests.bench.tails import Cell, goals, measure_rates

SAMPLE = OpenLoopSample(
    seconds=2.0,
    answers=1500,
    good=1000,
    unavailable=3,
    failed=2,
    missed=0,
    p50=0.001,
    p99=0.002,
    p999=0.004,
    max=0.009,
    late=0.0001,
)
GOOD = replace(SAMPLE, unavailable=0, failed=0)


@dataclass
class FakeLoad:
    """Answers every load with the same sample."""

    sample: OpenLoopSample
    sent: list[tuple[float, float, float]] = field(default_factory=list)

    def closed_loop(self, *, seconds: float, warm_up: float) -> OpenLoopSample:
        return self.open_loop(0, seconds=seconds, warm_up=warm_up)

    def open_loop(self, rate: float, *, seconds: float, warm_up: float) -> OpenLoopSample:
        self.sent.append((rate, seconds, warm_up))
        return self.sample


def measure(load: FakeLoad) -> Iterator[tuple[str, Cell]]:
    ticks = count(0.0, 3.0)
    return measure_rates(load, 8, read_cpu=lambda: next(ticks))


def test_rates_are_multiples_of_the_highest() -> None:
    load = FakeLoad(GOOD)

    names = [name for name, _ in measure(load)]

    assert names == ["highest", "1/3", "2/3", "1.5x", "3x", "recovery"]
    rates = [rate for rate, _, _ in load.sent]
    assert rates == pytest.approx([0, 500 / 3, 1000 / 3, 750, 1500, 500 / 3])


def test_recovery_counts_from_a_second_after_the_overload() -> None:
    load = FakeLoad(GOOD)

    list(measure(load))

    assert load.sent[-1][1:] == (4, 1.0)


def test_cpu_time_is_that_of_an_answer() -> None:
    assert {cell.cpu for _, cell in measure(FakeLoad(GOOD))} == {3.0 / 1500}


def test_a_few_failures_in_the_closed_loop_do_not_raise() -> None:
    assert len(list(measure(FakeLoad(SAMPLE)))) == 6


def test_many_failures_in_the_closed_loop_raise() -> None:
    with pytest.raises(UnexpectedResponses, match="too few good"):
        list(measure(FakeLoad(replace(SAMPLE, unavailable=200))))


def test_no_answers_raise() -> None:
    with pytest.raises(UnexpectedResponses, match="no answers"):
        list(measure(FakeLoad(replace(GOOD, answers=0, good=0))))


def test_cell_has_the_figures_of_the_goals() -> None:
    assert Cell(SAMPLE, 0.0).series() == {
        "goodput": Series.of(500.0),
        "p99": Series.of(2.0),
        "p99.9": Series.of(4.0),
        "failed": Series.of(5),
    }


def test_offered_requests_include_those_that_failed() -> None:
    assert SAMPLE.offered == 1005 / 2


def test_goals_of_each_number_of_sessions() -> None:
    assert goals((20_000,)) == [
        AtMostTimes("sidegate-20k-2/3:p99.9", 2.0, "nginx-lua-20k-2/3:p99.9"),
        AtMost("sidegate-20k-2/3:failed", 0),
        AtLeast("sidegate-20k-1.5x:goodput", 0.9, "sidegate-20k-highest:goodput"),
        AtLeast("sidegate-20k-3x:goodput", 0.9, "sidegate-20k-highest:goodput"),
        AtMostTimes("sidegate-20k-recovery:p99", 2.0, "sidegate-20k-1/3:p99"),
        AtMost("sidegate-20k-recovery:failed", 0),
    ]


def test_one_failure_below_the_highest_rate_misses_the_goal() -> None:
    measured = {"sidegate-2k-2/3:failed": Series.of(1)}

    outcome = evaluate([AtMost("sidegate-2k-2/3:failed", 0)], measured)[0]

    assert outcome.met is False
