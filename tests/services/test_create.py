"""Creating sessions: evictions are published, a key creates one session."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from sidegate.core.errors import LimitReached
from sidegate.core.idempotency import Idempotency
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.rules import Rules
from sidegate.services.sessions import NewSession, Sessions
from tests.contracts.values import TESTER
from tests.support.clock import FakeClock
from tests.support.fakes import FakeMemory
from tests.support.operations import build_operations

OLD, NEW = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))
ADA = NewSession("ada", TESTER)
KEY = Idempotency.from_request(api_key="sgk_secret", key="login-1", body=b"{}")


@dataclass
class Deployment:
    """A durable store and a cache, and what was published and counted."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    memory: FakeMemory = field(default_factory=FakeMemory)
    published: list[Session] = field(default_factory=list)
    counted: list[tuple[str, SessionId]] = field(default_factory=list)

    def sessions(self, *keys: TokenKey, limit: Limit | None = None) -> Sessions:
        limits = {} if limit is None else {SessionType.WEB: limit}
        return build_operations(
            self.durable,
            Rules(ring=KeyRing(keys or [OLD]), limits=limits),
            clock=self.clock,
            events=self,
            memory=self.memory,
            feed=self,
        ).sessions

    async def publish(self, sessions: Iterable[Session]) -> None:
        self.published.extend(sessions)

    def created(self, session: Session) -> None:
        self.counted.append(("created", session.id))

    def ended(self, session: Session, cause: str) -> None:
        self.counted.append((cause, session.id))


@pytest.fixture
def deployment(durable: DurableStore) -> Deployment:
    return Deployment(durable)


async def test_evicted_session_is_published_and_counted(deployment: Deployment) -> None:
    sessions = deployment.sessions(limit=Limit(1))
    old = (await sessions.create(ADA)).record.session
    now = deployment.clock.advance(1)
    new = (await sessions.create(ADA)).record.session
    tombstone = old.revoked(now)
    assert deployment.published == [tombstone]
    assert deployment.memory.sessions == {old.digest: tombstone, new.digest: new}
    assert deployment.counted == [("created", old.id), ("created", new.id), ("limit", old.id)]


async def test_refused_login_is_neither_counted_nor_cached(deployment: Deployment) -> None:
    sessions = deployment.sessions(limit=Limit(1, AtLimit.REFUSE))
    old = (await sessions.create(ADA)).record.session
    with pytest.raises(LimitReached):
        await sessions.create(ADA, key=KEY)
    assert deployment.counted == [("created", old.id)]
    assert list(deployment.memory.sessions) == [old.digest]


async def test_repeated_idempotency_key_is_counted_once(deployment: Deployment) -> None:
    first = await deployment.sessions(limit=Limit(1)).create(ADA, key=KEY)
    deployment.clock.advance(1)
    again = await deployment.sessions(limit=Limit(1)).create(ADA, key=KEY)
    assert again == first
    assert deployment.counted == [("created", first.record.session.id)]


async def test_repeated_idempotency_key_survives_a_token_key_rotation(
    deployment: Deployment,
) -> None:
    first = await deployment.sessions(OLD).create(ADA, key=KEY)
    assert await deployment.sessions(NEW, OLD).create(ADA, key=KEY) == first
