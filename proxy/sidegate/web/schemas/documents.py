"""Response schemas of the admin API. Only `IssuedDocument` contains a token; none has a digest.

mypy checks responses against them, and the OpenAPI document is generated from them. Clients must
ignore unknown members: later versions may add some.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, overload

from pydantic import ConfigDict, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from sidegate.core.audit import Action, AuditEvent
from sidegate.core.judge import get_state
from sidegate.core.session import Session, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.core.set_cookie import format_cookie
from sidegate.services.sessions import Issued

# Docstrings of a document and its members become descriptions in the OpenAPI document.
with_docstrings = with_config(ConfigDict(use_attribute_docstrings=True))

Id = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Count = Annotated[int, Field(ge=0)]
NextCursor = Annotated[
    str | None, Field(description="The `cursor` of the next page; null on the last page.")
]


@with_docstrings
class SessionDocument(TypedDict):
    """A session. Times are in UTC with microseconds."""

    id: Id
    """Not a secret; may be logged."""
    user_id: str
    """The user of the session."""
    type: SessionType
    tenant: str | None
    """A label set at creation."""
    scopes: list[str]
    state: SessionState
    """`expired`: past `expires_at`; `idle`: past `idle_at`, with the activity written so far."""
    created_at: Time
    authenticated_at: Time
    last_seen_at: Time
    expires_at: Time
    """The absolute deadline."""
    idle_at: Time | None
    """When the session becomes idle without further activity; null for types without an idle
    timeout."""
    revoked_at: Time | None
    revoked_by: str | None
    """The actor: `key:` and the name of an API key, `provider:` and the name of an identity
    provider, `user` (the client itself), `cli`, or `sidegate`."""
    revoked_reason: str | None
    ip: str | None
    user_agent: str | None
    device: str | None
    metadata: dict[str, Any]
    binding: list[str]
    """The names of the client signals that the session is bound to."""
    access_count: Count
    refresh_count: Count
    provider: str | None
    """The identity provider of an SSO session."""
    provider_session_id: str | None
    provider_subject: str | None
    version: Annotated[int, Field(ge=1)]
    """Incremented by every change except activity."""
    is_current: NotRequired[bool]
    """Whether this is the session in the query parameter `current`; absent without it."""


@with_docstrings
class IssuedDocument(TypedDict):
    """A session and its token, which no other response contains."""

    token: str
    """A secret: pass it to the client and do not store it."""
    set_cookie: str | None
    """The value of a `Set-Cookie` header that gives the token to a browser until `expires_at`. Null
    if the setting `gate.cookie` is."""
    session: SessionDocument


@with_docstrings
class SessionsDocument(TypedDict):
    """A page of sessions, newest first."""

    sessions: list[SessionDocument]
    next_cursor: NextCursor


@with_docstrings
class RevokedDocument(TypedDict):
    """The number of revoked sessions."""

    revoked: Count
    more: bool
    """True if the time limit was reached and sessions may be left: send the request again."""


@with_docstrings
class WouldRevokeDocument(TypedDict):
    """The result of a dry run: how many sessions would be revoked."""

    would_revoke: Count


@with_docstrings
class ActiveDocument(TypedDict):
    """A valid token (RFC 7662). Times are in seconds since 1970."""

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
    """Separated by spaces; absent if there are none."""


@with_docstrings
class InactiveDocument(TypedDict):
    """A token that is not valid; the reason is not disclosed (RFC 7662)."""

    active: Literal[False]


# In functional syntax: `from` is a keyword.
_From = TypedDict(
    "_From",
    {"from": Annotated[str | None, Field(description="The address of the actor, if any.")]},
)


@with_docstrings
class EventDocument(_From):
    """An audit event: a change of a session with its actor, time, address and reason."""

    number: Count
    """Increases with each event, roughly in the order of `at`."""
    at: Time
    action: Action
    session_id: Id
    version: Annotated[int, Field(ge=1)]
    """The version of the session after the change."""
    user_id: str
    type: str
    tenant: str | None
    by: str | None
    """The actor, as in `revoked_by` of a session; null if unknown."""
    reason: str | None


@with_docstrings
class EventsDocument(TypedDict):
    """A page of audit events, newest first."""

    events: list[EventDocument]
    next_cursor: NextCursor


@with_docstrings
class PendingDocument(TypedDict):
    """A revocation that is in effect, and persisted once the database is available again."""

    pending: Literal[True]


@with_docstrings
class LogoutRefusedDocument(TypedDict):
    """An error response of OpenID Connect Back-Channel Logout 1.0, section 2.8."""

    error: Literal["invalid_request"]
    error_description: str


@with_docstrings
class FieldErrorDocument(TypedDict):
    """A validation error."""

    path: str
    """The member or parameter, as in `scopes.3`; empty for the document itself."""
    message: str


@with_docstrings
class ProblemDocument(TypedDict):
    """An error (RFC 9457). It repeats nothing from the request but member names."""

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    code: str
    """Identifies the error for programs; its meaning never changes."""
    detail: NotRequired[str]
    """An explanation for people."""
    errors: NotRequired[list[FieldErrorDocument]]
    """All validation errors of the request."""
    request_id: NotRequired[str]
    """The id of the request, as in `X-Request-Id` and in the log."""
    error: NotRequired[str]
    """The OAuth error code (RFC 6749); below `/oauth2/` and `/oidc/` only."""
    free_at: NotRequired[Time]
    """`locked`: when the lock expires, unless it is renewed or released before."""
    holder: NotRequired[str | None]
    """`locked`: the name that the holder gave, if any."""


def build_issued_document(issued: Issued, now: datetime, *, cookie: str | None) -> IssuedDocument:
    """Return a session with its token; its state is that at `now`. `cookie` is its name."""
    text, expires_at = issued.token.text, issued.record.session.expires_at
    return {
        "token": text,
        "set_cookie": None
        if cookie is None
        else format_cookie(cookie, text, lifetime=expires_at - now),
        "session": build_session_document(issued.record, now),
    }


def build_session_document(record: SessionRecord, now: datetime) -> SessionDocument:
    """Return a session; its state is that at `now`."""
    session, details = record.session, record.details
    return {
        "id": session.id,
        "user_id": session.user_id,
        "type": session.type,
        "tenant": details.tenant,
        "scopes": list(session.scopes),
        "state": get_state(session, now),
        "created_at": format_rfc3339(session.created_at),
        "authenticated_at": format_rfc3339(session.authenticated_at),
        "last_seen_at": format_rfc3339(session.last_seen_at),
        "expires_at": format_rfc3339(session.expires_at),
        "idle_at": format_rfc3339(session.idle_at),
        "revoked_at": format_rfc3339(session.revoked_at),
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


def build_introspection_document(session: Session) -> ActiveDocument:
    """Return the introspection response of a valid session."""
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
    if session.scopes:  # RFC 6749's grammar has no empty scope
        document["scope"] = " ".join(session.scopes)
    return document


def build_event_document(event: AuditEvent) -> EventDocument:
    """Return an audit event as a document."""
    return {
        "number": event.number,
        "at": format_rfc3339(event.at),
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
def format_rfc3339(at: datetime) -> str: ...
@overload
def format_rfc3339(at: datetime | None) -> str | None: ...
def format_rfc3339(at: datetime | None) -> str | None:
    """Return `at` as an RFC 3339 timestamp in UTC with microseconds."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
