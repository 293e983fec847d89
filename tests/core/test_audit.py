"""Seals: what holds an event in its place."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sidegate.core.actor import Actor
from sidegate.core.audit import BEFORE_ALL, Action, AuditEvent, Seal, seal, sealed
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


def test_events_are_spelled_as_they_always_were() -> None:
    """Whoever spells them in another way breaks every chain there is."""
    assert seal(BEFORE_ALL, EVENT) == Seal(
        1, bytes.fromhex("c4f5a14bf957155b177306fbf5e8a6f526dce9385ca29de3a4eae004854cd074")
    )


def test_every_fact_of_an_event_is_sealed() -> None:
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
    hashes = {seal(BEFORE_ALL, event).hash for event in (EVENT, *others)}
    assert len(hashes) == len(others) + 1


def test_a_seal_depends_on_all_before_it() -> None:
    [(_, first), (_, second)] = sealed(BEFORE_ALL, [EVENT, EVENT])
    assert (first.link, second.link) == (1, 2)
    assert first.hash != second.hash
    assert seal(first, EVENT) == second
