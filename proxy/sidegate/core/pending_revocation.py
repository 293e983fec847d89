"""Pending revocations: in force, but not persisted yet, because the database was unavailable."""

from dataclasses import dataclass, replace
from datetime import datetime

from sidegate.core.actor import Actor, Change
from sidegate.core.condition import Condition
from sidegate.core.session import Session, SessionRecord


@dataclass(frozen=True, slots=True)
class PendingRevocation:
    """The condition, time, actor and reason of a revocation. `id` is unique.

    `condition.is_decidable` is true: each instance applies it to every session it finds.
    """

    id: str
    condition: Condition
    at: datetime
    by: Actor
    reason: str

    @classmethod
    def create(
        cls, id_: str, condition: Condition, *, at: datetime, by: Actor, reason: str
    ) -> "PendingRevocation":
        """Create a revocation of the sessions that match and were created before `at`."""
        if condition.session_id is None:
            until = min(at, condition.created_before or at)
            condition = replace(condition, created_before=until)
        return cls(id_, condition, at, by, reason)

    def apply(self, session: Session) -> Session:
        """Return the tombstone of `session` if the revocation matches it, else `session` itself."""
        if session.revoked_at is not None or session.expires_at <= self.at:
            return session
        if not self.condition.matches(session):
            return session
        return session.tombstone(self.at)

    def apply_to_record(self, record: SessionRecord) -> SessionRecord:
        """Return `record` as revoked if the revocation matches it, else `record` itself."""
        session = self.apply(record.session)
        if session is record.session:
            return record
        details = replace(
            record.details,
            revoked_by=self.by.name,
            revoked_reason=self.reason,
            change=Change(self.at, self.by),
        )
        return SessionRecord(session, details)
