"""What is counted of all sessions, and how two samples add up to what happened between them.

A sample holds totals since the counting began, not what is new in it. So what happened in a window
is one sample less another; a sample that was never taken loses nothing, and one taken twice counts
nothing twice.
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
    """Why a session ended. The first five were done to it, by whom and why the store knows."""

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
"""The stretches of time that are reported, each up to the last sample."""

KEPT: Final = timedelta(days=8)
"""How long samples are kept: the longest window, and a day in which none may have been taken."""

# A sampler that wakes a little early must not wait for a whole interval more.
_ALMOST: Final = 0.9


@dataclass(frozen=True, slots=True)
class ActiveSessions:
    """The active sessions at a moment, by type, and how many different users have one."""

    by_type: Mapping[SessionType, int] = field(default_factory=lambda: MappingProxyType({}))
    users: int = 0

    @property
    def total(self) -> int:
        return sum(self.by_type.values())


@dataclass(frozen=True, slots=True)
class Totals:
    """All sessions created and ended since the counting began; each end is counted once.

    A session counts under the type it had then: one that became an SSO session ends as one.
    """

    created: Mapping[SessionType, int] = field(default_factory=lambda: MappingProxyType({}))
    ended: Mapping[tuple[SessionType, Cause], int] = field(
        default_factory=lambda: MappingProxyType({})
    )
    durations: Durations = field(default_factory=Durations)


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at a moment."""

    at: datetime
    living: ActiveSessions
    totals: Totals


@dataclass(frozen=True, slots=True)
class Peak:
    """The most sessions that any sample of a window saw active at once, and which saw them."""

    active: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """The sample a window begins with, and its peak."""

    first: Sample
    peak: Peak


@dataclass(frozen=True, slots=True)
class Happened:
    """What happened in a window, from `since` to the last sample; every type and cause is there.

    A moment of the peak is None where nothing was ever active.
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
    """What is told: the last sample, and what happened in each of WINDOWS up to it."""

    as_of: datetime
    active: Mapping[SessionType, int]
    users: int
    windows: Mapping[str, Happened]


def stale(at: datetime, every: timedelta) -> tuple[datetime, datetime]:
    """Return when the last sample was taken if another is due: not after the first moment, or
    after the second, since then a clock has been put back.
    """
    return at - every * _ALMOST, at + every


def report(last: Sample, windows: Mapping[str, Window]) -> Report:
    """Return what the last sample and the windows before it say."""
    return Report(
        as_of=last.at,
        active={type_: last.living.by_type.get(type_, 0) for type_ in SessionType},
        users=last.living.users,
        windows={name: happened(last, window) for name, window in windows.items()},
    )


def happened(last: Sample, window: Window) -> Happened:
    """Return what happened between a window's first sample and the last one."""
    before, now = window.first.totals, last.totals
    ended = {key: max(0, count - before.ended.get(key, 0)) for key, count in now.ended.items()}
    return Happened(
        since=window.first.at,
        peak=window.peak.active,
        peak_at=window.peak.at if window.peak.active else None,
        created={
            type_: now.created.get(type_, 0) - before.created.get(type_, 0) for type_ in SessionType
        },
        ended_by_cause={
            cause: sum(count for (_, why), count in ended.items() if why is cause)
            for cause in Cause
        },
        ended_by_type={
            type_: sum(count for (what, _), count in ended.items() if what is type_)
            for type_ in SessionType
        },
        durations=now.durations.since(before.durations),
    )
