"""Session analytics: samples of counters, and reports on the time between two samples.

The counters of a sample are cumulative, so the numbers of a window are one sample minus another.
A missed sample loses nothing, and a duplicate sample counts nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sidegate.core.durations import Durations
from sidegate.core.session_type import SessionType


class Cause(StrEnum):
    """Why a session ended. The first five are revocations; their actor and reason are stored."""

    REVOKED = "revoked"
    LIMIT = "limit"
    TOKEN_REUSE = "token_reuse"  # noqa: S105 - a cause, no password
    BINDING = "binding"
    LOGOUT = "logout"
    EXPIRED = "expired"
    IDLE = "idle"


WINDOWS: Final[Mapping[str, timedelta]] = MappingProxyType(
    {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
)
"""The reported time windows by name; each ends with the last sample."""

SAMPLE_RETENTION: Final = timedelta(days=8)
"""How long samples are kept: the longest window, plus a day in which sampling may have failed."""

# A sampler that wakes up slightly early must not wait for another whole interval.
_DUE_FRACTION: Final = 0.9


@dataclass(frozen=True, slots=True)
class ActiveSessions:
    """The number of active sessions by type, and of different users that have one."""

    by_type: Mapping[SessionType, int] = field(default_factory=lambda: MappingProxyType({}))
    users: int = 0

    @property
    def total(self) -> int:
        return sum(self.by_type.values())


@dataclass(frozen=True, slots=True)
class Totals:
    """Cumulative counts of created and ended sessions; each end is counted once.

    A session counts under its type at that time: one migrated to SSO ends as an SSO session.
    """

    created: Mapping[SessionType, int] = field(default_factory=lambda: MappingProxyType({}))
    ended: Mapping[tuple[SessionType, Cause], int] = field(
        default_factory=lambda: MappingProxyType({})
    )
    durations: Durations = field(default_factory=Durations)


@dataclass(frozen=True, slots=True)
class Sample:
    """The active sessions and the cumulative totals at one time."""

    at: datetime
    active: ActiveSessions
    totals: Totals


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest number of active sessions in any sample of a window, and that sample's time."""

    active: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """The first sample of a window, and the window's peak."""

    first: Sample
    peak: Peak


@dataclass(frozen=True, slots=True)
class WindowStats:
    """The numbers of a window from `since` to the last sample, zeros included.

    `peak_at` is None if no session was active in any sample.
    """

    since: datetime
    peak: int
    peak_at: datetime | None
    created: Mapping[SessionType, int]
    ended_by_cause: Mapping[Cause, int]
    ended_by_type: Mapping[SessionType, int]
    durations: Durations


@dataclass(frozen=True, slots=True)
class Report:
    """The last sample's active sessions and users, and the numbers of each of WINDOWS."""

    as_of: datetime
    active: Mapping[SessionType, int]
    users: int
    windows: Mapping[str, WindowStats]


def compute_due_bounds(at: datetime, interval: timedelta) -> tuple[datetime, datetime]:
    """Return (first, second): a sample is due if the last one was taken at or before `first`, or
    after `second`, which means that a clock was set back since.
    """
    return at - interval * _DUE_FRACTION, at + interval


def build_report(last: Sample, windows: Mapping[str, Window]) -> Report:
    """Build the report of the last sample and the windows that end with it."""
    return Report(
        as_of=last.at,
        active={type_: last.active.by_type.get(type_, 0) for type_ in SessionType},
        users=last.active.users,
        windows={name: build_window_stats(last, window) for name, window in windows.items()},
    )


def build_window_stats(last: Sample, window: Window) -> WindowStats:
    """Return the difference between a window's first sample and the last one."""
    before, now = window.first.totals, last.totals
    ended = {key: max(0, count - before.ended.get(key, 0)) for key, count in now.ended.items()}
    return WindowStats(
        since=window.first.at,
        peak=window.peak.active,
        peak_at=window.peak.at if window.peak.active else None,
        created={
            type_: now.created.get(type_, 0) - before.created.get(type_, 0) for type_ in SessionType
        },
        ended_by_cause={
            cause: sum(count for (_, reason), count in ended.items() if reason is cause)
            for cause in Cause
        },
        ended_by_type={
            type_: sum(count for (ended_type, _), count in ended.items() if ended_type is type_)
            for type_ in SessionType
        },
        durations=now.durations.since(before.durations),
    )
