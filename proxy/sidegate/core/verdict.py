"""The verdict of a check: Allow, Deny or Unavailable.

A `match` handles all three and ends with `assert_never`.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidegate.core.session import Session


class Reason(StrEnum):
    """The reason of a Deny. The value is its name in metrics; clients get fewer distinctions."""

    MISSING = "missing"  # no credential was presented
    MALFORMED = "malformed"  # not the format of a token
    FORGED = "forged"  # the format of a token, but not a valid tag
    UNKNOWN = "unknown"  # not in the database
    EXPIRED = "expired"  # past the absolute deadline
    IDLE = "idle"  # past the idle deadline
    REVOKED = "revoked"
    REUSED = "reused"  # rotated out, and the grace has ended
    BINDING = "binding"  # presented by another client than the session is bound to
    RULE = "rule"  # a valid session, but not allowed here
    AMBIGUOUS = "ambiguous"  # two different credentials were presented


@dataclass(frozen=True, slots=True)
class Allow:
    """The request is allowed, and belongs to `session`."""

    session: Session


@dataclass(frozen=True, slots=True)
class Deny:
    """The request is refused for `reason`. This is a definite answer, never an outage."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The check has no result. `store` is the store that failed, or another cause.

    These are `clock`, `deadline`, `unreadable`, and `activity`: the session looks idle, and other
    instances may not have written its use yet.
    """

    store: str


Verdict = Allow | Deny | Unavailable
