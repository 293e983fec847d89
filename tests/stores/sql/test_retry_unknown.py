"""A link that is cut under a change: it is made once, and what came of it is known."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from sidegate.core.actor import Change
from sidegate.core.condition import Condition
from sidegate.core.errors import OutcomeUnknown, StoreUnavailable
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session import SessionId, SessionRecord
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, a_digest, a_record
from tests.stores.sql.wire import Link, Wire
from tests.support.clock import NOON
from tests.support.processes import Server

# What Postgres says when a statement is done. It says so after the commit.
DONE = re.compile(rb"C\x00\x00\x00.(INSERT|UPDATE|SELECT) ", re.DOTALL)


@pytest.fixture
async def wire(postgres_server: Server) -> AsyncIterator[Wire]:
    async with Wire(postgres_server.port) as wire:
        yield wire


@pytest.fixture
async def store(wire: Wire, database_url: str) -> AsyncIterator[PostgresSessions]:
    """A store at the end of the wire, which has been asked before."""
    await migrate_postgres(database_url)
    name = database_url.rpartition("/")[2]
    store = await PostgresSessions.open(f"postgresql://postgres@127.0.0.1:{wire.port}/{name}")
    await store.ping()
    yield store
    await store.close()


Cut = Callable[[Wire], None]


def cut_before(wire: Wire) -> None:
    """Lose the next question on its way."""

    def lose(link: Link, _: bytes) -> bytes:
        wire.questions = lambda _, chunk: chunk
        link.cut()
        return b""

    wire.questions = lose


def cut_after(wire: Wire, *, for_good: bool = False) -> None:
    """Lose the answer to the next change, after it was committed."""

    def lose(link: Link, chunk: bytes) -> bytes:
        if not DONE.search(chunk):
            return chunk
        wire.answers = lambda _, chunk: chunk
        wire.refusing = for_good
        link.cut()
        return b""

    wire.answers = lose


async def events(url: str, session_id: SessionId, action: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        counted = "SELECT count(*) FROM audit_events WHERE session_id = $1 AND action = $2"
        return int(await connection.fetchval(counted, session_id, action))
    finally:
        await connection.close()


def rotated(record: SessionRecord) -> SessionRecord:
    session = record.session.rotated(a_digest(), timedelta(seconds=10), NOON)
    return SessionRecord(session, replace(record.details, change=Change(NOON, TESTER)))


cuts = pytest.mark.parametrize("cut", [cut_before, cut_after])


@cuts
@pytest.mark.parametrize("limit", [None, Limit(1), Limit(1, AtLimit.REFUSE)])
async def test_a_session_is_created_once(
    store: PostgresSessions, wire: Wire, database_url: str, cut: Cut, limit: Limit | None
) -> None:
    record = a_record()
    cut(wire)
    assert await store.create(record, limit=limit) == []
    assert await store.get(record.session.id) == record
    assert await events(database_url, record.session.id, "create") == 1


@cuts
async def test_whoever_has_to_go_for_it_goes_once_and_nobody_else(
    store: PostgresSessions, wire: Wire, database_url: str, cut: Cut
) -> None:
    oldest, older = (a_record(), a_record())
    for each in (oldest, older):
        await store.create(each)
    record = a_record()
    cut(wire)
    await store.create(record, limit=Limit(2))
    assert await events(database_url, oldest.session.id, "revoke") == 1
    assert await events(database_url, older.session.id, "revoke") == 0


@cuts
async def test_a_session_is_replaced_once(
    store: PostgresSessions, wire: Wire, database_url: str, cut: Cut
) -> None:
    record = a_record()
    await store.create(record)
    after = rotated(record)
    cut(wire)
    assert await store.replace(after, expected=1)
    assert await store.get(record.session.id) == after
    assert await events(database_url, record.session.id, "refresh") == 1


@cuts
async def test_a_session_joins_the_living_of_its_type_once(
    store: PostgresSessions, wire: Wire, database_url: str, cut: Cut
) -> None:
    record = a_record()
    await store.create(record)
    session = record.session.migrated(a_digest(), NOON)
    after = SessionRecord(session, replace(record.details, change=Change(NOON, TESTER)))
    cut(wire)
    assert await store.replace_within(after, expected=1, limit=Limit(1), at=NOON) == []
    assert await events(database_url, record.session.id, "migrate") == 1


@cuts
async def test_a_session_is_revoked_once(
    store: PostgresSessions, wire: Wire, database_url: str, cut: Cut
) -> None:
    record = a_record()
    await store.create(record)
    cut(wire)
    condition = Condition(session_id=record.session.id)
    await store.revoke_where(condition, at=NOON, by=TESTER, reason="test", limit=1)
    stored = await store.get(record.session.id)
    assert stored is not None
    assert (stored.session.revoked_at, stored.details.revoked_by) == (NOON, TESTER.name)
    assert await events(database_url, record.session.id, "revoke") == 1


async def test_what_somebody_else_changed_meanwhile_is_not_taken_for_ours(
    store: PostgresSessions, wire: Wire
) -> None:
    record = a_record()
    await store.create(record)
    assert await store.replace(rotated(record), expected=1)
    cut_after(wire)
    assert not await store.replace(rotated(record), expected=1)


async def test_a_change_that_is_still_under_way_is_waited_for(
    store: PostgresSessions, wire: Wire, database_url: str
) -> None:
    record = a_record()
    await store.create(record)
    after = rotated(record)
    locker = await asyncpg.connect(database_url)
    async with locker.transaction():
        await locker.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", record.session.id)
        replacing = asyncio.create_task(store.replace(after, expected=1))
        await waiting_for_a_lock(database_url, 1)
        wire.cut()  # the server does not notice: it waits, and then goes on
        await waiting_for_a_lock(database_url, 2)
    assert await replacing
    assert await events(database_url, record.session.id, "refresh") == 1
    await locker.close()


async def waiting_for_a_lock(url: str, many: int) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(10):
        while await connection.fetchval(waiting) < many:
            pass
    await connection.close()


Verb = Callable[[PostgresSessions, SessionRecord], Awaitable[object]]


@pytest.mark.parametrize(
    "verb",
    [
        lambda store, _: store.create(a_record()),
        lambda store, record: store.replace(rotated(record), expected=1),
        lambda store, record: store.revoke_where(
            Condition(session_id=record.session.id), at=NOON, by=TESTER, reason="test", limit=1
        ),
    ],
    ids=["create", "replace", "revoke"],
)
async def test_while_the_store_is_away_nobody_knows(
    store: PostgresSessions, wire: Wire, verb: Verb
) -> None:
    record = a_record()
    await store.create(record)
    cut_after(wire, for_good=True)
    with pytest.raises(OutcomeUnknown):
        await verb(store, record)


async def test_what_could_not_even_be_sent_is_known_not_to_have_been_made(
    store: PostgresSessions, wire: Wire
) -> None:
    wire.refusing = True
    wire.cut()
    with suppress(StoreUnavailable):
        await store.ping()  # the pool notices that its connection is gone
    with pytest.raises(StoreUnavailable) as outage:
        await store.create(a_record())
    assert not isinstance(outage.value, OutcomeUnknown)


async def test_a_question_has_no_outcome(store: PostgresSessions, wire: Wire) -> None:
    cut_after(wire, for_good=True)
    with pytest.raises(StoreUnavailable) as outage:
        await store.find(a_digest())
    assert not isinstance(outage.value, OutcomeUnknown)
