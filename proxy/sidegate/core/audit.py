"""The audit trail: one event for each change of a session, each sealed to the one before it.

A seal is the SHA-256 of the previous seal's hash and of the event. So whoever changes, removes or
inserts an event behind our back has to make every later seal anew, and whoever has written down a
single hash from after it will notice.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.session import SessionId


class Action(StrEnum):
    """What was done to a session. Expiring is not done by anybody, and leaves no event."""

    CREATE = "create"
    REFRESH = "refresh"
    MIGRATE = "migrate"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what, when, from where, and why. `number` grows, if not quite in order of time.

    `by` is None where it was not said; `version` is the session's after the change.
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
    """The place of an event in the chain, 1 for the first, and the hash that holds it there."""

    link: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events: those that match every field that is given. `until` is no longer within."""

    session_id: SessionId | None = None
    user_id: str | None = None
    action: Action | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


BEFORE_ALL: Final = Seal(0, bytes(32))
"""What the first event is sealed to."""


def seal(previous: Seal, event: AuditEvent) -> Seal:
    """Return the seal of the event that follows in the chain."""
    return Seal(previous.link + 1, sha256(previous.hash + _spelled(event)).digest())


def sealed(previous: Seal, events: Iterable[AuditEvent]) -> Iterator[tuple[AuditEvent, Seal]]:
    """Yield events with their seals, in the order given."""
    for event in events:
        previous = seal(previous, event)
        yield event, previous


def holding(
    previous: Seal, stretch: Iterable[tuple[AuditEvent, Seal]]
) -> list[tuple[AuditEvent, Seal]]:
    """Return the beginning of a stretch of the chain, as far as it holds onto `previous`."""
    held = []
    for event, found in stretch:
        if found != seal(previous, event):
            break
        held.append((event, found))
        previous = found
    return held


def _spelled(event: AuditEvent) -> bytes:
    """Spell an event in one way only, for ever: changing this breaks every chain there is."""
    return json.dumps(
        astuple(event), ensure_ascii=True, separators=(",", ":"), default=datetime.isoformat
    ).encode("ascii")
