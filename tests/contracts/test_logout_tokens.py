"""The contract of logout token stores, for Postgres and SQLite."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import DurableStore, LogoutTokenStore
from tests.support.clock import NOON
from tests.support.databases import Database, StoppableDatabase

MINUTE = timedelta(minutes=1)
EXPIRY = NOON + MINUTE


@pytest.fixture
async def store(database: Database, durable: DurableStore) -> AsyncIterator[LogoutTokenStore]:
    """A store in `database`, empty."""
    del durable  # its opening creates the tables
    async with database.logout_tokens() as store:
        yield store


@pytest.fixture
async def other_instance(
    database: Database, store: LogoutTokenStore
) -> AsyncIterator[LogoutTokenStore]:
    """The store of another instance."""
    del store  # opened first
    async with database.logout_tokens() as store:
        yield store


def build_logout_id() -> bytes:
    return secrets.token_bytes(32)


async def test_token_is_processed_once_it_is_marked(store: LogoutTokenStore) -> None:
    logout_id = build_logout_id()
    assert not await store.is_processed(logout_id)
    assert await store.mark_processed(logout_id, until=EXPIRY, at=NOON)
    assert await store.is_processed(logout_id)
    assert not await store.is_processed(build_logout_id())


async def test_processed_token_is_known_to_all_instances(
    store: LogoutTokenStore, other_instance: LogoutTokenStore
) -> None:
    logout_id = build_logout_id()
    assert await store.mark_processed(logout_id, until=EXPIRY, at=NOON)
    assert await other_instance.is_processed(logout_id)
    assert not await other_instance.mark_processed(logout_id, until=EXPIRY, at=NOON)


async def test_concurrent_marks_of_one_token_succeed_once(
    store: LogoutTokenStore, other_instance: LogoutTokenStore
) -> None:
    for _ in range(5):
        logout_id = build_logout_id()
        results = await asyncio.gather(
            *(
                each.mark_processed(logout_id, until=EXPIRY, at=NOON)
                for each in [store, other_instance] * 8
            )
        )
        assert sorted(results) == [False] * 15 + [True]


async def test_token_is_kept_until_its_expiry(store: LogoutTokenStore) -> None:
    logout_id = build_logout_id()
    await store.mark_processed(logout_id, until=EXPIRY, at=NOON)
    await store.mark_processed(build_logout_id(), until=EXPIRY + MINUTE, at=EXPIRY)
    assert await store.is_processed(logout_id)


async def test_expired_tokens_are_deleted_by_the_next_mark(
    store: LogoutTokenStore,
) -> None:
    old = [build_logout_id() for _ in range(20)]
    for logout_id in old:
        await store.mark_processed(logout_id, until=EXPIRY, at=NOON)
    lasting = build_logout_id()
    await store.mark_processed(lasting, until=EXPIRY + MINUTE, at=NOON)

    await store.mark_processed(
        build_logout_id(), until=EXPIRY + MINUTE, at=EXPIRY + timedelta(microseconds=1)
    )

    assert not any([await store.is_processed(logout_id) for logout_id in old])
    assert await store.is_processed(lasting)


async def test_concurrent_deletes_of_expired_tokens_do_not_deadlock(
    store: LogoutTokenStore, other_instance: LogoutTokenStore
) -> None:
    for _ in range(40):
        await store.mark_processed(build_logout_id(), until=EXPIRY, at=NOON)

    results = await asyncio.gather(
        *(
            each.mark_processed(build_logout_id(), until=EXPIRY + MINUTE, at=EXPIRY + MINUTE)
            for each in [store, other_instance] * 10
        )
    )

    assert all(results)


async def test_outage_raises_and_keeps_processed_tokens(
    stoppable: StoppableDatabase, stoppable_store: DurableStore
) -> None:
    del stoppable_store  # its opening creates the tables
    kept, lost = build_logout_id(), build_logout_id()
    async with stoppable.logout_tokens() as store:
        await store.mark_processed(kept, until=EXPIRY, at=NOON)
        stoppable.fail()
        with pytest.raises(StoreUnavailable):
            await store.is_processed(kept)
        with pytest.raises(StoreUnavailable):
            await store.mark_processed(lost, until=EXPIRY, at=NOON)
        stoppable.recover()
        assert await store.is_processed(kept)
        assert not await store.is_processed(lost)
