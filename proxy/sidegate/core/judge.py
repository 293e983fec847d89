"""The one validity rule, used by every road."""

from datetime import datetime

from sidegate.core.session import Session
from sidegate.core.session_state import SessionState
from sidegate.core.verdict import Allow, Deny, Reason


def judge(session: Session, now: datetime) -> Allow | Deny:
    """Say whether `session` is valid at `now`. A deadline is the first moment of not being."""
    return Allow(session) if now < session.valid_until else Deny(_why_not(session, now))


def _why_not(session: Session, now: datetime) -> Reason:
    if session.revoked_at is not None:
        return Reason.REVOKED
    if session.digest == session.previous_digest and now >= session.previous_until:
        return Reason.REUSED
    return Reason.EXPIRED if now >= session.expires_at else Reason.IDLE


def state(session: Session, now: datetime) -> SessionState:
    """Say how the session as a whole stands, whichever of its digests this copy answers for."""
    if session.revoked_at is not None:
        return SessionState.REVOKED
    if now >= session.expires_at:
        return SessionState.EXPIRED
    return SessionState.IDLE if session.ended(now) else SessionState.ACTIVE


def may_have_moved(verdict: Allow | Deny) -> bool:
    """Say whether a newer copy could turn this no into a yes.

    Time-outs slide and deadlines are extended, perhaps by another instance a moment ago;
    a revocation and the end of a grace are final.
    """
    return isinstance(verdict, Deny) and verdict.reason in (Reason.EXPIRED, Reason.IDLE)
