"""Real failovers: the new primary is used soon, the cache stays warm, and nothing is stale."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import pytest
import redis.exceptions
from redis.crc import key_slot

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import StoreUnavailable
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session
from sidegate.core.timeouts import with_timeout
from sidegate.stores.redis.pending_revocations import RedisPendingRevocations
from sidegate.stores.redis.pubsub import RedisPubSub
from sidegate.stores.redis.sealed_write import CLUSTER_BUCKETS, bucket_of, build_hash_tag
from tests.contracts.harnesses import ignore
from tests.contracts.values import build_session
from tests.services.change_log import FakeChangeLog
from tests.stores.conftest import connect_raw
from tests.stores.redis.test_pending_revocations import build_pending
from tests.stores.redis.test_pubsub import Listener, build_feed, listening
from tests.stores.waiting import wait_until, wait_until_async
from tests.support.processes import Server, temporary_directory
from tests.support.redis_trust import FollowedRedis
from tests.support.servers import RedisSet, primary_of, start_cluster, start_sentinel_set

NOW: Final = datetime.now(UTC)

# Seconds. A failover takes one or two, and the machine may be busy with other tests.
FAILOVER_TIMEOUT: Final = 20.0

# The deadline of a check for Redis, in seconds.
DEADLINE: Final = 0.025

EVENTS_WITH_GAP: Final = ["gap", "up", "down", "gap"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Instance:
    """Everything that one Sidegate instance has in Redis."""

    store: FollowedRedis
    feed: RedisPubSub
    pending: RedisPendingRevocations


@asynccontextmanager
async def open_instance(
    url: str, change_log: FakeChangeLog | None = None
) -> AsyncIterator[Instance]:
    unreadable: Counter[str] = Counter()
    store = FollowedRedis(
        url,
        on_unreadable=lambda name: unreadable.update([name]),
        timeout=0.5,
        change_log=change_log,
    )
    pending = RedisPendingRevocations(store.client, on_unreadable=ignore)
    try:
        yield Instance(store, build_feed(store, unreadable), pending)
    finally:
        await store.close()
    assert unreadable == {}


# --- Checks of an instance


def build_session_per_primary() -> list[Session]:
    """Return a session for each primary of a Cluster, in the order of the primaries."""
    sessions: dict[int, Session] = {}
    while len(sessions) < 3:
        session = build_session(at=NOW)
        hash_tag = build_hash_tag(bucket_of(session.digest, CLUSTER_BUCKETS))
        sessions[primary_of(key_slot(hash_tag.encode()))] = session
    return [sessions[number] for number in range(3)]


async def retry(instance: Instance, request: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a round and the request until both succeed, or else raise StoreUnavailable."""
    results: list[_T] = []

    async def succeeded() -> bool:
        with suppress(StoreUnavailable):
            await instance.store.follow()
            results.append(await request())
        return bool(results)

    await wait_until_async(succeeded, within=FAILOVER_TIMEOUT)
    return results[0]


async def wait_until_all_works(instance: Instance, listener: Listener) -> Sequence[Session]:
    """Wait until everything works on all primaries, and return the sessions put by this check."""
    sessions = build_session_per_primary()
    await check_put(instance, sessions, sessions)
    await check_find(instance, sessions)
    await check_tombstones(instance)
    await check_feed(instance, listener)
    await check_pending(instance)
    return sessions


async def check_put(
    instance: Instance, sessions: Sequence[Session], expected: Sequence[Session]
) -> None:
    kept = await retry(instance, lambda: instance.store.put_many(sessions))
    assert kept == {session.digest: session for session in expected}


async def check_find(instance: Instance, sessions: Sequence[Session]) -> None:
    known = {session.digest: session for session in sessions}
    assert await retry(instance, lambda: instance.store.find_many(tuple(known))) == known


async def check_tombstones(instance: Instance) -> None:
    sessions = build_session_per_primary()
    tombstones = [session.revoked(NOW) for session in sessions]
    await check_put(instance, sessions, sessions)
    changes = [ChangedSession(tombstone) for tombstone in tombstones]
    assert await retry(instance, lambda: instance.store.restrict(changes))
    await check_find(instance, tombstones)
    await check_put(instance, sessions, tombstones)


async def check_feed(instance: Instance, listener: Listener) -> None:
    """Publish until a change is received: those without a subscriber are lost."""
    session = build_session(at=NOW)

    async def received() -> bool:
        with suppress(StoreUnavailable):
            await instance.feed.publish([session])
        with suppress(TimeoutError):
            await wait_until(lambda: session in listener.changes, within=0.5)
        return session in listener.changes

    await wait_until_async(received, within=FAILOVER_TIMEOUT)


async def check_pending(instance: Instance) -> None:
    revocation = build_pending()
    await retry(instance, lambda: instance.pending.put([revocation]))
    assert await has_pending(instance, revocation)


async def has_pending(instance: Instance, revocation: PendingRevocation) -> bool:
    stored, _ = await retry(instance, lambda: instance.pending.compare(set()))
    return revocation in stored


