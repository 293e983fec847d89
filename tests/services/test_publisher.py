"""The publisher: every digest that may be cached, and a remote cache that did not take them."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import judge
from sidegate.core.session import Session
from sidegate.core.verdict import Deny
from sidegate.services.publisher import ChangePublisher
from tests.contracts.values import build_digest, build_rotated_session, build_session
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend, FakeCacheTrust, FakeMemory


class Instance:
    """An instance: its memory, its remote cache, and what it has published and counted."""

    def __init__(self, *, has_remote: bool = True) -> None:
        self.memory = FakeMemory()
        self.remote = FakeBackend()
        self.trust = FakeCacheTrust({})
        self.published: list[Session] = []
        self.feed_is_down = False
        self.counted: list[tuple[str, str]] = []
        self.publisher = ChangePublisher(
            self.memory,
            remote=self.remote if has_remote else None,
            trust=self.trust,
            feed=self,
            events=self,
        )

    async def publish(self, copies: Iterable[Session]) -> None:
        if self.feed_is_down:
            raise StoreUnavailable("redis", "unavailable in this test")
        self.published.extend(copies)

    def created(self, session: Session) -> None:
        self.counted.append((session.id, "created"))

    def ended(self, session: Session, cause: str) -> None:
        self.counted.append((session.id, cause))

    async def cache(self, session: Session) -> None:
        """Put a copy into both caches."""
        await self.memory.put(session)
        await self.remote.put(session)


@pytest.fixture
def instance() -> Instance:
    return Instance()


def build_revoked_chain() -> ChangedSession:
    """Return a session revoked after three rotations, all within their grace."""
    session, rotated = build_rotated_session(), list[Digest]()
    for _ in range(2):
        assert session.previous_digest is not None
        rotated.append(session.previous_digest)
        session = session.rotated(build_digest(), timedelta(minutes=5), at=NOON)
    return ChangedSession(session.revoked(NOON), tuple(rotated))


async def test_every_digest_of_a_revoked_chain_is_restricted_and_published(
    instance: Instance,
) -> None:
    change = build_revoked_chain()
    tombstones = {copy.digest: copy for copy in change.copies()}
    assert len(tombstones) == 4
    for digest in tombstones:
        await instance.cache(build_session(id=change.session.id, digest=digest))
    await instance.publisher.publish_ended([change], cause="revoke")
    for cached in (instance.memory.sessions, instance.remote.sessions):
        assert cached == tombstones
        assert all(isinstance(judge(copy, NOON), Deny) for copy in cached.values())
    assert {copy.digest: copy for copy in instance.published} == tombstones
    assert {copy.digest: copy for copy in instance.trust.changes} == tombstones
    assert instance.counted == [(change.session.id, "revoke")]
    assert instance.trust.reasons == []


async def test_digest_rotated_out_twice_is_restricted(instance: Instance) -> None:
    oldest = build_digest()
    session = build_rotated_session().rotated(build_digest(), timedelta(0), at=NOON)
    await instance.cache(build_session(id=session.id, digest=oldest))
    await instance.publisher.publish([ChangedSession(session, (oldest,))])
    for cached in (instance.memory.sessions, instance.remote.sessions):
        assert isinstance(judge(cached[oldest], NOON), Deny)
    assert [copy.digest for copy in instance.published] == [
        session.digest,
        session.previous_digest,
        oldest,
    ]


async def test_copy_that_opens_is_removed_from_the_remote_cache_not_put(
    instance: Instance,
) -> None:
    old = build_session()
    await instance.cache(old)
    changed = old.extended(NOON + timedelta(days=1), NOON)
    await instance.publisher.publish([ChangedSession(changed)])
    assert instance.remote.sessions == {}
    assert instance.memory.sessions == {changed.digest: changed}


async def test_change_that_the_remote_cache_refused_is_undelivered(instance: Instance) -> None:
    instance.remote.has_seal = False
    change = build_revoked_chain()
    await instance.publisher.publish([change])
    assert instance.trust.reasons == ["undelivered"]
    assert [*instance.memory.sessions.values()] == [*change.copies()] == instance.published


async def test_change_that_an_unavailable_remote_cache_missed_is_undelivered(
    instance: Instance,
) -> None:
    instance.remote.down = True
    change = build_revoked_chain()
    await instance.publisher.publish([change])
    assert instance.trust.reasons == ["undelivered"]
    assert instance.trust.changes == [*change.copies()]
    assert [*instance.memory.sessions.values()] == [*change.copies()] == instance.published


async def test_unavailable_feed_does_not_affect_trust(instance: Instance) -> None:
    instance.feed_is_down = True
    change = build_revoked_chain()
    await instance.publisher.publish([change])
    assert instance.trust.reasons == []
    assert len(instance.remote.sessions) == 4


async def test_without_a_remote_cache_nothing_is_undelivered() -> None:
    instance = Instance(has_remote=False)
    change = build_revoked_chain()
    await instance.publisher.publish([change])
    assert instance.trust.reasons == []
    assert len(instance.memory.sessions) == len(instance.published) == 4


async def test_created_session_is_counted_and_put_into_memory_only(instance: Instance) -> None:
    session = build_session()
    await instance.publisher.publish_created(session)
    assert instance.counted == [(session.id, "created")]
    assert instance.memory.sessions == {session.digest: session}
    assert instance.remote.sessions == {}
    assert instance.published == []


@pytest.mark.parametrize("outage", ["remote", "feed"])
async def test_no_change_is_published_as_nothing(outage: str) -> None:
    instance: Any = Instance()
    instance.remote.down = outage == "remote"
    instance.feed_is_down = outage == "feed"
    await instance.publisher.publish([])
    assert instance.trust.reasons == []
