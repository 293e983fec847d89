"""Sealed copies in a Redis Cluster: their buckets, its nodes, and slots that are moved."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from redis.crc import key_slot

from sidegate.core.change_log import ChangedSession
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.redis.sealed_write import (
    CLUSTER_BUCKETS,
    bucket_of,
    build_hash_tag,
    build_key,
    build_seal_key,
)
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.stores.conftest import BuildStore, RawClient, connect_raw
from tests.stores.waiting import wait_until_async
from tests.support.processes import temporary_directory
from tests.support.redis_trust import FollowedRedis, build_mark
from tests.support.servers import RedisSet, primary_of, start_cluster

NOW: Final = datetime.now(UTC)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisSet]:
    with temporary_directory() as directory:
        servers = start_cluster(directory)
        yield servers
        servers.stop()


@pytest.fixture
async def primaries(cluster: RedisSet) -> AsyncIterator[list[RawClient]]:
    """A client of each of the three primaries, which are empty at the beginning."""
    async with connect_all(cluster) as clients:
        for client in clients:
            await client.flushall()
        yield clients


@asynccontextmanager
async def connect_all(cluster: RedisSet) -> AsyncIterator[list[RawClient]]:
    """Connect a client to each of the three primaries."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect_raw(f"redis://{server.address}"))
            for server in cluster.servers[:3]
        ]


@pytest.fixture
async def store(
    cluster: RedisSet, primaries: list[RawClient], build_store: BuildStore
) -> FollowedRedis:
    """A store in the Cluster, which has made a round."""
    del primaries  # which have emptied it
    store = build_store(cluster.url)
    await store.follow()
    return store


def slot_of(bucket: int) -> int:
    return key_slot(build_hash_tag(bucket).encode())


def build_session_in(bucket: int, **changes: Any) -> Session:
    digest = build_digest()
    return build_session(at=NOW, digest=Digest(bytes([bucket]) + digest[1:]), **changes)


# --- Buckets


async def test_each_bucket_has_its_own_seal_on_the_node_of_its_slot(
    store: FollowedRedis, primaries: list[RawClient]
) -> None:
    del store
    namespaces = set[str]()
    for bucket in range(CLUSTER_BUCKETS):
        record = await primaries[primary_of(slot_of(bucket))].get(build_seal_key(bucket))
        assert isinstance(record, bytes)
        namespaces.add(Seal.decode(record).namespace)
    assert len(namespaces) == CLUSTER_BUCKETS == 128


async def test_copies_are_spread_over_all_buckets_and_nodes(
    store: FollowedRedis, primaries: list[RawClient]
) -> None:
    sessions = [build_session(at=NOW) for _ in range(600)]
    await store.put_many(sessions)
    found = await store.find_many([session.digest for session in sessions])
    assert found == {session.digest: session for session in sessions}
    buckets = Counter(bucket_of(session.digest, CLUSTER_BUCKETS) for session in sessions)
    assert len(buckets) > 100
    copies = [
        sum(not key.endswith(b":seal") for key in await client.execute_command("KEYS", "*"))
        for client in primaries
    ]
    assert sum(copies) == 600
    assert min(copies) > 100


async def test_copy_has_the_namespace_of_its_bucket(
    store: FollowedRedis, primaries: list[RawClient]
) -> None:
    session = build_session_in(77)
    await store.put(session)
    key = build_key(77, session.digest, namespace=store.trust.position[77].namespace)
    assert await primaries[primary_of(slot_of(77))].exists(key) == 1


async def test_rounds_take_one_connection_to_each_node_however_many_seals_were_met(
    store: FollowedRedis, cluster: RedisSet, primaries: list[RawClient], build_store: BuildStore
) -> None:
    sessions = [build_session_in(bucket) for bucket in range(CLUSTER_BUCKETS)]
    await store.put_many(sessions)
    before = [await count_clients(client) for client in primaries]
    other = build_store(cluster.url, change_log=store.change_log)
    for _ in range(3):
        store.change_log.commit(build_session(at=NOW))
        await other.follow()
        await store.find_many([session.digest for session in sessions])
        await store.follow()
    for client, number in zip(primaries, before, strict=True):
        assert await count_clients(client) <= number + 2  # for rounds, and to read the slots


async def count_clients(client: RawClient) -> int:
    return sum(each["flags"] == "N" for each in await client.client_list())


