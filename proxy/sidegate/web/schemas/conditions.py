"""Conditions on sessions, as they come in."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from sidegate.core.condition import Condition
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example
from sidegate.web.schemas.sessions import RevokePayload


class ConditionPayload(Payload):
    """Which sessions: those that match every member. To mean all of them, say so.

    At least one member is given and not null: `all` alone, or others without it.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    all: bool = False
    """Every session there is."""
    user_id: fields.UserId | None = None
    """Those of a user."""
    except_id: fields.SessionId | None = Field(default=None, alias="except")
    """All but one."""
    type: fields.Type | None = None
    """Those of a type."""
    scope: fields.Scope | None = None
    """Those that have this scope, perhaps among others."""
    tenant: fields.Label | None = None
    """Those with this label."""
    provider: fields.Label | None = None
    """Those an identity provider vouches for."""
    provider_session_id: fields.SomeText | None = None
    """Those that belong to a session of the provider's."""
    provider_subject: fields.SomeText | None = None
    """Those of a user as the provider calls them."""
    ip_prefix: fields.IpPrefix | None = None
    """Those that began from an address in a network, as in `203.0.113.0/24`: no host bits."""
    user_agent_contains: fields.SomeText | None = None
    """Those whose client's program has this in its name; letter case matters."""
    created_before: fields.Moment | None = None
    """Those that began before a moment."""
    last_seen_before: fields.Moment | None = None
    """Those that have not been seen since."""

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
            except_id=self.except_id,
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
    """Which sessions end, and why."""

    model_config = example(
        condition={"ip_prefix": "203.0.113.0/24", "created_before": "2026-03-04T12:00:00Z"},
        reason="incident 42",
        dry_run=True,
    )

    condition: ConditionPayload
    dry_run: bool = False
    """Only say how many would end."""
