"""In doubt a hot store answers nothing, and forgets nothing it is told."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.client.redis_trust import RedisTrust
from tests.contracts.values import a_session
from tests.support.clock import NOON
from tests.support.fakes import Shelf


async def test_in_doubt_it_is_unavailable_until_it_is_confirmed() -> None:
    shelf = Shelf()
    store, session = RedisTrust(shelf, store="shelf"), a_session()
    await shelf.put(session)
    store.distrust()
    with pytest.raises(StoreUnavailable):
        await store.find_many([session.digest])
    store.trust()
    assert await store.find_many([session.digest]) == {session.digest: session}


async def test_in_doubt_it_takes_what_it_is_told() -> None:
    shelf = Shelf()
    store, session = RedisTrust(shelf, store="shelf"), a_session()
    store.distrust()
    tombstone = session.revoked(NOON)
    await store.put_many({session.digest: tombstone})
    store.trust()
    assert await store.find_many([session.digest]) == {session.digest: tombstone}


class Slow(Shelf):
    """Answers what it knew when it was asked, once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.looking, self.go_on = asyncio.Event(), asyncio.Event()

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found = await super().find_many(digests)
        self.looking.set()
        await self.go_on.wait()
        return found


async def test_what_was_being_asked_when_doubt_arose_is_not_believed_even_if_confirmed() -> None:
    shelf = Slow()
    store, session = RedisTrust(shelf, store="shelf"), a_session()
    await shelf.put(session)
    asking = asyncio.ensure_future(store.find_many([session.digest]))
    await shelf.looking.wait()
    store.distrust()
    store.trust()
    shelf.go_on.set()
    with pytest.raises(StoreUnavailable):
        await asking
