"""What may come in about a single session, or the sessions of a user."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from proxy.core.actor import Actor
from proxy.core.binding import Signal, Signals
from proxy.core.condition import Condition
from proxy.core.session import SessionId
from proxy.core.session_type import SessionType
from proxy.service.sessions import NewSession
from proxy.web.payloads import values
from proxy.web.payloads.base import Payload

# An enum is spelled as a string in JSON; everything else is taken only as what it is.
Type = Annotated[SessionType, Field(strict=False)]

UserId = Annotated[str, AfterValidator(values.user_id)]
Label = Annotated[str, AfterValidator(values.label)]
Text = Annotated[str, AfterValidator(values.text)]
Scope = Annotated[str, AfterValidator(values.scope)]
ProviderId = Annotated[str, Field(min_length=1), AfterValidator(values.text)]
JsonObject = Annotated[dict[str, Any], AfterValidator(values.json_object)]
SomeSessionId = Annotated[str, AfterValidator(values.session_id)]


def _showable(signal: Signal) -> AfterValidator:
    return AfterValidator(lambda text: values.showable(signal, text))


class BindingPayload(Payload):
    """What the client showed when it logged in, as it was sent."""

    ip: Annotated[str, _showable(Signal.IP)] | None = None
    user_agent: Annotated[str, _showable(Signal.USER_AGENT)] | None = None
    accept_language: Annotated[str, _showable(Signal.ACCEPT_LANGUAGE)] | None = None
    header: Annotated[str, _showable(Signal.HEADER)] | None = None

    def signals(self) -> Signals:
        return Signals(self.ip, self.user_agent, self.accept_language, self.header)


class NewSessionPayload(Payload):
    """POST /v1/sessions. The caller chooses neither token nor id."""

    user_id: UserId
    type: Type = SessionType.WEB
    tenant: Label | None = None
    provider: Label | None = None
    provider_session_id: ProviderId | None = None
    provider_subject: ProviderId | None = None
    scopes: Annotated[list[Scope], AfterValidator(values.scope_list)] = Field(default_factory=list)
    expires_in: int | None = None
    ip: Annotated[str, AfterValidator(values.address)] | None = None
    user_agent: Text | None = None
    device: Text | None = None
    metadata: JsonObject = Field(default_factory=dict)
    binding: BindingPayload = BindingPayload()

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
    """POST /v1/sessions/{id}/revoke."""

    reason: Label = "revoked"


class RevokeUserPayload(RevokePayload):
    """POST /v1/users/{user_id}/revoke: every session, or those of a type, or all but one."""

    type: Type | None = None
    except_id: SomeSessionId | None = Field(default=None, alias="except")

    def condition(self, of: str) -> Condition:
        except_id = None if self.except_id is None else SessionId(self.except_id)
        return Condition(of, type=self.type, except_id=except_id)


class RefreshPayload(Payload):
    """POST /v1/refresh: by the token, never by the id: whoever knows an id could mint tokens."""

    token: Annotated[str, Field(max_length=512)]
    expires_in: Annotated[int, Field(ge=1, le=315_360_000)] | None = None

    def extend_by(self) -> timedelta | None:
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class MigratePayload(Payload):
    """POST /v1/sessions/{id}/sso."""

    provider: Label
    provider_session_id: ProviderId | None = None
    provider_subject: ProviderId | None = None
    attributes: JsonObject = Field(default_factory=dict)
