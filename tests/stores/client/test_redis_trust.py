"""A distrusted cache returns nothing, but still accepts puts."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import RedisTrust
from tests.contracts.values import build_session
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend


async def test_lookup_raises_unavailable_until_trusted_again() -> None:
    backend = FakeBackend()
    store, session = RedisTrust(backend, store="backend"), build_session()
    await backend.put(session)
    store.distrust()
    with pytest.raises(StoreUnavailable):
        await store.find_many([session.digest])
    store.trust()
    assert await store.find_many([session.digest]) == {session.digest: session}


async def test_put_goes_through_while_distrusted() -> None:
    backend = FakeBackend()
    store, session = RedisTrust(backend, store="backend"), build_session()
    store.distrust()
    tombstone = session.revoked(NOON)
    await store.put_many({session.digest: tombstone})
    store.trust()
    assert await store.find_many([session.digest]) == {session.digest: tombstone}


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
    backend = SlowBackend()
    store, session = RedisTrust(backend, store="backend"), build_session()
    await backend.put(session)
    lookup = asyncio.ensure_future(store.find_many([session.digest]))
    await backend.reading.wait()
    store.distrust()
    store.trust()
    backend.resume.set()
    with pytest.raises(StoreUnavailable):
        await lookup
