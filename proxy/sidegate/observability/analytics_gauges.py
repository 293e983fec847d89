"""The analytics as gauges: the admin API's numbers, the same from every instance."""

from collections.abc import Iterator, Mapping
from typing import Final

from sidegate.core.analytics import Report

Labels = tuple[str, ...]

GAUGES: Final[Mapping[str, tuple[str, Labels]]] = {
    "sample_timestamp_seconds": (
        "When the last sample of all sessions was taken. The gauges of analytics are the same from"
        " every instance: take their max, not their sum.",
        (),
    ),
    "active_sessions": ("Active sessions, by type.", ("type",)),
    "active_users": ("Users with an active session.", ()),
    "peak_sessions": ("The most sessions active at once, by window.", ("window",)),
    "created_sessions": ("Sessions created, by window and type.", ("window", "type")),
    "ended_sessions": ("Sessions ended, by window and cause.", ("window", "cause")),
    "session_duration_seconds": (
        "How long the sessions lasted that ended, by window: average, p50 and p95.",
        ("window", "measure"),
    ),
}
"""Every gauge, its meaning, and its labels: each of a few fixed words."""


def readings(report: Report | None) -> dict[str, dict[Labels, float]]:
    """Return what each gauge shows for which labels: nothing before there is a report."""
    shown: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
    for name, labels, value in () if report is None else _told(report):
        shown[name][labels] = value
    return shown


def _told(report: Report) -> Iterator[tuple[str, Labels, float]]:
    yield "sample_timestamp_seconds", (), report.as_of.timestamp()
    yield "active_users", (), report.users
    for type_, count in report.active.items():
        yield "active_sessions", (type_,), count
    for window, happened in report.windows.items():
        yield "peak_sessions", (window,), happened.peak
        for type_, count in happened.created.items():
            yield "created_sessions", (window, type_), count
        for cause, count in happened.ended_by_cause.items():
            yield "ended_sessions", (window, cause), count
        for measure, seconds in happened.durations.measures().items():
            if seconds is not None:
                yield "session_duration_seconds", (window, measure), seconds
