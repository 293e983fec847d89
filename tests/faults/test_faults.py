"""The table of faults, and the sentences that are made of its rows."""

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.figures import Figures
from tests.faults.plan import Outcome, Row
from tests.faults.report import COLUMNS, MARKDOWN, PLAIN, cells, left_out, story
from tests.faults.rules import Breach

SEEN = Figures(
    requests=2000,
    allowed=1999,
    left_out=0,
    p50=0.0004,
    p99=0.0123,
    base_p99=0.003,
    recovery=0.25,
    revocations=5,
    acknowledged=5,
    late_allow=0.05,
)


def fault(number: int) -> Fault:
    return next(fault for fault in FAULTS if fault.number == number)


def row(number: int, *breaches: Breach, absent: tuple[str, ...] = (), seen: Figures = SEEN) -> Row:
    return Row(fault(number), seen, breaches, absent)


def test_there_are_thirty_three_of_them_in_order() -> None:
    assert [fault.number for fault in FAULTS] == list(range(1, 34))


def test_no_two_have_the_same_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_quick_run_has_the_most_telling_ones() -> None:
    quick = [fault.number for fault in FAULTS if fault.quick]
    assert quick == [2, 5, 6, 7, 12, 17, 18, 25, 26, 28, 30]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_episode_says_what_happens(fault: Fault) -> None:
    assert fault.episodes
    assert len({name for name, _ in fault.episodes}) == len(fault.episodes)


def test_stores_can_go_and_come_in_six_orders() -> None:
    assert len(fault(26).episodes) == 6


def test_a_row_tells_what_was_measured_and_what_was_expected() -> None:
    told = dict(zip(COLUMNS, cells(row(5)), strict=True))
    assert told["valid"] == "99.95 % (≥ 99.9 %)"
    assert told["p50"] == "0.4 ms"
    assert told["p99"] == "12 ms (≤ 90 ms)"
    assert told["recovery"] == "0.2 s (2.0 s)"
    assert told["came of it"] == "held"


def test_where_the_base_is_the_measure_twice_of_it_is_expected() -> None:
    assert "12 ms (≤ 6.0 ms)" in cells(row(28))


def test_a_slow_percentile_alone_is_told_and_fails_nothing() -> None:
    slow = row(30, seen=SEEN)
    assert cells(slow)[-1] == "held"
    slower = row(17, seen=SEEN).figures
    assert cells(row(1, seen=slower))[-1] == "held, slow"
    assert Outcome((row(1),), (), {}).well


def test_a_breach_fails_a_run_and_is_told() -> None:
    broken = row(5, Breach("I1", "token 7 was allowed", 3.0), Breach("I1", "token 8 too", 4.0))
    outcome = Outcome((broken,), (), {})
    assert cells(broken)[-1] == "2 of I1"
    assert cells(broken)[5] == "2"
    assert not outcome.well
    assert "5 kill -9 of Redis, back empty: I1: token 7 was allowed" in story(outcome)


def test_a_fault_that_did_not_show_fails_a_run_and_is_told() -> None:
    outcome = Outcome((row(5, absent=("no look-up failed at Redis",)),), (), {})
    assert not outcome.well
    assert "not really there: no look-up failed at Redis" in story(outcome)


def test_a_breach_at_the_end_fails_a_run_and_is_told() -> None:
    outcome = Outcome((row(5),), (Breach("I11", "Redis holds a token", 9.0),), {})
    assert not outcome.well
    assert story(outcome) == "at the end: I11: Redis holds a token"


def test_of_many_breaches_some_are_told_and_the_rest_counted() -> None:
    many = [Breach("I9", f"late {number}", float(number)) for number in range(100)]
    told = story(Outcome((row(5, *many, Breach("I1", "allowed", 500.0)),), (), {})).splitlines()
    assert len(told) == 7
    assert "I1: allowed" in told[0]
    assert "I9: … and 95 more" in told[-1]


def test_the_table_for_the_docs_has_as_many_columns_in_each_line() -> None:
    lines = [*MARKDOWN.header().splitlines(), MARKDOWN.line(row(5))]
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 1] * 3


def test_a_line_for_the_terminal_begins_with_the_number() -> None:
    assert PLAIN.line(row(5)).startswith("5 ")
    assert PLAIN.header().startswith("# ")


def test_the_share_that_is_in_no_figure_is_told() -> None:
    starved = Figures(**{name: getattr(SEEN, name) for name in SEEN.__slots__} | {"left_out": 500})
    assert left_out(Outcome((row(5, seen=starved),), (), {})) == "20 %"
