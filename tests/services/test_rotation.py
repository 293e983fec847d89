"""Rotation: concurrent refreshes share a successor, earlier tokens are refused."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidegate.core.actor import SIDEGATE, Change
from sidegate.core.errors import LimitReached, SessionEnded
from sidegate.core.judge import judge
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import DurableStore, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.rotation import Rotation
from sidegate.services.rules import Rules
from sidegate.services.sessions import Issued
from tests.contracts.values import TESTER, build_record, build_session
from tests.support.clock import FakeClock
from tests.support.fakes import FakeMemory
from tests.support.operations import Operations, build_operations

GRACE = DEFAULT_LIFETIMES[SessionType.WEB].grace
TICK = timedelta(microseconds=1)
KEYS = [TokenKey(2, bytes(range(32))), TokenKey(1, bytes(32))]


@dataclass
class Deployment:
    """Instances on one durable store, and what they published."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    memory: FakeMemory = field(default_factory=FakeMemory)
    published: list[Session] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    end_causes: list[str] = field(default_factory=list)
    ring: KeyRing = field(default_factory=lambda: KeyRing(KEYS))
    limits: dict[SessionType, Limit] = field(default_factory=dict)

    def instance(self, ring: KeyRing | None = None) -> Rotation:
        return self.operations(ring).rotation

    def operations(self, ring: KeyRing | None = None) -> Operations:
        return build_operations(
            self.durable,
            Rules(ring=ring or self.ring, limits=self.limits),
            clock=self.clock,
            events=self,
            memory=self.memory,
            feed=self,
            count_refresh=self.outcomes.append,
        )

    async def publish(self, sessions: Iterable[Session]) -> None:
        self.published.extend(sessions)

    def created(self, _: Session) -> None: ...

    def ended(self, _: Session, cause: str) -> None:
        self.end_causes.append(cause)

    async def create(self, **changes: Any) -> tuple[Token, Session]:
        token = self.ring.mint(SessionType.WEB)
        session = build_session(digest=token.digest(), **changes)
        await self.durable.create(build_record(session))
        return token, session

    async def stored(self, session_id: SessionId) -> SessionRecord:
        record = await self.durable.get(session_id)
        assert record is not None
        return record

    async def present(self, issued: Issued) -> None:
        """Record that the token was presented at the gate."""
        touch = Touch(issued.record.session.id, self.clock.now(), 1, issued.token.digest())
        assert await self.durable.touch([touch])

    async def verdict(self, token: Token) -> Allow | Deny:
        session = await self.durable.find(token.digest())
        return Deny(Reason.UNKNOWN) if session is None else judge(session, self.clock.now())


@pytest.fixture
def deployment(durable: DurableStore) -> Deployment:
    return Deployment(durable)


async def refresh(rotation: Rotation, token: Token, **how: Any) -> Issued:
    issued = await rotation.refresh(token.text, by=TESTER, **how)
    assert isinstance(issued, Issued)
    return issued


async def test_refresh_issues_another_token_for_the_same_session(deployment: Deployment) -> None:
    token, session = await deployment.create()
    issued = await refresh(deployment.instance(), token)
    assert issued.token != token
    assert issued.record.session.id == session.id
    assert issued.record.details.refresh_count == 1
    assert isinstance(await deployment.verdict(issued.token), Allow)


async def test_refresh_keeps_the_rules_of_its_start_through_a_reload(
    deployment: Deployment,
) -> None:
    class ReloadingClock(FakeClock):
        def now(self) -> datetime:
            operations.rules.current = Rules(ring=KeyRing([TokenKey(3, bytes(32))]))
            return super().now()

    rules = Rules(ring=deployment.ring)
    operations = build_operations(
        deployment.durable, rules, clock=ReloadingClock(), events=deployment
    )
    token, _ = await deployment.create()

    issued = await refresh(operations.rotation, token)

    assert operations.rules.current is not rules
    assert isinstance(deployment.ring.parse(issued.token.text), Token)


async def test_old_token_is_allowed_until_the_grace_ends(deployment: Deployment) -> None:
    token, _ = await deployment.create()
    await refresh(deployment.instance(), token)
    deployment.clock.advance(GRACE - TICK)
    assert isinstance(await deployment.verdict(token), Allow)
    deployment.clock.advance(TICK)
    assert await deployment.verdict(token) == Deny(Reason.REUSED)


