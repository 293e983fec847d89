"""The table of faults, and the formatting of its rows."""

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.plan import Outcome, Row
from tests.faults.report import (
    COLUMNS,
    MARKDOWN,
    PLAIN,
    format_cells,
    format_excluded_share,
    format_failures,
)
from tests.faults.rules import Violation
from tests.faults.stats import FaultStats

STATS = FaultStats(
    requests=2000,
    allowed=1999,
    excluded=0,
    p50=0.0004,
    p99=0.0123,
    baseline_p99=0.003,
    recovery=0.25,
    revocations=5,
    acknowledged=5,
    last_allow=0.05,
)


def fault(number: int) -> Fault:
    return next(fault for fault in FAULTS if fault.number == number)


def row(
    number: int,
    *violations: Violation,
    missing_effects: tuple[str, ...] = (),
    stats: FaultStats = STATS,
) -> Row:
    return Row(fault(number), stats, violations, missing_effects)


def test_fault_numbers_ascend() -> None:
    numbers = [fault.number for fault in FAULTS]
    assert numbers == [*range(1, 49)]


def test_fault_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_quick_run_selects_fourteen_faults() -> None:
    quick = [fault.number for fault in FAULTS if fault.quick]
    assert quick == [2, 5, 6, 7, 12, 17, 25, 26, 28, 30, 34, 36, 41, 44]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_quick_episodes_are_episodes_of_the_fault(fault: Fault) -> None:
    names = [name for name, _ in fault.episodes]
    assert set(fault.quick_episodes or names) <= set(names)
    assert fault.only(fault.quick_episodes).episodes


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_episode_names_of_a_fault_are_unique(fault: Fault) -> None:
    assert fault.episodes
    assert len({name for name, _ in fault.episodes}) == len(fault.episodes)


def test_stores_fail_and_recover_in_six_orders() -> None:
    assert len(fault(26).episodes) == 6


def test_row_shows_measured_and_expected_values() -> None:
    values = dict(zip(COLUMNS, format_cells(row(5)), strict=True))
    assert values["valid"] == "99.95 % (≥ 99.9 %)"
    assert values["p50"] == "0.4 ms"
    assert values["p99"] == "12 ms (≤ 90 ms)"
    assert values["recovery"] == "0.2 s (2.0 s)"
    assert values["result"] == "passed"


def test_expected_p99_may_be_twice_the_baseline() -> None:
    assert "12 ms (≤ 6.0 ms)" in format_cells(row(28))


def test_slow_p99_alone_is_reported_without_failing() -> None:
    slow = row(30, stats=STATS)
    assert format_cells(slow)[-1] == "passed"
    slower = row(17, stats=STATS).stats
    assert format_cells(row(1, stats=slower))[-1] == "passed, slow"
    assert Outcome((row(1),), (), {}).passed


def test_violation_fails_the_run_and_is_reported() -> None:
    broken = row(
        5, Violation("I1", "token 7 was allowed", 3.0), Violation("I1", "token 8 too", 4.0)
    )
    outcome = Outcome((broken,), (), {})
    assert format_cells(broken)[-1] == "2 of I1"
    assert format_cells(broken)[5] == "2"
    assert not outcome.passed
    assert "5 kill -9 of Redis, back empty: I1: token 7 was allowed" in format_failures(outcome)


def test_missing_effect_fails_the_run_and_is_reported() -> None:
    outcome = Outcome((row(5, missing_effects=("no lookup failed at Redis",)),), (), {})
    assert not outcome.passed
    assert "fault had no effect: no lookup failed at Redis" in format_failures(outcome)


def test_violation_at_the_end_fails_the_run_and_is_reported() -> None:
    outcome = Outcome((row(5),), (Violation("I11", "Redis holds a token", 9.0),), {})
    assert not outcome.passed
    assert format_failures(outcome) == "at the end: I11: Redis holds a token"


def test_reported_violations_are_limited_per_invariant() -> None:
    many = [Violation("I9", f"late {number}", float(number)) for number in range(100)]
    values = format_failures(
        Outcome((row(5, *many, Violation("I1", "allowed", 500.0)),), (), {})
    ).splitlines()
    assert len(values) == 7
    assert "I1: allowed" in values[0]
    assert "I9: … and 95 more" in values[-1]


def test_markdown_lines_have_the_same_number_of_columns() -> None:
    lines = [*MARKDOWN.header().splitlines(), MARKDOWN.line(row(5))]
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 1] * 3


def test_plain_line_starts_with_the_fault_number() -> None:
    assert PLAIN.line(row(5)).startswith("5 ")
    assert PLAIN.header().startswith("# ")


def test_excluded_share_is_formatted() -> None:
    starved = FaultStats(
        **{name: getattr(STATS, name) for name in STATS.__slots__} | {"excluded": 500}
    )
    assert format_excluded_share(Outcome((row(5, stats=starved),), (), {})) == "20 %"
