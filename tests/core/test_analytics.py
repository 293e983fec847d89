"""How two samples add up to what happened between them."""

from datetime import timedelta

import pytest

from sidegate.core.analytics import (
    WINDOWS,
    ActiveSessions,
    Cause,
    Happened,
    Peak,
    Sample,
    Totals,
    Window,
    happened,
    report,
    stale,
)
from sidegate.core.durations import Durations
from sidegate.core.session_type import SessionType
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)
WEB, MOBILE, SSO = SessionType.WEB, SessionType.MOBILE, SessionType.SSO
NO_TYPE = dict.fromkeys(SessionType, 0)
NO_CAUSE = dict.fromkeys(Cause, 0)

BEFORE = Sample(
    NOON - MINUTE,
    ActiveSessions({WEB: 1}, users=1),
    Totals({WEB: 10}, {(WEB, Cause.IDLE): 3, (WEB, Cause.REVOKED): 4}, Durations({77: 7}, 70)),
)
LAST = Sample(
    NOON,
    ActiveSessions({WEB: 5, MOBILE: 2}, users=6),
    Totals(
        {WEB: 15, MOBILE: 2},
        {(WEB, Cause.IDLE): 4, (WEB, Cause.REVOKED): 4, (SSO, Cause.LOGOUT): 2},
        Durations({77: 8, 90: 2}, 100),
    ),
)
EMPTY = Sample(NOON, ActiveSessions(), Totals())


def test_what_happened_is_one_sample_less_another() -> None:
    found = happened(LAST, Window(BEFORE, Peak(9, NOON - 2 * MINUTE)))
    assert found == Happened(
        since=NOON - MINUTE,
        peak=9,
        peak_at=NOON - 2 * MINUTE,
        created=NO_TYPE | {WEB: 5, MOBILE: 2},
        ended_by_cause=NO_CAUSE | {Cause.IDLE: 1, Cause.LOGOUT: 2},
        ended_by_type=NO_TYPE | {WEB: 1, SSO: 2},
        durations=Durations({77: 1, 90: 2}, 30),
    )


def test_nothing_at_all_is_zeros_and_no_moment_and_no_duration() -> None:
    found = happened(EMPTY, Window(EMPTY, Peak(0, NOON)))
    assert found == Happened(NOON, 0, None, NO_TYPE, NO_CAUSE, NO_TYPE, Durations())
    assert found.durations.average is None


def test_of_an_end_that_was_taken_back_later_nothing_is_left() -> None:
    taken_back = Sample(NOON, ActiveSessions(), Totals({WEB: 10}, {(WEB, Cause.IDLE): 2}))
    found = happened(taken_back, Window(BEFORE, Peak(1, NOON)))
    assert found.ended_by_cause == NO_CAUSE
    assert found.ended_by_type == NO_TYPE


def test_a_report_names_every_type_and_every_window() -> None:
    windows = {name: Window(BEFORE, Peak(9, NOON)) for name in WINDOWS}
    found = report(LAST, windows)
    assert found.as_of == NOON
    assert found.active == NO_TYPE | {WEB: 5, MOBILE: 2}
    assert found.users == 6
    assert list(found.windows) == ["1h", "24h", "7d"]


@pytest.mark.parametrize("every", [MINUTE, timedelta(hours=1)])
def test_a_sample_is_due_again_a_little_before_the_interval_is_over(every: timedelta) -> None:
    not_after, after = stale(NOON, every)
    assert not_after == NOON - every * 0.9
    assert after == NOON + every
