"""The validity rule of sessions, the only one, used on every lookup path."""

from datetime import datetime

from sidegate.core.session import Session
from sidegate.core.session_state import SessionState
from sidegate.core.verdict import Allow, Deny, Reason


def judge(session: Session, now: datetime) -> Allow | Deny:
    """Return Allow if `session` is valid at `now`. A session is not valid at its deadline."""
    return Allow(session) if now < session.valid_until else Deny(_find_reason(session, now))


def _find_reason(session: Session, now: datetime) -> Reason:
    if session.revoked_at is not None:
        return Reason.REVOKED
    if session.digest == session.previous_digest and now >= session.previous_until:
        return Reason.REUSED
    return Reason.EXPIRED if now >= session.expires_at else Reason.IDLE


def get_state(session: Session, now: datetime) -> SessionState:
    """Return the state of the session at `now`, whichever of its digests this copy is for."""
    if session.revoked_at is not None:
        return SessionState.REVOKED
    if now >= session.expires_at:
        return SessionState.EXPIRED
    return SessionState.IDLE if session.has_ended(now) else SessionState.ACTIVE


def may_be_stale(verdict: Allow | Deny) -> bool:
    """Return whether a newer copy of the session could change this verdict from Deny to Allow.

    Another instance may just have recorded activity or extended the deadline. A revocation and the
    end of a grace are final.
    """
    return isinstance(verdict, Deny) and verdict.reason in (Reason.EXPIRED, Reason.IDLE)
