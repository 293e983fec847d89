"""Which sessions are meant: those that match every field that is given."""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal

from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType


@dataclass(frozen=True, slots=True)
class Condition:
    """What to list, to count or to revoke. Texts are compared exactly, letter case included.

    `ip_within` matches addresses in that network, IPv4 ones also where they were written as
    IPv4-mapped IPv6. A session without an address, tenant, provider or user agent matches no
    condition on one; `subject_unknown` matches those of a provider that do not say whose they are.
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
        """Return a condition that also asks for `more`."""
        return replace(self, **more)

    @property
    def matches_all(self) -> bool:
        """Say whether no field is given: every session is meant."""
        return all(getattr(self, field.name) is None for field in fields(self))

    @property
    def decidable(self) -> bool:
        """Say whether a session without its details tells if it matches, today as tomorrow."""
        return all(
            getattr(self, field.name) is None
            for field in fields(self)
            if field.name not in _OF_THE_SESSION
        )

    def matches(self, session: Session) -> bool:
        """Say whether a session matches; the condition is decidable."""
        return (
            self.session_id in (None, session.id)
            and self.user_id in (None, session.user_id)
            and self.type in (None, session.type)
            and session.id != self.except_id
            and (self.scope is None or self.scope in session.scopes)
            and (self.created_before is None or session.created_at < self.created_before)
        )


_OF_THE_SESSION: Final = frozenset(
    {"user_id", "session_id", "except_id", "type", "scope", "created_before"}
)
"""What the session itself says, and no touch moves."""
