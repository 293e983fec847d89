"""Request schemas of conditions on sessions."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from sidegate.core.condition import Condition
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example_config
from sidegate.web.schemas.sessions import RevokePayload


class ConditionPayload(Payload):
    """Selects the sessions that match every member.

    At least one member is not null: `all` alone, or others without it.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    all: bool = False
    """Selects every session."""
    user_id: fields.UserId | None = None
    """The user of the session."""
    except_id: fields.SessionId | None = Field(default=None, alias="except")
    """Excludes this session."""
    type: fields.Type | None = None
    """The session type."""
    scope: fields.Scope | None = None
    """A scope that the session has, possibly with others."""
    tenant: fields.Label | None = None
    """The tenant label."""
    provider: fields.Label | None = None
    """The identity provider of an SSO session."""
    provider_session_id: fields.NonEmptyText | None = None
    """The provider's session id (`sid`)."""
    provider_subject: fields.NonEmptyText | None = None
    """The provider's subject (`sub`)."""
    ip_prefix: fields.IpPrefix | None = None
    """The network of the client's address, as in `203.0.113.0/24`, without host bits."""
    user_agent_contains: fields.NonEmptyText | None = None
    """A part of the client's user agent; case-sensitive."""
    created_before: fields.Timestamp | None = None
    """Selects sessions created before this time."""
    last_seen_before: fields.Timestamp | None = None
    """Selects sessions last active before this time."""

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.all is not self.build_condition().matches_all:
            raise ValueError(
                'a condition needs at least one member; use {"all": true} alone for every session'
            )
        return self

    def build_condition(self) -> Condition:
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
    """Revokes the sessions that match a condition."""

    model_config = example_config(
        condition={"ip_prefix": "203.0.113.0/24", "created_before": "2026-03-04T12:00:00Z"},
        reason="incident 42",
        dry_run=True,
    )

    condition: ConditionPayload
    dry_run: bool = False
    """Only returns how many sessions would be revoked."""