async def wait_until_found_again(instance: Instance, sessions: Sequence[Session]) -> None:
    """Wait until the store returns all sessions; until then it may fail, but not miss one.

    The timeout is that of a check, which is shorter than connecting to a host that is down.
    """
    known = {session.digest: session for session in sessions}

    async def are_found() -> bool:
        with suppress(StoreUnavailable):
            lookup = instance.store.find_many(tuple(known))
            assert await with_timeout(lookup, DEADLINE, store="redis") == known
            return True
        return False

    await wait_until_async(are_found, within=FAILOVER_TIMEOUT)


async def is_replicated(server: Server) -> bool:
    """Return whether the replica of a server has confirmed all of its data."""
    async with connect_raw(f"redis://{server.address}") as raw_client:
        info = await raw_client.info("replication")
    return bool(info["slave0"]["offset"] == info["master_repl_offset"])


# --- A Sentinel set


@pytest.fixture
async def sentinel_set() -> AsyncIterator[RedisSet]:
    with temporary_directory() as directory:
        servers = await asyncio.to_thread(start_sentinel_set, directory)
        yield servers
        servers.stop()


async def sentinels_name(sentinel_set: RedisSet, primary: Server) -> bool:
    """Return whether every Sentinel names `primary`: others may still name the old one."""
    ports = set()
    for sentinel in sentinel_set.sentinels:
        async with connect_raw(f"redis://{sentinel.address}") as raw_client:
            _, port = await raw_client.execute_command(
                "SENTINEL GET-MASTER-ADDR-BY-NAME", "mymaster"
            )
            ports.add(int(port))
    return ports == {primary.port}


async def is_replica(server: Server) -> bool:
    """Return whether it is a replica that has all the data of its primary."""
    with suppress(redis.exceptions.ConnectionError):  # a demotion closes all connections
        async with connect_raw(f"redis://{server.address}") as raw_client:
            return (await raw_client.info("replication")).get("master_link_status") == "up"
    return False


async def test_sentinel_failover_keeps_the_cache_warm_and_follows_what_was_missed(
    sentinel_set: RedisSet,
) -> None:
    first, second = sentinel_set.servers
    async with open_instance(sentinel_set.url) as instance, listening(instance.feed) as listener:
        before, revocation = build_session_per_primary(), build_pending()
        await check_put(instance, before, before)
        await instance.pending.put([revocation])
        await wait_until_async(lambda: is_replicated(first))

        first.kill()
        await wait_until_found_again(instance, before)  # without a round
        tombstone = instance.store.change_log.commit(before[0].revoked(NOW))
        await check_find(instance, [tombstone, *before[1:]])
        assert instance.store.moves == ["begun", "moved"]
        assert not await has_pending(instance, revocation)
        after = await wait_until_all_works(instance, listener)
        assert listener.events[:4] == EVENTS_WITH_GAP

        await wait_until_async(
            lambda: sentinels_name(sentinel_set, second), within=FAILOVER_TIMEOUT
        )
        first.restart()  # it starts as a primary, until the Sentinels demote it
        sentinel_set.sentinels[0].kill()
        while not await is_replica(first):
            async with open_instance(sentinel_set.url, instance.store.change_log) as new_instance:
                await check_find(new_instance, after)
        await check_find(instance, after)
        await wait_until_all_works(instance, listener)


# --- A Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisSet]:
    """A Cluster in which each test stops one primary and restarts it, then as a replica."""
    with temporary_directory() as directory:
        servers = start_cluster(directory)
        yield servers
        servers.stop()


SESSIONS: Final = 0
FEED: Final = primary_of(key_slot(b"feed"))
PENDING: Final = primary_of(key_slot(b"{pending}"))


def test_each_kind_of_data_has_its_own_primary() -> None:
    assert {SESSIONS, FEED, PENDING} == {0, 1, 2}


@pytest.mark.parametrize(
    ("number", "stop", "restart"),
    [
        pytest.param(SESSIONS, Server.pause, Server.resume, id="sessions, paused"),
        pytest.param(FEED, Server.kill, Server.restart, id="feed, killed"),
        pytest.param(PENDING, Server.kill, Server.restart, id="pending revocations, killed"),
    ],
)
async def test_cluster_failover_keeps_the_cache_warm(
    cluster: RedisSet,
    number: int,
    stop: Callable[[Server], None],
    restart: Callable[[Server], None],
) -> None:
    stopped = cluster.servers[number]
    change_log = FakeChangeLog()
    async with (
        open_instance(cluster.url, change_log) as instance,
        listening(instance.feed) as listener,
    ):
        before, revocation = build_session_per_primary(), build_pending()
        await check_put(instance, before, before)
        await instance.pending.put([revocation])
        await wait_until_async(lambda: is_replicated(stopped))

        stop(stopped)
        await wait_until_found_again(instance, before)
        tombstones = [change_log.commit(session.revoked(NOW)) for session in before]
        await check_find(instance, tombstones)
        assert await has_pending(instance, revocation) == (number != PENDING)
        after = await wait_until_all_works(instance, listener)
        assert listener.events[:4] == (EVENTS_WITH_GAP if number == FEED else ["gap", "up"])

        restart(stopped)
        await wait_until_async(lambda: is_replica(stopped), within=FAILOVER_TIMEOUT)
        await check_find(instance, after)
        await wait_until_all_works(instance, listener)
