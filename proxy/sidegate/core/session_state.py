"""How a session stands at a moment: active, or ended in one of three ways."""

from enum import StrEnum


class SessionState(StrEnum):
    """What lists select by. The value is what the API calls it; core/judge.py decides it."""

    ACTIVE = "active"
    IDLE = "idle"
    EXPIRED = "expired"
    REVOKED = "revoked"
