"""The analytics as the API shows them: how many sessions there are, began and ended."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from sidegate.core.analytics import Cause, Happened, Report
from sidegate.core.durations import Durations
from sidegate.core.session_type import SessionType
from sidegate.web.schemas.documents import Count, Time, described, rfc3339

ByType = Annotated[dict[SessionType, Count], Field(description="Every type is there.")]
ByCause = Annotated[dict[Cause, Count], Field(description="Every cause is there.")]
Seconds = Annotated[float, Field(ge=0)]


@described
class LivingDocument(TypedDict):
    """The active sessions: neither revoked nor past a deadline."""

    total: Count
    by_type: ByType
    users: Count
    """How many different users have one."""


@described
class PeakDocument(TypedDict):
    """The most sessions that a sample has found active at once."""

    active: Count
    at: Time | None
    """The last moment of so many; null where there never was any."""


@described
class CreatedDocument(TypedDict):
    """The sessions that began."""

    total: Count
    by_type: ByType


@described
class EndedDocument(TypedDict):
    """The sessions that ended, each once."""

    total: Count
    by_cause: ByCause
    by_type: ByType


@described
class DurationDocument(TypedDict):
    """How long the sessions lasted that ended, in seconds; null where there are none."""

    average: Seconds | None
    p50: Seconds | None
    """Half of them lasted at most so long, give or take 4.5 %."""
    p95: Seconds | None
    """95 of 100 lasted at most so long, give or take 4.5 %."""


@described
class WindowDocument(TypedDict):
    """What happened from `since` to the last sample."""

    since: Time
    """The first sample of the window: at least so long ago as its name says, if there is one."""
    peak: PeakDocument
    created: CreatedDocument
    ended: EndedDocument
    duration: DurationDocument


# Names that no class could have for its members.
WindowsDocument = TypedDict(
    "WindowsDocument", {"1h": WindowDocument, "24h": WindowDocument, "7d": WindowDocument}
)


@described
class AnalyticsDocument(TypedDict):
    """How many sessions there are, began and ended, as of the last sample."""

    as_of: Time
    """When the last sample was taken."""
    active: LivingDocument
    windows: WindowsDocument


def analytics_document(report: Report) -> AnalyticsDocument:
    """Return a report: how things stood `as_of`, and what happened in each window up to then."""
    return {
        "as_of": rfc3339(report.as_of),
        "active": {
            "total": sum(report.active.values()),
            "by_type": dict(report.active),
            "users": report.users,
        },
        "windows": {
            "1h": _window(report.windows["1h"]),
            "24h": _window(report.windows["24h"]),
            "7d": _window(report.windows["7d"]),
        },
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
        "duration": _duration(happened.durations),
    }


def _duration(durations: Durations) -> DurationDocument:
    return {
        "average": _rounded(durations.average),
        "p50": _rounded(durations.quantile(0.50)),
        "p95": _rounded(durations.quantile(0.95)),
    }


def _rounded(seconds: float | None) -> float | None:
    """Return seconds to the millisecond."""
    return None if seconds is None else round(seconds, 3)
