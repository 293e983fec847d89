"""The verdict of a check: Allow, Deny or Unavailable; and the answer, which may be Anonymous.

A `match` handles all of them and ends with `assert_never`.
"""

from dataclasses import dataclass
from datetime import timedelta
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
    RULE = "rule"  # a valid session, but an access rule allows others only
    SCOPE = "scope"  # a valid session without a scope that an access rule needs
    AUTHENTICATION_AGE = "authentication_age"  # the user authenticated too long ago for a rule
    AMBIGUOUS = "ambiguous"  # two different credentials were presented


@dataclass(frozen=True, slots=True)
class Allow:
    """The request is allowed, and belongs to `session`."""

    session: Session


@dataclass(frozen=True, slots=True)
class Deny:
    """The request is refused for `reason`. This is a definite answer, never an outage.

    `scopes`: all that are needed, for SCOPE. `max_age`: the oldest authentication that is accepted,
    for AUTHENTICATION_AGE.
    """

    reason: Reason
    scopes: tuple[str, ...] = ()
    max_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The check has no result. `store` is the store that failed, or another cause.

    These are `clock`, `deadline`, `unreadable`, and `activity`: the session looks idle, and other
    instances may not have written its use yet.
    """

    store: str


@dataclass(frozen=True, slots=True)
class Anonymous:
    """The request is allowed by an access rule, and belongs to no session."""


Verdict = Allow | Deny | Unavailable
"""The judgement of a credential."""

Answer = Verdict | Anonymous
"""The answer to a request, after the access rules."""
