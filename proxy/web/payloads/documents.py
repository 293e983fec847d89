"""What goes out: sessions as the API shows them, never with a digest, let alone a token."""

from datetime import UTC, datetime
from typing import Any

from proxy.core.audit import AuditEvent
from proxy.core.judge import state
from proxy.core.session import Session, SessionRecord


def session_document(record: SessionRecord, now: datetime) -> dict[str, Any]:
    """Return a session in full, as it stands `now`."""
    session, details = record.session, record.details
    return {
        "id": session.id,
        "user_id": session.user_id,
        "type": session.type.value,
        "tenant": details.tenant,
        "scopes": list(session.scopes),
        "state": state(session, now).value,
        "created_at": rfc3339(session.created_at),
        "authenticated_at": rfc3339(session.authenticated_at),
        "last_seen_at": rfc3339(session.last_seen_at),
        "expires_at": rfc3339(session.expires_at),
        "idle_at": rfc3339(session.idle_at),
        "revoked_at": rfc3339(session.revoked_at),
        "revoked_by": details.revoked_by,
        "revoked_reason": details.revoked_reason,
        "ip": details.ip,
        "user_agent": details.user_agent,
        "device": details.device,
        "metadata": dict(details.metadata),
        "binding": [signal for signal, _ in session.binding],
        "access_count": details.access_count,
        "refresh_count": details.refresh_count,
        "provider": details.provider,
        "provider_session_id": details.provider_session_id,
        "provider_subject": details.provider_subject,
        "version": session.version,
    }


def introspection_document(session: Session) -> dict[str, Any]:
    """Return a valid session as RFC 7662 shows it; times are whole seconds since 1970."""
    document: dict[str, Any] = {
        "active": True,
        "sub": session.user_id,
        "sid": session.id,
        "token_type": "Bearer",
        "session_type": session.type.value,
        "iat": int(session.created_at.timestamp()),
        "exp": int(session.expires_at.timestamp()),
        "auth_time": int(session.authenticated_at.timestamp()),
    }
    if session.scopes:  # an empty string is not a scope by RFC 6749's grammar
        document["scope"] = " ".join(session.scopes)
    return document


def event_document(event: AuditEvent) -> dict[str, Any]:
    """Return an audit event: who did what, when, from where, and why."""
    return {
        "number": event.number,
        "at": rfc3339(event.at),
        "action": event.action.value,
        "session_id": event.session_id,
        "version": event.version,
        "user_id": event.user_id,
        "type": event.type,
        "tenant": event.tenant,
        "by": None if event.by is None else event.by.name,
        "from": None if event.by is None else event.by.source,
        "reason": event.reason,
    }


def rfc3339(moment: datetime | None) -> str | None:
    """Spell a moment as RFC 3339 does, in UTC and to the microsecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