async def test_thirty_concurrent_refreshes_on_two_instances_share_one_successor(
    deployment: Deployment,
) -> None:
    token, session = await deployment.create()
    instances = [deployment.instance(), deployment.instance()]
    results = await asyncio.gather(*(refresh(instances[n % 2], token) for n in range(30)))
    assert len({issued.token.text for issued in results}) == 1
    record = await deployment.stored(session.id)
    assert record.details.refresh_count == 1
    assert record.session.version == session.version + 1


async def test_retried_refresh_within_the_grace_returns_the_same_successor(
    deployment: Deployment,
) -> None:
    token, _ = await deployment.create()
    lost = await refresh(deployment.instance(), token)
    deployment.clock.advance(GRACE - TICK)
    assert (await refresh(deployment.instance(), token)).token == lost.token


async def test_instance_with_a_newer_key_returns_the_same_successor(deployment: Deployment) -> None:
    token, _ = await deployment.create()
    first = await refresh(deployment.instance(), token)
    newer = KeyRing([TokenKey(3, bytes(range(1, 33))), *KEYS])
    assert (await refresh(deployment.instance(newer), token)).token == first.token


async def test_retry_within_the_grace_returns_a_successor_that_was_rotated_too(
    deployment: Deployment,
) -> None:
    first, session = await deployment.create()
    second = (await refresh(deployment.instance(), first)).token
    await refresh(deployment.instance(), second)
    assert (await refresh(deployment.instance(), first)).token == second
    assert (await deployment.stored(session.id)).session.revoked_at is None


async def test_refresh_after_a_migration_is_denied_without_revoking(deployment: Deployment) -> None:
    token, session = await deployment.create()
    await migrate(deployment, session.id)
    assert await deployment.instance().refresh(token.text, by=TESTER) == Deny(Reason.REUSED)
    assert (await deployment.stored(session.id)).session.revoked_at is None


async def test_token_from_before_a_migration_is_denied_under_clock_skew(
    deployment: Deployment,
) -> None:
    token, session = await deployment.create()
    await migrate(deployment, session.id)
    deployment.clock.advance(timedelta(hours=-1))
    assert await deployment.verdict(token) == Deny(Reason.REUSED)


async def test_refresh_after_the_grace_repeats_a_successor_that_was_never_presented(
    deployment: Deployment,
) -> None:
    token, session = await deployment.create()
    lost = await refresh(deployment.instance(), token)
    deployment.clock.advance(GRACE * 2)
    repeated = await refresh(deployment.instance(), token)
    assert repeated.token == lost.token
    assert await deployment.verdict(token) == Deny(Reason.REUSED)
    assert isinstance(await deployment.verdict(lost.token), Allow)
    assert (await deployment.stored(session.id)).details.refresh_count == 1
    assert deployment.outcomes == ["rotated", "repeated"]


async def test_only_the_last_predecessor_gets_an_unseen_successor(deployment: Deployment) -> None:
    first, session = await deployment.create()
    second = (await refresh(deployment.instance(), first)).token
    third = (await refresh(deployment.instance(), second)).token
    deployment.clock.advance(GRACE)
    assert (await refresh(deployment.instance(), second)).token == third
    assert await deployment.instance().refresh(first.text, by=TESTER) == Deny(Reason.REUSED)
    assert (await deployment.stored(session.id)).session.revoked_at is not None
    assert deployment.outcomes[-1] == "refused"


async def test_refresh_after_the_grace_revokes_the_session(deployment: Deployment) -> None:
    token, session = await deployment.create()
    issued = await refresh(deployment.instance(), token)
    successor = issued.token
    await deployment.present(issued)
    deployment.clock.advance(GRACE)
    assert await deployment.instance().refresh(token.text, by=TESTER) == Deny(Reason.REUSED)
    assert await deployment.verdict(successor) == Deny(Reason.REVOKED)
    record = await deployment.stored(session.id)
    assert record.details.revoked_reason == "token_reuse"
    assert deployment.end_causes == ["token_reuse"]


async def test_refresh_with_any_earlier_token_revokes_the_session(
    deployment: Deployment,
) -> None:
    first, session = await deployment.create()
    token = first
    for _ in range(3):
        token = (await refresh(deployment.instance(), token)).token
        deployment.clock.advance(GRACE)
    assert await deployment.verdict(first) == Deny(Reason.REUSED)
    assert await deployment.instance().refresh(first.text, by=TESTER) == Deny(Reason.REUSED)
    assert (await deployment.stored(session.id)).session.revoked_at is not None


