"""The analytics as the API shows them: how many sessions there are, began and ended."""

from typing import Any

from proxy.core.analytics import Happened, Report
from proxy.core.durations import Durations
from proxy.web.payloads.documents import rfc3339


def analytics_document(report: Report) -> dict[str, Any]:
    """Return a report: how things stood `as_of`, and what happened in each window up to then."""
    return {
        "as_of": rfc3339(report.as_of),
        "active": {
            "total": sum(report.active.values()),
            "by_type": {type_.value: count for type_, count in report.active.items()},
            "users": report.users,
        },
        "windows": {name: _window(happened) for name, happened in report.windows.items()},
    }


def _window(happened: Happened) -> dict[str, Any]:
    created, ended = happened.created, happened.ended_by_cause
    return {
        "since": rfc3339(happened.since),
        "peak": {"active": happened.peak, "at": rfc3339(happened.peak_at)},
        "created": {
            "total": sum(created.values()),
            "by_type": {type_.value: count for type_, count in created.items()},
        },
        "ended": {
            "total": sum(ended.values()),
            "by_cause": {cause.value: count for cause, count in ended.items()},
            "by_type": {type_.value: count for type_, count in happened.ended_by_type.items()},
        },
        "duration": _durations(happened.durations),
    }


def _durations(durations: Durations) -> dict[str, float | None]:
    """Return seconds, to the millisecond; null where no session ended."""
    return {
        name: None if seconds is None else round(seconds, 3)
        for name, seconds in durations.measures().items()
    }
