"""Seals of the audit chain."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sidegate.core.actor import Actor
from sidegate.core.audit import CHAIN_START, Action, AuditEvent, Seal, seal, seal_events
from sidegate.core.session import SessionId

EVENT = AuditEvent(
    number=1,
    at=datetime(2026, 3, 4, 12, 0, 0, 123_456, tzinfo=UTC),
    action=Action.REVOKE,
    session_id=SessionId("01890a5d-ac96-774b-bcce-b302099a8057"),
    version=2,
    user_id="Zoë",
    type="web",
    tenant=None,
    by=Actor("key:ops", "192.0.2.1"),
    reason="lost",
)


def test_encoding_of_events_is_stable() -> None:
    """Another encoding would break all existing chains."""
    assert seal(CHAIN_START, EVENT) == Seal(
        1, bytes.fromhex("c4f5a14bf957155b177306fbf5e8a6f526dce9385ca29de3a4eae004854cd074")
    )


def test_every_field_changes_the_seal() -> None:
    others = [
        replace(EVENT, number=2),
        replace(EVENT, at=EVENT.at + timedelta(microseconds=1)),
        replace(EVENT, action=Action.CREATE),
        replace(EVENT, session_id=SessionId("01890a5d-ac96-774b-bcce-b302099a8058")),
        replace(EVENT, version=3),
        replace(EVENT, user_id="Zoe"),
        replace(EVENT, type="api"),
        replace(EVENT, tenant=""),
        replace(EVENT, by=None),
        replace(EVENT, by=Actor("key:ops")),
        replace(EVENT, reason=None),
    ]
    hashes = {seal(CHAIN_START, event).hash for event in (EVENT, *others)}
    assert len(hashes) == len(others) + 1


def test_seal_depends_on_the_previous_seal() -> None:
    [(_, first), (_, second)] = seal_events(CHAIN_START, [EVENT, EVENT])
    assert (first.link, second.link) == (1, 2)
    assert first.hash != second.hash
    assert seal(first, EVENT) == second
