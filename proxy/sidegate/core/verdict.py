"""Three answers: Allow, Deny, Unavailable. `match` them all and end with `assert_never`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidegate.core.session import Session


class Reason(StrEnum):
    """Why not. Metrics and audit tell them apart; to the client several look the same."""

    MISSING = "missing"  # no credential was presented
    MALFORMED = "malformed"  # not the spelling of a token
    FORGED = "forged"  # spelled like a token, but no key of ours tagged it
    UNKNOWN = "unknown"  # a store answered that it is not there
    EXPIRED = "expired"  # past the absolute deadline
    IDLE = "idle"  # silent for longer than allowed
    REVOKED = "revoked"
    REUSED = "reused"  # rotated out, and its grace is over
    BINDING = "binding"  # presented by another client than it is bound to
    RULE = "rule"  # known, but not allowed here
    AMBIGUOUS = "ambiguous"  # two different credentials


@dataclass(frozen=True, slots=True)
class Allow:
    """The request may pass, and it is this session's."""

    session: "Session"


@dataclass(frozen=True, slots=True)
class Deny:
    """Somebody who knows answered no."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody who knows could answer. `store` names who failed us, `deadline`, or `unreadable`."""

    store: str


Verdict = Allow | Deny | Unavailable
