"""What may come in about a single session, or the sessions of a user."""

from datetime import timedelta
from typing import Annotated, Final

from pydantic import ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from sidegate.core.actor import Actor
from sidegate.core.binding import Signals
from sidegate.core.condition import Condition
from sidegate.core.session_type import SessionType
from sidegate.services.sessions import NewSession
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example

_LONGEST: Final = 315_360_000  # seconds; no lifetime in the settings is longer


class BindingPayload(Payload):
    """What the client showed when it logged in, as it was sent."""

    ip: fields.ShownIp | None = None
    """Its address, with a port or not."""
    user_agent: fields.ShownProgram | None = None
    """Its `User-Agent` header."""
    accept_language: fields.ShownLanguage | None = None
    """Its `Accept-Language` header."""
    header: fields.ShownHeader | None = None
    """The header that `binding.header` of the settings names."""

    def signals(self) -> Signals:
        return Signals(self.ip, self.user_agent, self.accept_language, self.header)


class NewSessionPayload(Payload):
    """What the caller decides about a session: neither its token nor its id."""

    model_config = example(
        user_id="ada",
        type="web",
        scopes=["orders:read"],
        ip="203.0.113.9",
        user_agent="Mozilla/5.0",
        metadata={"login": "passkey"},
    )

    user_id: fields.UserId
    """Whom the session speaks for. No control characters, no white space at either end; its code
    points are the identity: nothing is folded or normalised."""
    type: fields.Type = SessionType.WEB
    """Decides the lifetimes and the limit."""
    tenant: fields.Label | None = None
    """A label of the caller's; limits count each tenant's sessions apart."""
    provider: fields.Label | None = None
    """Of sessions of type `sso`: the identity provider's name, or its issuer."""
    provider_session_id: fields.SomeText | None = None
    """The provider's own id of its session (`sid`)."""
    provider_subject: fields.SomeText | None = None
    """The user as the provider calls them (`sub`)."""
    scopes: fields.Scopes = Field(default_factory=list)
    """Together at most 2048 bytes; repetitions are dropped."""
    expires_in: (
        Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": _LONGEST})] | None
    ) = None
    """Seconds, up to the lifetime of the type; more is refused, not shortened."""
    ip: fields.IpAddress | None = None
    """The client's address without a zone; shown in its canonical spelling."""
    user_agent: fields.Text | None = None
    """The client's program."""
    device: fields.Text | None = None
    """A name the user knows the device by."""
    metadata: fields.JsonObject = Field(default_factory=dict)
    """At most 16 KiB as compact UTF-8; integers fit 64 bits; no NUL characters."""
    binding: BindingPayload = Field(default_factory=BindingPayload)
    """What the session is bound to."""

    @field_validator("expires_in")
    @classmethod
    def _fits_the_lifetime(cls, seconds: int | None, known: ValidationInfo) -> int | None:
        if seconds is None:
            return None
        if seconds < 1:
            raise ValueError("at least 1 second")
        type_: SessionType | None = known.data.get("type")
        if type_ is not None and known.context is not None:  # else `type` is the mistake to mend
            longest = int(known.context[type_].lifetime.total_seconds())
            if seconds > longest:
                raise ValueError(f"{type_} sessions live for at most {longest} seconds")
        return seconds

    @field_validator("provider", "provider_session_id", "provider_subject")
    @classmethod
    def _is_of_a_provider(cls, text: str | None, known: ValidationInfo) -> str | None:
        if text is None:
            return None
        type_: SessionType | None = known.data.get("type")
        if type_ not in (SessionType.SSO, None):  # None: `type` is the mistake to mend
            raise ValueError(f"for sessions of type sso; this one is of type {type_}")
        if known.field_name != "provider" and known.data.get("provider", "") is None:
            raise ValueError("needs provider beside it: which provider calls it so")
        return text

    def new_session(self, by: Actor) -> NewSession:
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
            binding=self.binding.signals(),
        )


class RevokePayload(Payload):
    """Why a session ends."""

    model_config = example(reason="stolen laptop")

    reason: fields.Label = "revoked"
    """Kept with the session and in the audit trail."""


class RevokeUserPayload(RevokePayload):
    """Which of a user's sessions end: all, those of a type, or all but one; and why."""

    model_config = example(type="web", reason="password changed")

    type: fields.Type | None = None
    """Only sessions of this type."""
    except_id: fields.SessionId | None = Field(default=None, alias="except")
    """The one session that is spared."""

    def condition(self, of: str) -> Condition:
        return Condition(of, type=self.type, except_id=self.except_id)


class RefreshPayload(Payload):
    """By the token, never by the id: whoever knows an id could mint tokens."""

    token: Annotated[str, Field(max_length=512)]
    """The session's token, or one it had within the grace."""
    expires_in: Annotated[int, Field(ge=1, le=_LONGEST)] | None = None
    """Moves the deadline to so many seconds from now: never past the type's lifetime, never to an
    earlier moment. Without it the deadline stays."""

    def extend_by(self) -> timedelta | None:
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class TokenPayload(Payload):
    """A token, as OAuth's forms hold one. Other fields are ignored, as the RFCs say."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"additionalProperties": {"type": "string"}}
    )

    token: Annotated[str, Field(min_length=1)]  # RFC 6749 3.1: an empty one is an absent one
    """The token in question."""
    token_type_hint: str = ""
    """Not looked at."""


class LogoutPayload(Payload):
    """What an identity provider sends. Other fields are ignored, as the standard says."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"additionalProperties": {"type": "string"}}
    )

    logout_token: Annotated[str, Field(min_length=1)]
    """A JWT, signed by the provider."""


class MigratePayload(Payload):
    """Who vouches for the user from now on."""

    model_config = example(
        provider="https://id.example",
        provider_session_id="a1b2",
        attributes={"groups": ["staff"]},
    )

    provider: fields.Label
    """The identity provider's name, or its issuer."""
    provider_session_id: fields.SomeText | None = None
    """The provider's own id of its session (`sid`)."""
    provider_subject: fields.SomeText | None = None
    """The user as the provider calls them (`sub`)."""
    attributes: fields.JsonObject = Field(default_factory=dict)
    """They join the session's metadata."""
