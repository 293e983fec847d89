"""Conditions on sessions, as they come in: in a body, or in a query."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.core.condition import Condition
from proxy.core.session import SessionId
from proxy.web.payloads import values
from proxy.web.payloads.base import Payload
from proxy.web.payloads.sessions import (
    Label,
    ProviderId,
    RevokePayload,
    Scope,
    SomeSessionId,
    Type,
    UserId,
)


def _network(given: object) -> object:
    return values.network(given) if isinstance(given, str) else given


def _moment(given: object) -> object:
    return values.moment(given) if isinstance(given, str) else given


Moment = Annotated[datetime, BeforeValidator(_moment)]


class ConditionPayload(Payload):
    """Which sessions: those that match every member. To mean all of them, say so."""

    all: bool = False
    user_id: UserId | None = None
    except_id: SomeSessionId | None = Field(default=None, alias="except")
    type: Type | None = None
    scope: Scope | None = None
    tenant: Label | None = None
    provider: Label | None = None
    provider_session_id: ProviderId | None = None
    provider_subject: ProviderId | None = None
    ip_prefix: Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)] | None = None
    user_agent_contains: Annotated[str, Field(min_length=1), AfterValidator(values.text)] | None = (
        None
    )
    created_before: Moment | None = None
    last_seen_before: Moment | None = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.all is not self.condition().matches_all:
            raise ValueError(
                'a condition has at least one member; {"all": true} alone means every session'
            )
        return self

    def condition(self) -> Condition:
        return Condition(
            user_id=self.user_id,
            except_id=None if self.except_id is None else SessionId(self.except_id),
            type=self.type,
            scope=self.scope,
            tenant=self.tenant,
            provider=self.provider,
            provider_session_id=self.provider_session_id,
            provider_subject=self.provider_subject,
            ip_within=self.ip_prefix,
            user_agent_contains=self.user_agent_contains,
            created_before=self.created_before,
            last_seen_before=self.last_seen_before,
        )


class RevokeWherePayload(RevokePayload):
    """POST /v1/revoke."""

    condition: ConditionPayload
    dry_run: bool = False
