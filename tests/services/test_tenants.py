"""The tenants of sessions, as the gate remembers them."""

import asyncio
from collections.abc import Awaitable, Callable

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.verdict import Unavailable
from sidegate.services.tenants import Tenants
from tests.contracts.values import build_session

ALICE, BOB, CAROL = (build_session(user_id=name) for name in ("alice", "bob", "carol"))


class FakeRecords:
    """The records of sessions with these tenants."""

    def __init__(self, *records: tuple[Session, str | None]) -> None:
        self.records = {
            session.id: SessionRecord(session, SessionDetails(tenant=tenant))
            for session, tenant in records
        }
        self.reads: list[SessionId] = []
        self.error: Exception | None = None

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        self.reads.append(session_id)
        if self.error is not None:
            raise self.error
        return self.records.get(session_id)


def build(get: Callable[[SessionId], Awaitable[SessionRecord | None]], size: int = 9) -> Tenants:
    return Tenants(get, timeout=5.0, max_sessions=size)


async def test_tenant_is_read_once() -> None:
    records = FakeRecords((ALICE, "acme"), (BOB, None))
    tenants = build(records.get)
    assert not tenants.knows(ALICE)

    for session in (ALICE, BOB) * 2:
        assert await tenants.load(session, spent=0.0) is None
        assert tenants.knows(session)

    assert [tenants.get_known(ALICE), tenants.get_known(BOB)] == ["acme", None]
    assert records.reads == [ALICE.id, BOB.id]


async def test_outage_is_not_remembered() -> None:
    records = FakeRecords((ALICE, "acme"))
    tenants = build(records.get)
    for error, store in (
        (StoreUnavailable("postgres", "down"), "postgres"),
        (UnreadableRecord("unreadable"), "unreadable"),
    ):
        records.error = error
        assert await tenants.load(ALICE, spent=0.0) == Unavailable(store)
        assert not tenants.knows(ALICE)

    records.error = None
    assert await tenants.load(ALICE, spent=0.0) is None
    assert tenants.get_known(ALICE) == "acme"


async def test_session_that_the_database_does_not_have_is_of_no_tenant() -> None:
    tenants = build(FakeRecords().get)

    assert await tenants.load(ALICE, spent=0.0) is None
    assert not tenants.knows(ALICE)
    assert tenants.get_known(ALICE) is None


async def test_lookup_without_an_answer_in_time_is_unavailable() -> None:
    async def never(_: SessionId) -> SessionRecord | None:
        await asyncio.Event().wait()
        raise AssertionError

    assert await build(never).load(ALICE, spent=5.0) == Unavailable("deadline")


async def test_number_of_remembered_sessions_is_bounded() -> None:
    tenants = build(FakeRecords((ALICE, "a"), (BOB, "b"), (CAROL, "c")).get, size=2)

    for session in (ALICE, BOB, CAROL):
        await tenants.load(session, spent=0.0)

    assert [tenants.knows(session) for session in (ALICE, BOB, CAROL)] == [False, True, True]
