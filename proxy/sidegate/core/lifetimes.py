"""Lifetimes of session types: deadlines, rotation grace and touch threshold."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sidegate.core.session_type import SessionType


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The lifetimes of one session type. Raise ValueError for values out of range.

    `lifetime` is absolute. `idle_timeout` is the allowed idle time, None for no limit. `grace` is
    how long the old token stays valid after a rotation. `touch_threshold` is how far last_seen_at
    may lag behind before it is written.
    """

    lifetime: timedelta
    idle_timeout: timedelta | None
    grace: timedelta = timedelta(seconds=10)
    touch_threshold: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if self.lifetime <= timedelta(0):
            raise ValueError("lifetime must be longer than 0s")
        if self.idle_timeout is not None and self.idle_timeout <= timedelta(0):
            raise ValueError("idle_timeout must be longer than 0s, or null for no idle timeout")
        if not timedelta(0) <= self.grace <= timedelta(seconds=300):
            raise ValueError("grace must be between 0s and 300s")
        if self.idle_timeout is not None and self.touch_threshold * 3 > self.idle_timeout:
            # The stored last_seen_at lags by at most the threshold, and a use is written within
            # another threshold (services/activity.py). With a third, a session in use does not look
            # idle after a silence of up to two thirds of the timeout. In a longer silence the last
            # use is written before that.
            raise ValueError("touch_threshold must be at most a third of idle_timeout")


# OWASP's session management guidance: idle timeouts of minutes and lifetimes of hours for browsers.
# Services keep sessions longer, and need not be active all the time.
DEFAULT_LIFETIMES: Mapping[SessionType, Lifetimes] = MappingProxyType(
    {
        SessionType.WEB: Lifetimes(timedelta(hours=12), timedelta(minutes=30)),
        SessionType.MOBILE: Lifetimes(timedelta(days=30), timedelta(days=7)),
        SessionType.API: Lifetimes(timedelta(days=1), timedelta(hours=1)),
        SessionType.SERVICE: Lifetimes(timedelta(days=7), None),
        SessionType.SSO: Lifetimes(timedelta(hours=8), timedelta(hours=1)),
    }
)


class Preset(StrEnum):
    """Authentication assurance levels of NIST SP 800-63B-4. The value is what settings call it."""

    AAL1 = "aal1"
    AAL2 = "aal2"
    AAL3 = "aal3"


# Reauthentication by sections 2.1.3, 2.2.3 and 2.3.3: overall timeout and inactivity timeout.
_AAL_LIFETIMES: Final[Mapping[Preset, Lifetimes]] = MappingProxyType(
    {
        Preset.AAL1: Lifetimes(timedelta(days=30), None),
        Preset.AAL2: Lifetimes(timedelta(hours=24), timedelta(hours=1)),
        Preset.AAL3: Lifetimes(timedelta(hours=12), timedelta(minutes=15)),
    }
)
_USER_TYPES: Final = (SessionType.WEB, SessionType.MOBILE, SessionType.SSO)


def get_preset_lifetimes(preset: Preset) -> Mapping[SessionType, Lifetimes]:
    """Return the lifetimes of a preset by type. Types of programs, not users, are not in it."""
    return dict.fromkeys(_USER_TYPES, _AAL_LIFETIMES[preset])
