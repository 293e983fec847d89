"""Lookups in Redis: copies are trusted if they were read between two equal, verified seals."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import pytest

from sidegate.core.errors import CacheNotTrusted, StoreUnavailable
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from tests.contracts.values import build_digest, build_session
from tests.stores.conftest import BuildStore, RawClient, connect_raw
from tests.stores.redis.sealed import (
    READ_COPY,
    READ_SEAL,
    SEAL_KEY,
    CommandBetween,
    pack,
    read_copy,
    read_seal,
    write_seal,
)
from tests.stores.redis.strays import InjectOnce, format_bulk_string
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy, pass_through
from tests.stores.waiting import wait_until, wait_until_async
from tests.support.processes import Server, temporary_directory
from tests.support.redis_trust import FollowedRedis, build_mark
from tests.support.servers import REDIS_KINDS, start_redis

NOW: Final = datetime.now(UTC)

ChangeSeal = Callable[[RawClient, Seal], Awaitable[object]]


async def is_not_trusted(store: FollowedRedis, session: Session) -> bool:
    """Return whether a lookup is refused for lack of trust; then a round must be requested."""
    store.wakeup.clear()
    try:
        await store.find(session.digest)
    except CacheNotTrusted:
        assert store.wakeup.is_set()
        return True
    return False


# --- Another seal than the verified one


async def delete_seal(raw_client: RawClient, _: Seal) -> None:
    await raw_client.delete(SEAL_KEY)


async def make_it_a_list(raw_client: RawClient, seal: Seal) -> None:
    await raw_client.delete(SEAL_KEY)
    await raw_client.rpush(SEAL_KEY, seal.encode())


async def make_it_a_hash(raw_client: RawClient, seal: Seal) -> None:
    await raw_client.delete(SEAL_KEY)
    await raw_client.hset(SEAL_KEY, mapping={"seal": seal.encode()})


def set_to(build: Callable[[Seal], bytes]) -> ChangeSeal:
    async def change(raw_client: RawClient, seal: Seal) -> None:
        await raw_client.set(SEAL_KEY, build(seal))

    return change


UNTRUSTED: Final[dict[str, ChangeSeal]] = {
    "no seal": delete_seal,
    "list": make_it_a_list,
    "hash": make_it_a_hash,
    "empty": set_to(lambda _: b""),
    "text": set_to(lambda _: b"hello"),
    "other version": set_to(lambda seal: b"2" + seal.encode()[1:]),
    "cut off": set_to(lambda seal: seal.encode()[:60]),
    "namespace only": set_to(lambda seal: seal.encode()[:19]),
    "other namespace": set_to(lambda seal: Seal.begin(seal.mark).encode()),
    "older": set_to(lambda seal: seal.advanced(build_mark(99)).encode()),
    "as old, with more in progress": set_to(
        lambda seal: seal.advanced(build_mark(100, 7)).encode()
    ),
}


@pytest.mark.parametrize("change", UNTRUSTED.values(), ids=UNTRUSTED)
async def test_copies_under_another_seal_are_refused_until_rounds_have_followed_it(
    any_store: FollowedRedis, any_raw_client: RawClient, change: ChangeSeal
) -> None:
    session = build_session(at=NOW)
    await any_store.put(session)
    await change(any_raw_client, await read_seal(any_raw_client))
    for _ in range(3):
        assert await is_not_trusted(any_store, session)
    for _ in range(2):  # one in which the position of the seal is lost verifies nothing
        await any_store.follow()
    assert await any_store.find(session.digest) is None  # under a new namespace
    await any_store.put(session)
    assert await any_store.find(session.digest) == session


async def test_copies_under_a_later_seal_are_found_without_a_round(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await any_store.put(session)
    later = (await read_seal(any_raw_client)).advanced(build_mark(101))
    await write_seal(any_raw_client, later)
    any_store.wakeup.clear()
    assert await any_store.find(session.digest) == session
    assert any_store.trust.position == {0: later}
    assert not any_store.wakeup.is_set()


async def test_copies_from_before_a_rollback_are_brought_forward_and_kept(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    revoked, kept = build_session(at=NOW), build_session(at=NOW)
    await any_store.put_many([revoked, kept])
    before = {key: await any_raw_client.dump(key) for key in await any_raw_client.keys()}
    assert len(before) == 3

    tombstone = any_store.change_log.commit(revoked.revoked(NOW))
    await any_store.follow()
    for key, value in before.items():
        await any_raw_client.execute_command("RESTORE", key, 0, value, "REPLACE")

    assert await is_not_trusted(any_store, revoked)
    assert await is_not_trusted(any_store, kept)
    await any_store.follow()
    assert await any_store.find(revoked.digest) == tombstone
    assert await any_store.find(kept.digest) == kept
    assert any_store.moves == ["begun", "moved", "moved"]


async def test_store_trusts_only_what_it_has_verified_itself(
    any_store: FollowedRedis, any_redis: Server, build_store: BuildStore
) -> None:
    session = build_session(at=NOW)
    await any_store.put(session)
    other = build_store(any_redis.url, change_log=any_store.change_log)
    with pytest.raises(CacheNotTrusted):
        await other.find(session.digest)
    await other.follow()
    assert await other.find(session.digest) == session
    assert other.moves == []


async def test_copies_of_a_namespace_that_was_left_are_not_read(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    """A connection that has last seen the former seal asks for copies under it."""
    session = build_session(at=NOW)
    await any_store.put(session)
    former = await read_seal(any_raw_client)
    async with any_store.client.acquire(await any_store.client.get_pool(b"key")):
        await write_seal(any_raw_client, Seal.begin(former.mark))
        tombstone = any_store.change_log.commit(session.revoked(NOW))
        await any_store.follow()  # on another connection
    copy = await read_copy(any_raw_client, session.digest, namespace=former.namespace)
    assert copy == session
    assert await any_store.find(session.digest) == tombstone


# --- A seal that changes while the copies are read


@pytest.fixture
async def other_proxy(any_redis: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(any_redis.port) as proxy:
        yield proxy


@pytest.fixture
async def any_proxied(
    other_proxy: TcpProxy, any_raw_client: RawClient, build_store: BuildStore
) -> FollowedRedis:
    """A store that connects to `any_redis` through `other_proxy`, and has made a round."""
    del any_raw_client  # it has emptied the Redis
    store = build_store(f"redis://127.0.0.1:{other_proxy.port}/0")
    await store.follow()
    return store


async def test_lookup_is_repeated_if_the_seal_was_moved_while_it_was_read(
    any_proxied: FollowedRedis, other_proxy: TcpProxy, any_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await any_proxied.put(session)
    moved = (await read_seal(any_raw_client)).advanced(build_mark(101))
    between = CommandBetween(
        other_proxy, lambda: pack("SET", SEAL_KEY, moved.encode()), before=READ_COPY
    )
    assert await any_proxied.find(session.digest) == session
    assert between.done == 1
    assert any_proxied.trust.position == {0: moved}


async def test_lookup_during_which_the_seal_keeps_changing_is_refused(
    any_proxied: FollowedRedis, other_proxy: TcpProxy, any_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await any_proxied.put(session)
    seal, accepted = await read_seal(any_raw_client), other_proxy.accepted
    between = CommandBetween(
        other_proxy,
        lambda: pack("SET", SEAL_KEY, seal.advanced(build_mark(101)).encode()),
        before=READ_SEAL,
        last=True,
        times=3,  # by the attempt without a task, and by both of the other way
    )
    with pytest.raises(CacheNotTrusted):
        await any_proxied.find(session.digest)
    assert between.done == 3
    assert await any_proxied.find(session.digest) == session
    assert other_proxy.accepted == accepted + 1  # the connection was dropped


@pytest.mark.parametrize(
    ("before", "last"),
    [(READ_SEAL, False), (READ_COPY, False), (READ_SEAL, True)],
    ids=["before the seal", "before the copy", "before the seal is read again"],
)
async def test_swapped_databases_never_give_a_stale_copy(
    any_proxied: FollowedRedis,
    other_proxy: TcpProxy,
    any_raw_client: RawClient,
    before: bytes,
    last: bool,
) -> None:
    """Database 1 has an older state of the same namespace, in which the session is active."""
    session = build_session(at=NOW)
    await any_proxied.put(session)
    for key in await any_raw_client.keys():
        await any_raw_client.execute_command("COPY", key, key, "DB", "1")
    tombstone = any_proxied.change_log.commit(session.revoked(NOW))
    await any_proxied.follow()

    between = CommandBetween(
        other_proxy, lambda: pack("SWAPDB", "0", "1"), before=before, last=last
    )
    assert await is_not_trusted(any_proxied, session)
    assert between.done == 1
    assert await read_copy(any_raw_client, session.digest) == session
    await any_proxied.follow()
    assert await any_proxied.find(session.digest) == tombstone


async def test_server_that_becomes_a_replica_of_an_old_copy_never_gives_a_stale_copy(
    replicated: tuple[FollowedRedis, RawClient, RawClient],
) -> None:
    store, raw_client, other_client = replicated
    session = build_session(at=NOW)
    await store.put(session)
    await wait_until_async(lambda: has_key_count(other_client, 2))
    await other_client.execute_command("REPLICAOF", "NO", "ONE")
    tombstone = store.change_log.commit(session.revoked(NOW))
    await store.follow()
    assert await store.find(session.digest) == tombstone

    port = other_client.connection_pool.connection_kwargs["port"]
    await raw_client.execute_command("REPLICAOF", "127.0.0.1", port)

    async def is_rolled_back() -> bool:
        for _ in range(20):
            with suppress(StoreUnavailable):
                assert await store.find(session.digest) == tombstone
        return await read_copy(raw_client, session.digest) == session

    await wait_until_async(is_rolled_back)
    await raw_client.execute_command("REPLICAOF", "NO", "ONE")
    assert await read_copy(raw_client, session.digest) == session
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.find(session.digest)
    await store.follow()
    assert await store.find(session.digest) == tombstone
    assert store.moves == ["begun", "moved", "moved"]


async def has_key_count(raw_client: RawClient, count: int) -> bool:
    return await raw_client.dbsize() == count


@pytest.fixture(params=REDIS_KINDS)
async def replicated(
    request: pytest.FixtureRequest, build_store: BuildStore
) -> AsyncIterator[tuple[FollowedRedis, RawClient, RawClient]]:
    """A store in a Redis of each kind, a client of that Redis, and a client of its replica."""
    with temporary_directory() as one, temporary_directory() as other:
        diskless = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        server = start_redis(one, kind=request.param, extra_args=diskless)
        replica = start_redis(other, kind=request.param, extra_args=diskless)
        store = build_store(server.url)
        async with connect_raw(server.url) as raw_client, connect_raw(replica.url) as other_client:
            await other_client.execute_command("REPLICAOF", "127.0.0.1", server.port)
            yield store, raw_client, other_client
        replica.stop()
        server.stop()


# --- Eviction


async def evict(raw_client: RawClient, policy: str) -> None:
    """Evict everything that the policy allows."""
    await raw_client.config_set("maxmemory-policy", policy)
    await raw_client.config_set("maxmemory", "1")
    with suppress(Exception):
        await raw_client.set("x", "y")
    await raw_client.config_set("maxmemory", "0")
    await raw_client.config_set("maxmemory-policy", "noeviction")


async def test_evicted_seal_makes_the_cache_cold(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await own_store.put(session)
    await evict(own_raw_client, "allkeys-lru")
    assert await own_raw_client.get(SEAL_KEY) is None
    assert await is_not_trusted(own_store, session)
    await own_store.follow()
    assert await own_store.find(session.digest) is None
    await own_store.put(session)
    assert await own_store.find(session.digest) == session


async def test_seal_outlasts_the_eviction_of_keys_that_expire(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await own_store.put(session)
    await evict(own_raw_client, "volatile-lru")
    assert await own_store.find(session.digest) is None
    await own_store.put(session)
    assert await own_store.find(session.digest) == session
    assert own_store.moves == ["begun"]


# --- Replies that were not asked for


async def test_seal_that_is_not_approved_keeps_the_connection(
    any_proxied: FollowedRedis, other_proxy: TcpProxy, any_raw_client: RawClient
) -> None:
    """Else a Redis that is not followed would get a new connection for each lookup."""
    session = build_session(at=NOW)
    await any_proxied.put(session)
    accepted = other_proxy.accepted
    await delete_seal(any_raw_client, await read_seal(any_raw_client))
    for _ in range(3):
        assert await is_not_trusted(any_proxied, session)

    assert other_proxy.accepted == accepted


async def test_stray_seal_before_the_replies_is_refused_and_drops_the_connection(
    any_proxied: FollowedRedis, other_proxy: TcpProxy, any_raw_client: RawClient
) -> None:
    sessions = [build_session(at=NOW) for _ in range(3)]
    await any_proxied.put_many(sessions)
    seal = (await read_seal(any_raw_client)).encode()
    for session in sessions:
        accepted = other_proxy.accepted
        other_proxy.server_filter = InjectOnce(format_bulk_string(seal))
        with pytest.raises(StoreUnavailable):
            await any_proxied.find(session.digest)
        assert await any_proxied.find(session.digest) == session
        assert other_proxy.accepted == accepted + 1


async def test_replies_to_an_earlier_lookup_are_not_used_once_a_round_has_moved_the_seal(
    any_proxied: FollowedRedis, other_proxy: TcpProxy
) -> None:
    """A reply that comes twice is that of the next lookup, which reads it under the old seal."""
    session = build_session(at=NOW)
    await any_proxied.put(session)
    recorded = list[bytes]()

    def record(_: object, chunk: bytes) -> bytes:
        recorded.append(chunk)
        return chunk

    other_proxy.server_filter = record
    assert await any_proxied.find(session.digest) == session
    replies = b"".join(recorded)
    other_proxy.server_filter = lambda _, chunk: chunk
    any_proxied.change_log.commit(session.revoked(NOW))
    await any_proxied.follow()
    other_proxy.server_filter = InjectOnce(replies)
    with pytest.raises(StoreUnavailable):
        await any_proxied.find(session.digest)


# --- Trust that ends during a lookup


async def test_lookup_in_flight_at_an_invalidation_is_refused(
    any_proxied: FollowedRedis, other_proxy: TcpProxy
) -> None:
    session = build_session(at=NOW)
    await any_proxied.put(session)
    sent = asyncio.Event()

    def invalidate(_: object, chunk: bytes) -> bytes:
        sent.set()
        any_proxied.trust.invalidate("test")
        return chunk

    other_proxy.server_filter = invalidate
    with pytest.raises(CacheNotTrusted):
        await any_proxied.find(session.digest)
    assert sent.is_set()


async def test_lookup_in_flight_at_a_change_is_refused_though_a_round_has_restored_trust(
    any_proxied: FollowedRedis, other_proxy: TcpProxy
) -> None:
    session = build_session(at=NOW)
    await any_proxied.put(session)
    held = list[tuple[ProxiedConnection, bytes]]()

    def hold(connection: ProxiedConnection, chunk: bytes) -> bytes:
        held.append((connection, chunk[1:]))
        return chunk[:1]

    other_proxy.server_filter = hold
    lookup = asyncio.create_task(any_proxied.find(session.digest))
    await wait_until(lambda: bool(held))
    other_proxy.server_filter = pass_through

    tombstone = any_proxied.change_log.commit(session.revoked(NOW))
    any_proxied.trust.invalidate("test")
    await any_proxied.follow()
    assert await any_proxied.find(session.digest) == tombstone
    for connection, rest in held:
        connection.inject(rest)
    with pytest.raises(CacheNotTrusted):
        await lookup


# --- Round trips


async def test_lookup_of_many_digests_reads_the_seal_twice(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    sessions = [build_session(at=NOW) for _ in range(10)]
    await any_store.put_many(sessions)
    before = (await any_raw_client.info("commandstats"))["cmdstat_getrange"]["calls"]
    digests = [*(session.digest for session in sessions), build_digest()]
    assert await any_store.find_many(digests) == {s.digest: s for s in sessions}
    assert (await any_raw_client.info("commandstats"))["cmdstat_getrange"]["calls"] == before + 13
