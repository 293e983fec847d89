"""The state of a session at a given time: active, or ended in one of three ways."""

from enum import StrEnum


class SessionState(StrEnum):
    """The state as determined by core/judge.py. The value is its name in the API."""

    ACTIVE = "active"
    IDLE = "idle"
    EXPIRED = "expired"
    REVOKED = "revoked"
