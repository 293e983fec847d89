"""Refresh and migration: one successor for everybody, and no way back for what was left behind."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.actor import SIDEGATE, Change
from sidegate.core.errors import LimitReached, SessionEnded
from sidegate.core.judge import judge
from sidegate.core.lifetimes import DEFAULT_LIFETIMES
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import Issued
from tests.contracts.values import TESTER, a_record, a_session
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf

GRACE = DEFAULT_LIFETIMES[SessionType.WEB].grace
MOMENT = timedelta(microseconds=1)
KEYS = [TokenKey(2, bytes(range(32))), TokenKey(1, bytes(32))]


@dataclass
class Scene:
    """Two instances on one durable store, and what they announced."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    near: Shelf = field(default_factory=Shelf)
    announced: list[Session] = field(default_factory=list)
    ended_by: list[str] = field(default_factory=list)
    ring: KeyRing = field(default_factory=lambda: KeyRing(KEYS))
    limits: dict[SessionType, Limit] = field(default_factory=dict)

    def instance(self, ring: KeyRing | None = None) -> Rotation:
        return Rotation(
            SessionContext(
                self.durable,
                caches=[self.near],
                feed=self,
                ring=ring or self.ring,
                lifetimes=DEFAULT_LIFETIMES,
                clock=self.clock,
                events=self,
                limits=self.limits,
            ),
        )

    async def publish(self, sessions: Iterable[Session]) -> None:
        self.announced.extend(sessions)

    def created(self, _: Session) -> None: ...

    def ended(self, _: Session, cause: str) -> None:
        self.ended_by.append(cause)

    async def session(self, **changes: Any) -> tuple[Token, Session]:
        token = self.ring.mint(SessionType.WEB)
        session = a_session(digest=token.digest(), **changes)
        await self.durable.create(a_record(session))
        return token, session

    async def stored(self, session_id: SessionId) -> SessionRecord:
        record = await self.durable.get(session_id)
        assert record is not None
        return record

    async def verdict(self, token: Token) -> Allow | Deny:
        session = await self.durable.find(token.digest())
        return Deny(Reason.UNKNOWN) if session is None else judge(session, self.clock.now())


@pytest.fixture
def scene(durable: DurableStore) -> Scene:
    return Scene(durable)


async def refreshed(rotation: Rotation, token: Token, **how: Any) -> Issued:
    issued = await rotation.refresh(token.text, by=TESTER, **how)
    assert isinstance(issued, Issued)
    return issued


async def test_a_refresh_gives_another_token_for_the_same_session(scene: Scene) -> None:
    token, session = await scene.session()
    issued = await refreshed(scene.instance(), token)
    assert issued.token != token
    assert issued.record.session.id == session.id
    assert issued.record.details.refresh_count == 1
    assert isinstance(await scene.verdict(issued.token), Allow)


async def test_the_old_token_opens_until_the_grace_ends(scene: Scene) -> None:
    token, _ = await scene.session()
    await refreshed(scene.instance(), token)
    scene.clock.advance(GRACE - MOMENT)
    assert isinstance(await scene.verdict(token), Allow)
    scene.clock.advance(MOMENT)
    assert await scene.verdict(token) == Deny(Reason.REUSED)


async def test_thirty_who_race_on_two_instances_get_the_same_successor(scene: Scene) -> None:
    token, session = await scene.session()
    instances = [scene.instance(), scene.instance()]
    answers = await asyncio.gather(*(refreshed(instances[n % 2], token) for n in range(30)))
    assert len({answer.token.text for answer in answers}) == 1
    record = await scene.stored(session.id)
    assert record.details.refresh_count == 1
    assert record.session.version == session.version + 1


async def test_whose_answer_was_lost_may_ask_again(scene: Scene) -> None:
    token, _ = await scene.session()
    lost = await refreshed(scene.instance(), token)
    scene.clock.advance(GRACE - MOMENT)
    assert (await refreshed(scene.instance(), token)).token == lost.token


async def test_an_instance_with_a_newer_key_gives_the_same_successor(scene: Scene) -> None:
    token, _ = await scene.session()
    first = await refreshed(scene.instance(), token)
    newer = KeyRing([TokenKey(3, bytes(range(1, 33))), *KEYS])
    assert (await refreshed(scene.instance(newer), token)).token == first.token


async def test_within_its_grace_a_token_gets_its_successor_though_that_moved_on(
    scene: Scene,
) -> None:
    first, session = await scene.session()
    second = (await refreshed(scene.instance(), first)).token
    await refreshed(scene.instance(), second)
    assert (await refreshed(scene.instance(), first)).token == second
    assert (await scene.stored(session.id)).session.revoked_at is None


