"""Back-channel logout as a verb: who ends, that all do, and once for each logout token."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from uuid_utils import uuid7

from sidegate.core.actor import Actor, Change
from sidegate.core.audit import AuditFilter
from sidegate.core.errors import ReplayedLogout, StoreUnavailable
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.logout import Logout
from sidegate.core.protocols import DurableStore, LogoutTokenStore
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import NewSession, Sessions
from tests.contracts.values import TESTER, a_record, a_session
from tests.support.clock import NOON, FakeClock
from tests.support.databases import Database, PostgresDatabase, SqliteDatabase
from tests.web.admin.admin_listener import Silence

PROVIDER = Actor("provider:idp", "192.0.2.80")


class Failing:
    """Stands before a store or a memory; one of its verbs fails from its nth call on."""

    def __init__(self, behind: object) -> None:
        self._behind = behind
        self._verb = ""
        self._calls = 0

    def fails(self, verb: str, *, after: int) -> None:
        self._verb, self._calls = verb, after

    def heals(self) -> None:
        self._verb = ""

    def __getattr__(self, name: str) -> Any:
        async def asked(*args: Any, **named: Any) -> Any:
            if name == self._verb:
                self._calls -= 1
                if self._calls < 0:
                    raise StoreUnavailable("failing", "told to fail")
            return await getattr(self._behind, name)(*args, **named)

        return asked


@dataclass
class Instance:
    """One instance of several on a database."""

    store: Failing
    memory: Failing
    sessions: Sessions
    logouts: BackchannelLogout

    @classmethod
    def on(cls, durable: DurableStore, logout_memory: LogoutTokenStore) -> "Instance":
        store, memory, clock = Failing(durable), Failing(logout_memory), FakeClock()
        silence = Silence()
        ring = KeyRing([TokenKey(1, bytes(32))])
        means = SessionContext(
            cast("DurableStore", store), [], silence, ring, DEFAULT_LIFETIMES, clock, silence
        )
        sessions = Sessions(means, new_id=lambda: SessionId(str(uuid7())))
        logouts = BackchannelLogout(cast("LogoutTokenStore", memory), sessions, clock=clock)
        return cls(store, memory, sessions, logouts)

    async def obey(self, logout: Logout) -> int:
        return await self.logouts.process(logout, by=PROVIDER)

    async def begin(self, **fields: Any) -> SessionId:
        wanted = NewSession("ada", TESTER, SessionType.SSO, provider="idp")
        wanted = replace(wanted, **fields)
        return (await self.sessions.create(wanted)).record.session.id

    async def lives(self, session_id: SessionId) -> bool:
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
async def here(database: Database) -> AsyncIterator[Instance]:
    store = await database.open()
    async with database.logout_memory() as memory:
        yield Instance.on(store, memory)
    await store.close()


@pytest.fixture
async def there(database: Database, here: Instance) -> AsyncIterator[Instance]:
    del here  # it is to be there first
    store = await database.open()
    async with database.logout_memory() as memory:
        yield Instance.on(store, memory)
    await store.close()


def a_logout(session_id: str | None = None, subject: str | None = None) -> Logout:
    until = NOON + timedelta(minutes=10)
    return Logout("idp", secrets.token_bytes(32), until, session_id, subject)


# Of each logout: the sessions that end, and those that look as if they might.
WHOSE: dict[str, tuple[Logout, list[dict[str, str]], list[dict[str, str]]]] = {
    "a session": (
        a_logout("s1"),
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
    "a user": (
        a_logout(subject="u1"),
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
    "a session of a user": (
        a_logout("s1", "u1"),
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


@pytest.mark.parametrize("name", WHOSE)
async def test_those_who_are_meant_end_and_nobody_else(here: Instance, name: str) -> None:
    logout, meant, others = WHOSE[name]
    doomed = [await here.begin(**each) for each in meant]
    spared = [await here.begin(**each) for each in others]

    ended = await here.obey(logout)

    assert ended == len(meant)
    assert [await here.lives(each) for each in doomed] == [False] * len(meant)
    assert [await here.lives(each) for each in spared] == [True] * len(others)


async def test_who_did_it_from_where_and_why_is_kept(here: Instance, database: Database) -> None:
    session_id = await here.begin(provider_session_id="s1")

    await here.obey(a_logout("s1"))

    record = await here.sessions.get(session_id)
    assert record is not None
    assert (record.details.revoked_by, record.details.revoked_reason) == ("provider:idp", "logout")
    assert record.details.change == Change(NOON, PROVIDER)
    async with database.audit_log() as trail:
        event = (await trail.events(AuditFilter(session_id=session_id), limit=1))[0]
    assert (event.by, event.reason) == (PROVIDER, "logout")


async def test_that_there_was_no_such_session_is_no_mistake(here: Instance) -> None:
    assert await here.obey(a_logout("s1")) == 0


async def test_a_logout_is_obeyed_once_and_by_no_other_instance_again(
    here: Instance, there: Instance
) -> None:
    logout = a_logout(subject="u1")
    await here.begin(provider_subject="u1")
    assert await here.obey(logout) == 1
    since = await here.begin(provider_subject="u1")

    for instance in (here, there):
        with pytest.raises(ReplayedLogout):
            await instance.obey(logout)

    assert await there.lives(since)


async def test_of_one_that_is_sent_everywhere_at_once_one_alone_is_obeyed(
    here: Instance, there: Instance
) -> None:
    logout = a_logout("s1")
    doomed = await here.begin(provider_session_id="s1")

    told = await asyncio.gather(
        *(instance.obey(logout) for instance in [here, there] * 4), return_exceptions=True
    )

    assert len([each for each in told if isinstance(each, int)]) == 1
    assert len([each for each in told if isinstance(each, ReplayedLogout)]) == 7
    assert not await here.lives(doomed)


async def test_more_than_a_batch_ends_whole(here: Instance) -> None:
    await _many(here, 501)

    assert await here.obey(a_logout(subject="u1")) == 501


async def test_what_was_interrupted_is_finished_when_it_is_sent_again(
    here: Instance, there: Instance
) -> None:
    await _many(here, 501)
    logout = a_logout(subject="u1")
    here.store.fails("revoke_where", after=1)

    with pytest.raises(StoreUnavailable):
        await here.obey(logout)

    assert await there.obey(logout) == 1


async def test_a_memory_that_fails_at_the_end_lets_the_provider_come_again(here: Instance) -> None:
    doomed = await here.begin(provider_session_id="s1")
    logout = a_logout("s1")
    here.memory.fails("remember", after=0)

    with pytest.raises(StoreUnavailable):
        await here.obey(logout)
    here.memory.heals()

    assert not await here.lives(doomed)
    assert await here.obey(logout) == 0
    with pytest.raises(ReplayedLogout):
        await here.obey(logout)


async def test_a_memory_that_cannot_be_asked_ends_nobody(here: Instance) -> None:
    spared = await here.begin(provider_session_id="s1")
    here.memory.fails("obeyed", after=0)

    with pytest.raises(StoreUnavailable):
        await here.obey(a_logout("s1"))

    assert await here.lives(spared)


async def _many(here: Instance, number: int) -> None:
    """Store so many sessions of the provider's user u1."""
    records = [
        a_record(a_session(type=SessionType.SSO), provider="idp", provider_subject="u1")
        for _ in range(number)
    ]
    for start in range(0, number, 50):
        await asyncio.gather(*(here.store.create(each) for each in records[start : start + 50]))
