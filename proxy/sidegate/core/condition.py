"""The condition that selects sessions for listing, counting and revocation."""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal

from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType


@dataclass(frozen=True, slots=True)
class Condition:
    """Matches sessions that match every field that is not None. Texts are compared exactly.

    `ip_within` matches addresses in that network, IPv4 also if stored as IPv4-mapped IPv6. A
    session without an address, tenant, provider or user agent matches no condition on that field.
    `subject_unknown` matches sessions without a `provider_subject`. The times are exclusive.
    """

    user_id: str | None = None
    session_id: SessionId | None = None
    except_id: SessionId | None = None
    type: SessionType | None = None
    scope: str | None = None
    tenant: str | None = None
    provider: str | None = None
    provider_session_id: str | None = None
    provider_subject: str | None = None
    subject_unknown: Literal[True] | None = None
    ip_within: IPv4Network | IPv6Network | None = None
    user_agent_contains: str | None = None
    created_before: datetime | None = None
    last_seen_before: datetime | None = None

    def narrowed(self, **more: Any) -> "Condition":
        """Return this condition with the fields `more` set."""
        return replace(self, **more)

    @property
    def matches_all(self) -> bool:
        """Return whether no field is set, so that every session matches."""
        return all(getattr(self, field.name) is None for field in fields(self))

    @property
    def is_decidable(self) -> bool:
        """Return whether a `Session` alone decides the match, with a result that never changes."""
        return all(
            getattr(self, field.name) is None
            for field in fields(self)
            if field.name not in _SESSION_FIELDS
        )

    def matches(self, session: Session) -> bool:
        """Return whether `session` matches. Valid only if `is_decidable`."""
        return (
            self.session_id in (None, session.id)
            and self.user_id in (None, session.user_id)
            and self.type in (None, session.type)
            and session.id != self.except_id
            and (self.scope is None or self.scope in session.scopes)
            and (self.created_before is None or session.created_at < self.created_before)
        )


_SESSION_FIELDS: Final = frozenset(
    {"user_id", "session_id", "except_id", "type", "scope", "created_before"}
)
"""The fields of `Session` itself that a touch does not change."""
