"""Request schemas of single sessions, and of the sessions of a user."""

from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from sidegate.core.actor import Actor
from sidegate.core.binding import Signals
from sidegate.core.condition import Condition
from sidegate.core.session_type import SessionType
from sidegate.services.sessions import NewSession
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example_config

_MAX_LIFETIME: Final = 315_360_000  # seconds; the settings allow no longer one


class BindingPayload(Payload):
    """The signals of the client at login, as it sent them."""

    ip: fields.SignalIp | None = None
    """The client's address, with or without a port."""
    user_agent: fields.SignalUserAgent | None = None
    """The `User-Agent` header."""
    accept_language: fields.SignalAcceptLanguage | None = None
    """The `Accept-Language` header."""
    header: fields.SignalHeader | None = None
    """The header named by the setting `binding.header`."""

    def build_signals(self) -> Signals:
        return Signals(self.ip, self.user_agent, self.accept_language, self.header)


class NewSessionPayload(Payload):
    """Creates a session. Its id and its token are generated."""

    model_config = example_config(
        user_id="ada",
        type="web",
        scopes=["orders:read"],
        ip="203.0.113.9",
        user_agent="Mozilla/5.0",
        metadata={"login": "passkey"},
    )

    user_id: fields.UserId
    """The user of the session. No control characters, no leading or trailing white space. Compared
    by code point, without case folding or normalisation."""
    type: fields.Type = SessionType.WEB
    """Selects the lifetimes and the session limit."""
    tenant: fields.Label | None = None
    """A label; session limits apply to each tenant separately."""
    provider: fields.Label | None = None
    """The name or the issuer of the identity provider; for sessions of type `sso` only."""
    provider_session_id: fields.NonEmptyText | None = None
    """The provider's session id (`sid`)."""
    provider_subject: fields.NonEmptyText | None = None
    """The provider's id of the user (`sub`)."""
    scopes: fields.Scopes = Field(default_factory=list)
    """At most 2048 bytes in total; duplicates are removed. With the user id, they also have to
    fit into the identity headers: `gate.max_identity`."""
    expires_in: (
        Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": _MAX_LIFETIME})] | None
    ) = None
    """Seconds, at most the lifetime of the type; a larger value is an error."""
    ip: fields.IpAddress | None = None
    """The client's address without a zone; returned in canonical form."""
    user_agent: fields.Text | None = None
    """The client's user agent."""
    device: fields.Text | None = None
    """A device name that the user recognises."""
    metadata: fields.JsonObject = Field(default_factory=dict)
    """At most 16 KiB as compact UTF-8; integers fit 64 bits; no NUL characters."""
    binding: BindingPayload = Field(default_factory=BindingPayload)
    """The client signals that the session is bound to."""

    @field_validator("expires_in")
    @classmethod
    def _check_lifetime(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        if seconds is None:
            return None
        if seconds < 1:
            raise ValueError("at least 1 second")
        type_: SessionType | None = info.data.get("type")  # None if `type` itself is invalid
        if type_ is not None and info.context is not None:
            lifetime = int(info.context[type_].lifetime.total_seconds())
            if seconds > lifetime:
                raise ValueError(f"{type_} sessions last at most {lifetime} seconds")
        return seconds

    @field_validator("provider", "provider_session_id", "provider_subject")
    @classmethod
    def _check_provider(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        type_: SessionType | None = info.data.get("type")
        if type_ not in (SessionType.SSO, None):  # None if `type` itself is invalid
            raise ValueError(f"for sessions of type sso only; this one is of type {type_}")
        if info.field_name != "provider" and info.data.get("provider", "") is None:
            raise ValueError("requires provider")
        return text

    def build_new_session(self, by: Actor) -> NewSession:
        return NewSession(
            user_id=self.user_id,
            by=by,
            type=self.type,
            tenant=self.tenant,
            provider=self.provider,
            provider_session_id=self.provider_session_id,
            provider_subject=self.provider_subject,
            scopes=tuple(self.scopes),
            expires_in=None if self.expires_in is None else timedelta(seconds=self.expires_in),
            ip=self.ip,
            user_agent=self.user_agent,
            device=self.device,
            metadata=self.metadata,
            binding=self.binding.build_signals(),
        )


class RevokePayload(Payload):
    """Revokes a session."""

    model_config = example_config(reason="stolen laptop")

    reason: fields.Label = "revoked"
    """Stored with the session and in the audit trail."""


class RevokeUserPayload(RevokePayload):
    """Revokes a user's sessions: all, those of a type, or all but one."""

    model_config = example_config(type="web", reason="password changed")

    type: fields.Type | None = None
    """Only sessions of this type."""
    except_id: fields.SessionId | None = Field(default=None, alias="except")
    """Excludes this session."""

    def build_condition(self, user_id: str) -> Condition:
        return Condition(user_id, type=self.type, except_id=self.except_id)


class RefreshPayload(Payload):
    """Refreshes a session by its token. An id is not enough: ids are logged."""

    token: Annotated[str, Field(max_length=512)]
    """The current token, or the previous one within its grace period."""
    expires_in: Annotated[int, Field(ge=1, le=_MAX_LIFETIME)] | None = None
    """Moves the deadline to this many seconds from now, never past the lifetime of the type and
    never to an earlier time. If absent, the deadline stays."""

    def extension(self) -> timedelta | None:
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class TokenPayload(Payload):
    """An OAuth token request (RFC 7662, RFC 7009). Other fields are ignored."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"additionalProperties": {"type": "string"}}
    )

    token: Annotated[str, Field(min_length=1)]  # RFC 6749 3.1: an empty value counts as absent
    """A session token."""
    token_type_hint: str = ""
    """Ignored."""


class LogoutPayload(Payload):
    """A back-channel logout request. Other fields are ignored."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"additionalProperties": {"type": "string"}}
    )

    logout_token: Annotated[str, Field(min_length=1)]
    """A JWT signed by the provider."""


class ReauthenticatedPayload(Payload):
    """Records that the user has authenticated again."""

    model_config = example_config(scopes=["orders:read", "payments"])

    scopes: fields.Scopes | None = None
    """Replace those of the session; absent: they stay."""

    def new_scopes(self) -> tuple[str, ...] | None:
        return None if self.scopes is None else tuple(self.scopes)


class UpdatePayload(ReauthenticatedPayload):
    """Replaces the scopes of a session, or its metadata, or both."""

    model_config = example_config(scopes=["orders:read"], metadata={"theme": "dark"})

    metadata: fields.JsonObject | None = None
    """Replaces the metadata as a whole, with the same limits as at creation; absent: it stays."""

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.scopes is None and self.metadata is None:
            raise ValueError("give scopes or metadata")
        return self


class MigratePayload(Payload):
    """Turns a session into an SSO session of an identity provider."""

    model_config = example_config(
        provider="https://id.example",
        provider_session_id="a1b2",
        attributes={"groups": ["staff"]},
    )

    provider: fields.Label
    """The name or the issuer of the identity provider."""
    provider_session_id: fields.NonEmptyText | None = None
    """The provider's session id (`sid`)."""
    provider_subject: fields.NonEmptyText | None = None
    """The provider's id of the user (`sub`)."""
    attributes: fields.JsonObject = Field(default_factory=dict)
    """Merged into the session's metadata, which is limited to 16 KiB after the merge, too."""
