"""The contract of conditions: list, count and revoke select the same sessions."""

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.judge import get_state
from sidegate.core.limits import Limit
from sidegate.core.protocols import Cursor, DurableStore
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from tests.contracts.values import TESTER, build_record, build_session, build_tombstone
from tests.support.clock import NOON
from tests.support.databases import Database
from tests.support.replace import replace

SECOND = timedelta(seconds=1)

# For each field: a condition, matching fields, and similar fields that do not match.
CONDITIONS: dict[str, tuple[Condition, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "user": (Condition("ada"), [{"user_id": "ada"}], [{"user_id": "Ada"}, {"user_id": "ada "}]),
    "type": (
        Condition(type=SessionType.API),
        [{"type": SessionType.API}],
        [{"type": SessionType.WEB}],
    ),
    "scope": (
        Condition(scope="write"),
        [{"scopes": ("write",)}, {"scopes": ("read", "write")}],
        [{"scopes": ()}, {"scopes": ("read",)}, {"scopes": ("writer", "over write", "Write")}],
    ),
    "tenant": (
        Condition(tenant="north"),
        [{"tenant": "north"}],
        [{"tenant": None}, {"tenant": "North"}, {"tenant": "northern"}, {"tenant": ""}],
    ),
    "provider": (
        Condition(provider="idp"),
        [{"provider": "idp"}, {"provider": "idp", "provider_session_id": "1"}],
        [{"provider": None}, {"provider": "idp2"}],
    ),
    "provider session": (
        Condition(provider="idp", provider_session_id="1"),
        [{"provider": "idp", "provider_session_id": "1"}],
        [
            {"provider": "idp"},
            {"provider": "other", "provider_session_id": "1"},
            {"provider": "idp", "provider_session_id": "11"},
        ],
    ),
    "provider subject": (
        Condition(provider="idp", provider_subject="s"),
        [{"provider": "idp", "provider_subject": "s"}],
        [{"provider": "idp", "provider_subject": "S"}, {"provider": "x", "provider_subject": "s"}],
    ),
    "provider subject unknown": (
        Condition(provider="idp", provider_session_id="1", subject_unknown=True),
        [{"provider": "idp", "provider_session_id": "1"}],
        [
            {"provider": "idp", "provider_session_id": "1", "provider_subject": "s"},
            {"provider": "idp", "provider_session_id": "1", "provider_subject": ""},
            {"provider": "idp"},
        ],
    ),
    "network": (
        Condition(ip_within=ip_network("192.0.2.0/25")),
        [{"ip": "192.0.2.0"}, {"ip": "192.0.2.127"}, {"ip": "::ffff:192.0.2.5"}],
        [{"ip": "192.0.2.128"}, {"ip": "192.0.1.255"}, {"ip": None}, {"ip": "no address"}],
    ),
    "network of IPv6": (
        Condition(ip_within=ip_network("2001:db8:0:ff00::/56")),
        [{"ip": "2001:db8:0:ff00::"}, {"ip": "2001:DB8:0:ffff:ffff:ffff:ffff:ffff"}],
        [{"ip": "2001:db8:0:fe00::1"}, {"ip": "2001:db8:1::"}, {"ip": "192.0.2.1"}],
    ),
    "user agent": (
        Condition(user_agent_contains="Fire%fox_1"),
        [{"user_agent": "Mozilla Fire%fox_1/128"}, {"user_agent": "Fire%fox_1"}],
        [{"user_agent": "Fire?fox_1"}, {"user_agent": "FirexfoxA1"}, {"user_agent": None}],
    ),
    "created before": (
        Condition(created_before=NOON),
        [{"at": NOON - SECOND / 1_000_000}],
        [{"at": NOON}, {"at": NOON + SECOND}],
    ),
    "last seen before": (
        Condition(last_seen_before=NOON),
        [{"last_seen_at": NOON - SECOND / 1_000_000}],
        [{"last_seen_at": NOON}],
    ),
    "several": (
        Condition("ada", type=SessionType.API, tenant="north"),
        [{"type": SessionType.API, "tenant": "north"}],
        [
            {"type": SessionType.API},
            {"tenant": "north"},
            {"type": SessionType.API, "tenant": "north", "user_id": "bob"},
        ],
    ),
    "nothing": (Condition(), [{}, {"user_id": "bob"}, {"type": SessionType.SSO}], []),
}

_DETAILS = {"tenant", "ip", "user_agent", "provider", "provider_session_id", "provider_subject"}


def build_matching_record(fields: dict[str, Any]) -> SessionRecord:
    details = {name: value for name, value in fields.items() if name in _DETAILS}
    session = {name: value for name, value in fields.items() if name not in _DETAILS}
    return build_record(build_session(**session), **details)


async def create_all(durable: DurableStore, records: Sequence[SessionRecord]) -> list[Session]:
    for record in records:
        await durable.create(record)
    return [record.session for record in records]


async def revoke(
    durable: DurableStore, condition: Condition, *, limit: int = 100, after: Any = None
) -> list[Session]:
    revoked = await durable.revoke_where(
        condition, at=NOON + SECOND, by=TESTER, reason="test", limit=limit, after=after
    )
    return [changed.session for changed in revoked]


@pytest.mark.parametrize("field", CONDITIONS)
async def test_condition_selects_the_matching_sessions_only(
    durable: DurableStore, field: str
) -> None:
    condition, matching, different = CONDITIONS[field]
    expected = await create_all(durable, [build_matching_record(fields) for fields in matching])
    spared = await create_all(durable, [build_matching_record(fields) for fields in different])

    listed = await durable.list_where(condition, limit=100)
    counted = await durable.count_where(condition, at=NOON + SECOND)
    tombstones = await revoke(durable, condition)

    assert {record.session.id for record in listed} == {session.id for session in expected}
    assert counted == len(expected)
    assert {tombstone.id for tombstone in tombstones} == {session.id for session in expected}
    assert [await durable.find(session.digest) for session in spared] == spared


async def test_except_id_spares_one_session(durable: DurableStore) -> None:
    kept, *others = await create_all(durable, [build_record() for _ in range(3)])
    tombstones = await revoke(durable, Condition("ada", except_id=kept.id))
    assert {tombstone.id for tombstone in tombstones} == {session.id for session in others}


# --- Batches


async def test_batches_revoke_in_the_order_of_ids(durable: DurableStore) -> None:
    sessions = await create_all(durable, [build_record() for _ in range(5)])
    ids = sorted(session.id for session in sessions)

    first = await revoke(durable, Condition("ada"), limit=2)
    second = await revoke(durable, Condition("ada"), limit=2, after=first[-1].id)
    third = await revoke(durable, Condition("ada"), limit=2, after=second[-1].id)

    assert [tombstone.id for tombstone in (*first, *second, *third)] == ids
    assert [len(first), len(second), len(third)] == [2, 2, 1]


async def test_unreadable_rows_are_revoked_and_do_not_end_a_batch(
    durable: DurableStore, database: Database
) -> None:
    ids = sorted(s.id for s in await create_all(durable, [build_record() for _ in range(6)]))
    for broken in ids[1:4]:
        await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{broken}'")

    first = await revoke(durable, Condition("ada"), limit=2)
    second = await revoke(durable, Condition("ada"), limit=2, after=first[-1].id)

    assert [s.id for s in (*first, *second)] == [ids[0], ids[4], ids[5]]
    assert await durable.count_where(Condition("ada"), at=NOON + SECOND) == 0


async def test_batch_skips_ids_up_to_after(durable: DurableStore) -> None:
    first, second = sorted(
        await create_all(durable, [build_record(), build_record()]), key=lambda session: session.id
    )
    assert [s.id for s in await revoke(durable, Condition("ada"), after=first.id)] == [second.id]


async def test_invalid_after_revokes_nothing(durable: DurableStore) -> None:
    [session] = await create_all(durable, [build_record()])
    with pytest.raises(ValueError, match="canonical"):
        await revoke(durable, Condition("ada"), after=SessionId("nonsense"))
    assert await durable.find(session.digest) == session


# --- States


def build_one_in_each_state() -> dict[SessionState, Session]:
    """Return sessions that are in each state a second after noon, at the limit."""
    return {
        SessionState.ACTIVE: build_session(
            idle_timeout=SECOND * 1.000001, expires_at=NOON + SECOND * 1.000001
        ),
        SessionState.IDLE: build_session(idle_timeout=SECOND),
        SessionState.EXPIRED: build_session(expires_at=NOON + SECOND, idle_timeout=SECOND),
        SessionState.REVOKED: build_tombstone(expires_at=NOON + SECOND),
    }


@pytest.mark.parametrize("expected_state", SessionState)
async def test_list_by_state_agrees_with_the_core(
    durable: DurableStore, expected_state: SessionState
) -> None:
    sessions = build_one_in_each_state()
    forever = build_session(idle_timeout=None)
    await create_all(durable, [SessionRecord(s) for s in (*sessions.values(), forever)])

    listed = await durable.list_where(
        Condition("ada"), limit=10, state=(expected_state, NOON + SECOND)
    )

    expected = {sessions[expected_state].id} | (
        {forever.id} if expected_state is SessionState.ACTIVE else set()
    )
    assert {record.session.id for record in listed} == expected
    assert {get_state(record.session, NOON + SECOND) for record in listed} == {expected_state}


async def test_count_omits_sessions_that_cannot_be_revoked(durable: DurableStore) -> None:
    await create_all(durable, [SessionRecord(s) for s in build_one_in_each_state().values()])
    assert await durable.count_where(Condition("ada"), at=NOON + SECOND) == 2  # idle ones can
    assert len(await revoke(durable, Condition("ada"))) == 2


async def test_pages_of_a_condition_have_no_gaps(durable: DurableStore) -> None:
    records = [
        build_record(build_session(at=NOON + n * SECOND), provider="idp", provider_subject="s")
        for n in (0, 0, 0, 1, 1, 2, 3)
    ]
    await create_all(durable, [*records, build_record(), build_record(provider="idp")])
    condition, pages, after = Condition(provider="idp", provider_subject="s"), [], None
    while page := await durable.list_where(condition, limit=3, after=after):
        pages.append(page)
        after = Cursor(page[-1].session.created_at, page[-1].session.id)

    assert [len(page) for page in pages] == [3, 3, 1]
    listed = [record for page in pages for record in page]
    assert listed == sorted(
        records, key=lambda r: (r.session.created_at, r.session.id), reverse=True
    )


# --- Replace within a limit


async def test_replace_within_limit_evicts_a_session_of_the_new_type(durable: DurableStore) -> None:
    migrating, oldest, newer = await create_all(
        durable,
        [
            build_record(build_session(at=NOON - SECOND)),
            build_record(build_session(type=SessionType.SSO)),
            build_record(build_session(type=SessionType.SSO, at=NOON + SECOND / 2)),
        ],
    )
    after = SessionRecord(replace(migrating, type=SessionType.SSO, version=2))

    changed = await durable.replace_within_limit(
        after, expected=1, limit=Limit(2), at=NOON + SECOND
    )

    assert changed == [ChangedSession(after.session), ChangedSession(oldest.revoked(NOON + SECOND))]
    assert await durable.find(migrating.digest) == after.session
    assert await durable.find(newer.digest) == newer
