"""When Redis is trusted; a distrusted cache returns nothing, but still accepts puts."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import RedisTrust, Trusted
from tests.contracts.values import build_session
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend
from tests.support.redis_trust import build_redis_trust

# The state


def test_is_distrusted_until_a_generation_is_confirmed() -> None:
    trust = RedisTrust()
    trust.complete_startup()
    assert not trust.is_trusted
    trust.confirm(7, since=trust.mark())
    assert trust.generation == 7
    assert trust.is_trusted


def test_generation_confirmed_before_the_startup_is_complete_is_used_but_not_trusted() -> None:
    trust = RedisTrust()
    trust.confirm(7, since=trust.mark())
    assert trust.generation == 7
    assert not trust.is_trusted
    trust.complete_startup()
    assert trust.is_trusted


def test_confirmation_that_began_before_a_distrust_event_is_not_valid() -> None:
    trust = build_redis_trust(generation=1)
    mark = trust.mark()
    trust.distrust()
    trust.confirm(2, since=mark)
    assert trust.generation == 2
    assert not trust.is_trusted
    trust.confirm(2, since=trust.mark())
    assert trust.is_trusted


def test_late_confirmation_leaves_a_newer_one_in_force() -> None:
    trust = build_redis_trust(generation=1)
    mark = trust.mark()
    trust.distrust()
    trust.confirm(1, since=trust.mark())
    trust.confirm(1, since=mark)
    assert trust.is_trusted


def test_ended_generation_is_outdated_and_never_trusted_again() -> None:
    trust = build_redis_trust(generation=1)
    trust.end_generation()
    trust.confirm(1, since=trust.mark())
    assert trust.is_outdated(1)
    assert not trust.is_trusted
    trust.confirm(2, since=trust.mark())
    assert not trust.is_outdated(2)
    assert trust.is_trusted


@pytest.mark.parametrize(("generation", "is_outdated"), [(4, True), (5, False), (6, False)])
def test_older_generation_is_outdated(generation: int, is_outdated: bool) -> None:
    assert build_redis_trust(generation=5).is_outdated(generation) is is_outdated


def test_no_generation_is_outdated_before_the_first_one_is_known() -> None:
    assert not RedisTrust().is_outdated(0)


# The wrapper


async def test_lookup_raises_unavailable_until_trusted_again() -> None:
    backend, trust, session = FakeBackend(), build_redis_trust(), build_session()
    cache = Trusted(backend, trust)
    await backend.put(session)
    trust.distrust()
    with pytest.raises(StoreUnavailable):
        await cache.find_many([session.digest])
    trust.confirm(1, since=trust.mark())
    assert await cache.find_many([session.digest]) == {session.digest: session}


async def test_put_goes_through_while_distrusted() -> None:
    backend, trust, session = FakeBackend(), build_redis_trust(), build_session()
    trust.distrust()
    tombstone = session.revoked(NOON)
    await Trusted(backend, trust).put_many({session.digest: tombstone})
    assert backend.sessions == {session.digest: tombstone}


class SlowBackend(FakeBackend):
    """Returns the state at the time of the lookup, but not before `resume` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.resume = asyncio.Event(), asyncio.Event()

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found = await super().find_many(digests)
        self.reading.set()
        await self.resume.wait()
        return found


async def test_lookup_in_flight_at_distrust_fails_even_if_trusted_again() -> None:
    backend, trust, session = SlowBackend(), build_redis_trust(), build_session()
    await backend.put(session)
    lookup = asyncio.ensure_future(Trusted(backend, trust).find_many([session.digest]))
    await backend.reading.wait()
    trust.distrust()
    trust.confirm(1, since=trust.mark())
    backend.resume.set()
    with pytest.raises(StoreUnavailable):
        await lookup