async def test_bucket_without_a_seal_is_not_trusted_and_the_others_are(
    store: FollowedRedis, primaries: list[RawClient]
) -> None:
    lost, kept = build_session_in(3), build_session_in(4)
    await store.put_many([lost, kept])
    await primaries[primary_of(slot_of(3))].delete(build_seal_key(3))
    with pytest.raises(StoreUnavailable):
        await store.find(lost.digest)
    assert await store.find(kept.digest) == kept
    await store.follow()
    assert await store.find(lost.digest) is None
    assert await store.find(kept.digest) == kept


async def test_changes_in_all_buckets_are_applied_in_one_round(store: FollowedRedis) -> None:
    sessions = [build_session_in(bucket) for bucket in range(CLUSTER_BUCKETS)]
    await store.put_many(sessions)
    tombstones = [store.change_log.commit(session.revoked(NOW)) for session in sessions]
    await store.follow()
    found = await store.find_many([session.digest for session in sessions])
    assert found == {tombstone.digest: tombstone for tombstone in tombstones}
    assert store.moves == ["begun", "moved"]


async def test_restriction_in_all_buckets_is_refused_if_one_has_no_seal(
    store: FollowedRedis, primaries: list[RawClient]
) -> None:
    sessions = [build_session_in(bucket) for bucket in range(CLUSTER_BUCKETS)]
    await store.put_many(sessions)
    changes = [ChangedSession(session.revoked(NOW)) for session in sessions]
    await primaries[primary_of(slot_of(9))].delete(build_seal_key(9))
    assert not await store.restrict(changes)
    found = await store.find_many([s.digest for s in sessions if s.digest[0] != 9])
    assert all(session.revoked_at == NOW for session in found.values())
    assert len(found) == 127


async def test_tombstones_of_a_namespace_are_read(store: FollowedRedis) -> None:
    tombstones = [build_tombstone(at=NOW) for _ in range(50)]
    await store.put_many(tombstones)
    seen = list[Session]()
    for namespace in {seal.namespace for seal in store.trust.verified.values()}:
        async for page in store.read_tombstones(namespace):
            seen += page
    assert sorted(s.id for s in seen) == sorted(tombstone.id for tombstone in tombstones)


# --- A slot that is moved


class Migration:
    """The move of a bucket's slot from its node to another, in steps."""

    def __init__(self, cluster: RedisSet, primaries: list[RawClient], *, bucket: int) -> None:
        self.bucket = bucket
        self._slot = slot_of(bucket)
        self._primaries = primaries
        number = primary_of(self._slot)
        target_number = (number + 1) % 3
        self._target_port = cluster.servers[target_number].port
        self.source, self.target = primaries[number], primaries[target_number]
        self._has_ended = False

    async def begin(self) -> None:
        source_id, target_id = await get_id(self.source), await get_id(self.target)
        await self.target.execute_command("CLUSTER SETSLOT", self._slot, "IMPORTING", source_id)
        await self.source.execute_command("CLUSTER SETSLOT", self._slot, "MIGRATING", target_id)

    async def move(self, key: str | bytes) -> None:
        await self.source.execute_command("MIGRATE", "127.0.0.1", self._target_port, key, 0, 5000)

    async def move_rest(self) -> None:
        for key in await self.source.execute_command("CLUSTER GETKEYSINSLOT", self._slot, 1000):
            await self.move(key)

    async def end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        target_id = await get_id(self.target)
        others = [client for client in self._primaries if client is not self.target]
        for client in (self.target, *others):
            await client.execute_command("CLUSTER SETSLOT", self._slot, "NODE", target_id)

    def build_session(self) -> Session:
        """Return a session in the bucket that is moved."""
        return build_session_in(self.bucket)


async def get_id(client: RawClient) -> str:
    node_id = await client.execute_command("CLUSTER MYID")
    return node_id.decode() if isinstance(node_id, bytes) else str(node_id)


@pytest.fixture(scope="module")
def moving_cluster() -> Iterator[tuple[RedisSet, Iterator[int]]]:
    """A Cluster in which each test moves the slot of another bucket, and those buckets."""
    with temporary_directory() as directory:
        servers = start_cluster(directory)
        yield servers, iter(range(CLUSTER_BUCKETS))
        servers.stop()


@pytest.fixture
async def moving(
    moving_cluster: tuple[RedisSet, Iterator[int]], build_store: BuildStore
) -> AsyncIterator[tuple[FollowedRedis, Migration]]:
    """A store in a Cluster, and the move of a slot there, which has not begun."""
    cluster, buckets = moving_cluster
    async with connect_all(cluster) as clients:
        store = build_store(cluster.url)
        await store.follow()
        migration = Migration(cluster, clients, bucket=next(buckets))
        yield store, migration
        await migration.move_rest()
        await migration.end()


