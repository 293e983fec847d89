"""The limit of the identity: what is over it gets no token, and nothing is written."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from sidegate.core.errors import IdentityTooLarge
from sidegate.core.idempotency import Idempotency
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.limits import Limit
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Deny, Reason
from sidegate.services.rules import Rules
from sidegate.services.sessions import Issued, NewSession
from tests.contracts.values import TESTER
from tests.support.clock import FakeClock
from tests.support.operations import Operations, build_operations

ADA = NewSession("ada", TESTER, scopes=("read",))
KEY = Idempotency.from_request(api_key="sgk_secret", key="login-1", body=b"{}")
LIMITS = {SessionType.WEB: Limit(1), SessionType.SSO: Limit(1)}


def refuse(_: Session) -> None:
    raise IdentityTooLarge(2000, 1024)


@dataclass
class Deployment:
    """An instance, and what it published and counted."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    published: list[Session] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    operations: Operations = field(init=False)

    def __post_init__(self) -> None:
        self.operations = build_operations(
            self.durable,
            Rules(ring=KeyRing([TokenKey.generate()]), limits=LIMITS),
            clock=self.clock,
            events=self,
            feed=self,
            count_refresh=self.outcomes.append,
        )

    async def publish(self, sessions: Iterable[Session]) -> None:
        self.published.extend(sessions)

    def created(self, _: Session) -> None: ...

    def ended(self, _: Session, cause: str) -> None: ...

    def set_limit(self, *, refuses: bool) -> None:
        rules = self.operations.rules
        check = refuse if refuses else Rules(ring=rules.current.ring).check_identity
        rules.current = replace(rules.current, check_identity=check)

    async def stored(self, issued: Issued) -> SessionRecord | None:
        return await self.durable.get(issued.record.session.id)

    async def refresh(self, token: Token) -> Issued | Deny:
        return await self.operations.rotation.refresh(token.text, by=TESTER)


@pytest.fixture
def deployment(durable: DurableStore) -> Deployment:
    return Deployment(durable)


@pytest.mark.parametrize("key", [None, KEY])
async def test_refused_creation_evicts_none_and_keeps_its_idempotency_key(
    deployment: Deployment, key: Idempotency | None
) -> None:
    sessions = deployment.operations.sessions
    first = await sessions.create(ADA)
    deployment.published.clear()
    deployment.set_limit(refuses=True)

    with pytest.raises(IdentityTooLarge):
        await sessions.create(ADA, key=key)

    assert await deployment.stored(first) == first.record
    assert deployment.published == []
    deployment.set_limit(refuses=False)
    assert (await sessions.create(ADA, key=key)).record.session.id != first.record.session.id


async def test_repeated_creation_returns_what_is_stored_under_a_lowered_limit(
    deployment: Deployment,
) -> None:
    created = await deployment.operations.sessions.create(ADA, key=KEY)
    deployment.set_limit(refuses=True)

    assert await deployment.operations.sessions.create(ADA, key=KEY) == created


async def test_refused_refresh_changes_nothing_and_succeeds_later(deployment: Deployment) -> None:
    created = await deployment.operations.sessions.create(ADA)
    deployment.published.clear()
    deployment.set_limit(refuses=True)

    for _ in range(2):
        with pytest.raises(IdentityTooLarge):
            await deployment.refresh(created.token)

    assert await deployment.stored(created) == created.record
    assert deployment.published == []
    deployment.set_limit(refuses=False)
    assert isinstance(await deployment.refresh(created.token), Issued)
    assert deployment.outcomes == ["refused", "refused", "rotated"]


async def test_repeated_refresh_returns_what_is_stored_under_a_lowered_limit(
    deployment: Deployment,
) -> None:
    created = await deployment.operations.sessions.create(ADA)
    refreshed = await deployment.refresh(created.token)
    deployment.set_limit(refuses=True)

    assert await deployment.refresh(created.token) == refreshed


async def test_reused_token_revokes_though_the_identity_is_too_large(
    deployment: Deployment,
) -> None:
    created = await deployment.operations.sessions.create(ADA)
    refreshed = await deployment.refresh(created.token)
    assert isinstance(refreshed, Issued)
    assert isinstance(await deployment.refresh(refreshed.token), Issued)
    deployment.clock.advance(DEFAULT_LIFETIMES[SessionType.WEB].grace)
    deployment.set_limit(refuses=True)

    assert await deployment.refresh(created.token) == Deny(Reason.REUSED)
    record = await deployment.stored(created)
    assert record is not None
    assert record.session.revoked_at is not None


async def test_ended_session_is_refused_for_that_first(deployment: Deployment) -> None:
    created = await deployment.operations.sessions.create(ADA)
    await deployment.operations.sessions.revoke(created.record.session.id, by=TESTER, reason="x")
    deployment.set_limit(refuses=True)

    assert await deployment.refresh(created.token) == Deny(Reason.REVOKED)


async def test_refused_migration_changes_nothing_and_succeeds_later(
    deployment: Deployment,
) -> None:
    operations = deployment.operations
    sso = await operations.sessions.create(replace(ADA, type=SessionType.SSO))
    created = await operations.sessions.create(ADA)
    session_id = created.record.session.id
    deployment.published.clear()
    deployment.set_limit(refuses=True)

    with pytest.raises(IdentityTooLarge):
        await operations.rotation.migrate(session_id, by=TESTER, provider="idp")

    assert [await deployment.stored(each) for each in (created, sso)] == [
        created.record,
        sso.record,
    ]
    assert deployment.published == []
    deployment.set_limit(refuses=False)
    assert await operations.rotation.migrate(session_id, by=TESTER, provider="idp") is not None
