"""Back-channel logout: which sessions are revoked, all, and once per token."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from sidegate.core.actor import Actor, Change
from sidegate.core.audit import AuditFilter
from sidegate.core.errors import ReplayedLogout, StoreUnavailable
from sidegate.core.logout import Logout
from sidegate.core.protocols import DurableStore, LogoutTokenStore
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.rules import Rules
from sidegate.services.sessions import NewSession, Sessions
from tests.contracts.values import TESTER, build_record, build_session
from tests.support.clock import NOON, FakeClock
from tests.support.databases import Database, PostgresDatabase, SqliteDatabase
from tests.support.operations import build_operations
from tests.web.admin.admin_listener import NullEvents

PROVIDER = Actor("provider:idp", "192.0.2.80")


class FailingStore:
    """Wraps a store; one of its methods raises StoreUnavailable from its nth call on."""

    def __init__(self, store: object) -> None:
        self._store = store
        self._method = ""
        self._calls_left = 0

    def fail(self, method: str, *, after: int) -> None:
        assert hasattr(self._store, method)
        self._method, self._calls_left = method, after

    def recover(self) -> None:
        self._method = ""

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == self._method:
                self._calls_left -= 1
                if self._calls_left < 0:
                    raise StoreUnavailable("failing", "unavailable in this test")
            return await getattr(self._store, name)(*args, **kwargs)

        return call


@dataclass
class Instance:
    """One of several instances on a database."""

    store: FailingStore
    tokens: FailingStore
    sessions: Sessions
    logouts: BackchannelLogout

    @classmethod
    def on(cls, durable: DurableStore, logout_tokens: LogoutTokenStore) -> "Instance":
        store, tokens = FailingStore(durable), FailingStore(logout_tokens)
        clock, rules = FakeClock(), Rules(ring=KeyRing([TokenKey(1, bytes(32))]))
        sessions = build_operations(
            cast("DurableStore", store), rules, clock=clock, events=NullEvents()
        ).sessions
        logouts = BackchannelLogout(cast("LogoutTokenStore", tokens), sessions, clock=clock)
        return cls(store, tokens, sessions, logouts)

    async def process(self, logout: Logout) -> int:
        return await self.logouts.process(logout, by=PROVIDER)

    async def create(self, **fields: Any) -> SessionId:
        new = replace(NewSession("ada", TESTER, SessionType.SSO, provider="idp"), **fields)
        return (await self.sessions.create(new)).record.session.id

    async def is_active(self, session_id: SessionId) -> bool:
        record = await self.sessions.get(session_id)
        assert record is not None
        return record.session.revoked_at is None


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "sidegate.db")
    return PostgresDatabase(request.getfixturevalue("database_url"))


@pytest.fixture
async def one(database: Database) -> AsyncIterator[Instance]:
    store = await database.open()
    async with database.logout_tokens() as tokens:
        yield Instance.on(store, tokens)
    await store.close()


@pytest.fixture
async def other(database: Database, one: Instance) -> AsyncIterator[Instance]:
    del one  # it opens the database first
    store = await database.open()
    async with database.logout_tokens() as tokens:
        yield Instance.on(store, tokens)
    await store.close()


def build_logout(session_id: str | None = None, subject: str | None = None) -> Logout:
    until = NOON + timedelta(minutes=10)
    return Logout("idp", secrets.token_bytes(32), until, session_id, subject)


# For each logout: sessions that match it, and similar ones that do not.
LOGOUTS: dict[str, tuple[Logout, list[dict[str, str]], list[dict[str, str]]]] = {
    "session": (
        build_logout("s1"),
        [
            {"provider_session_id": "s1"},
            {"provider_session_id": "s1", "provider_subject": "u1"},
            {"provider_session_id": "s1", "provider_subject": "u2", "user_id": "bob"},
        ],
        [
            {"provider_session_id": "S1"},
            {"provider_session_id": "s1", "provider": "other"},
            {"provider_subject": "s1"},
            {},
        ],
    ),
    "user": (
        build_logout(subject="u1"),
        [
            {"provider_subject": "u1"},
            {"provider_subject": "u1", "provider_session_id": "s1", "user_id": "bob"},
        ],
        [
            {"provider_subject": "u11"},
            {"provider_subject": "u1", "provider": "other"},
            {"provider_session_id": "u1"},
            {"user_id": "u1"},
        ],
    ),
    "session of a user": (
        build_logout("s1", "u1"),
        [
            {"provider_session_id": "s1", "provider_subject": "u1"},
            {"provider_session_id": "s1"},
        ],
        [
            {"provider_session_id": "s1", "provider_subject": "u2"},
            {"provider_session_id": "s2", "provider_subject": "u1"},
            {"provider_subject": "u1"},
            {"provider_session_id": "s1", "provider_subject": "u1", "provider": "other"},
        ],
    ),
}


@pytest.mark.parametrize("name", LOGOUTS)
async def test_matching_sessions_are_revoked_and_others_are_not(one: Instance, name: str) -> None:
    logout, matching, similar = LOGOUTS[name]
    matched = [await one.create(**each) for each in matching]
    unmatched = [await one.create(**each) for each in similar]

    ended = await one.process(logout)

    assert ended == len(matching)
    assert [await one.is_active(each) for each in matched] == [False] * len(matching)
    assert [await one.is_active(each) for each in unmatched] == [True] * len(similar)


async def test_actor_source_and_reason_are_recorded(one: Instance, database: Database) -> None:
    session_id = await one.create(provider_session_id="s1")

    await one.process(build_logout("s1"))

    record = await one.sessions.get(session_id)
    assert record is not None
    assert (record.details.revoked_by, record.details.revoked_reason) == ("provider:idp", "logout")
    assert record.details.change == Change(NOON, PROVIDER)
    async with database.audit_log() as trail:
        event = (await trail.list_events(AuditFilter(session_id=session_id), limit=1))[0]
    assert (event.by, event.reason) == (PROVIDER, "logout")


async def test_logout_without_a_matching_session_succeeds(one: Instance) -> None:
    assert await one.process(build_logout("s1")) == 0


async def test_repeated_logout_is_a_replay_on_every_instance(
    one: Instance, other: Instance
) -> None:
    logout = build_logout(subject="u1")
    await one.create(provider_subject="u1")
    assert await one.process(logout) == 1
    newer = await one.create(provider_subject="u1")

    for instance in (one, other):
        with pytest.raises(ReplayedLogout):
            await instance.process(logout)

    assert await other.is_active(newer)


async def test_concurrent_duplicates_are_processed_once(one: Instance, other: Instance) -> None:
    logout = build_logout("s1")
    matched = await one.create(provider_session_id="s1")

    results = await asyncio.gather(
        *(instance.process(logout) for instance in [one, other] * 4), return_exceptions=True
    )

    assert len([each for each in results if isinstance(each, int)]) == 1
    assert len([each for each in results if isinstance(each, ReplayedLogout)]) == 7
    assert not await one.is_active(matched)


async def test_more_than_one_batch_is_revoked(one: Instance) -> None:
    await _create_many(one, 501)

    assert await one.process(build_logout(subject="u1")) == 501


async def test_interrupted_logout_is_completed_by_a_retry(one: Instance, other: Instance) -> None:
    await _create_many(one, 501)
    logout = build_logout(subject="u1")
    one.store.fail("revoke_where", after=1)

    with pytest.raises(StoreUnavailable):
        await one.process(logout)

    assert await other.process(logout) == 1


async def test_logout_that_could_not_be_recorded_can_be_retried(one: Instance) -> None:
    matched = await one.create(provider_session_id="s1")
    logout = build_logout("s1")
    one.tokens.fail("mark_processed", after=0)

    with pytest.raises(StoreUnavailable):
        await one.process(logout)
    one.tokens.recover()

    assert not await one.is_active(matched)
    assert await one.process(logout) == 0
    with pytest.raises(ReplayedLogout):
        await one.process(logout)


async def test_unavailable_token_store_revokes_nothing(one: Instance) -> None:
    unmatched = await one.create(provider_session_id="s1")
    one.tokens.fail("is_processed", after=0)

    with pytest.raises(StoreUnavailable):
        await one.process(build_logout("s1"))

    assert await one.is_active(unmatched)


async def _create_many(one: Instance, number: int) -> None:
    """Store so many sessions of the provider's user u1."""
    records = [
        build_record(build_session(type=SessionType.SSO), provider="idp", provider_subject="u1")
        for _ in range(number)
    ]
    for start in range(0, number, 50):
        await asyncio.gather(*(one.store.create(each) for each in records[start : start + 50]))
