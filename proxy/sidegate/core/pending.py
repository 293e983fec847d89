"""A revocation that holds before it is written down: the truth was away when it was asked for."""

from dataclasses import dataclass, replace
from datetime import datetime

from sidegate.core.actor import Actor, Change
from sidegate.core.condition import Condition
from sidegate.core.session import Session, SessionRecord


@dataclass(frozen=True, slots=True)
class PendingRevocation:
    """Who ended which sessions, when and why. `id` tells it from any other.

    `condition` is decidable: each instance applies it to whatever session it finds, wherever.
    """

    id: str
    condition: Condition
    at: datetime
    by: Actor
    reason: str

    @classmethod
    def of(
        cls, id_: str, condition: Condition, *, at: datetime, by: Actor, reason: str
    ) -> "PendingRevocation":
        """Return it for the sessions that match now: those that begin later are not meant."""
        if condition.session_id is None:
            until = min(at, condition.created_before or at)
            condition = replace(condition, created_before=until)
        return cls(id_, condition, at, by, reason)

    def applied(self, session: Session) -> Session:
        """Return the session as it is under this revocation: its tombstone, if it is meant."""
        if session.revoked_at is not None or session.expires_at <= self.at:
            return session
        if not self.condition.matches(session):
            return session
        return replace(session, revoked_at=self.at, version=session.version + 1)

    def written_in(self, record: SessionRecord) -> SessionRecord:
        """Return the record as it will be when this is written down; itself, if it is not meant."""
        session = self.applied(record.session)
        if session is record.session:
            return record
        details = replace(
            record.details,
            revoked_by=self.by.name,
            revoked_reason=self.reason,
            change=Change(self.at, self.by),
        )
        return SessionRecord(session, details)
