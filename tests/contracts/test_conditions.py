"""What every durable store promises of conditions: the same sessions are listed, counted, ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from sidegate.core.condition import Condition
from sidegate.core.judge import state
from sidegate.core.limits import Limit
from sidegate.core.protocols import Cursor, DurableStore
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from tests.contracts.values import TESTER, a_record, a_session, a_tombstone
from tests.support.clock import NOON
from tests.support.databases import Database

SECOND = timedelta(seconds=1)

# Of each field a condition on it, what matches, and what only looks as if it did.
FIELDS: dict[str, tuple[Condition, list[dict[str, Any]], list[dict[str, Any]]]] = {
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


def made(fields: dict[str, Any]) -> SessionRecord:
    details = {name: value for name, value in fields.items() if name in _DETAILS}
    session = {name: value for name, value in fields.items() if name not in _DETAILS}
    return a_record(a_session(**session), **details)


async def stored(durable: DurableStore, records: Sequence[SessionRecord]) -> list[Session]:
    for record in records:
        await durable.create(record)
    return [record.session for record in records]


async def ended(
    durable: DurableStore, condition: Condition, *, limit: int = 100, after: Any = None
) -> list[Session]:
    return await durable.revoke_where(
        condition, at=NOON + SECOND, by=TESTER, reason="test", limit=limit, after=after
    )


@pytest.mark.parametrize("field", FIELDS)
async def test_a_condition_means_those_that_match_and_no_others(
    durable: DurableStore, field: str
) -> None:
    condition, matching, different = FIELDS[field]
    meant = await stored(durable, [made(fields) for fields in matching])
    spared = await stored(durable, [made(fields) for fields in different])

    listed = await durable.list_where(condition, limit=100)
    counted = await durable.count_where(condition, at=NOON + SECOND)
    tombstones = await ended(durable, condition)

    assert {record.session.id for record in listed} == {session.id for session in meant}
    assert counted == len(meant)
    assert {tombstone.id for tombstone in tombstones} == {session.id for session in meant}
    assert [await durable.find(session.digest) for session in spared] == spared


async def test_all_but_one_are_meant(durable: DurableStore) -> None:
    kept, *others = await stored(durable, [a_record() for _ in range(3)])
    tombstones = await ended(durable, Condition("ada", except_id=kept.id))
    assert {tombstone.id for tombstone in tombstones} == {session.id for session in others}


# --- In batches


async def test_a_batch_ends_the_lowest_ids_and_the_next_one_goes_on(durable: DurableStore) -> None:
    sessions = await stored(durable, [a_record() for _ in range(5)])
    ids = sorted(session.id for session in sessions)

    first = await ended(durable, Condition("ada"), limit=2)
    second = await ended(durable, Condition("ada"), limit=2, after=first[-1].id)
    third = await ended(durable, Condition("ada"), limit=2, after=second[-1].id)

    assert [tombstone.id for tombstone in (*first, *second, *third)] == ids
    assert [len(first), len(second), len(third)] == [2, 2, 1]


async def test_rows_that_cannot_be_read_are_ended_too_and_end_no_batch_early(
    durable: DurableStore, database: Database
) -> None:
    ids = sorted(s.id for s in await stored(durable, [a_record() for _ in range(6)]))
    for broken in ids[1:4]:
        await database.execute(f"UPDATE sessions SET type = 'q' WHERE id = '{broken}'")

    first = await ended(durable, Condition("ada"), limit=2)
    second = await ended(durable, Condition("ada"), limit=2, after=first[-1].id)

    assert [s.id for s in (*first, *second)] == [ids[0], ids[4], ids[5]]
    assert await durable.count_where(Condition("ada"), at=NOON + SECOND) == 0


async def test_whoever_goes_on_passes_over_what_is_behind(durable: DurableStore) -> None:
    first, second = sorted(
        await stored(durable, [a_record(), a_record()]), key=lambda session: session.id
    )
    assert [s.id for s in await ended(durable, Condition("ada"), after=first.id)] == [second.id]


async def test_a_place_that_is_no_id_ends_nothing(durable: DurableStore) -> None:
    [session] = await stored(durable, [a_record()])
    with pytest.raises(ValueError, match="canonical"):
        await ended(durable, Condition("ada"), after=SessionId("nonsense"))
    assert await durable.find(session.digest) == session


# --- In a state


def one_in_each_state() -> dict[SessionState, Session]:
    """Return sessions that are in each state a second after noon, by an inch."""
    return {
        SessionState.ACTIVE: a_session(
            idle_timeout=SECOND * 1.000001, expires_at=NOON + SECOND * 1.000001
        ),
        SessionState.IDLE: a_session(idle_timeout=SECOND),
        SessionState.EXPIRED: a_session(expires_at=NOON + SECOND, idle_timeout=SECOND),
        SessionState.REVOKED: a_tombstone(expires_at=NOON + SECOND),
    }


@pytest.mark.parametrize("wanted", SessionState)
async def test_a_list_holds_those_in_a_state_and_judge_agrees(
    durable: DurableStore, wanted: SessionState
) -> None:
    sessions = one_in_each_state()
    forever = a_session(idle_timeout=None)
    await stored(durable, [SessionRecord(s) for s in (*sessions.values(), forever)])

    listed = await durable.list_where(Condition("ada"), limit=10, state=(wanted, NOON + SECOND))

    expected = {sessions[wanted].id} | ({forever.id} if wanted is SessionState.ACTIVE else set())
    assert {record.session.id for record in listed} == expected
    assert {state(record.session, NOON + SECOND) for record in listed} == {wanted}


async def test_what_cannot_be_ended_is_not_counted(durable: DurableStore) -> None:
    await stored(durable, [SessionRecord(s) for s in one_in_each_state().values()])
    assert await durable.count_where(Condition("ada"), at=NOON + SECOND) == 2  # idle ones can
    assert len(await ended(durable, Condition("ada"))) == 2


async def test_pages_of_a_condition_follow_each_other_without_gaps(durable: DurableStore) -> None:
    records = [
        a_record(a_session(at=NOON + n * SECOND), provider="idp", provider_subject="s")
        for n in (0, 0, 0, 1, 1, 2, 3)
    ]
    await stored(durable, [*records, a_record(), a_record(provider="idp")])
    condition, pages, after = Condition(provider="idp", provider_subject="s"), [], None
    while page := await durable.list_where(condition, limit=3, after=after):
        pages.append(page)
        after = Cursor(page[-1].session.created_at, page[-1].session.id)

    assert [len(page) for page in pages] == [3, 3, 1]
    listed = [record for page in pages for record in page]
    assert listed == sorted(
        records, key=lambda r: (r.session.created_at, r.session.id), reverse=True
    )


# --- One more of its type


async def test_one_that_joins_a_type_at_its_limit_ends_another(durable: DurableStore) -> None:
    joining, oldest, newer = await stored(
        durable,
        [
            a_record(a_session(at=NOON - SECOND)),
            a_record(a_session(type=SessionType.SSO)),
            a_record(a_session(type=SessionType.SSO, at=NOON + SECOND / 2)),
        ],
    )
    after = SessionRecord(replace(joining, type=SessionType.SSO, version=2))

    evicted = await durable.replace_within(after, expected=1, limit=Limit(2), at=NOON + SECOND)

    assert evicted == [oldest.revoked(NOON + SECOND)]
    assert await durable.find(joining.digest) == after.session
    assert await durable.find(newer.digest) == newer
