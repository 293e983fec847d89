"""What goes out: sessions as the API shows them, never with a digest, let alone a token.

mypy holds each answer to its shape, and the OpenAPI document is made of the shapes. Clients are to
ignore members they do not know: there may be more of them one day.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, overload

from pydantic import ConfigDict, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from sidegate.core.audit import Action, AuditEvent
from sidegate.core.judge import state
from sidegate.core.session import Session, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.services.sessions import Issued

# The docstrings of a shape and of its members are what the OpenAPI document says of them.
described = with_config(ConfigDict(use_attribute_docstrings=True))

Id = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Count = Annotated[int, Field(ge=0)]
NextCursor = Annotated[str | None, Field(description="Asks for the next page; null: the last.")]


@described
class SessionDocument(TypedDict):
    """A session in full, as it stands now. Times are in UTC, to the microsecond."""

    id: Id
    """Opens nothing, and may be logged."""
    user_id: str
    """Whom the session speaks for."""
    type: SessionType
    tenant: str | None
    """A label of the caller's."""
    scopes: list[str]
    state: SessionState
    """`expired`: past `expires_at`; `idle`: past `idle_at`."""
    created_at: Time
    authenticated_at: Time
    last_seen_at: Time
    expires_at: Time
    """The absolute deadline."""
    idle_at: Time | None
    """When the silence will have been too long; null: it may last. Seeing the session moves it."""
    revoked_at: Time | None
    revoked_by: str | None
    """`key:` and the name of an API key, or `cli`, or `sidegate` itself."""
    revoked_reason: str | None
    ip: str | None
    user_agent: str | None
    device: str | None
    metadata: dict[str, Any]
    binding: list[str]
    """The signals of its client the session is bound to."""
    access_count: Count
    refresh_count: Count
    provider: str | None
    """The identity provider that vouches for an SSO session."""
    provider_session_id: str | None
    provider_subject: str | None
    version: Annotated[int, Field(ge=1)]
    """Grows with every change; being seen is none."""
    is_current: NotRequired[bool]
    """Where a list was asked for with `current`: whether this is the one."""


@described
class IssuedDocument(TypedDict):
    """A session and its token, which is in this answer and nowhere else, ever."""

    token: str
    """The secret: hand it to the client, and keep it nowhere."""
    session: SessionDocument


@described
class SessionsDocument(TypedDict):
    """A page of sessions, the newest first."""

    sessions: list[SessionDocument]
    next_cursor: NextCursor


@described
class RevokedDocument(TypedDict):
    """How many sessions have ended."""

    revoked: Count
    more: bool
    """There may be more of them than there was time for: send the request again."""


@described
class WouldRevokeDocument(TypedDict):
    """How many sessions would end."""

    would_revoke: Count


@described
class ActiveDocument(TypedDict):
    """A token that is valid now, and whose. Times are whole seconds since 1970 (RFC 7662)."""

    active: Literal[True]
    sub: str
    """The user id."""
    sid: Id
    """The session id."""
    token_type: Literal["Bearer"]
    session_type: SessionType
    iat: int
    exp: int
    auth_time: int
    scope: NotRequired[str]
    """With spaces between; left out where there is none."""


@described
class InactiveDocument(TypedDict):
    """A token that is not valid now, for whatever reason."""

    active: Literal[False]


# `from` is no name a class could have a member of.
_From = TypedDict(
    "_From",
    {"from": Annotated[str | None, Field(description="The address it was asked for from.")]},
)


@described
class EventDocument(_From):
    """Something that was done to a session: by whom, when, from where, and why."""

    number: Count
    """Grows, if not quite in order of time."""
    at: Time
    action: Action
    session_id: Id
    version: Annotated[int, Field(ge=1)]
    """The session's, after the change."""
    user_id: str
    type: str
    tenant: str | None
    by: str | None
    """`key:` and the name of an API key, or `cli`, or `sidegate`; null where it was not said."""
    reason: str | None


@described
class EventsDocument(TypedDict):
    """A page of the audit trail, the newest first."""

    events: list[EventDocument]
    next_cursor: NextCursor


@described
class PendingDocument(TypedDict):
    """The revocation holds everywhere, and is written down when the database is back."""

    pending: Literal[True]


@described
class LogoutRefusedDocument(TypedDict):
    """Why a logout token was not obeyed, in the words of OAuth."""

    error: Literal["invalid_request"]
    error_description: str


@described
class FieldErrorDocument(TypedDict):
    """One thing wrong with a request."""

    path: str
    """Where: `scopes.3`; empty: the whole of it."""
    message: str


@described
class ProblemDocument(TypedDict):
    """Why a request was not done (RFC 9457). It repeats nothing that was sent but names."""

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    code: str
    """For programs; never changes its meaning."""
    detail: NotRequired[str]
    """For people."""
    errors: NotRequired[list[FieldErrorDocument]]
    """Every mistake there is in the request."""
    request_id: NotRequired[str]
    """What `X-Request-Id` says too, and the log."""
    error: NotRequired[str]
    """RFC 6749's word for it, below `/oauth2/`."""
    free_at: NotRequired[Time]
    """`locked`: when the lock is free, unless it is renewed or released before."""
    holder: NotRequired[str | None]
    """`locked`: what its holder is called, if they said."""


def issued_document(issued: Issued, now: datetime) -> IssuedDocument:
    """Return a session with its token, as it stands `now`."""
    return {"token": issued.token.text, "session": session_document(issued.record, now)}


def session_document(record: SessionRecord, now: datetime) -> SessionDocument:
    """Return a session in full, as it stands `now`."""
    session, details = record.session, record.details
    return {
        "id": session.id,
        "user_id": session.user_id,
        "type": session.type,
        "tenant": details.tenant,
        "scopes": list(session.scopes),
        "state": state(session, now),
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
        "binding": [signal for signal, _ in session.binding.pairs()],
        "access_count": details.access_count,
        "refresh_count": details.refresh_count,
        "provider": details.provider,
        "provider_session_id": details.provider_session_id,
        "provider_subject": details.provider_subject,
        "version": session.version,
    }


def introspection_document(session: Session) -> ActiveDocument:
    """Return a valid session as RFC 7662 shows it."""
    document: ActiveDocument = {
        "active": True,
        "sub": session.user_id,
        "sid": session.id,
        "token_type": "Bearer",
        "session_type": session.type,
        "iat": int(session.created_at.timestamp()),
        "exp": int(session.expires_at.timestamp()),
        "auth_time": int(session.authenticated_at.timestamp()),
    }
    if session.scopes:  # an empty string is not a scope by RFC 6749's grammar
        document["scope"] = " ".join(session.scopes)
    return document


def event_document(event: AuditEvent) -> EventDocument:
    """Return an audit event: who did what, when, from where, and why."""
    return {
        "number": event.number,
        "at": rfc3339(event.at),
        "action": event.action,
        "session_id": event.session_id,
        "version": event.version,
        "user_id": event.user_id,
        "type": event.type,
        "tenant": event.tenant,
        "by": None if event.by is None else event.by.name,
        "from": None if event.by is None else event.by.source,
        "reason": event.reason,
    }


@overload
def rfc3339(moment: datetime) -> str: ...
@overload
def rfc3339(moment: datetime | None) -> str | None: ...
def rfc3339(moment: datetime | None) -> str | None:
    """Spell a moment as RFC 3339 does, in UTC and to the microsecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
