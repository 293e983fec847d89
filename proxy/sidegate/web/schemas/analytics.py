"""Response schemas of the analytics: numbers of active, created and ended sessions."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from sidegate.core.analytics import Cause, Report, WindowStats
from sidegate.core.durations import Durations
from sidegate.core.session_type import SessionType
from sidegate.web.schemas.documents import Count, Time, format_rfc3339, with_docstrings

ByType = Annotated[dict[SessionType, Count], Field(description="Contains every type.")]
ByCause = Annotated[dict[Cause, Count], Field(description="Contains every cause.")]
Seconds = Annotated[float, Field(ge=0)]


@with_docstrings
class ActiveSessionsDocument(TypedDict):
    """The active sessions: neither revoked nor past a deadline."""

    total: Count
    by_type: ByType
    users: Count
    """The number of distinct users with an active session."""


@with_docstrings
class PeakDocument(TypedDict):
    """The highest number of active sessions in a sample."""

    active: Count
    at: Time | None
    """The latest sample with that number; null if no session was active."""


@with_docstrings
class CreatedDocument(TypedDict):
    """The sessions that were created."""

    total: Count
    by_type: ByType


@with_docstrings
class EndedDocument(TypedDict):
    """The sessions that ended, each counted once."""

    total: Count
    by_cause: ByCause
    by_type: ByType


@with_docstrings
class DurationDocument(TypedDict):
    """The durations of the ended sessions in seconds; null if none ended."""

    average: Seconds | None
    p50: Seconds | None
    """The median, with an error of at most 4.5 %."""
    p95: Seconds | None
    """The 95th percentile, with an error of at most 4.5 %."""


@with_docstrings
class WindowDocument(TypedDict):
    """The statistics from `since` to the last sample."""

    since: Time
    """The first sample of the window: as old as the window's name says, if there is one."""
    peak: PeakDocument
    created: CreatedDocument
    ended: EndedDocument
    duration: DurationDocument


# In functional syntax: the member names are not identifiers.
WindowsDocument = TypedDict(
    "WindowsDocument", {"1h": WindowDocument, "24h": WindowDocument, "7d": WindowDocument}
)


@with_docstrings
class AnalyticsDocument(TypedDict):
    """Numbers of active, created and ended sessions, as of the last sample."""

    as_of: Time
    """When the last sample was taken."""
    active: ActiveSessionsDocument
    windows: WindowsDocument


def build_analytics_document(report: Report) -> AnalyticsDocument:
    """Return `report` as a document."""
    return {
        "as_of": format_rfc3339(report.as_of),
        "active": {
            "total": sum(report.active.values()),
            "by_type": dict(report.active),
            "users": report.users,
        },
        "windows": {
            "1h": _build_window(report.windows["1h"]),
            "24h": _build_window(report.windows["24h"]),
            "7d": _build_window(report.windows["7d"]),
        },
    }


def _build_window(stats: WindowStats) -> WindowDocument:
    return {
        "since": format_rfc3339(stats.since),
        "peak": {"active": stats.peak, "at": format_rfc3339(stats.peak_at)},
        "created": {
            "total": sum(stats.created.values()),
            "by_type": dict(stats.created),
        },
        "ended": {
            "total": sum(stats.ended_by_cause.values()),
            "by_cause": dict(stats.ended_by_cause),
            "by_type": dict(stats.ended_by_type),
        },
        "duration": _build_duration(stats.durations),
    }


def _build_duration(durations: Durations) -> DurationDocument:
    return {
        "average": _round(durations.average),
        "p50": _round(durations.quantile(0.50)),
        "p95": _round(durations.quantile(0.95)),
    }


def _round(seconds: float | None) -> float | None:
    """Return seconds rounded to milliseconds."""
    return None if seconds is None else round(seconds, 3)
