"""The audit trail: one event for each change of a session, chained by hashes.

A seal is the SHA-256 of the previous seal's hash and of the event. Changing, removing or inserting
an event in the database requires new seals for all later events, and any later hash recorded
elsewhere detects that.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.session import SessionId


class Action(StrEnum):
    """The change that was made to a session. Expiry has no actor and leaves no event."""

    CREATE = "create"
    REFRESH = "refresh"
    REAUTHENTICATE = "reauthenticate"
    UPDATE = "update"
    MIGRATE = "migrate"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change of a session: time, action, actor, source and reason.

    `number` grows, but not strictly in order of time. `version` is the session's version after the
    change. `by` is None if the record has no actor.
    """

    number: int
    at: datetime
    action: Action
    session_id: SessionId
    version: int
    user_id: str
    type: str
    tenant: str | None
    by: Actor | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Seal:
    """An event's position in the chain (1 for the first), and its hash."""

    link: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Selects events that match every field that is not None. `until` is exclusive."""

    session_id: SessionId | None = None
    user_id: str | None = None
    action: Action | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


CHAIN_START: Final = Seal(0, bytes(32))
"""The previous seal of the first event."""


def seal(previous: Seal, event: AuditEvent) -> Seal:
    """Return the seal of `event` as the one after `previous`."""
    return Seal(previous.link + 1, sha256(previous.hash + _encode_event(event)).digest())


def seal_events(previous: Seal, events: Iterable[AuditEvent]) -> Iterator[tuple[AuditEvent, Seal]]:
    """Yield events with their seals, in the order given."""
    for event in events:
        previous = seal(previous, event)
        yield event, previous


def select_intact(
    previous: Seal, links: Iterable[tuple[AuditEvent, Seal]]
) -> list[tuple[AuditEvent, Seal]]:
    """Return the leading part of `links` whose seals verify, the first one against `previous`."""
    intact = []
    for event, stored in links:
        if stored != seal(previous, event):
            break
        intact.append((event, stored))
        previous = stored
    return intact


def _encode_event(event: AuditEvent) -> bytes:
    """Encode an event canonically. Any change of this encoding breaks all existing chains."""
    fields = (
        event.number,
        event.at.isoformat(),
        event.action,
        event.session_id,
        event.version,
        event.user_id,
        event.type,
        event.tenant,
        None if event.by is None else (event.by.name, event.by.source),
        event.reason,
    )
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode("ascii")