async def test_slot_that_is_moved_never_gives_a_wrong_result_and_works_afterwards(
    moving: tuple[FollowedRedis, Migration],
) -> None:
    store, migration = moving
    bucket = migration.bucket
    session, tombstone = migration.build_session(), migration.build_session().revoked(NOW)
    await store.put_many([session, tombstone])
    namespace = store.trust.position[bucket].namespace
    revoked = list[Session]()

    async def check() -> None:
        """Use the bucket in every way, as a lookup, a change and a round do."""
        for known in (session, tombstone):
            with suppress(StoreUnavailable):
                assert await store.find(known.digest) == known
            with suppress(StoreUnavailable):
                assert await store.fill(store.build_fill(known)) == known
        with suppress(StoreUnavailable):
            assert await store.find(migration.build_session().digest) is None
        new = migration.build_session()
        revoked.append(store.change_log.commit(new.revoked(NOW)))
        with suppress(StoreUnavailable):
            await store.fill(store.build_fill(new))
        with suppress(StoreUnavailable):
            if await store.restrict([ChangedSession(revoked[-1])]):
                assert await store.find(new.digest) == revoked[-1]
        with suppress(StoreUnavailable):
            await store.follow()
            assert await store.find(new.digest) == revoked[-1]

    await check()
    await migration.begin()
    await check()
    await migration.move(build_key(bucket, session.digest, namespace=namespace))
    await check()
    await migration.move(build_seal_key(bucket))
    await check()
    await migration.move_rest()
    await check()
    await migration.end()

    async def works() -> bool:
        with suppress(StoreUnavailable):
            await store.follow()
            known = [session, tombstone, *revoked]
            found = await store.find_many([each.digest for each in known])
            assert found == {each.digest: each for each in known}
            return True
        return False

    await wait_until_async(works)
    assert await store.restrict([ChangedSession(session.revoked(NOW))])
    assert await store.find(session.digest) == session.revoked(NOW)
    seal = await migration.target.execute_command("GET", build_seal_key(bucket))
    assert Seal.decode(seal).namespace == namespace  # the copies were kept


async def test_rounds_alone_find_the_new_node_of_a_slot(
    moving: tuple[FollowedRedis, Migration],
) -> None:
    store, migration = moving
    await migration.begin()
    await migration.move_rest()
    await migration.end()
    key = build_seal_key(migration.bucket)
    before = Seal.decode(await migration.target.execute_command("GET", key))
    store.change_log.commit(build_session(at=NOW))

    async def is_followed() -> bool:
        with suppress(StoreUnavailable):
            await store.follow()
        seal = Seal.decode(await migration.target.execute_command("GET", key))
        return seal.mark != before.mark and store.trust.verified.get(seal.namespace) == seal

    await wait_until_async(is_followed)


async def test_seal_does_not_move_while_its_slot_is_split(
    moving: tuple[FollowedRedis, Migration],
) -> None:
    """A script over the seal and keys on two nodes is refused by both."""
    store, migration = moving
    bucket, session = migration.bucket, migration.build_session()
    await store.put(session)
    namespace = store.trust.position[bucket].namespace
    await migration.begin()
    await migration.move(build_key(bucket, session.digest, namespace=namespace))
    before = await migration.source.get(build_seal_key(bucket))
    tombstone = session.revoked(NOW)
    async with store.open_round() as servers:
        [server] = [each for each in servers if bucket in each.seals]
        with pytest.raises(StoreUnavailable):
            await server.apply([tombstone], buckets=[bucket], moved_to=build_mark(10_000))
    with pytest.raises(StoreUnavailable):
        await store.restrict([ChangedSession(tombstone)])
    assert await migration.source.get(build_seal_key(bucket)) == before


async def test_lookups_of_many_callers_during_a_move_are_right(
    moving: tuple[FollowedRedis, Migration],
) -> None:
    store, migration = moving
    sessions = [migration.build_session() for _ in range(30)]
    await store.put_many(sessions)
    known = {session.digest: session for session in sessions}
    answered = Counter[str]()

    async def look_up() -> None:
        for session in sessions * 3:
            try:
                found = await store.find(session.digest)
            except StoreUnavailable:
                answered["unavailable"] += 1
            else:
                assert found == known[session.digest]
                answered["found"] += 1

    async def move() -> None:
        await migration.begin()
        await migration.move_rest()
        await migration.end()

    await asyncio.gather(look_up(), look_up(), move())
    assert answered["found"] > 0

    async def works() -> bool:
        with suppress(StoreUnavailable):
            return await store.find_many(tuple(known)) == known
        return False

    await wait_until_async(works)
