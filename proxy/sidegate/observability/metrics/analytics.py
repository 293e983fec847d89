"""The analytics of the admin API as gauges. Every instance exports the same numbers."""

from collections.abc import Callable, Mapping
from typing import Final

from sidegate.core.analytics import Report
from sidegate.observability.metrics.recorder import Labels, Metrics
from sidegate.observability.metrics.spec import MetricSpec

_Gauge = Mapping[Labels, float]


def _of_report(read: Callable[[Report], _Gauge]) -> Callable[[Metrics], _Gauge]:
    """Return a function that reads the last report. Without one there are no series."""
    return lambda metrics: {} if metrics.report is None else read(metrics.report)


def _peaks(report: Report) -> _Gauge:
    return {(window,): stats.peak for window, stats in report.windows.items()}


def _created(report: Report) -> _Gauge:
    return {
        (window, type_): count
        for window, stats in report.windows.items()
        for type_, count in stats.created.items()
    }


def _ended(report: Report) -> _Gauge:
    return {
        (window, cause): count
        for window, stats in report.windows.items()
        for cause, count in stats.ended_by_cause.items()
    }


def _durations(report: Report) -> _Gauge:
    return {
        (window, measure): seconds
        for window, stats in report.windows.items()
        for measure, seconds in stats.durations.summarize().items()
        if seconds is not None
    }


ANALYTICS: Final = (
    MetricSpec(
        "sidegate_analytics_samples",
        "counter",
        "Samples of all sessions taken by this instance, and failed attempts.",
        ("outcome",),
        lambda metrics: metrics.samples,
    ),
    MetricSpec(
        "sidegate_analytics_sample_timestamp_seconds",
        "gauge",
        "Time of the last sample of all sessions. Every instance exports the same analytics:"
        " aggregate them by max, not by sum.",
        (),
        _of_report(lambda report: {(): report.as_of.timestamp()}),
    ),
    MetricSpec(
        "sidegate_analytics_active_sessions",
        "gauge",
        "Active sessions, by type.",
        ("type",),
        _of_report(lambda report: {(type_,): count for type_, count in report.active.items()}),
    ),
    MetricSpec(
        "sidegate_analytics_active_users",
        "gauge",
        "Users with an active session.",
        (),
        _of_report(lambda report: {(): report.users}),
    ),
    MetricSpec(
        "sidegate_analytics_peak_sessions",
        "gauge",
        "Maximum number of concurrently active sessions, by window.",
        ("window",),
        _of_report(_peaks),
    ),
    MetricSpec(
        "sidegate_analytics_created_sessions",
        "gauge",
        "Sessions created, by window and type.",
        ("window", "type"),
        _of_report(_created),
    ),
    MetricSpec(
        "sidegate_analytics_ended_sessions",
        "gauge",
        "Sessions ended, by window and cause.",
        ("window", "cause"),
        _of_report(_ended),
    ),
    MetricSpec(
        "sidegate_analytics_session_duration_seconds",
        "gauge",
        "Duration of the sessions that ended, by window: average, p50 and p95.",
        ("window", "measure"),
        _of_report(_durations),
    ),
)
