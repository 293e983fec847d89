"""Reports and window statistics from samples."""

from datetime import timedelta

import pytest

from sidegate.core.analytics import (
    WINDOWS,
    ActiveSessions,
    Cause,
    Peak,
    Sample,
    Totals,
    Window,
    WindowStats,
    build_report,
    build_window_stats,
    compute_due_bounds,
)
from sidegate.core.durations import Durations
from sidegate.core.session_type import SessionType
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)
WEB, MOBILE, SSO = SessionType.WEB, SessionType.MOBILE, SessionType.SSO
ZERO_BY_TYPE = dict.fromkeys(SessionType, 0)
ZERO_BY_CAUSE = dict.fromkeys(Cause, 0)

FIRST = Sample(
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


def test_window_stats_are_the_difference_of_two_samples() -> None:
    stats = build_window_stats(LAST, Window(FIRST, Peak(9, NOON - 2 * MINUTE)))
    assert stats == WindowStats(
        since=NOON - MINUTE,
        peak=9,
        peak_at=NOON - 2 * MINUTE,
        created=ZERO_BY_TYPE | {WEB: 5, MOBILE: 2},
        ended_by_cause=ZERO_BY_CAUSE | {Cause.IDLE: 1, Cause.LOGOUT: 2},
        ended_by_type=ZERO_BY_TYPE | {WEB: 1, SSO: 2},
        durations=Durations({77: 1, 90: 2}, 30),
    )


def test_window_without_sessions_has_zeros_and_no_peak_time_or_duration() -> None:
    stats = build_window_stats(EMPTY, Window(EMPTY, Peak(0, NOON)))
    assert stats == WindowStats(
        NOON, 0, None, ZERO_BY_TYPE, ZERO_BY_CAUSE, ZERO_BY_TYPE, Durations()
    )
    assert stats.durations.average is None


def test_withdrawn_end_counts_zero() -> None:
    withdrawn = Sample(NOON, ActiveSessions(), Totals({WEB: 10}, {(WEB, Cause.IDLE): 2}))
    stats = build_window_stats(withdrawn, Window(FIRST, Peak(1, NOON)))
    assert stats.ended_by_cause == ZERO_BY_CAUSE
    assert stats.ended_by_type == ZERO_BY_TYPE


def test_report_has_every_type_and_every_window() -> None:
    windows = {name: Window(FIRST, Peak(9, NOON)) for name in WINDOWS}
    stats = build_report(LAST, windows)
    assert stats.as_of == NOON
    assert stats.active == ZERO_BY_TYPE | {WEB: 5, MOBILE: 2}
    assert stats.users == 6
    assert list(stats.windows) == ["1h", "24h", "7d"]


@pytest.mark.parametrize("interval", [MINUTE, timedelta(hours=1)])
def test_sample_is_due_slightly_before_the_interval_ends(interval: timedelta) -> None:
    not_after, after = compute_due_bounds(NOON, interval)
    assert not_after == NOON - interval * 0.9
    assert after == NOON + interval
