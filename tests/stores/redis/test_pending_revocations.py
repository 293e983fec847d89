"""Pending revocations live in Redis exactly as long as that Redis does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.actor import Actor
from sidegate.core.clock import SystemClock
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.pending import PendingRevocation
from sidegate.core.session_type import SessionType
from sidegate.stores.redis.connection import RedisClient
from sidegate.stores.redis.pending_revocations import RedisPendingRevocations
from sidegate.stores.redis.pubsub import RedisPubSub
from tests.contracts.rigs import ignore
from tests.contracts.values import TESTER, a_digest, an_id
from tests.stores.conftest import Raw
from tests.stores.redis.strays import STRAYS, Once
from tests.stores.sql.wire import Wire
from tests.stores.waiting import until, until_answered
from tests.support.clock import NOON
from tests.support.processes import Server
from tests.support.servers import start_cluster_node

Unreadable = Counter[str]


def a_pending(**condition: object) -> PendingRevocation:
    given = condition or {"session_id": an_id()}
    return PendingRevocation.of(
        a_digest().hex(),
        Condition(**given),  # type: ignore[arg-type]  # as the test says
        at=NOON,
        by=Actor("key:support", "192.0.2.7"),
        reason='"stolen" in Zürich',
    )


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[RedisClient]:
    server = RedisClient(redis_url, timeout=5.0)
    yield server
    await server.close()


@pytest.fixture
def shelf(server: RedisClient, unreadable: Unreadable) -> RedisPendingRevocations:
    return RedisPendingRevocations(server, on_unreadable=lambda store: unreadable.update([store]))


@pytest.mark.parametrize(
    "revocation",
    [
        a_pending(),
        a_pending(user_id="Zoë"),
        a_pending(user_id="ada", except_id=an_id(), type=SessionType.MOBILE),
        a_pending(scope="write", created_before=NOON - timedelta(days=1)),
        PendingRevocation("1", Condition(), NOON, TESTER, "everybody"),
    ],
)
async def test_what_is_put_comes_back_as_it_was(
    shelf: RedisPendingRevocations, revocation: PendingRevocation
) -> None:
    await shelf.put([revocation])
    assert await shelf.compare(set()) == ([revocation], set())


async def test_only_what_is_not_known_is_read_and_what_is_not_there_is_told(
    shelf: RedisPendingRevocations,
) -> None:
    mine, hers = a_pending(), a_pending()
    await shelf.put([mine, hers])
    assert await shelf.compare({mine.id, "gone"}) == ([hers], {"gone"})


async def test_what_is_removed_is_not_there_any_more(shelf: RedisPendingRevocations) -> None:
    mine, hers = a_pending(), a_pending()
    await shelf.put([mine, hers])
    await shelf.remove(mine)
    await shelf.remove(mine)
    assert await shelf.compare(set()) == ([hers], set())


async def test_very_many_are_no_matter(shelf: RedisPendingRevocations) -> None:
    many = [a_pending() for _ in range(2500)]
    await shelf.put(many)
    found, lost = await shelf.compare({many[0].id})
    assert sorted(each.id for each in found) == sorted(each.id for each in many[1:])
    assert lost == set()


async def test_nothing_to_put_asks_for_nothing() -> None:
    nowhere = RedisClient("redis://127.0.0.1:1/0", timeout=5.0)
    await RedisPendingRevocations(nowhere, on_unreadable=ignore).put([])
    await nowhere.close()


async def test_whoever_listens_is_told_that_there_are_more(
    server: RedisClient, shelf: RedisPendingRevocations
) -> None:
    told: list[None] = []
    news: list[bool] = []
    feed = RedisPubSub(server, clock=SystemClock(), lag=ignore, on_unreadable=ignore)
    listening = asyncio.create_task(
        feed.listen(heard=ignore, gap=ignore, up=news.append, pended=lambda: told.append(None))
    )
    await until(lambda: bool(news))
    await shelf.put([a_pending()])
    await until(lambda: told == [None])
    listening.cancel()
    await asyncio.wait([listening])


async def test_they_end_with_the_life_of_the_server(own_redis: Server) -> None:
    server = RedisClient(own_redis.url, timeout=5.0)
    shelf = RedisPendingRevocations(server, on_unreadable=ignore)
    revocation = a_pending()
    await shelf.put([revocation])
    await asyncio.to_thread(own_redis.restart)
    while True:
        try:
            assert await shelf.compare({revocation.id}) == ([], {revocation.id})
            break
        except StoreUnavailable:  # the connection of before
            continue
    await shelf.put([revocation])
    assert await shelf.compare(set()) == ([revocation], set())
    await server.close()


@pytest.mark.parametrize(
    "junk",
    [b"", b"{}", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"condition": {"tenant": "north"}}'],
)
async def test_junk_is_passed_over_and_counted_once(
    shelf: RedisPendingRevocations, raw: Raw, unreadable: Unreadable, junk: bytes
) -> None:
    revocation = a_pending()
    await shelf.put([revocation])
    [key] = await raw.keys()
    await raw.hset(key, "junk", junk)
    for _ in range(3):
        assert await shelf.compare(set()) == ([revocation], set())
    assert unreadable == {"redis": 1}


@pytest.mark.parametrize("name", STRAYS)
async def test_a_stray_word_is_an_outage_at_the_most_and_is_over_soon(
    own_redis: Server, name: str
) -> None:
    async with Wire(own_redis.port) as wire:
        server = RedisClient(f"redis://127.0.0.1:{wire.port}/0", timeout=0.1)
        shelf = RedisPendingRevocations(server, on_unreadable=ignore)
        mine, hers = a_pending(), a_pending()
        await shelf.put([mine])
        for _ in range(3):
            for ask in (shelf.compare({"gone"}), shelf.put([mine]), shelf.remove(hers)):
                wire.answers = Once(STRAYS[name])
                with suppress(StoreUnavailable):
                    await ask

        async def right() -> bool:
            with suppress(StoreUnavailable):
                return await shelf.compare(set()) == ([mine], set())
            return False

        await until_answered(right)
        await server.close()


async def test_another_type_in_its_place_is_an_outage(
    shelf: RedisPendingRevocations, raw: Raw
) -> None:
    await shelf.put([a_pending()])
    [key] = await raw.keys()
    await raw.set(key, "rubbish")
    with pytest.raises(StoreUnavailable):
        await shelf.compare(set())
    with pytest.raises(StoreUnavailable):
        await shelf.put([a_pending()])


async def test_a_redis_without_memory_takes_none(own_redis: Server, raw_mortal: Raw) -> None:
    server = RedisClient(own_redis.url, timeout=5.0)
    shelf = RedisPendingRevocations(server, on_unreadable=ignore)
    await raw_mortal.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await shelf.put([a_pending()])
    assert await shelf.compare(set()) == ([], set())
    await server.close()


async def test_in_a_cluster_they_have_their_place(workdir: Path) -> None:
    node = await asyncio.to_thread(start_cluster_node, workdir)
    server = RedisClient(node.url, timeout=5.0)
    shelf = RedisPendingRevocations(server, on_unreadable=ignore)
    revocation = a_pending()
    await shelf.put([revocation])
    assert await shelf.compare(set()) == ([revocation], set())
    await server.close()
    await asyncio.to_thread(node.stop)
