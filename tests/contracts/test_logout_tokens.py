"""What every memory of obeyed logout tokens promises. The suite never asks which one it is."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import DurableStore, LogoutTokenStore
from tests.support.clock import NOON
from tests.support.databases import Database, Mortal

MINUTE = timedelta(minutes=1)
SOON = NOON + MINUTE


@pytest.fixture
async def memory(database: Database, durable: DurableStore) -> AsyncIterator[LogoutTokenStore]:
    """A memory in `database`, empty."""
    del durable  # whose opening brings the tables up to date
    async with database.logout_memory() as opened:
        yield opened


@pytest.fixture
async def elsewhere(
    database: Database, memory: LogoutTokenStore
) -> AsyncIterator[LogoutTokenStore]:
    """The memory of another instance."""
    del memory  # it is to be there first
    async with database.logout_memory() as opened:
        yield opened


def an_id() -> bytes:
    return secrets.token_bytes(32)


async def test_nothing_is_obeyed_before_it_is_remembered(memory: LogoutTokenStore) -> None:
    logout_id = an_id()
    assert not await memory.was_processed(logout_id)
    assert await memory.remember(logout_id, until=SOON, at=NOON)
    assert await memory.was_processed(logout_id)
    assert not await memory.was_processed(an_id())


async def test_what_one_instance_remembers_every_instance_does(
    memory: LogoutTokenStore, elsewhere: LogoutTokenStore
) -> None:
    logout_id = an_id()
    assert await memory.remember(logout_id, until=SOON, at=NOON)
    assert await elsewhere.was_processed(logout_id)
    assert not await elsewhere.remember(logout_id, until=SOON, at=NOON)


async def test_of_many_at_once_one_alone_is_told_that_it_was_first(
    memory: LogoutTokenStore, elsewhere: LogoutTokenStore
) -> None:
    for _ in range(5):
        logout_id = an_id()
        told = await asyncio.gather(
            *(each.remember(logout_id, until=SOON, at=NOON) for each in [memory, elsewhere] * 8)
        )
        assert sorted(told) == [False] * 15 + [True]


async def test_it_remembers_until_then_and_not_a_microsecond_less(memory: LogoutTokenStore) -> None:
    logout_id = an_id()
    await memory.remember(logout_id, until=SOON, at=NOON)
    await memory.remember(an_id(), until=SOON + MINUTE, at=SOON)
    assert await memory.was_processed(logout_id)


async def test_what_is_over_is_forgotten_with_the_next_that_is_remembered(
    memory: LogoutTokenStore,
) -> None:
    old = [an_id() for _ in range(20)]
    for logout_id in old:
        await memory.remember(logout_id, until=SOON, at=NOON)
    lasting = an_id()
    await memory.remember(lasting, until=SOON + MINUTE, at=NOON)

    await memory.remember(an_id(), until=SOON + MINUTE, at=SOON + timedelta(microseconds=1))

    assert not any([await memory.was_processed(logout_id) for logout_id in old])
    assert await memory.was_processed(lasting)


async def test_many_forget_at_once_and_none_waits_for_another_for_ever(
    memory: LogoutTokenStore, elsewhere: LogoutTokenStore
) -> None:
    for _ in range(40):
        await memory.remember(an_id(), until=SOON, at=NOON)

    told = await asyncio.gather(
        *(
            each.remember(an_id(), until=SOON + MINUTE, at=SOON + MINUTE)
            for each in [memory, elsewhere] * 10
        )
    )

    assert all(told)


async def test_a_memory_that_is_gone_neither_remembers_nor_forgets(
    mortal: Mortal, survivor: DurableStore
) -> None:
    del survivor  # whose opening brings the tables up to date
    kept, lost = an_id(), an_id()
    async with mortal.logout_memory() as memory:
        await memory.remember(kept, until=SOON, at=NOON)
        mortal.fail()
        with pytest.raises(StoreUnavailable):
            await memory.was_processed(kept)
        with pytest.raises(StoreUnavailable):
            await memory.remember(lost, until=SOON, at=NOON)
        mortal.heal()
        assert await memory.was_processed(kept)
        assert not await memory.was_processed(lost)