async def test_a_refresh_that_loses_to_a_migration_ends_nothing(scene: Scene) -> None:
    token, session = await scene.session()
    await migrated(scene, session.id)
    assert await scene.instance().refresh(token.text, by=TESTER) == Deny(Reason.REUSED)
    assert (await scene.stored(session.id)).session.revoked_at is None


async def test_the_token_from_before_a_migration_is_over_on_every_clock(scene: Scene) -> None:
    token, session = await scene.session()
    await migrated(scene, session.id)
    scene.clock.advance(timedelta(hours=-1))
    assert await scene.verdict(token) == Deny(Reason.REUSED)


async def test_a_token_refreshed_after_its_grace_ends_the_session(scene: Scene) -> None:
    token, session = await scene.session()
    successor = (await refreshed(scene.instance(), token)).token
    scene.clock.advance(GRACE)
    assert await scene.instance().refresh(token.text, by=TESTER) == Deny(Reason.REUSED)
    assert await scene.verdict(successor) == Deny(Reason.REVOKED)
    record = await scene.stored(session.id)
    assert record.details.revoked_reason == "token_reuse"
    assert scene.ended_by == ["token_reuse"]


async def test_any_token_ever_rotated_out_ends_the_session_not_only_the_last(
    scene: Scene,
) -> None:
    first, session = await scene.session()
    token = first
    for _ in range(3):
        token = (await refreshed(scene.instance(), token)).token
        scene.clock.advance(GRACE)
    assert await scene.verdict(first) == Deny(Reason.REUSED)
    assert await scene.instance().refresh(first.text, by=TESTER) == Deny(Reason.REUSED)
    assert (await scene.stored(session.id)).session.revoked_at is not None


async def test_at_the_gate_a_reused_token_is_refused_and_ends_nothing(scene: Scene) -> None:
    token, session = await scene.session()
    await refreshed(scene.instance(), token)
    scene.clock.advance(GRACE)
    assert await scene.verdict(token) == Deny(Reason.REUSED)
    assert (await scene.stored(session.id)).session.revoked_at is None


async def test_a_second_rotation_within_the_grace_ends_the_first_token_everywhere(
    scene: Scene,
) -> None:
    first, _ = await scene.session()
    second = (await refreshed(scene.instance(), first)).token
    await refreshed(scene.instance(), second)
    near = scene.near.sessions[first.digest()]
    assert judge(near, scene.clock.now()) == Deny(Reason.REUSED)
    assert first.digest() in {session.digest for session in scene.announced}


async def test_a_refresh_extends_when_asked_but_never_past_the_lifetime(scene: Scene) -> None:
    hour = timedelta(hours=1)
    token, session = await scene.session(expires_at=scene.clock.now() + hour)
    plain = await refreshed(scene.instance(), token)
    assert plain.record.session.expires_at == session.expires_at
    longer = await refreshed(scene.instance(), plain.token, extend_by=2 * hour)
    assert longer.record.session.expires_at == scene.clock.now() + 2 * hour
    longest = await refreshed(scene.instance(), longer.token, extend_by=1000 * hour)
    lifetime = DEFAULT_LIFETIMES[SessionType.WEB].lifetime
    assert longest.record.session.expires_at == session.authenticated_at + lifetime


@pytest.mark.parametrize("reason", [Reason.REVOKED, Reason.EXPIRED, Reason.IDLE])
async def test_an_ended_session_cannot_be_refreshed(scene: Scene, reason: Reason) -> None:
    now = scene.clock.now()
    match reason:
        case Reason.REVOKED:
            token, _ = await scene.session(revoked_at=now)
        case Reason.EXPIRED:
            token, _ = await scene.session(expires_at=now + MOMENT)
        case _:
            token, _ = await scene.session(idle_timeout=MOMENT)
    scene.clock.advance(MOMENT)
    assert await scene.instance().refresh(token.text, by=TESTER) == Deny(reason)


async def test_what_is_no_token_of_ours_or_nobodys_is_refused(scene: Scene) -> None:
    unknown = scene.ring.mint(SessionType.WEB)
    assert await scene.instance().refresh(unknown.text, by=TESTER) == Deny(Reason.UNKNOWN)
    broken = unknown.text[:-1] + "!"
    assert await scene.instance().refresh(broken, by=TESTER) == Deny(Reason.MALFORMED)


