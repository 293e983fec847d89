"""Rounds in Redis: which servers are found, how changes move a seal, and who begins a namespace."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from sidegate.core.errors import CacheNotTrusted, StoreUnavailable
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import HEADER_SIZE, encode
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.services.change_log import FakeChangeLog
from tests.stores.conftest import BuildStore, RawClient, connect_raw
from tests.stores.redis.sealed import (
    READ_COPY,
    SEAL_KEY,
    find_key,
    read_bytes,
    read_copy,
    read_seal,
    write_copy,
    write_seal,
)
from tests.stores.sql.tcp_proxy import TcpProxy, pass_through
from tests.stores.waiting import wait_until
from tests.support.processes import Server
from tests.support.redis_trust import FollowedRedis, build_mark
from tests.support.replace import replace

NOW: Final = datetime.now(UTC)
SECOND: Final = timedelta(seconds=1)
MARK: Final = build_mark(200)
COVERED: Final = 150
UNCOVERED: Final = 250


def build_changed(session: Session, *, xid: int = COVERED) -> Session:
    return replace(session, changed_xid=xid)


async def has_only_header(raw_client: RawClient, session: Session) -> bool:
    """Return whether Redis only blocks copies older than this one."""
    key = await find_key(raw_client, session.digest)
    return await read_bytes(raw_client, key) == encode(session)[:HEADER_SIZE]


# --- What a round finds


async def test_round_reads_the_seal(any_store: FollowedRedis, any_raw_client: RawClient) -> None:
    async with any_store.open_round() as servers:
        [server] = servers
        assert server.seals == {0: await read_seal(any_raw_client)}


@pytest.mark.parametrize("value", [None, b"hello", b"", ["an", "element"]])
async def test_round_finds_no_seal_where_there_is_none_or_another_value(
    any_store: FollowedRedis, any_raw_client: RawClient, value: bytes | list[str] | None
) -> None:
    await any_raw_client.delete(SEAL_KEY)
    if isinstance(value, bytes):
        await any_raw_client.set(SEAL_KEY, value)
    elif value is not None:
        await any_raw_client.rpush(SEAL_KEY, *value)
    async with any_store.open_round() as servers:
        [server] = servers
        assert server.seals == {0: None}
        assert await server.begin(MARK, buckets=[0]) == {0}
        assert server.seals == {0: await read_seal(any_raw_client)}
    assert (await read_seal(any_raw_client)).mark == MARK


async def test_round_without_a_server_raises_unavailable(build_store: BuildStore) -> None:
    store = build_store("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        async with store.open_round():
            pass


async def test_round_does_not_wait_for_lookups(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    """Lookups hold as many connections as may be acquired, and none of them ends."""
    await proxied_store.put(build_session(at=NOW))
    proxy.client_filter = lambda _, chunk: chunk[:1] if READ_COPY in chunk else chunk
    lookups = [asyncio.create_task(proxied_store.find(build_digest())) for _ in range(40)]
    # One was idle and is borrowed at once; the others are acquired.
    await wait_until(lambda: len(proxy.connections) == 1 + 24)
    async with proxied_store.open_round() as servers:
        assert len(servers) == 1
    for lookup in lookups:
        lookup.cancel()
    await asyncio.wait(lookups)


# --- Changes that move the seal


async def test_changes_that_the_mark_covers_are_stored_and_the_seal_moves(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    session, tombstone = build_session(at=NOW), build_tombstone(at=NOW)
    rotated = build_session(at=NOW).rotated(build_digest(), SECOND, at=NOW)
    copies = [build_changed(each) for each in (session, tombstone, *rotated.copies())]
    before = await read_seal(any_raw_client)
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply(copies, buckets=[0], moved_to=MARK) == {0}
        seal = server.seals[0]
    assert seal == await read_seal(any_raw_client)
    assert seal is not None
    assert (seal.namespace, seal.mark) == (before.namespace, MARK)
    assert [await read_copy(any_raw_client, copy.digest) for copy in copies] == copies


async def test_changes_that_the_mark_does_not_cover_only_restrict(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    sessions = [build_session(at=NOW) for _ in range(3)]
    await any_store.put_many(sessions)
    extended = sessions[0].extended(sessions[0].expires_at + SECOND, NOW)
    revoked = sessions[1].revoked(NOW)
    rotated = sessions[2].rotated(build_digest(), SECOND, at=NOW)
    changes = [
        build_changed(each, xid=UNCOVERED) for each in (extended, revoked, *rotated.copies())
    ]
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply(changes, buckets=[0], moved_to=MARK) == {0}
    assert (await read_seal(any_raw_client)).mark == MARK
    assert await read_copy(any_raw_client, revoked.digest) == revoked
    for copy in (extended, *rotated.copies()):
        assert await has_only_header(any_raw_client, copy)


async def test_changes_without_a_mark_only_restrict_and_revise_the_seal(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    session, revoked = build_session(at=NOW), build_session(at=NOW)
    await any_store.put_many([session, revoked])
    extended = build_changed(session.extended(session.expires_at + SECOND, NOW))
    tombstone = build_changed(revoked.revoked(NOW))
    before = await read_seal(any_raw_client)
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply([extended, tombstone], buckets=[0], moved_to=None) == {0}
        seal = server.seals[0]
    assert seal == await read_seal(any_raw_client)
    assert seal is not None
    assert (seal.namespace, seal.mark) == (before.namespace, before.mark)
    assert seal != before
    assert await has_only_header(any_raw_client, extended)
    assert await read_copy(any_raw_client, tombstone.digest) == tombstone


async def test_pages_are_applied_one_after_the_other(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    tombstones = [build_changed(build_tombstone(at=NOW)) for _ in range(3)]
    async with any_store.open_round() as servers:
        [server] = servers
        for tombstone in tombstones[:2]:
            assert await server.apply([tombstone], buckets=[0], moved_to=None) == {0}
        assert await server.apply(tombstones[2:], buckets=[0], moved_to=MARK) == {0}
    assert (await read_seal(any_raw_client)).mark == MARK
    assert [await read_copy(any_raw_client, each.digest) for each in tombstones] == tombstones


@pytest.mark.parametrize("xid", [COVERED, UNCOVERED])
async def test_fresher_copy_is_kept(
    any_store: FollowedRedis, any_raw_client: RawClient, xid: int
) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await any_store.put(tombstone)
    async with any_store.open_round() as servers:
        [server] = servers
        change = build_changed(session, xid=xid)
        assert await server.apply([change], buckets=[0], moved_to=MARK) == {0}
    assert await read_copy(any_raw_client, session.digest) == tombstone


async def test_digests_of_unreadable_sessions_are_deleted(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    tombstone, kept = build_tombstone(at=NOW), build_session(at=NOW)
    await any_store.put_many([tombstone, kept])
    async with any_store.open_round() as servers:
        [server] = servers
        deleted = [tombstone.digest, build_digest()]
        assert await server.apply([], deleted=deleted, buckets=[0], moved_to=MARK) == {0}
    assert await read_copy(any_raw_client, tombstone.digest) is None
    assert await read_copy(any_raw_client, kept.digest) == kept


async def test_last_page_without_changes_moves_the_seal(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply([], buckets=[0], moved_to=MARK) == {0}
    assert (await read_seal(any_raw_client)).mark == MARK


async def test_page_without_changes_before_the_last_leaves_the_seal(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    before = await read_seal(any_raw_client)
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply([], buckets=[0], moved_to=None) == {0}
    assert await read_seal(any_raw_client) == before


async def test_buckets_that_are_not_named_are_left(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    tombstone, before = build_tombstone(at=NOW), await read_seal(any_raw_client)
    async with any_store.open_round() as servers:
        [server] = servers
        assert await server.apply([tombstone], buckets=[], moved_to=MARK) == set()
        assert await server.begin(MARK, buckets=[]) == set()
    assert await read_seal(any_raw_client) == before
    assert await read_copy(any_raw_client, tombstone.digest) is None


# --- Seals that another instance has changed

CHANGED: Final[dict[str, Callable[[Seal], Seal]]] = {
    "moved": lambda seal: seal.advanced(build_mark(150)),
    "of another revision": lambda seal: seal.advanced(None),
    "of another namespace": lambda seal: Seal.begin(seal.mark),
}


@pytest.mark.parametrize("moved_to", [MARK, None], ids=["last page", "page before"])
@pytest.mark.parametrize("change", CHANGED)
async def test_changes_are_not_applied_under_another_seal(
    any_store: FollowedRedis, any_raw_client: RawClient, change: str, moved_to: object
) -> None:
    session = build_session(at=NOW)
    await any_store.put(session)
    async with any_store.open_round() as servers:
        [server] = servers
        other = CHANGED[change](await read_seal(any_raw_client))
        await write_seal(any_raw_client, other)
        await write_copy(any_raw_client, session)
        tombstone = build_changed(session.revoked(NOW))
        applied = await server.apply(
            [tombstone], buckets=[0], moved_to=MARK if moved_to is MARK else None
        )
        assert applied == set()
        assert server.seals == {0: other}
        assert await read_seal(any_raw_client) == other
        assert await read_copy(any_raw_client, session.digest) == session

        assert await server.apply([tombstone], buckets=[0], moved_to=MARK) == {0}  # as read now
        assert await read_copy(any_raw_client, session.digest) == tombstone


async def test_seal_that_was_deleted_meanwhile_is_not_moved(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    async with any_store.open_round() as servers:
        [server] = servers
        await any_raw_client.delete(SEAL_KEY)
        assert await server.apply([build_tombstone()], buckets=[0], moved_to=MARK) == set()
        assert server.seals == {0: None}
    assert await any_raw_client.dbsize() == 0


async def test_one_of_two_stores_begins_the_namespace(
    any_redis: Server, any_raw_client: RawClient, build_store: BuildStore
) -> None:
    async with AsyncExitStack() as stack:
        stores = [build_store(any_redis.url) for _ in range(5)]
        servers = [(await stack.enter_async_context(store.open_round()))[0] for store in stores]
        results = await asyncio.gather(*(server.begin(MARK, buckets=[0]) for server in servers))
        assert sorted(map(len, results)) == [0, 0, 0, 0, 1]
        seal = await read_seal(any_raw_client)
        assert [server.seals for server in servers] == [{0: seal}] * 5


async def test_one_of_two_stores_moves_the_seal_and_the_other_finds_it_moved(
    any_redis: Server, any_raw_client: RawClient, build_store: BuildStore
) -> None:
    log = FakeChangeLog()
    stores = [build_store(any_redis.url, change_log=log) for _ in range(2)]
    await stores[0].follow()
    session = build_session(at=NOW)
    await stores[0].put(session)
    tombstone = log.commit(session.revoked(NOW))
    await asyncio.gather(*(store.follow() for store in stores))
    assert sorted(stores[0].moves + stores[1].moves).count("moved") >= 1
    seal = await read_seal(any_raw_client)
    for store in stores:
        assert store.trust.verified == {seal.namespace: seal}
        assert await store.find(session.digest) == tombstone


# --- Several servers


@pytest.fixture
async def two_servers(
    redis_server: Server, own_redis: Server
) -> AsyncIterator[tuple[TcpProxy, RawClient, RawClient]]:
    """A proxy whose new connections lead to the first of two servers, and clients of both."""
    async with (
        TcpProxy(redis_server.port) as proxy,
        connect_raw(redis_server.url) as first,
        connect_raw(own_redis.url) as second,
    ):
        await first.flushall()
        yield proxy, first, second


async def occupy(store: FollowedRedis, stack: AsyncExitStack, number: int) -> None:
    """Borrow so many connections until the stack is closed."""
    pool = await store.client.get_pool(b"key")
    for _ in range(number):
        await stack.enter_async_context(store.client.acquire(pool))


@pytest.mark.parametrize("others", [1, 6])
async def test_round_follows_both_servers_that_connections_lead_to(
    two_servers: tuple[TcpProxy, RawClient, RawClient],
    own_redis: Server,
    others: int,
    build_store: BuildStore,
) -> None:
    proxy, first, second = two_servers
    store = build_store(f"redis://127.0.0.1:{proxy.port}/0")
    session = build_session(at=NOW)
    await store.put(session)
    async with AsyncExitStack() as old_connections:
        await occupy(store, old_connections, others)
        proxy.set_target(own_redis.port)
        with pytest.raises(StoreUnavailable):
            await store.find(session.digest)  # on a new connection
    await store.follow()
    seals = [await read_seal(first), await read_seal(second)]
    assert store.trust.verified == {seal.namespace: seal for seal in seals}

    await write_copy(second, session)
    tombstone = store.change_log.commit(session.revoked(NOW))
    lookups = (store.find(session.digest) for _ in range(others + 1))
    assert await asyncio.gather(*lookups) == [session] * (others + 1)  # on all connections
    await store.follow()
    assert await read_copy(first, session.digest) == tombstone
    assert await read_copy(second, session.digest) == tombstone


async def test_server_that_a_round_did_not_meet_is_not_trusted_until_one_has(
    two_servers: tuple[TcpProxy, RawClient, RawClient],
    own_redis: Server,
    build_store: BuildStore,
) -> None:
    proxy, _, second = two_servers
    store = build_store(f"redis://127.0.0.1:{proxy.port}/0")
    session = build_session(at=NOW)
    await store.put(session)
    pool = await store.client.get_pool(b"key")
    async with store.client.acquire(pool):
        proxy.set_target(own_redis.port)
        async with store.client.acquire(pool):
            pass  # a new connection, to the other server
        await second.set(SEAL_KEY, Seal.begin(MARK).encode())
        with pytest.raises(CacheNotTrusted):
            await store.find(session.digest)
        assert store.wakeup.is_set()


async def test_server_that_is_met_again_is_brought_forward_before_it_is_trusted(
    two_servers: tuple[TcpProxy, RawClient, RawClient],
    own_redis: Server,
    redis_server: Server,
    build_store: BuildStore,
) -> None:
    proxy, first, _ = two_servers
    store = build_store(f"redis://127.0.0.1:{proxy.port}/0")
    session = build_session(at=NOW)
    await store.put(session)
    proxy.set_target(own_redis.port)
    proxy.reset_connections()
    await wait_until(lambda: not proxy.connections)
    with suppress(StoreUnavailable):
        await store.find(session.digest)
    await store.follow()
    tombstone = store.change_log.commit(session.revoked(NOW))
    await store.follow()
    assert await read_copy(first, session.digest) == session

    proxy.set_target(redis_server.port)
    proxy.reset_connections()
    await wait_until(lambda: not proxy.connections)
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await store.find(session.digest)
    await store.follow()
    assert await store.find(session.digest) == tombstone


async def test_server_that_does_not_answer_is_omitted(
    two_servers: tuple[TcpProxy, RawClient, RawClient], own_redis: Server, build_store: BuildStore
) -> None:
    """New connections lead to a server that is down; the one that is there works."""
    proxy, first, _ = two_servers
    store = build_store(f"redis://127.0.0.1:{proxy.port}/0")
    session = build_session(at=NOW)
    await store.put(session)
    proxy.set_target(own_redis.port)
    own_redis.kill()
    store.trust.approve(0, Seal.begin(MARK).encode())  # a namespace of the server that is down
    async with store.open_round() as servers:
        assert [server.seals for server in servers] == [{0: await read_seal(first)}]
    assert await store.find(session.digest) == session


# --- Rounds that are interrupted


async def test_interrupted_round_leaves_no_connection_whose_replies_are_on_their_way(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    session = build_session(at=NOW)
    await proxied_store.put(session)
    accepted = proxy.accepted
    async with proxied_store.open_round() as servers:
        [server] = servers
        proxy.stall()
        step = asyncio.create_task(server.apply([build_tombstone()], buckets=[0], moved_to=MARK))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the script is sent
        step.cancel()
        with suppress(asyncio.CancelledError):
            await step
    proxy.resume()
    assert await proxied_store.restrict_many([session.revoked(NOW)])
    assert proxy.accepted == accepted + 1


async def test_round_with_a_stray_reply_to_the_seal_drops_the_connection(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    await proxied_store.put(build_session(at=NOW))
    accepted = proxy.accepted
    proxy.server_filter = lambda _, chunk: b"-ERR stray\r\n" + chunk
    with pytest.raises(StoreUnavailable):
        async with proxied_store.open_round():
            pass
    proxy.server_filter = pass_through
    async with proxied_store.open_round() as servers:
        assert len(servers) == 1
    assert proxy.accepted == accepted + 1


# --- Tombstones under a namespace


async def collect(store: FollowedRedis, namespace: str) -> list[Session]:
    return [each async for page in store.read_tombstones(namespace) for each in page]


def order(sessions: Sequence[Session]) -> list[Session]:
    return sorted(sessions, key=lambda session: session.digest)


async def test_tombstones_of_a_namespace_are_read(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    sessions = [build_session(at=NOW) for _ in range(20)]
    tombstones = [build_tombstone(at=NOW) for _ in range(1500)]
    await any_store.put_many(sessions)
    assert await any_store.restrict_many(tombstones)
    former = await read_seal(any_raw_client)
    await write_seal(any_raw_client, Seal.begin(MARK))
    assert await any_store.restrict_many([build_tombstone(at=NOW)])

    assert order(await collect(any_store, former.namespace)) == order(tombstones)


async def test_values_that_are_no_tombstones_are_omitted(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    tombstone, session = build_tombstone(at=NOW), build_session(at=NOW)
    await any_store.put_many([tombstone, session])
    assert await any_store.restrict_many([build_session(at=NOW)])  # only a header
    namespace = (await read_seal(any_raw_client)).namespace
    for value in (b"", b"1", b"1" * 500, encode(tombstone)[:-1], encode(tombstone)[:HEADER_SIZE]):
        await any_raw_client.set(await find_key(any_raw_client, build_digest()), value)
    await any_raw_client.rpush(await find_key(any_raw_client, build_digest()), "an", "element")
    assert await collect(any_store, namespace) == [tombstone]


async def test_no_tombstones_are_read_of_an_unknown_namespace(any_store: FollowedRedis) -> None:
    await any_store.put(build_tombstone(at=NOW))
    assert await collect(any_store, "0" * 16) == []


async def test_tombstones_of_a_server_that_is_down_raise_unavailable(
    build_store: BuildStore,
) -> None:
    store = build_store("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await collect(store, "0" * 16)
