"""The analytics as the API shows them: how many sessions there are, began and ended."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from proxy.core.analytics import Cause, Happened, Report
from proxy.core.durations import Durations
from proxy.core.session_type import SessionType
from proxy.web.payloads.documents import Count, Time, described, rfc3339

Window = Annotated[str, Field(description="1h, 24h or 7d.")]
Seconds = Annotated[float, Field(ge=0)]


@described
class ActiveSessionsDocument(TypedDict):
    """How many sessions are active, and how many different users have one."""

    total: Count
    by_type: dict[SessionType, Count]
    users: Count


@described
class PeakDocument(TypedDict):
    """The most that any sample of the window saw active at once; null: nothing ever was."""

    active: Count
    at: Time | None


@described
class CreatedDocument(TypedDict):
    """How many began."""

    total: Count
    by_type: dict[SessionType, Count]


@described
class EndedDocument(TypedDict):
    """How many ended, each counted once."""

    total: Count
    by_cause: dict[Cause, Count]
    by_type: dict[SessionType, Count]


@described
class DurationDocument(TypedDict):
    """How long those that ended had lasted, in seconds; null where none did."""

    average: Seconds | None
    p50: Seconds | None
    p95: Seconds | None


@described
class WindowDocument(TypedDict):
    """What happened from `since` to `as_of`."""

    since: Time
    peak: PeakDocument
    created: CreatedDocument
    ended: EndedDocument
    duration: DurationDocument


@described
class AnalyticsDocument(TypedDict):
    """How things stood when the last sample was taken, and what had happened by then."""

    as_of: Time
    active: ActiveSessionsDocument
    windows: dict[Window, WindowDocument]


def analytics_document(report: Report) -> AnalyticsDocument:
    """Return a report: how things stood `as_of`, and what happened in each window up to then."""
    return {
        "as_of": rfc3339(report.as_of),
        "active": {
            "total": sum(report.active.values()),
            "by_type": dict(report.active),
            "users": report.users,
        },
        "windows": {name: _window(happened) for name, happened in report.windows.items()},
    }


def _window(happened: Happened) -> WindowDocument:
    return {
        "since": rfc3339(happened.since),
        "peak": {"active": happened.peak, "at": rfc3339(happened.peak_at)},
        "created": {
            "total": sum(happened.created.values()),
            "by_type": dict(happened.created),
        },
        "ended": {
            "total": sum(happened.ended_by_cause.values()),
            "by_cause": dict(happened.ended_by_cause),
            "by_type": dict(happened.ended_by_type),
        },
        "duration": _durations(happened.durations),
    }


def _durations(durations: Durations) -> DurationDocument:
    """Return seconds, to the millisecond."""
    measures = {
        name: None if seconds is None else round(seconds, 3)
        for name, seconds in durations.measures().items()
    }
    return {"average": measures["average"], "p50": measures["p50"], "p95": measures["p95"]}