async def test_the_store_cannot_say_what_the_successor_is(scene: Scene) -> None:
    token, session = await scene.session()
    issued = await refreshed(scene.instance(), token)
    record = await scene.stored(session.id)
    assert record.details.rotation_nonce is not None
    stranger = scene.ring.mint(SessionType.WEB)
    derived = scene.ring.successors(stranger, record.details.rotation_nonce)
    assert issued.token not in set(derived)
    assert record.details.rotation_nonce.hex() not in repr(record)


async def test_a_revocation_during_a_rotation_closes_both_tokens(scene: Scene) -> None:
    token, session = await scene.session()
    issued = await refreshed(scene.instance(), token)
    tombstone = SessionRecord(issued.record.session.revoked(scene.clock.now()))
    assert await scene.durable.replace(tombstone, expected=session.version + 1)
    assert await scene.verdict(token) == Deny(Reason.REVOKED)
    assert await scene.verdict(issued.token) == Deny(Reason.REVOKED)


async def migrated(scene: Scene, session_id: SessionId) -> Issued | None:
    return await scene.instance().migrate(
        session_id,
        by=TESTER,
        provider="https://id.example",
        provider_session_id="idp-42",
        attributes={"groups": ["staff"]},
    )


async def test_a_migrated_session_is_an_sso_session_under_another_token(scene: Scene) -> None:
    token, session = await scene.session()
    issued = await migrated(scene, session.id)
    assert issued is not None
    assert issued.token.type is SessionType.SSO
    record = await scene.stored(session.id)
    assert record.session.type is SessionType.SSO
    assert record.details.provider_session_id == "idp-42"
    assert record.details.metadata == {"groups": ["staff"]}
    assert await scene.verdict(token) == Deny(Reason.REUSED)
    assert isinstance(await scene.verdict(issued.token), Allow)


async def test_nobody_cannot_be_migrated(scene: Scene) -> None:
    assert await migrated(scene, a_session().id) is None


async def test_an_ended_session_cannot_be_migrated(scene: Scene) -> None:
    _, session = await scene.session(revoked_at=scene.clock.now())
    with pytest.raises(SessionEnded):
        await migrated(scene, session.id)


async def test_a_migration_at_the_limit_of_sso_sessions_ends_the_oldest_of_them(
    scene: Scene,
) -> None:
    scene.limits[SessionType.SSO] = Limit(2)
    oldest, newer, joining = [(await scene.session())[1] for _ in range(3)]
    for session in (oldest, newer):
        await migrated(scene, session.id)
    assert await migrated(scene, joining.id) is not None
    assert (await scene.stored(oldest.id)).details.revoked_reason == "limit"
    assert (await scene.stored(newer.id)).session.revoked_at is None
    assert scene.ended_by == ["limit"]
    assert scene.announced[-1].id == oldest.id


async def test_one_that_is_an_sso_session_already_is_none_too_many(scene: Scene) -> None:
    scene.limits[SessionType.SSO] = Limit(1)
    _, session = await scene.session()
    for _ in range(3):
        assert await migrated(scene, session.id) is not None
    assert scene.ended_by == []


async def test_a_migration_may_be_refused_at_the_limit_and_changes_nothing(scene: Scene) -> None:
    scene.limits[SessionType.SSO] = Limit(1, AtLimit.REFUSE)
    _, first = await scene.session()
    token, second = await scene.session()
    await migrated(scene, first.id)
    with pytest.raises(LimitReached):
        await migrated(scene, second.id)
    assert (await scene.stored(second.id)).session.type is SessionType.WEB
    assert isinstance(await scene.verdict(token), Allow)


async def test_parallel_migrations_never_leave_one_too_many(scene: Scene) -> None:
    scene.limits[SessionType.SSO] = Limit(3)
    sessions = [(await scene.session())[1] for _ in range(12)]
    await asyncio.gather(*(migrated(scene, session.id) for session in sessions))
    stored = [(await scene.stored(session.id)).session for session in sessions]
    assert sum(session.revoked_at is None for session in stored) == 3


async def test_every_change_says_who_made_it(scene: Scene) -> None:
    token, session = await scene.session()
    await refreshed(scene.instance(), token)
    record = await scene.stored(session.id)
    assert record.details.change == Change(scene.clock.now(), TESTER)
    scene.clock.advance(60)
    await scene.instance().refresh(token.text, by=TESTER)
    record = await scene.stored(session.id)
    assert record.details.change == Change(scene.clock.now(), SIDEGATE)
