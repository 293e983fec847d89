"""How long sessions of each type live, and how often they may be touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sidegate.core.session_type import SessionType


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The deadlines of one session type.

    `lifetime` is absolute, `idle_timeout` is the allowed silence (None: none is asked), `grace`
    is how long the old token still opens after a rotation, `touch_threshold` how far last_seen
    may lag behind before it is written.
    """

    lifetime: timedelta
    idle_timeout: timedelta | None
    grace: timedelta = timedelta(seconds=10)
    touch_threshold: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if self.lifetime <= timedelta(0):
            raise ValueError("a lifetime is longer than nothing")
        if self.idle_timeout is not None and self.idle_timeout <= timedelta(0):
            raise ValueError("an idle timeout is longer than nothing; leave it out for none")
        if not timedelta(0) <= self.grace <= timedelta(seconds=300):
            raise ValueError("a rotation grace lies between 0 and 300 seconds")
        if self.idle_timeout is not None and self.touch_threshold * 2 > self.idle_timeout:
            # Between two written touches a session must not look idle.
            raise ValueError("a touch threshold is at most half of the idle timeout")


# OWASP's session management guidance: minutes of silence and hours of life for browsers; machines
# hold theirs longer and are not asked to keep talking.
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


# Sections 2.1.3, 2.2.3 and 2.3.3 say when a person has to authenticate again: after so long at the
# latest, and after so much inactivity.
_OF_PEOPLE: Final[Mapping[Preset, Lifetimes]] = MappingProxyType(
    {
        Preset.AAL1: Lifetimes(timedelta(days=30), None),
        Preset.AAL2: Lifetimes(timedelta(hours=24), timedelta(hours=1)),
        Preset.AAL3: Lifetimes(timedelta(hours=12), timedelta(minutes=15)),
    }
)
_PEOPLE: Final = (SessionType.WEB, SessionType.MOBILE, SessionType.SSO)


def preset_lifetimes(preset: Preset) -> Mapping[SessionType, Lifetimes]:
    """Return what a preset sets: of the sessions of people; programs keep their defaults."""
    return dict.fromkeys(_PEOPLE, _OF_PEOPLE[preset])
