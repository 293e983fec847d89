"""To create a session: whom it ends is told everybody, and a key begins one session only."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from uuid_utils import uuid7

from sidegate.core.errors import LimitReached
from sidegate.core.idempotency import Idempotency
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import NewSession, Sessions
from tests.contracts.values import TESTER
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf

OLD, NEW = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))
ADA = NewSession("ada", TESTER)
KEY = Idempotency.of(api_key="sgk_secret", key="login-1", body=b"{}")


@dataclass
class Scene:
    """A durable store, a hot one, and what was announced and counted."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    near: Shelf = field(default_factory=Shelf)
    announced: list[Session] = field(default_factory=list)
    counted: list[tuple[str, SessionId]] = field(default_factory=list)

    def sessions(self, *keys: TokenKey, limit: Limit | None = None) -> Sessions:
        return Sessions(
            SessionContext(
                self.durable,
                caches=[self.near],
                feed=self,
                ring=KeyRing(keys or [OLD]),
                lifetimes=DEFAULT_LIFETIMES,
                clock=self.clock,
                events=self,
                limits={} if limit is None else {SessionType.WEB: limit},
            ),
            new_id=lambda: SessionId(str(uuid7())),
        )

    async def publish(self, sessions: Iterable[Session]) -> None:
        self.announced.extend(sessions)

    def created(self, session: Session) -> None:
        self.counted.append(("created", session.id))

    def ended(self, session: Session, cause: str) -> None:
        self.counted.append((cause, session.id))


@pytest.fixture
def scene(durable: DurableStore) -> Scene:
    return Scene(durable)


async def test_everybody_is_told_of_one_that_had_to_go(scene: Scene) -> None:
    sessions = scene.sessions(limit=Limit(1))
    old = (await sessions.create(ADA)).record.session
    now = scene.clock.advance(1)
    new = (await sessions.create(ADA)).record.session
    tombstone = old.revoked(now)
    assert scene.announced == [tombstone]
    assert scene.near.sessions == {old.digest: tombstone, new.digest: new}
    assert scene.counted == [("created", old.id), ("created", new.id), ("limit", old.id)]


async def test_a_refused_login_is_neither_counted_nor_kept(scene: Scene) -> None:
    sessions = scene.sessions(limit=Limit(1, AtLimit.REFUSE))
    old = (await sessions.create(ADA)).record.session
    with pytest.raises(LimitReached):
        await sessions.create(ADA, key=KEY)
    assert scene.counted == [("created", old.id)]
    assert list(scene.near.sessions) == [old.digest]


async def test_what_a_key_began_is_counted_once(scene: Scene) -> None:
    first = await scene.sessions(limit=Limit(1)).create(ADA, key=KEY)
    scene.clock.advance(1)
    again = await scene.sessions(limit=Limit(1)).create(ADA, key=KEY)
    assert again == first
    assert scene.counted == [("created", first.record.session.id)]


async def test_a_new_token_key_does_not_change_what_a_key_began(scene: Scene) -> None:
    first = await scene.sessions(OLD).create(ADA, key=KEY)
    assert await scene.sessions(NEW, OLD).create(ADA, key=KEY) == first