async def test_reused_token_at_the_gate_is_denied_without_revoking(deployment: Deployment) -> None:
    token, session = await deployment.create()
    await refresh(deployment.instance(), token)
    deployment.clock.advance(GRACE)
    assert await deployment.verdict(token) == Deny(Reason.REUSED)
    assert (await deployment.stored(session.id)).session.revoked_at is None


async def test_second_rotation_within_the_grace_ends_the_first_token(
    deployment: Deployment,
) -> None:
    deployment.clock = FakeClock(datetime.now(UTC))  # the database compares with its own
    first, _ = await deployment.create(at=deployment.clock.now())
    second = (await refresh(deployment.instance(), first)).token
    await refresh(deployment.instance(), second)
    cached = deployment.memory.sessions[first.digest()]
    assert judge(cached, deployment.clock.now()) == Deny(Reason.REUSED)
    assert first.digest() in {session.digest for session in deployment.published}


async def test_revocation_refuses_every_token_within_its_grace(deployment: Deployment) -> None:
    deployment.clock = FakeClock(datetime.now(UTC))  # the database compares with its own
    first, session = await deployment.create(at=deployment.clock.now())
    second = (await refresh(deployment.instance(), first)).token
    third = (await refresh(deployment.instance(), second)).token
    deployment.memory.sessions.clear()
    deployment.published.clear()
    await deployment.operations().sessions.revoke(session.id, by=TESTER, reason="test")
    digests = {token.digest() for token in (first, second, third)}
    assert deployment.memory.sessions.keys() == digests
    assert {copy.digest for copy in deployment.published} == digests
    for copy in deployment.published:
        assert judge(copy, deployment.clock.now()) == Deny(Reason.REVOKED)


async def test_migration_refuses_every_token_within_its_grace(deployment: Deployment) -> None:
    deployment.clock = FakeClock(datetime.now(UTC))
    first, session = await deployment.create(at=deployment.clock.now())
    second = (await refresh(deployment.instance(), first)).token
    migrated = await migrate(deployment, session.id)
    assert migrated is not None
    copies = {copy.digest: copy for copy in deployment.published}
    for token in (first, second):
        assert isinstance(judge(copies[token.digest()], deployment.clock.now()), Deny)
    assert isinstance(judge(copies[migrated.token.digest()], deployment.clock.now()), Allow)


async def test_refresh_extends_on_request_but_never_past_the_lifetime(
    deployment: Deployment,
) -> None:
    hour = timedelta(hours=1)
    token, session = await deployment.create(expires_at=deployment.clock.now() + hour)
    plain = await refresh(deployment.instance(), token)
    assert plain.record.session.expires_at == session.expires_at
    longer = await refresh(deployment.instance(), plain.token, extend_by=2 * hour)
    assert longer.record.session.expires_at == deployment.clock.now() + 2 * hour
    longest = await refresh(deployment.instance(), longer.token, extend_by=1000 * hour)
    lifetime = DEFAULT_LIFETIMES[SessionType.WEB].lifetime
    assert longest.record.session.expires_at == session.authenticated_at + lifetime


@pytest.mark.parametrize("reason", [Reason.REVOKED, Reason.EXPIRED, Reason.IDLE])
async def test_ended_session_cannot_be_refreshed(deployment: Deployment, reason: Reason) -> None:
    now = deployment.clock.now()
    match reason:
        case Reason.REVOKED:
            token, _ = await deployment.create(revoked_at=now)
        case Reason.EXPIRED:
            token, _ = await deployment.create(expires_at=now + TICK)
        case _:
            token, _ = await deployment.create(idle_timeout=TICK)
    deployment.clock.advance(TICK)
    assert await deployment.instance().refresh(token.text, by=TESTER) == Deny(reason)


async def test_refresh_with_an_unknown_or_malformed_token_is_denied(deployment: Deployment) -> None:
    unknown = deployment.ring.mint(SessionType.WEB)
    assert await deployment.instance().refresh(unknown.text, by=TESTER) == Deny(Reason.UNKNOWN)
    malformed = unknown.text[:-1] + "!"
    assert await deployment.instance().refresh(malformed, by=TESTER) == Deny(Reason.MALFORMED)


