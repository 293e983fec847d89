"""The analytics of the admin API as gauges. Every instance exports the same numbers."""

from collections.abc import Iterator, Mapping
from typing import Final

from sidegate.core.analytics import Report

Labels = tuple[str, ...]

GAUGES: Final[Mapping[str, tuple[str, Labels]]] = {
    "sample_timestamp_seconds": (
        "Time of the last sample of all sessions. Every instance exports the same analytics:"
        " aggregate them by max, not by sum.",
        (),
    ),
    "active_sessions": ("Active sessions, by type.", ("type",)),
    "active_users": ("Users with an active session.", ()),
    "peak_sessions": ("Maximum number of concurrently active sessions, by window.", ("window",)),
    "created_sessions": ("Sessions created, by window and type.", ("window", "type")),
    "ended_sessions": ("Sessions ended, by window and cause.", ("window", "cause")),
    "session_duration_seconds": (
        "Duration of the sessions that ended, by window: average, p50 and p95.",
        ("window", "measure"),
    ),
}
"""Every gauge, its help text, and its labels. Each label has a few fixed values."""


def read_gauges(report: Report | None) -> dict[str, dict[Labels, float]]:
    """Return the values of each gauge by label values. Without a report there are none."""
    values: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
    for name, labels, value in () if report is None else _samples(report):
        values[name][labels] = value
    return values


def _samples(report: Report) -> Iterator[tuple[str, Labels, float]]:
    yield "sample_timestamp_seconds", (), report.as_of.timestamp()
    yield "active_users", (), report.users
    for type_, count in report.active.items():
        yield "active_sessions", (type_,), count
    for window, activity in report.windows.items():
        yield "peak_sessions", (window,), activity.peak
        for type_, count in activity.created.items():
            yield "created_sessions", (window, type_), count
        for cause, count in activity.ended_by_cause.items():
            yield "ended_sessions", (window, cause), count
        for measure, seconds in activity.durations.summarize().items():
            if seconds is not None:
                yield "session_duration_seconds", (window, measure), seconds
