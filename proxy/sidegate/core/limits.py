"""Limits on the active sessions of a user per type, and the policy at the limit."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AtLimit(StrEnum):
    """The policy for a login at the limit. The value is its name in the settings."""

    EVICT_OLDEST = "evict_oldest"
    EVICT_IDLE_LONGEST = "evict_idle_longest"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Limit:
    """The maximum of active sessions per user, type and tenant, the new one included."""

    max_sessions: int
    at_limit: AtLimit = AtLimit.EVICT_OLDEST

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise ValueError("limit must be at least 1, or null for no limit")


EVICTED_REASON: Final = "limit"
"""The revocation reason in the records of evicted sessions."""