async def test_successor_cannot_be_derived_from_the_store_alone(deployment: Deployment) -> None:
    token, session = await deployment.create()
    issued = await refresh(deployment.instance(), token)
    record = await deployment.stored(session.id)
    assert record.details.rotation_nonce is not None
    other_token = deployment.ring.mint(SessionType.WEB)
    derived = deployment.ring.derive_successors(other_token, record.details.rotation_nonce)
    assert issued.token not in set(derived)
    assert record.details.rotation_nonce.hex() not in repr(record)


async def test_revocation_after_a_rotation_ends_both_tokens(deployment: Deployment) -> None:
    token, session = await deployment.create()
    issued = await refresh(deployment.instance(), token)
    tombstone = SessionRecord(issued.record.session.revoked(deployment.clock.now()))
    assert await deployment.durable.replace(tombstone, expected=session.version + 1)
    assert await deployment.verdict(token) == Deny(Reason.REVOKED)
    assert await deployment.verdict(issued.token) == Deny(Reason.REVOKED)


async def migrate(deployment: Deployment, session_id: SessionId) -> Issued | None:
    return await deployment.instance().migrate(
        session_id,
        by=TESTER,
        provider="https://id.example",
        provider_session_id="idp-42",
        attributes={"groups": ["staff"]},
    )


async def test_migrated_session_is_an_sso_session_under_another_token(
    deployment: Deployment,
) -> None:
    token, session = await deployment.create()
    issued = await migrate(deployment, session.id)
    assert issued is not None
    assert issued.token.type is SessionType.SSO
    record = await deployment.stored(session.id)
    assert record.session.type is SessionType.SSO
    assert record.details.provider_session_id == "idp-42"
    assert record.details.metadata == {"groups": ["staff"]}
    assert await deployment.verdict(token) == Deny(Reason.REUSED)
    assert isinstance(await deployment.verdict(issued.token), Allow)


async def test_unknown_session_cannot_be_migrated(deployment: Deployment) -> None:
    assert await migrate(deployment, build_session().id) is None


async def test_ended_session_cannot_be_migrated(deployment: Deployment) -> None:
    _, session = await deployment.create(revoked_at=deployment.clock.now())
    with pytest.raises(SessionEnded):
        await migrate(deployment, session.id)


async def test_migration_at_the_limit_evicts_the_oldest_sso_session(
    deployment: Deployment,
) -> None:
    deployment.limits[SessionType.SSO] = Limit(2)
    oldest, newer, joining = [(await deployment.create())[1] for _ in range(3)]
    for session in (oldest, newer):
        await migrate(deployment, session.id)
    assert await migrate(deployment, joining.id) is not None
    assert (await deployment.stored(oldest.id)).details.revoked_reason == "limit"
    assert (await deployment.stored(newer.id)).session.revoked_at is None
    assert deployment.end_causes == ["limit"]
    assert deployment.published[-1].id == oldest.id


async def test_repeated_migration_of_an_sso_session_evicts_none(deployment: Deployment) -> None:
    deployment.limits[SessionType.SSO] = Limit(1)
    _, session = await deployment.create()
    for _ in range(3):
        assert await migrate(deployment, session.id) is not None
    assert deployment.end_causes == []


async def test_refused_migration_at_the_limit_changes_nothing(deployment: Deployment) -> None:
    deployment.limits[SessionType.SSO] = Limit(1, AtLimit.REFUSE)
    _, first = await deployment.create()
    token, second = await deployment.create()
    await migrate(deployment, first.id)
    with pytest.raises(LimitReached):
        await migrate(deployment, second.id)
    assert (await deployment.stored(second.id)).session.type is SessionType.WEB
    assert isinstance(await deployment.verdict(token), Allow)


async def test_concurrent_migrations_keep_the_limit(deployment: Deployment) -> None:
    deployment.limits[SessionType.SSO] = Limit(3)
    sessions = [(await deployment.create())[1] for _ in range(12)]
    await asyncio.gather(*(migrate(deployment, session.id) for session in sessions))
    stored = [(await deployment.stored(session.id)).session for session in sessions]
    assert sum(session.revoked_at is None for session in stored) == 3


async def test_every_change_records_its_actor(deployment: Deployment) -> None:
    token, session = await deployment.create()
    await deployment.present(await refresh(deployment.instance(), token))
    record = await deployment.stored(session.id)
    assert record.details.change == Change(deployment.clock.now(), TESTER)
    deployment.clock.advance(60)
    await deployment.instance().refresh(token.text, by=TESTER)
    record = await deployment.stored(session.id)
    assert record.details.change == Change(deployment.clock.now(), SIDEGATE)
